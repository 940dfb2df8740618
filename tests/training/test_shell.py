"""A training is what is declared, whatever the shell says of other launchers and of Lightning, and whatever lies in the working folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins.environments import mpi
from tiny import tiny_experiment

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.preparation import preparations_of
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.loader import BatchLoader
from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.model.multimodal import build
from mm1_ablate.training.fit import StoppedEarly, fit, train
from mm1_ablate.training.preparation import prepare

MEETING = {"MASTER_ADDR": "10.255.255.1", "MASTER_PORT": "1", "WORLD_SIZE": "4", "RANK": "2"}
SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "study", "SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_NODEID": "1"}
SHELLS = {
    "Lightning": {
        "PL_TRAINER_LIMIT_TRAIN_BATCHES": "1",
        "PL_TRAINER_MAX_STEPS": "1",
        "PL_TRAINER_MAX_TIME": "00:00:00:00",
        "PL_TRAINER_FAST_DEV_RUN": "1",
        "PL_TRAINER_OVERFIT_BATCHES": "1",
        "PL_TRAINER_DETERMINISTIC": "True",
        "PL_TRAINER_DETECT_ANOMALY": "True",
        "PL_TRAINER_DEFAULT_ROOT_DIR": ".",
        "PL_GLOBAL_SEED": "3",
        "PL_SEED_WORKERS": "1",
    },
    "salloc without tasks per node": SLURM | {"SLURM_NTASKS": "4", "SLURM_NODELIST": "node[1-4]"},
    "srun": SLURM | {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2"},
    "sbatch of one task": SLURM | {"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "1"},
    "LSF": {
        "LSB_JOBID": "7",
        "LSB_DJOB_RANKFILE": "/nowhere",
        "JSM_NAMESPACE_LOCAL_RANK": "0",
        "JSM_NAMESPACE_RANK": "2",
        "JSM_NAMESPACE_SIZE": "4",
    },
    "torchrun": MEETING | {"TORCHELASTIC_RUN_ID": "none", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "0"},
    "Kubeflow": MEETING | {"KUBERNETES_PORT": "tcp://10.255.255.1:443"},
    "mpirun, without its library": {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2"},
}
STUB = 'raise RuntimeError("cannot load MPI library")\n'


def silent(progress) -> None:
    pass


def trained(experiment: Experiment, folder: Path, seed: int = 0, report=silent) -> dict[str, torch.Tensor]:
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    model = fit(experiment, seed, None, None, folder, report)
    assert model is not None
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return trained(tiny_experiment(), tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def checkpoint_of_another(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What another study's training leaves when it is stopped."""
    folder = tmp_path_factory.mktemp("other")

    def stop(progress) -> None:
        if progress.step >= 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        trained(tiny_experiment({"training.checkpoint_every_steps": 1}), folder, 5, stop)
    return folder / "last.ckpt"


@pytest.mark.parametrize("shell", SHELLS)
def test_weights_are_the_same_from_any_shell_and_in_any_folder(
    shell: str, undisturbed: dict[str, torch.Tensor], checkpoint_of_another: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    shutil.copy(checkpoint_of_another, tmp_path / "here" / "hpc_ckpt_1.ckpt")
    (tmp_path / "modules" / "mpi4py").mkdir(parents=True)
    (tmp_path / "modules" / "mpi4py" / "__init__.py").write_text("")
    (tmp_path / "modules" / "mpi4py" / "MPI.py").write_text(STUB)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.setattr(mpi, "_MPI4PY_AVAILABLE", True)  # kept from before it was there
    monkeypatch.chdir(tmp_path / "here")
    for name, value in SHELLS[shell].items():
        monkeypatch.setenv(name, value)
    weights = trained(tiny_experiment(), tmp_path / "trial")
    assert all(torch.equal(value, undisturbed[name]) for name, value in weights.items())
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["hpc_ckpt_1.ckpt"]
    assert len((tmp_path / "trial" / "curve.jsonl").read_text().splitlines()) == 4


def test_an_encoder_is_prepared_in_as_many_steps_as_are_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = tiny_experiment({"model.image_encoder.preparation.steps": 3}, prepared=True)
    preparation = next(found for found in preparations_of(experiment, 0) if found.kind == "image_encoder")
    torch.set_num_threads(1)
    prepare(preparation, tmp_path / "first", silent)
    for name, value in SHELLS["Lightning"].items():
        monkeypatch.setenv(name, value)
    prepare(preparation, tmp_path / "second", silent)
    first, second = (torch.load(tmp_path / name / "weights.pt") for name in ("first", "second"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_training_that_ends_before_its_last_step_has_failed(tmp_path: Path) -> None:
    experiment = tiny_experiment()
    tokenizer, pipeline = load_tokenizer(experiment.model.language_model.tokenizer), ImagePipeline.of(experiment.model, None)
    loader = BatchLoader(experiment.data, tokenizer, image_tokens=4, image_pipeline=pipeline, seed=0, steps=2, batch_rows=2)
    with pytest.raises(StoppedEarly, match="after 2 of the 4 declared steps"):
        train(build(experiment, 0), loader, experiment.training, 1.0, tmp_path, silent)
