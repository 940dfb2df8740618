"""The command from any shell and folder: the same weights, or one sentence that names the right culprit."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from command_line import call

from mm1_ablate.commands.common import using_store
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.run.trial import run_trial
from mm1_ablate.store.store import Store

IN_ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
STRANGE = IN_ASCII | {
    # Lightning, Slurm, torchrun
    "PL_TRAINER_LIMIT_TRAIN_BATCHES": "1",
    "PL_TRAINER_MAX_STEPS": "1",
    "PL_GLOBAL_SEED": "7",
    "SLURM_NTASKS": "4",
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "study",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "3",
    "SLURM_NODEID": "1",
    "LSB_JOBID": "7",
    "JSM_NAMESPACE_RANK": "2",
    "MASTER_ADDR": "10.255.255.1",
    "MASTER_PORT": "1",
    "RANK": "2",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "2",
    # numbers
    "OMP_NUM_THREADS": "3",
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "DNNL_DEFAULT_FPMATH_MODE": "BF16",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
    "NVIDIA_TF32_OVERRIDE": "1",
    "TIMM_FUSED_ATTN": "0",
    "PYTHONHASHSEED": "7",
    "TOKENIZERS_PARALLELISM": "true",
    # MLflow
    "MLFLOW_EXPERIMENT_NAME": "another",
    "MLFLOW_RUN_ID": "0123456789abcdef0123456789abcdef",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
    # folders
    "HOME": "/proc/nowhere",
    "RAY_ADDRESS": "",
    "MPLBACKEND": "nonsense",
}
SWEEP = """\
sweep: tiny
description: Fewer tokens, ± nothing else
experiment: ../experiments/tiny.yaml
seeds: [0, 1]
ablations:
  without: {remove: data.mixture.text}
compare: {primary: shot_0/average, metrics: [shot_0/average]}
"""


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    shell = {name: value for name, value in (os.environ | environment).items() if not name.startswith("COV_")}
    told = [sys.executable, "-m", "mm1_ablate", *arguments]
    return subprocess.run(told, cwd=folder, env=shell, capture_output=True, stdin=subprocess.DEVNULL, timeout=600, check=False)


def test_a_study_is_trained_to_the_same_weights_from_any_shell_and_folder(tiny_sweep: Path, tmp_path: Path) -> None:
    """All variables and stray files at once."""
    tiny_sweep.write_text(SWEEP, encoding="utf-8")
    study, reference = load_study(tiny_sweep), Store(tmp_path / "reference")
    torch.set_num_threads(1)
    for trial in study.trials:
        reference.write_trial(trial)
        assert run_trial(str(reference.root), trial.fingerprint, [trial.evaluation_fingerprint]) == 0

    here = tmp_path / "here"
    for folder in (here, tmp_path / "modules" / "mpi4py", long := tmp_path / ("t" * 100)):
        folder.mkdir(parents=True)
    (tmp_path / "modules" / "mpi4py" / "__init__.py").write_text("")
    (tmp_path / "modules" / "mpi4py" / "MPI.py").write_text('raise RuntimeError("cannot load MPI library")\n')
    weights = {f"model.{name}": value + 1 for name, value in torch.load(reference.trial_folder(study.trials[0]) / "model.pt").items()}
    torch.save({"state_dict": weights, "global_step": 2, "pytorch-lightning_version": "2.6.0"}, here / "hpc_ckpt_3.ckpt")
    (here / "matplotlibrc").write_text("backend: nonsense\n")
    (here / "lightning_logs").write_text("not a folder")
    modules = os.pathsep.join([str(tmp_path / "modules"), *filter(None, sys.path)])
    ran = command(here, "run", str(tiny_sweep), "--cpus", "2", TMPDIR=str(long), PYTHONPATH=modules, **STRANGE)
    output = (ran.stdout + ran.stderr).decode("ascii")
    assert ran.returncode == 0 and "Traceback" not in output, output
    assert "+-" in output and "in MLflow: mm1-ablate ui" in output and "could not be written" not in output, output

    store = Store(here / "ablations")
    for trial in study.trials:
        assert store.status(trial).status == "done"
        ours, theirs = (torch.load(one.trial_folder(trial) / "model.pt") for one in (store, reference))
        assert ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())
        assert store.scores(trial) == reference.scores(trial)
    report = store.study_folder(study) / "report"
    assert "±" in (report / "report.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in here.iterdir()) == ["ablations", "hpc_ckpt_3.ckpt", "lightning_logs", "matplotlibrc"]


@pytest.mark.parametrize("shell", [IN_ASCII, {"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "utf-8"}])
def test_every_text_can_be_said_in_every_encoding(tiny_sweep: Path, tmp_path: Path, shell: dict[str, str]) -> None:
    name = os.fsdecode(b"caf\xe9 \xe2\x86\x92.yaml")
    said = command(tmp_path, "validate", name, **shell)
    assert said.returncode == 2 and b"no such file" in said.stderr and b"Traceback" not in said.stderr, said.stderr.decode(errors="replace")


def test_a_deleted_working_folder_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    said = call("status", "sweep.yaml")
    assert said.exit_code == 2 and said.output.startswith("the current directory has been deleted; change to one that exists")


@pytest.mark.parametrize(
    ("variable", "sentence"),
    [
        ("MM1_ABLATE_CACHE", "the cache {folder} cannot be used: {file}: Read-only file system; set MM1_ABLATE_CACHE"),
        ("MM1_ABLATE_STORE", "the store {folder} cannot be used: {file}: Read-only file system; name a folder"),
        ("TMPDIR", "{file}: Read-only file system; set TMPDIR to a folder that can be written"),
        ("HOME", "{file}: Read-only file system; set HOME to a folder that can be written"),
        ("NONE", "{file}: Read-only file system"),
    ],
)
def test_a_folder_that_cannot_be_written_is_named_for_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, sentence: str
) -> None:
    """The error is made here: for whoever runs the tests as root no folder is read-only."""
    folder, file = tmp_path / "read only", tmp_path / "read only" / "x" / "y"
    monkeypatch.setenv(variable, str(folder))
    store = folder if variable == "MM1_ABLATE_STORE" else tmp_path / "store"
    with pytest.raises(typer.Exit) as ended, using_store(str(store)):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(file))
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err.startswith(sentence.format(folder=folder, file=file))
