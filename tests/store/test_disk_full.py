"""A disk that is full, for real: a small file system of its own, which a run meets in its children, says once, and goes on from later."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from child_helpers import job
from s3_server import ADDRESS, Server, environment
from study_helpers import study

from mm1_ablate.run import child_process
from mm1_ablate.run.worker_group import WorkerFailure, run_together
from mm1_ablate.store.disk_full import FULL, DiskFull, is_disk_full
from mm1_ablate.store.store import Store

NAMESPACE = ("unshare", "--map-root-user", "--mount")
"""A view of the file systems in which anybody may mount one, where the system permits that at all."""
LEFT = 100_000
"""Bytes that are free on the small file system when a run begins: less than a tiny model takes."""


def permitted() -> bool:
    try:
        return subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


small_disks = pytest.mark.skipif(not permitted(), reason="no file system may be mounted here")


def on_a_small_disk(folder: Path, program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a Python program with a disk of 8 MB at a folder, on which there is next to no room until its file `filler` is removed."""
    folder.mkdir()
    fill = f'head -c $(($(df --output=avail -B1 "{folder}" | tail -n 1) - {LEFT})) /dev/zero > "{folder}/filler"'
    script = f'mount -t tmpfs -o size=8m none "{folder}" && {fill}; timeout 500 "{sys.executable}" -c "$PROGRAM" "$@"'
    command = [*NAMESPACE, "bash", "-c", script, "bash", *map(str, arguments)]
    return subprocess.run(command, env=environment() | {"PROGRAM": program}, capture_output=True, text=True, timeout=600)


PROGRAM = """
import os, sys
import ray
from study_helpers import study
from mm1_ablate.store.disk_full import DiskFull
from mm1_ablate.run.scheduler import RunOptions, run_study
from mm1_ablate.store.store import Store

def run():
    store = Store(sys.argv[1])
    try:
        outcome = run_study(study(), store, RunOptions(cpus=2, run_trial="full_disk_helpers:filling_trial", preload=("pandas", "torch")))
    except DiskFull as error:
        print("no room:", error)
    else:
        print(outcome)
    store.refresh()
    for one in study().trials:
        folder = store.trial_folder(one)
        store.download_folder(folder)
        print(store.status(one).status, (folder / "begun").read_text().split(), sorted(path.name for path in folder.glob(".*.pt*")))

# For both runs, each of which would start its own.
ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
run()
print("---- room")
os.remove(os.environ["FILLER"])
run()
"""


# ---------------------------------------------------------------- runs
@small_disks
@pytest.mark.parametrize("on_s3", [False, True], ids=["a folder", "a bucket"])
def test_a_run_that_meets_a_full_disk_ends_once_and_the_same_command_goes_on(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, on_s3: bool
) -> None:
    disk = tmp_path / "disk"
    monkeypatch.setenv("FILLER", str(disk / "filler"))
    monkeypatch.setenv("MM1_ABLATE_CACHE", str((disk if on_s3 else tmp_path) / "cache"))
    ended = on_a_small_disk(disk, PROGRAM, ADDRESS if on_s3 else disk / "store")
    full, room = ended.stdout.split("---- room")
    (said,) = [line for line in full.splitlines() if line.startswith("no room:")]
    place = f"{disk}/cache/stores/" if on_s3 else f"{disk}/store "
    assert f"has no space left in {place}" in said and " free on that disk" in said and "then run the same command again" in said
    assert ("MM1_ABLATE_CACHE" in said) == on_s3
    assert full.count("interrupted ['False'] []") == 2, ended
    # The one that did not meet it is stopped, and may be before its checkpoint is in the bucket.
    resumed = room.count("done ['False', 'True'] []")
    assert "failed=()" in room and "started=2" in room and resumed + room.count("done ['False', 'False'] []") == 2, ended
    assert resumed == 2 or (on_s3 and resumed == 1), ended


@small_disks
def test_the_terminal_and_mlflow_say_that_the_disk_is_full(tiny_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tiny_sweep.read_text().replace("seeds: [0, 1]", "seeds: [0]")
    tiny_sweep.write_text(text.replace("[data.mixture.interleaved, data.mixture.text]", "[data.mixture.text]"))
    disk, address = tmp_path / "disk", f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    look = (
        "import subprocess, sys; from mlflow import MlflowClient\n"
        "command = [sys.executable, '-m', 'mm1_ablate', 'run', sys.argv[1], '--store', sys.argv[2], '--cpus', '2']\n"
        "code = subprocess.run(command).returncode\n"
        f"client = MlflowClient({address!r}); study = client.get_experiment_by_name('mm1-ablate/tiny').experiment_id\n"
        "for run in client.search_runs([study]):\n"
        "    print('MLFLOW', run.info.run_name, run.info.status, run.data.tags.get('mlflow.note.content'))\n"
        "sys.exit(code)\n"
    )
    ended = on_a_small_disk(disk, look, tiny_sweep, disk / "store")
    assert ended.stderr.count("has no space left in") == 1 and "Traceback" not in ended.stderr, ended.stderr
    assert "failed" not in ended.stdout and ended.stdout.count("interrupted") == 2 and ended.returncode == 2, ended
    assert f"MLFLOW comparison KILLED Stopped: {os.uname().nodename} has no space left in {disk}/store" in ended.stdout, ended


# ---------------------------------------------------------------- children
def test_a_child_that_meets_a_full_disk_says_so_by_its_exit_code(tmp_path: Path) -> None:
    with child_process.server(preload=["pandas", "mm1_ablate.training.checkpoint"]) as folder:
        for what, log in (("model", tmp_path / "log.txt"), ("items", tmp_path / "log.txt"), ("log", Path("/dev/full"))):
            asked = job("full_disk_helpers:fill", log, what=what, folder=str(tmp_path))
            assert child_process.run(folder, asked).code == FULL, what


def test_of_several_workers_the_one_that_met_a_full_disk_says_why(tmp_path: Path) -> None:
    """The others may have noticed sooner that they lost it."""
    with child_process.server(preload=[]) as folder:
        asked = [job("full_disk_helpers:lose_or_fill", tmp_path / "log.txt", folder=str(tmp_path), rank=rank) for rank in range(3)]
        assert run_together(folder, asked) == WorkerFailure(1, child_process.ChildExit(FULL, None))


def test_a_word_of_torchs_in_another_error_is_no_full_disk() -> None:
    assert not is_disk_full(ValueError("unexpected position ids"))


def test_what_others_recorded_who_only_lost_that_worker_is_no_failure(tmp_path: Path) -> None:
    store, one = Store(tmp_path / "store"), study().trials[0]
    folder = store.write_trial(one)
    with pytest.raises(DiskFull, match=f"no space left in {store.root}"), store.noticing_full_disk(folder):
        store.fail(folder, "RuntimeError: connection closed by peer")
        with open("/dev/full", "w") as full:
            full.write("a checkpoint")
    assert store.status(one).status == "missing"
