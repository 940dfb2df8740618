"""The environment of the processes that train and evaluate: the shell's, without what would change a trial or its numbers.

In: an environment. Out: one for a fork server or a probe. Libraries read hundreds of variables: how many batches an epoch has, which of
how many processes this is, whether a matrix product may be rounded. A trial is what its YAML says, on any machine and from any shell.
What stays: where files are, who may read them, how machines speak with each other, how memory is given out, what is logged, and what
users named themselves.
"""

from __future__ import annotations

from collections.abc import Mapping

OF_LAUNCHERS = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "NODE_RANK", "ROLE_"),
    *("MASTER_ADDR", "MASTER_PORT", "STANDALONE_PORT"),
    *("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NNODES", "SLURM_TASKS_PER_NODE"),
    *("SLURM_STEP_", "SLURM_JOB_NUM_NODES", "JSM_", "LSB_DJOB_", "LSB_MCPU_HOSTS", "OMPI_", "PMI_", "PMIX_", "MV2_COMM_", "PALS_"),
)
"""Beginnings of variables by which Slurm, LSF, MPI, torchrun and Kubeflow say which of how many processes this is. The run says it."""
OF_LIBRARIES = (
    *("PL_", "LT_", "TORCH", "PYTORCH_", "ATEN_", "FBGEMM_", "NPY_", "NUMPY_", "TIMM_", "TRANSFORMERS_", "ACCELERATE_", "FSDP_"),
    *("USE_HUB_KERNELS", "USE_TORCH_XLA", "XLA_", "TRUST_REMOTE_CODE", "FLASH_ATTENTION_", "TRITON_INTERPRET", "TRITON_F32_DEFAULT"),
    *("CUBLAS", "CUDNN_", "NVIDIA_TF32_OVERRIDE", "DISABLE_ADDMM_CUDA_LT", "MKL_", "DNNL_", "ONEDNN_", "OPENBLAS_", "BLIS_"),
    *("OMP_", "KMP_", "PYTHONHASHSEED", "PYTHONWARNINGS", "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONOPTIMIZE"),
)
"""Beginnings of variables with which libraries compute otherwise, or something else."""
KEPT = (
    *("TORCH_HOME", "TORCH_HUB", "TORCH_MODEL_ZOO", "TORCH_EXTENSIONS_DIR", "TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_COMPILE_THREADS"),
    *("TORCH_NCCL_", "TORCH_GLOO_", "TORCH_FR_", "TORCH_DISTRIBUTED_DEBUG", "TORCH_LOGS", "TORCH_TRACE", "TORCH_CPP_LOG_LEVEL"),
    *("TORCH_SHOW_CPP_STACKTRACES", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_KERNEL_CACHE_PATH"),
    *("PYTORCH_NO_CUDA_MEMORY_CACHING", "PYTORCH_NVML_BASED_CUDA_CHECK", "TIMM_USE_OLD_CACHE"),
    *("TRANSFORMERS_CACHE", "TRANSFORMERS_OFFLINE", "TRANSFORMERS_VERBOSITY", "TRANSFORMERS_NO_ADVISORY_WARNINGS"),
    *("CUDNN_HOME", "CUDNN_PATH", "CUDNN_LIBRARY", "CUDNN_LOG", "MKL_THREADING_LAYER", "MKL_SERVICE_FORCE_INTEL"),
    *("OMP_PLACES", "OMP_PROC_BIND", "KMP_AFFINITY", "KMP_DUPLICATE_LIB_OK"),
)
"""Of those, what says where something is, how processes speak, how memory is given out, what is logged, and on which cores threads are."""
FIXED = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "MPLBACKEND": "agg"}
"""Orders of sets are the same in every process, files are in UTF-8 under any locale, and no library needs a screen."""


def trial_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what would change a trial."""
    return {name: value for name, value in environment.items() if not changes_trials(name)} | FIXED


def changes_trials(name: str) -> bool:
    """Whether a variable may change what a trial does or computes."""
    return name.startswith(OF_LAUNCHERS + OF_LIBRARIES) and not name.startswith(KEPT)
