"""Real training with a store on a real S3 server: what several machines do together comes to what one comes to, whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest
from s3_server import ADDRESS, Machine, Server, environment, wait_for, whole
from study_helpers import trial
from tiny import tiny_experiment

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.preparation import preparations_of
from mm1_ablate.config.study import Trial
from mm1_ablate.run.trial import run_preparation, run_trial
from mm1_ablate.run.worker_group import free_port
from mm1_ablate.store.bucket import leases
from mm1_ablate.store.predictions import Predictions
from mm1_ablate.store.store import Store

HERE = Path(__file__).parent
LITTLE = {"evaluation.tasks": ["miniature_vqa"], "evaluation.shots": [0], "evaluation.items": 4}


def staged() -> Trial:
    """A trial of two stages, the first of which starts from prepared parts."""
    first = tiny_experiment({"training.steps": 4, "experiment": "first", **LITTLE}, prepared=True)
    second = tiny_experiment({"training.steps": 3, "experiment": "second", **LITTLE}).model_dump(mode="json")
    return trial("baseline", 0, Experiment.model_validate({**second, "starts_from": first.model_dump(mode="json")}))


def test_preparations_stages_and_trials_on_four_machines_come_to_what_one_comes_to(
    server: Server, machine: Machine, tmp_path: Path
) -> None:
    one = staged()
    (stage,) = one.earlier
    alone = Store(tmp_path / "alone")
    number = 0

    def somebody() -> Store:
        nonlocal number
        number += 1
        return machine(f"machine-{number}")

    for where in (lambda: alone, somebody):
        for part in preparations_of(stage.experiment, stage.seed):
            store = where()
            store.write_preparation(part)
            assert run_preparation(store.address, part.fingerprint) == 0
        for each, evaluations in ((stage, []), (one, [one.evaluation_fingerprint])):
            store = where()
            store.write_trial(each)
            assert run_trial(store.address, each.fingerprint, evaluations) == 0, store.error(store.trial_folder(each))
    assert number == 4
    store = somebody()
    pandas.testing.assert_frame_equal(store.items(one), alone.items(one))
    assert list(store.curve(one)["loss"]) == list(alone.curve(one)["loss"])
    assert not list(store.root.glob("*/*/model.pt")) and not list(store.root.glob("*/*/weights.pt"))

    # Scored again by another machine, of the predictions that are kept: the model stays where it is.
    server.requests.clear()
    store.refresh()
    kept = Predictions(store.trial_folder(one), store)
    assert all(kept.has(part) for part in kept.all()) and kept.all()
    for name in ("scores.json", "items.parquet"):
        server.bucket.Object(
            f"some/prefix/trials/{store.trial_folder(one).name}/evaluations/{one.evaluation_fingerprint[:12]}/{name}"
        ).delete()
    store = somebody()
    assert store.status(one).reason == "trained, not evaluated"
    assert run_trial(store.address, one.fingerprint, [one.evaluation_fingerprint]) == 0
    pandas.testing.assert_frame_equal(store.items(one), alone.items(one))
    assert not server.asked("GET", "model.pt")


def test_a_trial_killed_on_one_machine_goes_on_on_another_as_if_nothing_had_been(
    server: Server, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(leases.VARIABLE, "3")
    one = trial("baseline", 0, tiny_experiment({"training.steps": 24, "training.checkpoint_every_steps": 2, **LITTLE}))
    alone = Store(tmp_path / "alone")
    alone.write_trial(one)
    assert run_trial(alone.address, one.fingerprint, [one.evaluation_fingerprint]) == 0

    store = machine("first")
    store.write_trial(one)
    program = (
        "import time; from mm1_ablate.store.bucket import upload; from mm1_ablate.run.trial import run_trial; upload.EVERY = 0.2\n"
        "from mm1_ablate.training.module import PackedTraining; before = PackedTraining.on_train_batch_start\n"
        "PackedTraining.on_train_batch_start = lambda *all: (time.sleep(1), before(*all))[1]\n"
        f"run_trial({ADDRESS!r}, {one.fingerprint!r}, [])"
    )
    with subprocess.Popen([sys.executable, "-c", program], env=environment()) as child:
        try:
            wait_for(lambda: server.has("last.ckpt") or child.poll() is not None, 240)
        finally:
            os.kill(child.pid, signal.SIGKILL)
    assert not server.has("model.pt") and not whole(server)
    server.requests.clear()
    store = machine("second")
    wait_for(lambda: run_trial(store.address, one.fingerprint, [one.evaluation_fingerprint]) == 0)
    assert server.asked("GET", "last.ckpt") == 1
    assert store.status(one).status == "done", store.error(store.trial_folder(one))
    pandas.testing.assert_frame_equal(store.items(one), alone.items(one))
    mine, others = store.curve(one), alone.curve(one)
    assert list(mine["step"]) == list(range(1, 25)) and list(mine["loss"]) == list(others["loss"])


def test_workers_of_a_trial_on_two_machines_go_on_from_a_checkpoint_that_one_of_them_published(
    server: Server, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(leases.VARIABLE, "3")
    one = trial("baseline", 0, tiny_experiment({"training.steps": 12, "training.checkpoint_every_steps": 2, **LITTLE}))
    store = machine("driver")
    store.write_trial(one)

    def work(machines: tuple[str, str], slow: float) -> list[subprocess.Popen[bytes]]:
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo"}
        program = (
            "import sys, time; from mm1_ablate.run.trial import run_trial; from mm1_ablate.training.module import PackedTraining\n"
            "before = PackedTraining.on_train_batch_start\n"
            f"PackedTraining.on_train_batch_start = lambda *all: (time.sleep({slow}), before(*all))[1]\n"
            f"sys.exit(run_trial({ADDRESS!r}, {one.fingerprint!r}, [{one.evaluation_fingerprint!r}], int(sys.argv[1]), 2))"
        )
        return [
            subprocess.Popen(
                [sys.executable, "-c", program, str(rank)],
                env=environment() | meeting | {"MM1_ABLATE_CACHE": str(tmp_path / name)},
                stderr=subprocess.DEVNULL,
            )
            for rank, name in enumerate(machines)
        ]

    first = work(("one", "two"), slow=1)
    try:
        wait_for(lambda: server.has("last.ckpt") or any(each.poll() is not None for each in first), 240)
    finally:
        for each in first:
            each.kill()
            each.wait()
    assert not server.has("model.pt") and server.has("last.ckpt")
    time.sleep(4)
    server.requests.clear()
    assert [each.wait(240) for each in work(("two", "three"), slow=0)] == [0, 0]
    assert server.asked("GET", "last.ckpt") == 2, "by each machine"
    store.refresh()
    assert store.status(one).status == "done" and list(store.curve(one)["step"]) == list(range(1, 13))
    assert len(store.items(one)) == 4
