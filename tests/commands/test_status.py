"""What another terminal learns of a study under way: preparations, evaluation, time left, loss, scores, and who works on it."""

from __future__ import annotations

import io
import os
import socket
from pathlib import Path

import pytest
from rich.console import Console
from study_helpers import quick_preparation, quick_trial, study

from mm1_ablate.commands.status import show_status, status_json
from mm1_ablate.config.preparation import preparations_of
from mm1_ablate.config.study import Study
from mm1_ablate.config.training import Progress
from mm1_ablate.run.trial import ProgressFile
from mm1_ablate.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def shown(tiny: Study, store: Store) -> str:
    console = Console(file=io.StringIO(), width=160, force_terminal=False)
    show_status(tiny, store, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_preparations_are_there_while_trials_wait_for_them(store: Store) -> None:
    tiny = study(("baseline",), prepared=("baseline",))
    encoder, language = preparations_of(tiny.trials[0].experiment, 0)
    folder = store.write_preparation(encoder)
    with store.hold(folder):
        store.start(folder, "prepare")
        ProgressFile(folder)(Progress("prepare", 40, 200, 1.25))
        working, waiting = status_json(tiny, store)["preparations"]
        assert (working["status"], working["step"], working["loss"], working["pid"]) == ("running", 40, 1.25, os.getpid())
        assert (waiting["name"], waiting["status"]) == (language.name, "missing")
        text = shown(tiny, store)
        assert f"process {os.getpid()} on {socket.gethostname()} works on {encoder.name}" in text and "prepare 40 of 200" in text
    for part in (encoder, language):
        store.write_preparation(part)
        quick_preparation(str(store.root), part.fingerprint)
    assert [one["status"] for one in status_json(tiny, store)["preparations"]] == ["done", "done"]


def test_time_left_loss_and_scores(store: Store) -> None:
    tiny = study(("baseline", "longer"), seeds=(0, 1))
    done, working = tiny.trials[:2]
    store.write_trial(done)
    quick_trial(str(store.root), done.fingerprint, [done.evaluation_fingerprint])
    folder = store.write_trial(working)
    assert status_json(tiny, store)["seconds_left"] is None
    with store.hold(folder):
        store.start(folder, "train")
        ProgressFile(folder)(Progress("train", 5, 10, 2.25))
        known = status_json(tiny, store)
        assert known["seconds_left"] is not None and known["at_a_time"] == 1
        first, second, *_ = known["trials"]
        assert (first["score"], first["loss"], second["score"], second["loss"]) == (10.0, None, None, 2.25)
        assert "2.250" in shown(tiny, store) and "10.0" in shown(tiny, store)


def test_an_evaluation_is_named_before_its_first_item(store: Store) -> None:
    tiny = study(("baseline",))
    trial = tiny.trials[0]
    folder = store.write_trial(trial)
    with store.hold(folder):
        store.start(folder, "train")
        ProgressFile(folder)(Progress("train", 10, 10, 2.0))
        assert store.status(trial).reason == "train 10 of 10"
        store.start_evaluation(trial.fingerprint, trial.evaluation_fingerprint)
        state = store.status(trial)
        assert (state.stage, state.reason) == ("evaluate", "evaluation begins")
        ProgressFile(folder)(Progress("evaluate", 3, 40))
        assert store.status(trial).reason == "evaluate 3 of 40"


def test_what_a_run_does_between_its_trials_and_its_table(store: Store) -> None:
    tiny = study(("baseline",))
    with store.running(tiny, "running 1 trials") as doing:
        doing("comparing 1 trials")
        (run,) = status_json(tiny, store)["runs"]
        assert run["alive"] and run["what"] == "comparing 1 trials"
        assert f"run by process {os.getpid()} on {socket.gethostname()} for 0:00: comparing 1 trials (for 0:00)" in shown(tiny, store)
    assert f"last run, by process {os.getpid()} on {socket.gethostname()}: ended 0:00 ago" in shown(tiny, store)
