"""Each task with the basis of its scores: number of items, floor and ceiling, and the arms below the floor.

In: a `StudyComparison`. Out: rows of strings for the report, a table on a rich console.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mm1_ablate.evaluation.chance_baselines import PLACE
from mm1_ablate.report.comparison import StudyComparison
from mm1_ablate.report.formats import BELOW_FLOOR, DASH, number
from mm1_ablate.report.task_scores import ScoreBounds, TaskScore
from mm1_ablate.report.terminal import fit, print_sentence

RIGHT = ("items", "ceiling")
"""Titles of columns of numbers."""
LONGEST_ANSWER = 40
"""Of a constant answer in the terminal: captions are longer."""
MOST_ARMS = 4
"""That are named where they are below a floor; of more only how many there are."""


def task_titles(comparison: StudyComparison) -> list[str]:
    """Of the columns of `task_lines`."""
    shots = _all_shots(comparison)
    at = f" at {listed(shots)}{_shots(shots[-1])}" if shots else ""
    return [
        "task",
        "items",
        "floor",
        "ceiling",
        f"{comparison.rows[0].name if comparison.rows else 'scores'}{at}",
        f"{BELOW_FLOOR} below it",
    ]


def _all_shots(comparison: StudyComparison) -> list[int]:
    return sorted({column.shots for column in comparison.tasks.columns.values() if column.family == "image"})


def about_tasks(comparison: StudyComparison) -> str:
    """What the columns of the table mean."""
    return (
        "The floor needs no image and no question: the answer that scores best if it is given to every item, or a random choice. "
        f"The ceiling is the best that any answer could score: below 100 where annotators disagree. {BELOW_FLOOR} marks a score below its "
        "floor."
    )


def task_lines(comparison: StudyComparison, longest: int | None = None, primary_only: bool = False) -> list[list[str]]:
    """A line for each task and metric, in the columns of `task_titles`.

    Args:
        longest: characters of a constant answer.
        primary_only: leave out metrics that enter no average.
    """
    columns: dict[tuple[str, str, str], list[TaskScore]] = {}
    for column in comparison.tasks.columns.values():
        if column.primary or not primary_only:
            columns.setdefault((column.family, column.task, column.rule), []).append(column)
    return [_line(comparison, sorted(own, key=lambda column: column.shots), longest) for own in columns.values()]


def _line(comparison: StudyComparison, columns: Sequence[TaskScore], longest: int | None) -> list[str]:
    first = columns[0]
    title = first.task.replace("_", " ")
    title = f"{first.rule.replace('_', ' ')} of {title}" if first.family == "loss" else title
    usual = next((column.usual for column in columns if column.bounds), ScoreBounds())
    ceiling = DASH if usual.ceiling is None else number(usual.ceiling, first.scale).removesuffix(".0")
    return [
        title if first.primary else f"{title}: {first.rule.replace('_', ' ')}",
        _items(columns),
        floor_in_words(first, usual, longest),
        ceiling,
        _scores(comparison, columns),
        _below(comparison, columns),
    ]


def _items(columns: Sequence[TaskScore]) -> str:
    """'240', '238 to 240 ⚑'."""
    counts = {count for column in columns for count in column.items.values()}
    uneven = any(column.lacks(arm) for column in columns for arm in column.items)
    return (f"{min(counts):,} to " if len(counts) > 1 else "") + f"{max(counts):,}" + (" ⚑" if uneven else "")


def floor_in_words(column: TaskScore, bounds: ScoreBounds, longest: int | None = None) -> str:
    """'24.0 “unanswerable”', '25.0 by chance', '26.1 always choice 2'."""
    if bounds.floor is None:
        return DASH
    if not bounds.answer or bounds.answer.startswith(PLACE):
        return f"{number(bounds.floor, column.scale)} {bounds.answer or 'by chance'}"
    answer = bounds.answer if longest is None or len(bounds.answer) <= longest else bounds.answer[: longest - 1].rstrip() + "…"
    return f"{number(bounds.floor, column.scale)} “{answer}”"


def _scores(comparison: StudyComparison, columns: Sequence[TaskScore]) -> str:
    """'30.1, 39.8, 44.0', one for each number of shots; of a text task its only one."""
    if not comparison.rows:
        return DASH
    cells = {column.shots: comparison.rows[0].cells.get(column.column) for column in columns}
    shots = _all_shots(comparison) if columns[0].family == "image" else list(cells)
    return ", ".join(number(cell.mean, cell.scale) if (cell := cells.get(count)) else DASH for count in shots)


def listed(numbers: Sequence[int]) -> str:
    """'0, 4 and 8'."""
    return " and ".join(filter(None, [", ".join(map(str, numbers[:-1])), str(numbers[-1])]))


def _shots(shots: int) -> str:
    return " shot" if shots == 1 else " shots"


def _below(comparison: StudyComparison, columns: Sequence[TaskScore]) -> str:
    """'text at 0 and 4 shots', '6 of 9 arms at 8 shots'."""
    names_at: dict[tuple[str, ...], list[int]] = {}
    for column in columns:
        below = [row.name for row in comparison.rows if column.column in row.cells and comparison.is_below_floor(row, column.column)]
        if below:
            names_at.setdefault(tuple(below), []).append(column.shots)
    told = []
    for names, shots in names_at.items():
        arms = ", ".join(names) if len(names) <= MOST_ARMS else f"{len(names)} of {len(comparison.rows)} arms"
        told.append(arms + (f" at {listed(shots)}{_shots(shots[-1])}" if columns[0].family == "image" else ""))
    return "; ".join(told) or DASH


def unasked_lines(comparison: StudyComparison) -> list[str]:
    """Items that could not be evaluated, and in which arms if not in all."""
    every = len(comparison.rows)
    return [
        one.in_words() + ("" if len(one.arms) in (0, every) else f", in {', '.join(one.arms)}" if len(one.arms) <= MOST_ARMS else "")
        for one in comparison.tasks.unasked
    ]


def print_tasks(comparison: StudyComparison, console: Console) -> None:
    """The table, and the items that could not be evaluated."""
    lines = task_lines(comparison, LONGEST_ANSWER, primary_only=True)
    if not lines:
        return
    console.print()
    table = _table(comparison, lines)
    beside = fit(table, console)
    if not beside:
        table = _table(comparison, [line[:-1] for line in lines])
        fit(table, console)
    console.print(table)
    for title, *_, below in lines:
        if below != DASH and not beside:
            print_sentence(console, f"{BELOW_FLOOR} {title} is below its floor: {below}", "  ", "    ", "yellow")
    for problem in unasked_lines(comparison):
        print_sentence(console, f"not evaluated: {problem}", "  ", "    ", "yellow")


def _table(comparison: StudyComparison, lines: Sequence[Sequence[str]]) -> Table:
    """A table of the first columns, as many as the lines have."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    table.title, table.title_justify, table.title_style = "Tasks, their floors and ceilings", "left", "bold"
    titles = task_titles(comparison)
    for title in titles[: len(lines[0])]:
        table.add_column(Text(title), justify="right" if title in RIGHT else "left", overflow="fold")
    for line in lines:
        last = len(titles) - 1
        table.add_row(*(Text(cell, style="yellow" if place == last and cell != DASH else "") for place, cell in enumerate(line)))
    return table
