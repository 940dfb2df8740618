"""Whole runs on a store on S3: by the command line, killed and gone on with elsewhere, two at once, and on Ray nodes that share no file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest
from click.testing import Result
from command_line import call
from s3_server import BUCKET, Server, serving
from staged_study import chains
from study_helpers import study

from mm1_ablate.config.sweep.declaration import Resources
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.run.scheduler import RunOptions, run_study
from mm1_ablate.run.trial import run_trial
from mm1_ablate.store.bucket import leases
from mm1_ablate.store.store import Store

ADDRESS = f"s3://{BUCKET}/runs"
HERE = Path(__file__).parent
QUICK: dict[str, Any] = {
    "run_trial": "study_helpers:quick_trial",
    "run_preparation": "study_helpers:quick_preparation",
    "preload": ("pandas",),
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv(leases.VARIABLE, "6")
    with serving(monkeypatch) as started:
        yield started


def environment(cache: Path) -> dict[str, str]:
    paths = [str(HERE), *(path for path in sys.path if path)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "MM1_ABLATE_CACHE": str(cache), "COLUMNS": "160"}


def trainings(server: Server) -> dict[str, int]:
    """By folder, how often a trial was trained."""
    found = [entry for entry in server.bucket.objects.all() if entry.key.endswith("/trainings")]
    return {entry.key.split("/")[-2]: len(entry.get()["Body"].read().splitlines()) for entry in found}


def test_a_study_by_the_command_line_killed_and_continued_on_another_machine(
    server: Server, tiny_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tiny_sweep.read_text().replace(
        "seeds: [0, 1]", "everywhere: {training.steps: 150, training.checkpoint_every_steps: 5}\nseeds: [0]"
    )
    tiny_sweep.write_text(text.replace("data.mixture.interleaved, data.mixture.text", "data.mixture.text"))

    monkeypatch.chdir(tmp_path)

    def command(machine: str, *arguments: str) -> Result:
        """A machine is what it has in its cache."""
        return call(*arguments, MM1_ABLATE_CACHE=str(tmp_path / machine))

    running = subprocess.Popen(
        [sys.executable, "-m", "mm1_ablate", "run", str(tiny_sweep), "--cpus", "1", "--store", ADDRESS],
        cwd=tmp_path,
        env=environment(tmp_path / "first"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 300
        while not server.has("last.ckpt"):
            assert time.monotonic() < until and running.poll() is None
            time.sleep(0.1)
    finally:
        # The driver with its Ray; its fork server and the child end with it.
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert not server.has("scores.json")
    monkeypatch.setenv("MM1_ABLATE_STORE", ADDRESS)
    again = command("second", "run", str(tiny_sweep), "--cpus", "1")
    assert again.exit_code == 0, again.output
    assert f"({ADDRESS}/studies/tiny/report/report.html)" in again.stdout
    assert f"mm1-ablate ui {tiny_sweep} --store {ADDRESS}" in again.stdout
    assert server.asked("GET", "last.ckpt") == 1
    assert not any(name.endswith((".db", "lease.json", "last.ckpt")) or "/ray/" in name for name in server.names())

    server.requests.clear()
    status = command("third", "status", str(tiny_sweep))
    assert "2 done, in s3://" in status.stdout, status.output
    report = command("third", "report", str(tiny_sweep), "--json")
    assert report.exit_code == 0 and '"baseline"' in report.stdout, report.output
    assert not server.asked("GET", "model.pt") and not server.asked("GET", "last.ckpt")

    local, kept = Store(tmp_path / "alone"), Store(ADDRESS)
    for one in load_study(tiny_sweep).trials:
        local.write_trial(one)
        assert run_trial(local.address, one.fingerprint, [one.evaluation_fingerprint]) == 0
        pandas.testing.assert_frame_equal(kept.items(one), local.items(one))


SHARING = f"""
from study_helpers import study
from mm1_ablate.run import child_process
from mm1_ablate.run.launcher import Launcher
from mm1_ablate.store.store import Store
store, trials = Store({ADDRESS!r}), study(arms=tuple("abcdef"), seeds=(0, 1)).trials
for one in trials:
    store.write_trial(one)
with child_process.server(preload=["pandas"]) as server:
    placement = Launcher(store.address, server, 1, 0, run_trial="study_helpers:quick_trial", preload=("pandas",))
    for one in trials:
        store.refresh()
        if store.status(one).status == "missing":
            placement.train_and_evaluate(one.fingerprint, [one.evaluation_fingerprint])
"""


def test_two_runs_at_once_share_the_work(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Ray, which takes longer to start than the work does."""
    runs = [
        subprocess.Popen([sys.executable, "-c", SHARING], env=environment(tmp_path / name), stderr=subprocess.PIPE, text=True)
        for name in ("first", "second")
    ]
    said = [run.communicate(timeout=240)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert trainings(server) == dict.fromkeys(trainings(server), 1) and len(trainings(server)) == 12
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "third"))
    assert not Store(ADDRESS).holes(study(arms=tuple("abcdef"), seeds=(0, 1)))
    worked = [list((tmp_path / name).glob("stores/*/trials/*/log.txt")) for name in ("first", "second")]
    assert worked[0] and worked[1]


def test_nodes_of_a_cluster_that_share_no_file_do_a_study_with_preparations_and_stages(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    from mm1_ablate.run.cluster import ClusterUnusable, require_usable_nodes

    monkeypatch.setenv("PYTHONPATH", environment(tmp_path)["PYTHONPATH"])
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "driver"))
    store, whole = Store(ADDRESS), chains()
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            for name in ("one", "two"):
                cluster.add_node(num_cpus=1, object_store_memory=80_000_000, env_vars={"MM1_ABLATE_CACHE": str(tmp_path / name)})
            cluster.wait_for_nodes()
            outcome = run_study(whole, store, RunOptions(address=cluster.address, **QUICK))
            assert outcome.done == tuple(one.name for one in whole.trials), [store.status(one) for one in whole.trials]

            import ray

            # And one that is really trained, sharded over both nodes.
            sharded, other = Resources(workers=2, nodes=2, strategy="fsdp"), study(arms=("baseline",), seeds=(7,))
            other = replace(other, sweep=other.sweep.model_copy(update={"resources": sharded}))
            outcome = run_study(other, store, RunOptions(address=cluster.address))
            assert outcome.done == (other.trials[0].name,), store.error(store.trial_folder(other.trials[0]))
            assert {name.rpartition("/")[2] for name in server.names() if store.trial_folder(other.trials[0]).name in name} >= {
                "log.txt", "log-1.txt", "model.pt",
            }  # fmt: skip
            server.forbids.add("PUT")
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            with pytest.raises(ClusterUnusable, match=r"cannot use the store: no permission to write in the store s3://"):
                require_usable_nodes(ADDRESS)
        finally:
            ray.shutdown()
            cluster.shutdown()
    assert set(trainings(server).values()) == {1}
    worked = [list((tmp_path / name).glob("stores/*/*/*/log.txt")) for name in ("one", "two", "driver")]
    assert worked[0] and worked[1] and not worked[2], "both nodes did some of it, and the driver none"
    assert not server.asked("GET", "model.pt") or server.asked("GET", "model.pt") <= len(whole.trials)
    assert not list((tmp_path / "driver").rglob("model.pt"))
