"""A study in MLflow while it runs: runs that are RUNNING, curves that grow, and a status that is true however a trial ends."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from study_helpers import quick_trial, study

from mm1_ablate.config.study import Trial
from mm1_ablate.config.training import Progress
from mm1_ablate.run.trial import ProgressFile
from mm1_ablate.store.store import Store
from mm1_ablate.tracking.live import LiveStudy, keep_tracking
from mm1_ablate.tracking.mlflow_runs import track
from mm1_ablate.tracking.server import tracking_uri


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def done(store: Store, *trials: Trial) -> None:
    for trial in trials:
        store.write_trial(trial)
        quick_trial(str(store.root), trial.fingerprint, [trial.evaluation_fingerprint])


@contextlib.contextmanager
def training(store: Store, trial: Trial) -> Iterator[Path]:
    """A process that works on a trial: this one."""
    folder = store.write_trial(trial)
    with store.hold(folder):
        store.start(folder, "train")
        ProgressFile(folder)(Progress("train", 0, 10))
        yield folder


def learn(folder: Path, *steps: int, began: float = 1e9) -> None:
    with (folder / "curve.jsonl").open("a") as file:
        for step in steps:
            point = {"step": step, "loss": 3 - step / 10, "learning_rate": 1e-3, "tokens_per_second": 1234.5678, "time": began + step}
            file.write(json.dumps(point | {"gradient_norm": 0.5, "waiting_for_data": 0.25, "memory": 2e9, "seconds": step}) + "\n")


def shown(store: Store, kind: str = "trial") -> list[Run]:
    client = MlflowClient(tracking_uri(store))
    (experiment,) = (one.experiment_id for one in client.search_experiments() if one.name != "Default")
    return list(client.search_runs([experiment], f"tags.kind = '{kind}'"))


def steps_of(store: Store, run: Run) -> list[int]:
    return [point.step for point in MlflowClient(tracking_uri(store)).get_metric_history(run.info.run_id, "loss")]


def test_a_trial_is_a_running_run_from_its_start_and_its_curve_grows_without_anything_twice(store: Store) -> None:
    tiny = study(arms=("baseline",), seeds=(0, 1))
    live = LiveStudy(tiny, store, 60)
    with training(store, tiny.trials[0]) as folder:
        live.round()
        (run,) = shown(store)
        assert run.info.status == "RUNNING" and run.info.run_name == "baseline/seed-0" and run.info.end_time is None
        assert run.data.params["training.steps"] == "10"
        assert [one.info.status for one in (*shown(store, "arm"), *shown(store, "comparison"))] == ["RUNNING", "RUNNING"]
        for steps in ((1, 2), (), (3,), (4, 5, 6)):
            learn(folder, *steps)
            live.round()
        assert steps_of(store, run) == [1, 2, 3, 4, 5, 6]
        point = {
            name: shown(store)[0].data.metrics[name] for name in ("tokens_per_second", "gradient_norm", "waiting_for_data", "memory_gb")
        }
        assert list(point.values()) == [1234.6, 0.5, 0.25, 2.0]
        # Another driver, or the same after its own end, goes on where this one stopped.
        learn(folder, 7)
        LiveStudy(tiny, store, 60).round()
        assert steps_of(store, run) == [1, 2, 3, 4, 5, 6, 7] and len(shown(store)) == 1
    live.round()
    (run,) = shown(store)
    assert run.info.status == "KILLED" and [one.info.status for one in shown(store, "arm")] == ["KILLED"]
    with training(store, tiny.trials[0]) as folder:  # resumed from a checkpoint, behind which points were dropped
        lines = (folder / "curve.jsonl").read_text().splitlines(keepends=True)
        (folder / "curve.jsonl").write_text("".join(lines[:4]))
        live.round()
        assert shown(store)[0].info.status == "RUNNING"
        learn(folder, 5, 6, 7, 8)
        live.round()
        (folder / "model.pt").write_bytes(b"weights")
    assert steps_of(store, run) == [1, 2, 3, 4, 5, 6, 7, 8]
    done(store, *tiny.trials)
    live.round()
    assert {one.info.status for one in (*shown(store), *shown(store, "arm"), *shown(store, "comparison"))} == {"FINISHED"}
    assert run.info.run_id in {one.info.run_id for one in shown(store)}


def test_a_trial_that_starts_anew_after_a_failure_shows_the_curve_of_its_new_attempt_alone(store: Store) -> None:
    tiny = study(arms=("baseline",))
    live = LiveStudy(tiny, store, 60)
    with training(store, tiny.trials[0]) as folder:
        learn(folder, 1, 2, 3)
        live.round()
        store.fail(folder, "ArithmeticError: it diverged")
    live.round()
    (failed,) = shown(store)
    assert failed.info.status == "FAILED" and failed.data.tags["mlflow.note.content"].startswith("Failed: ArithmeticError: it diverged")
    MlflowClient(tracking_uri(store)).set_tag(failed.info.run_id, "looked at by", "Ada")
    store.retry(store.trial_folder(tiny.trials[0]))
    live.round()
    assert shown(store)[0].info.status == "SCHEDULED"
    with training(store, tiny.trials[0]) as folder:
        (folder / "curve.jsonl").unlink()
        learn(folder, 1, 2, began=2e9)
        live.round()
        (run,) = shown(store)
        assert run.info.status == "RUNNING" and steps_of(store, run) == [1, 2] and run.data.tags["looked at by"] == "Ada"
        assert "Failed" not in run.data.tags["mlflow.note.content"]


def test_what_a_lost_driver_left_running_is_put_right_by_the_next_command(store: Store) -> None:
    tiny = study(seeds=(0, 1))
    with training(store, tiny.trials[0]), training(store, tiny.trials[3]):
        LiveStudy(tiny, store, 60).round()
    assert [run.info.status for run in shown(store)] == ["RUNNING", "RUNNING"]
    left = replace(tiny, arms=tiny.arms[:1], trials=tiny.trials[:2])  # the other arm was taken out of the sweep meanwhile
    track(left, store)
    client = MlflowClient(tracking_uri(store))
    runs = client.search_runs([client.search_experiments()[0].experiment_id], "tags.kind LIKE '%'", ViewType.ACTIVE_ONLY)
    assert len(runs) == 5 and not [run.info.run_name for run in runs if run.info.status == "RUNNING"]


def test_a_round_ends_when_its_time_is_up_and_the_next_begins_with_who_had_no_turn(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = study(arms=("baseline",), seeds=tuple(range(5)))
    live = LiveStudy(tiny, store, 60)
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(training(store, trial)) for trial in tiny.trials]
        live.round()
        for folder in folders:
            learn(folder, 1)
        now = iter([0.0, *(0.5 + number for number in range(100))])
        monkeypatch.setattr("mm1_ablate.tracking.live.time.monotonic", lambda: next(now))
        live.longest_round = 2.0
        counts = []
        for _ in range(4):
            now = iter([0.0, *(0.5 + number for number in range(100))])
            live.round()
            counts.append(sum("loss" in run.data.metrics for run in shown(store)))
        assert counts == [2, 4, 5, 5]


def test_a_study_is_shown_once_more_when_its_run_ends_whatever_ends_it(store: Store) -> None:
    tiny, said = study(arms=("baseline",)), list[str]()
    with pytest.raises(KeyboardInterrupt), keep_tracking(tiny, store, said.append, interval=0.05):
        with training(store, tiny.trials[0]):
            until = time.monotonic() + 200
            while time.monotonic() < until and not ((store.root / "mlflow.db").exists() and _is_running(store)):
                time.sleep(0.2)
            assert _is_running(store)
        raise KeyboardInterrupt
    assert [run.info.status for run in shown(store)] == ["KILLED"] and not said


def _is_running(store: Store) -> bool:
    with contextlib.suppress(Exception):  # its tables are being made
        return [run.info.status for run in shown(store)] == ["RUNNING"]
    return False
