"""What processes of trials take over from the shell: where things are, not what is computed; and they leave signals to the driver."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import child_helpers
import pytest

from mm1_ablate.run import child_process
from mm1_ablate.run.trial_environment import trial_environment

CHANGE_TRIALS = {
    "PL_TRAINER_LIMIT_TRAIN_BATCHES": "5",
    "PL_GLOBAL_SEED": "7",
    "RANK": "2",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "2",
    "MASTER_ADDR": "10.255.255.1",
    "TORCHELASTIC_RUN_ID": "none",
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_PROCID": "3",
    "JSM_NAMESPACE_RANK": "2",
    "OMPI_COMM_WORLD_RANK": "2",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
    "NVIDIA_TF32_OVERRIDE": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":16:8",
    "TORCHDYNAMO_DISABLE": "1",
    "TORCHINDUCTOR_MAX_AUTOTUNE": "1",
    "PYTORCH_TUNABLEOP_ENABLED": "1",
    "ATEN_CPU_CAPABILITY": "default",
    "DNNL_DEFAULT_FPMATH_MODE": "BF16",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Nehalem",
    "NPY_DISABLE_CPU_FEATURES": "AVX2",
    "TIMM_FUSED_ATTN": "0",
    "USE_HUB_KERNELS": "NO",
    "ACCELERATE_USE_FSDP": "true",
    "FLASH_ATTENTION_DETERMINISTIC": "1",
    "TRUST_REMOTE_CODE": "1",
    "PYTHONWARNINGS": "error",
    "PYTHONIOENCODING": "ascii",
}
STAY = {
    "PATH": "/usr/bin",
    "SLURM_TMPDIR": "/scratch/7",
    "SLURM_JOB_ID": "7",
    "TORCH_HOME": "/models/torch",
    "TORCHINDUCTOR_CACHE_DIR": "/scratch/inductor",
    "TORCH_NCCL_BLOCKING_WAIT": "1",
    "NCCL_SOCKET_IFNAME": "ib0",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HOME": "/models/hf",
    "MKL_THREADING_LAYER": "GNU",
    "KMP_AFFINITY": "compact",
    "AWS_PROFILE": "lab",
    "HTTPS_PROXY": "http://proxy:3128",
    "MM1_ABLATE_BENCHMARKS": "/benchmarks",
    "MY_DATA": "/data",
}


def test_what_changes_trials_goes_and_what_says_where_things_are_stays() -> None:
    passed_on = trial_environment(CHANGE_TRIALS | STAY | {"PYTHONHASHSEED": "7", "PYTHONUTF8": "0", "MPLBACKEND": "nonsense"})
    assert passed_on == STAY | {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "MPLBACKEND": "agg"}


def look_around(answer: str) -> None:
    """Written by a child, after a warning of a batch system: its environment, its encoding, and a word that not every locale can write."""
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR2)
    time.sleep(0.05)
    print("±")
    with open(answer, "w") as file:
        json.dump({"environment": dict(os.environ), "encoding": file.encoding, "of sets": hash("order")}, file)


def test_a_child_is_the_same_from_any_shell_and_lets_the_driver_answer_signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for name, shell in (("plain", {}), ("full", CHANGE_TRIALS | STAY | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})):
        with monkeypatch.context() as patch:
            patch.setenv("PATH", os.environ["PATH"])
            for variable, value in shell.items():
                patch.setenv(variable, value if variable != "PATH" else os.environ["PATH"])
            with child_process.server(preload=["json"]) as server:
                path = tmp_path / f"{name}.json"
                job = child_helpers.job("test_trial_environment:look_around", tmp_path / "log.txt", answer=str(path))
                assert child_process.run(server, job, ["json"]) == child_process.ChildExit(0, None), (tmp_path / "log.txt").read_text()
        seen.append(json.loads(path.read_text()))
    plain, full = seen
    assert set(CHANGE_TRIALS) & set(full["environment"]) == set(CHANGE_TRIALS) & set(plain["environment"])
    assert set(STAY) <= set(full["environment"])
    assert plain["encoding"].lower() == full["encoding"].lower() == "utf-8"
    assert plain["of sets"] == full["of sets"]
    assert (tmp_path / "log.txt").read_text(encoding="utf-8") == "±\n±\n"
