"""What people see of earlier stages: where they stand, what failed and of what, in the terminal, in MLflow and in the report."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from rich.console import Console
from staged_study import staged
from study_helpers import quick_preparation, quick_trial, study, trial
from tiny import TINY, tiny_experiment

from mm1_ablate.commands.run_told import say_failures
from mm1_ablate.commands.status import show_status, status_json
from mm1_ablate.config.identity.fingerprint import short
from mm1_ablate.config.preparation import preparations_of
from mm1_ablate.config.study import Arm, Study, Trial
from mm1_ablate.config.training import Progress
from mm1_ablate.report.comparison import compare
from mm1_ablate.report.markdown import markdown
from mm1_ablate.run.progress_view import ProgressView, headline, time_left
from mm1_ablate.run.trial import ProgressFile
from mm1_ablate.store.store import Store
from mm1_ablate.tracking.mlflow_runs import track
from mm1_ablate.tracking.server import tracking_uri


def chains() -> Study:
    """Two arms of 30 and 31 steps that start from stages of 20 and 21 steps, and one of 32 that starts from the first of these."""
    first = tiny_experiment({"training.steps": 20, "experiment": "first", **TINY}, prepared=True)
    second = staged(21, first, experiment="second")
    experiments = {"baseline": staged(30, second), "other": staged(31, second), "short chain": staged(32, first)}
    return replace(
        study(),
        arms=tuple(Arm(name, "" if name == "baseline" else "group", one, "baseline") for name, one in experiments.items()),
        trials=tuple(trial(name, 0, experiment) for name, experiment in experiments.items()),
    )


def prepare(store: Store, stage: Trial) -> None:
    for part in preparations_of(stage.experiment, stage.seed):
        store.write_preparation(part)
        quick_preparation(str(store.root), part.fingerprint)


def do(store: Store, *trials: Trial) -> None:
    for one in trials:
        store.write_trial(one)
        quick_trial(str(store.root), one.fingerprint, [one.evaluation_fingerprint] if one.evaluation_fingerprint else [])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    return Store(tmp_path / "store")


@pytest.fixture
def failed(store: Store) -> Study:
    """The second stage has failed, and with it two of three arms."""
    chained = chains()
    first, second = chained.stages
    (store.root / "fail-21").touch()
    prepare(store, first)
    do(store, first, second, chained.trials[2])
    for one in chained.trials[:2]:
        store.write_trial(one)
    return chained


def shown(chained: Study, store: Store) -> str:
    console = Console(file=io.StringIO(), width=400, force_terminal=False)
    show_status(chained, store, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_study_has_each_earlier_stage_once_and_knows_what_starts_from_it() -> None:
    chained = chains()
    assert [(stage.name, stage.arms) for stage in chained.stages] == [
        ("baseline/seed-0 stage 1: first", ("baseline", "other", "short chain")),
        ("baseline/seed-0 stage 2: second", ("baseline", "other")),
    ]
    assert [one.name for one in chained.starting_from(chained.stages[1])] == ["baseline/seed-0", "other/seed-0"]
    alone = trial("first alone", 0, chained.stages[0].experiment)
    assert [stage.name for stage in replace(chained, trials=(*chained.trials, alone)).stages] == ["baseline/seed-0 stage 2: second"]


def test_status_has_a_row_for_each_stage_with_its_progress(store: Store) -> None:
    chained = chains()
    first, _ = chained.stages
    known = status_json(chained, store)
    assert [stage["status"] for stage in known["stages"]] == ["missing", "missing"] and known["stage_counts"] == {"missing": 2}
    folder = store.write_trial(first)
    with store.hold(folder):
        store.start(folder, "train")
        ProgressFile(folder)(Progress("train", 7, 20, 2.5))
        stage, later = status_json(chained, store)["stages"]
        assert (stage["status"], stage["reason"], stage["step"], stage["steps"]) == ("running", "train 7 of 20", 7, 20)
        assert stage["trials"] == ["baseline/seed-0", "other/seed-0", "short chain/seed-0"] and stage["folder"] == str(folder)
        assert (later["status"], later["reason"]) == ("missing", "never run; its earlier stage 'first' is running: train 7 of 20")
        line = next(line for line in shown(chained, store).splitlines() if line.startswith("baseline/seed-0 stage 1: first"))
        assert "train 7 of 20; 3 trials start from it" in line
    assert "its earlier stage 'first' is interrupted: stopped at train 7 of 20" in store.status(chained.trials[2]).reason
    prepare(store, first)
    do(store, first)
    assert "3 missing; of their earlier stages 1 done, 1 missing" in shown(chained, store)


def test_a_failed_stage_is_named_with_the_place_of_its_traceback(failed: Study, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    _, second = failed.stages
    traceback = store.trial_folder(second) / "error.txt"
    reason = "its earlier stage 'second' failed: ArithmeticError: no trial of 21 steps ever works"
    known = status_json(failed, store)
    assert [(one["status"], one["error"]) for one in known["stages"]] == [("done", None), ("failed", str(traceback))]
    assert [(one["status"], one["error"]) for one in known["trials"]] == [("failed", str(traceback))] * 2 + [("done", None)]
    table, _, below = shown(failed, store).partition("\n\n")
    assert sum(" failed " in line for line in table.splitlines()) == 3
    assert [f"failed: {one['name']}: {traceback}" in below for one in known["trials"]] == [True, True, False]
    assert say_failures(failed, store) == 2
    assert f"failed: other/seed-0: {reason} ({traceback})" in capsys.readouterr().err


def test_a_part_that_could_not_be_prepared_for_the_first_stage_is_the_cause(store: Store) -> None:
    chained = chains()
    (store.root / "fail-preparation").touch()
    prepare(store, chained.stages[0])
    (part, _) = preparations_of(chained.stages[0].experiment, 0)
    known = status_json(chained, store)
    assert {one["error"] for one in (*known["stages"], *known["trials"])} == {str(store.prepared_folder(part) / "error.txt")}
    assert "its earlier stage 'second' failed: its earlier stage 'first' failed: its preparation" in known["trials"][0]["reason"]


def test_the_report_names_the_failed_stage_as_the_cause_of_the_hole(failed: Study, store: Store) -> None:
    comparison = compare(failed, store.results(failed), store.holes(failed))
    holes = {hole.arm: hole.reason for hole in comparison.holes}
    reason = "failed: its earlier stage 'second' failed: ArithmeticError: no trial of 21 steps ever works"
    assert holes == {"baseline": reason, "other": reason}
    assert reason in markdown(comparison)


def test_stages_are_runs_of_their_own_in_mlflow_shared_ones_once(failed: Study, store: Store) -> None:
    first, second = failed.stages
    tracked = track(failed, store)
    client = MlflowClient(tracking_uri(store))
    assert set(tracked.stage_runs) == {first.fingerprint, second.fingerprint} and tracked.written == 5
    run = client.get_run(tracked.stage_runs[first.fingerprint])
    assert run.info.status == "FINISHED" and run.info.run_name == "baseline/seed-0 stage 1: first"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == list(range(1, 21))
    tags = {name: run.data.tags[name] for name in ("kind", "stage", "arms", "fingerprint", "mlflow.parentRunId")}
    assert tags == {
        "kind": "stage",
        "stage": "1: first",
        "arms": "baseline, other, short chain",
        "fingerprint": short(first.fingerprint),
        "mlflow.parentRunId": tracked.comparison_run,
    }
    assert run.data.params["training.steps"] == "20"
    failing = client.get_run(tracked.stage_runs[second.fingerprint])
    assert failing.info.status == "FAILED" and failing.data.tags["starts_from"] == short(first.fingerprint)
    later = client.get_run(tracked.trial_runs[failed.trials[0].evaluation_fingerprint])
    assert later.data.tags["starts_from"] == short(second.fingerprint)
    for one in (failing, later):
        assert "Traceback" in one.data.tags["mlflow.note.content"] and "no trial of 21 steps" in one.data.tags["mlflow.note.content"]

    assert track(failed, store).written == 0, "nothing twice"
    (store.root / "fail-21").unlink()
    store.retry(store.trial_folder(second))
    do(store, second, *failed.trials[:2])
    assert track(failed, store).written == 3
    kept = {run.info.run_name for run in client.search_runs([tracked.experiment_id], "tags.kind = 'stage'")}
    assert kept == {"baseline/seed-0 stage 1: first", "baseline/seed-0 stage 2: second"}

    # A stage that becomes an arm is a trial from then on.
    alone = trial("first alone", 0, first.experiment)
    arm = Arm("first alone", "group", first.experiment, "baseline")
    do(store, alone)
    grown = replace(failed, arms=(*failed.arms, arm), trials=(*failed.trials, alone))
    assert set(track(grown, store).stage_runs) == {second.fingerprint}
    assert [run.info.run_name for run in client.search_runs([tracked.experiment_id], "tags.kind = 'stage'")] == [
        "baseline/seed-0 stage 2: second"
    ]


def test_the_live_table_counts_stages_and_reckons_their_time_by_what_they_train_on(store: Store) -> None:
    chained = chains()
    first, second = chained.stages
    prepare(store, first)
    view = ProgressView(chained, store, Console(file=io.StringIO(), width=120, force_terminal=False))
    do(store, first)
    folder = store.write_trial(second)
    with store.hold(folder):
        store.start(folder, "train")
        rows = view.progress.rows()
        assert "0 of 3 trials done, 1 of 2 earlier stages done, 1 running" in headline("test", rows, 1, None)
        view.print_changes()
    printed = view.console.file.getvalue()  # type: ignore[attr-defined]
    assert "baseline/seed-0 stage 1: first done" in printed and "baseline/seed-0 stage 2: second running" in printed

    now = time.time()
    state = replace(rows[-1].state, status="done", started=now - 40, finished=now)
    small, large = (replace(rows[-1], kind="stage", size=size) for size in (10, 30))
    waiting = replace(rows[-1].state, status="missing", started=None)
    left = time_left([replace(small, state=state), replace(large, state=waiting)], 1)
    assert left == pytest.approx(120, rel=0.01)


def test_a_stage_that_no_arm_starts_from_any_more_is_reported_with_what_the_file_no_longer_names(store: Store) -> None:
    chained = chains()
    do(store, *chained.stages, *chained.trials)
    store.register_trials(chained)
    shorter = replace(chained, arms=chained.arms[2:], trials=chained.trials[2:])
    assert set(store.unlisted_trials(shorter).values()) == {"baseline/seed-0 stage 2: second", "baseline/seed-0", "other/seed-0"}
