"""The live table: what people see while a study runs, on a terminal and without one."""

from __future__ import annotations

import io
import time
from pathlib import Path

from rich.console import Console
from study_helpers import quick_trial, study

from mm1_ablate.config.training import Progress
from mm1_ablate.run.progress_view import ProgressRow, ProgressView, StudyProgress, duration, headline, show_progress, table, time_left
from mm1_ablate.run.trial import ProgressFile
from mm1_ablate.store.status import TrialState
from mm1_ablate.store.store import Store


def done(name: str, seconds: float, kind: str = "trial") -> ProgressRow:
    return ProgressRow(name, kind, TrialState("done", "finished", started=1000.0, finished=1000.0 + seconds))


def running(name: str, seconds: float, step: int, stage: str = "train", kind: str = "trial") -> ProgressRow:
    return ProgressRow(name, kind, TrialState("running", "", stage=stage, step=step, steps=100, loss=1.5, started=time.time() - seconds))


def missing(name: str, kind: str = "trial") -> ProgressRow:
    return ProgressRow(name, kind, TrialState("missing", "never run"))


def printed(renderable: object, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_time_left_counts_on_what_trials_took_and_on_how_many_run_at_once() -> None:
    rows = [done("a", 40), done("b", 60), missing("c"), missing("d")]
    assert time_left(rows, slots=1) == 100
    assert time_left(rows, slots=2) == 50


def test_time_left_is_estimated_from_running_trials_before_one_has_ended_and_not_guessed_before_that() -> None:
    assert time_left([running("a", 3, step=2), missing("b")], slots=1) is None
    left = time_left([running("a", 20, step=50, stage="evaluate"), missing("b")], slots=1)
    assert left is not None and 20 < left < 30
    assert time_left([done("a", 10)], slots=2) == 0


def test_time_left_knows_that_preparations_are_no_trials() -> None:
    rows = [done("encoder", 10, "image_encoder"), missing("other encoder", "image_encoder"), missing("a")]
    assert time_left(rows, slots=1) is None
    assert time_left([*rows, done("b", 50)], slots=1) == 60


def test_the_table_fits_eighty_columns_and_says_what_failed() -> None:
    failed = ProgressRow(
        "without/interleaved/seed-1", "trial", TrialState("failed", "OutOfMemoryError: CUDA out of memory, tried to allocate")
    )
    text = printed(table([done("baseline/seed-0", 65), running("without/interleaved/seed-0", 20, 30), failed, missing("last")], height=20))
    assert max(map(len, text.splitlines())) <= 80
    for word in ("baseline/seed-0", "1:05", "train 30/100", "1.500", "failed: OutOfMemory", "waiting"):
        assert word in text


def test_of_many_trials_the_running_and_failed_ones_are_shown_and_the_rest_counted() -> None:
    rows = (
        [done(f"done-{index}", 10) for index in range(100)] + [running("now", 5, 10)] + [missing(f"later-{index}") for index in range(199)]
    )
    rows.append(ProgressRow("broken", "trial", TrialState("failed", "ValueError")))
    text = printed(table(rows, height=10))
    assert len(text.splitlines()) <= 12 and "now" in text and "broken" in text
    assert "199 waiting" in text


def test_the_headline_counts_trials_and_says_the_time_left() -> None:
    rows = [done("a", 40), running("b", 20, 30), running("encoder", 3, 30, kind="image_encoder"), missing("c")]
    assert headline("quickstart", rows, 80, 130) == "quickstart: 1 of 3 trials done, 1 running, 1 being prepared · 1:20 · about 2:10 left"
    assert duration(3723) == "1:02:03"


def test_without_a_terminal_each_change_is_a_line(tmp_path: Path) -> None:
    store, tiny = Store(tmp_path), study(arms=("baseline", "failing"))
    (tmp_path / "fail-11").touch()
    console = Console(file=io.StringIO(), width=60, force_terminal=False)
    with show_progress(tiny, store, console, interval=0.05) as view:
        view.event("starting Ray")
        for trial in tiny.trials:
            store.write_trial(trial)
            quick_trial(str(store.root), trial.fingerprint, [trial.evaluation_fingerprint])
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert "starting Ray" in lines[0]
    assert sum("baseline/seed-0 done in 0:0" in line for line in lines) == 1
    assert sum("failing/seed-0 failed: ArithmeticError: no trial of 11 steps ever works" in line for line in lines) == 1


def test_what_was_done_before_is_not_reported_again(tmp_path: Path) -> None:
    store, tiny = Store(tmp_path), study(arms=("baseline",))
    store.write_trial(tiny.trials[0])
    quick_trial(str(store.root), tiny.trials[0].fingerprint, [tiny.trials[0].evaluation_fingerprint])
    console = Console(file=io.StringIO(), width=60, force_terminal=False)
    with show_progress(tiny, store, console):
        pass
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_on_a_terminal_the_last_picture_stays(tmp_path: Path) -> None:
    store, tiny = Store(tmp_path), study(arms=("baseline",), prepared=("baseline",))
    console = Console(file=io.StringIO(), width=90, height=30, force_terminal=True)
    with show_progress(tiny, store, console, interval=0.05):
        folder = store.write_trial(tiny.trials[0])
        with store.hold(folder):
            store.start(folder, "train")
            ProgressFile(folder)(Progress("train", 5, 10, 2.25))
            time.sleep(0.3)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "train 5/10" in text and "2.250" in text and "image_encoder contrastive" in text
    assert "interrupted" in text.rsplit("baseline/seed-0", 1)[1]


def test_a_watch_lists_preparations_only_where_a_trial_still_needs_them(tmp_path: Path) -> None:
    store, tiny = Store(tmp_path), study(arms=("baseline", "prepared"), prepared=("prepared",), seeds=(0, 1))
    assert [row.kind for row in StudyProgress(tiny, store).rows()] == ["image_encoder", "language_model"] * 2 + ["trial"] * 4
    for trial in tiny.trials:
        store.write_trial(trial)
        quick_trial(str(store.root), trial.fingerprint, [trial.evaluation_fingerprint])
    assert [row.kind for row in StudyProgress(tiny, store).rows()] == ["trial"] * 4


def test_preparations_of_one_name_are_distinguished(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=60, force_terminal=False)
    view = ProgressView(study(arms=("baseline",)), Store(tmp_path), console)
    done = TrialState("done", "finished", started=time.time(), finished=time.time() + 1)
    rows = [
        ProgressRow("encoder", "image_encoder", done, "first"),
        ProgressRow("encoder", "image_encoder", TrialState("missing", ""), "second"),
    ]
    view.progress.rows = lambda: rows  # type: ignore[method-assign]
    for _ in range(3):
        view.print_changes()
    assert console.file.getvalue().count("encoder") == 1  # type: ignore[attr-defined]
