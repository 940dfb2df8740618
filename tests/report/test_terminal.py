"""Every table of every command fits the terminal, and loses no arm, no task and no number of shots by that."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest
from command_line import call
from hypothesis import given
from hypothesis import strategies as st
from made_up import made_up_study, noisy_results
from rich.console import Console
from rich.table import Table
from scored_study import write_scores

from mm1_ablate.report.comparison import StudyComparison, compare
from mm1_ablate.report.metric_info import PERCENT
from mm1_ablate.report.task_scores import ScoreBounds, TaskScore, TaskScores
from mm1_ablate.report.terminal import fit, folded, pieces
from mm1_ablate.report.text import print_comparison
from mm1_ablate.run.progress_view import ProgressRow
from mm1_ablate.run.progress_view import table as live_table
from mm1_ablate.store.status import TrialState

WIDTHS = (60, 80, 100, 140)
TRUTH = {
    "baseline": 50.0,
    "without-interleaved-documents/a-long-name": 20.0,
    "without/data.mixture.captioned": 48.0,
    "connector/c_abstractor,image_tokens=16": 55.0,
    "alone": 30.0,
}
TASKS = ("visual_question_answering_of_charts", "vqa")
SHOTS = (0, 4, 8)


def columns_of(text: str) -> list[str]:
    """The columns of a table, each joined to a word without spaces: what is folded is whole again."""
    lines = [line for line in text.splitlines() if line.strip() and not set(line.strip()) <= set("─━ ")]
    width = max(map(len, lines))
    padded = [line.ljust(width) for line in lines]
    blank = "".join(" " if all(line[place] == " " for line in padded) else "x" for place in range(width))
    found = []
    for column in re.finditer(r"x(?: ?x)*", blank):  # columns are at least two apart
        found.append(re.sub(r"\s+", "", "".join(line[column.start() : column.end()] for line in padded)))
    return found


def has(text: str, *wanted: str) -> bool:
    """Whether each of these stands in one column, or in one sentence."""
    whole = re.sub(r"\s+", "", text)
    columns = [column for block in text.split("\n\n") if block.strip() for column in columns_of(block)]
    return all(any(re.sub(r"\s+", "", one) in place for place in (whole, *columns)) for one in wanted)


@pytest.fixture(scope="module")
def comparison() -> StudyComparison:
    study = made_up_study([name for name in TRUTH if name != "baseline"])
    results, items = noisy_results(study, TRUTH, tasks=TASKS)
    bounds = {arm: ScoreBounds(35.0, "the answer that is given to every item of a captioning task", 98.5) for arm in TRUTH}
    columns = {
        name: TaskScore(name, "image", task, shots, "exact_match", True, PERCENT, dict.fromkeys(TRUTH, 12_345), bounds)
        for task in TASKS
        for shots in SHOTS
        for name in [f"shot_{shots}/{task}"]
    }
    return compare(study, results, [("alone", 2, "ran out of memory")], items, tasks=TaskScores(columns))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_comparison_and_its_tasks(comparison: StudyComparison, width: int) -> None:
    stream = io.StringIO()
    print_comparison(comparison, Console(file=stream, width=width, force_terminal=False))
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= width
    for arm in TRUTH:
        assert has(text, arm.rpartition("/")[2]), (arm, text)
    tasks = text[text.index("Tasks, their floors") : text.index("Scores are means")]
    table = tasks.partition("\n")[2].partition("\n  ▾")[0]
    assert has(table, *(task.replace("_", " ") for task in TASKS), "baseline at 0, 4 and 8 shots", "12,345", "98.5"), tasks
    assert has(tasks, "4 and 8 shots"), tasks
    for column in comparison.tasks.columns.values():
        below = [row.name for row in comparison.rows if comparison.is_below_floor(row, column.column)]
        assert below and (len(below) == 5 or has(table, *below) or has(tasks, *below)), tasks


def test_every_command(tiny_sweep: Path, tmp_path: Path) -> None:
    text = tiny_sweep.read_text().replace("  without:", "  without-one-of-the-sources:")
    tiny_sweep.write_text(text)
    arms = ("without-one-of-the-sources/interleaved", "without-one-of-the-sources/text")
    study, store = write_scores(tiny_sweep, tmp_path / "store", lambda trial, task, shots, place, item: item.references[place % 1])
    trials, stored = [trial.name for trial in study.trials], ("--store", store.root)
    removed = [f"{arm}: removed data.mixture.{arm.partition('/')[2]}" for arm in arms]
    for width in WIDTHS:
        columns = {"COLUMNS": str(width)}
        told = {
            "plan": (call("plan", tiny_sweep, *stored, **columns), ["baseline", *arms, "0, 1", "2 done", *removed]),
            "status": (call("status", tiny_sweep, *stored, **columns), [*trials, *(trial.fingerprint[:12] for trial in study.trials)]),
            "examples": (
                call("examples", tiny_sweep, *arms, *stored, "--to", tmp_path / "page.html", **columns),
                ["miniature_vqa", *arms, "A better", "B better"],
            ),
            "data": (
                call("data", tiny_sweep, "--documents", 0, "--sample", 8, "--to", tmp_path / "data.html", **columns),
                ["synthetic_captions", "interleaved", "text", "captioned", "shorter side"],
            ),
            "validate": (call("validate", tiny_sweep, **columns), removed),
            "report": (call("report", tiny_sweep, *stored, **columns), [*(arm.partition("/")[2] for arm in arms), *removed]),
        }
        for command, (done, wanted) in told.items():
            assert done.exit_code == 0, (command, done.stderr, done.exception)
            assert has(done.stdout, *wanted), (command, done.stdout)
            body = done.stdout.split("\nhow texts and images are joined")[0].replace("\n\n", "\n")
            long = [line for line in body.splitlines() if len(line.rstrip()) > width]
            assert all("/" in (line.split()[0] + line.split()[-1]) for line in long), (command, long)  # a path stays whole
            assert "…" not in body, (command, body)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_live_table(width: int) -> None:
    names = [f"{arm}/seed-{seed}" for arm in TRUTH for seed in (0, 1)]
    state = TrialState("running", "", stage="train", step=30, steps=100, loss=1.5, started=time.time())
    stream = io.StringIO()
    live = live_table([ProgressRow(name, "trial", state) for name in names], 40, width)
    Console(file=stream, width=width, force_terminal=False).print(live)
    assert max(map(len, stream.getvalue().splitlines())) <= width
    assert has(stream.getvalue(), *names, "train 30/100", "1.500"), stream.getvalue()


WORDS = st.text("ab1/.,=_-", min_size=1, max_size=30)


@given(WORDS, st.integers(1, 30))
def test_a_name_is_folded_where_its_parts_meet_and_a_number_never(name: str, width: int) -> None:
    lines = folded(name, width).split("\n")
    assert "".join(lines) == name and max(map(len, lines)) <= width
    ends = [sum(map(len, lines[: place + 1])) for place in range(len(lines) - 1)]
    if max(map(len, pieces(name))) <= width:
        assert all(name[end - 1] in "/.,=_-" and name[end].isalnum() for end in ends)
        assert not any(name[end - 2].isdigit() and name[end].isdigit() for end in ends)


@pytest.mark.parametrize("number", ["12,345", "1.1e-12", "2026-11-29", "−23.9", "0.015"])
def test_a_number_has_no_parts(number: str) -> None:
    assert pieces(number) == [number]


@pytest.mark.parametrize("width", (8, 20, *WIDTHS))
def test_any_table_fits_and_is_whole(width: int) -> None:
    rows = [["a-name-that-is-long", "several words that can be folded", "12.345"], ["short", "", "1"]]
    table = Table(box=None, pad_edge=False)
    for title in ("name", "what it says", "number"):
        table.add_column(title, no_wrap=True, min_width=10)
    for row in rows:
        table.add_row(*row)
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=False)
    whole = fit(table, console)
    console.print(table)
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    assert whole == (width > 35) and all(
        re.sub(r"\s", "", cell) in columns_of(text)[place] for row in rows for place, cell in enumerate(row)
    )
