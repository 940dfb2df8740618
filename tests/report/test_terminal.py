"""Every table of every command fits the terminal, and loses no arm, no task and no number of shots by that."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from command_line import call
from made_up import made_up_study, noisy_results
from rich.console import Console
from rich.table import Table
from scored_study import write_scores

from mm1_ablate.report.comparison import StudyComparison, compare
from mm1_ablate.report.metric_info import PERCENT
from mm1_ablate.report.task_scores import ScoreBounds, TaskScore, TaskScores
from mm1_ablate.report.terminal import fit
from mm1_ablate.report.text import print_comparison

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


@pytest.mark.parametrize("width", WIDTHS)
def test_plans_states_items_and_data(tiny_sweep: Path, tmp_path: Path, width: int) -> None:
    text = tiny_sweep.read_text().replace("  without:", "  without-one-of-the-sources:")
    tiny_sweep.write_text(text)
    arms = ("without-one-of-the-sources/interleaved", "without-one-of-the-sources/text")
    study, store = write_scores(tiny_sweep, tmp_path / "store", lambda trial, task, shots, place, item: item.references[place % 1])
    trials, folder = [trial.name for trial in study.trials], str(store.trial_folder(study.trials[0]))
    told = {
        "plan": (call("plan", tiny_sweep, "--store", store.root, COLUMNS=str(width)), trials),
        "status": (
            call("status", tiny_sweep, "--store", store.root, COLUMNS=str(width)),
            [*trials, folder],
        ),
        "examples": (
            call("examples", tiny_sweep, *arms, "--store", store.root, "--to", tmp_path / "page.html", COLUMNS=str(width)),
            ["miniature_vqa", *(f"{arm} better" for arm in arms)],
        ),
        "data": (
            call("data", tiny_sweep, "--documents", 0, "--sample", 8, "--to", tmp_path / "data.html", COLUMNS=str(width)),
            ["synthetic_captions", "interleaved", "text", "captioned", "shorter side"],
        ),
    }
    for command, (done, wanted) in told.items():
        assert done.exit_code == 0, (command, done.stderr, done.exception)
        table = done.stdout.split("\n\n")[0]
        body = table if command in ("plan", "status") else table.split("\nTrials of ")[0].split("\ntext tokens and images")[0]
        assert max(map(len, body.splitlines())) <= width and "…" not in body, (command, body)
        assert has(body, *wanted), (command, body)


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
