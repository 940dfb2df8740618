"""A comparison as text: sentences that all outputs share, the terminal table, a rounded table.

In: a `StudyComparison`. Out: strings, a pandas table, or lines on a rich console.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mm1_ablate.config.metric_name import metric_title
from mm1_ablate.report.cells import BETTER, HOLE, ONE_SEED, UNDECIDED, WORSE, ArmRow
from mm1_ablate.report.comparison import StudyComparison
from mm1_ablate.report.formats import (
    BELOW_FLOOR,
    DASH,
    decimals,
    difference,
    interval,
    number,
    percent,
    plus_minus,
    probability,
    short_name,
    signed,
)
from mm1_ablate.report.lost_data import LOST, UNREADABLE
from mm1_ablate.report.metric_info import Scale
from mm1_ablate.report.paper_comparison import print_paper_tables
from mm1_ablate.report.statistics import LEAST_SEEDS
from mm1_ablate.report.task_table import print_tasks
from mm1_ablate.report.verdicts import is_significant_uncorrected

STYLES = {BETTER: "bold green", WORSE: "bold red", UNDECIDED: "dim", HOLE: "yellow", ONE_SEED: "yellow"}
MOST_NAMES = 8
"""Number of arms without a verdict that the headline lists."""
DATA_LOSSES = (
    "Skipped and counted in training. Trials read the same data in the same order, so counts are those of the trial with the largest; "
    "those of each trial are in its data.json."
)
MARKS = {"confirmed": "✓", "refuted": "✗", "undecided": "?"}


# ---------------------------------------------------------------- sentences
def headline(comparison: StudyComparison) -> str:
    """What was concluded on the primary metric, in one or two sentences."""
    title = metric_title(comparison.primary)
    arms = [row for row in comparison.rows if not row.is_baseline]
    if not arms:
        return "Only baselines: there is nothing to compare."
    parts = []
    for verdict in dict.fromkeys([WORSE, BETTER, *(row.verdict for row in arms)]):
        named = [row for row in arms if row.verdict == verdict]
        if named and verdict not in (UNDECIDED, HOLE, ONE_SEED):
            parts.append(f"{verdict}: " + ", ".join(_with_interval(row, comparison.primary) for row in named))
    undecided = [row for row in arms if row.verdict == UNDECIDED]
    nearly = [row for row in undecided if is_significant_uncorrected(row, comparison.primary)]
    if nearly:
        differences = ", ".join(_with_interval(row, comparison.primary) for row in nearly)
        parts.append(f"significant by itself, not after correction for {_sizes(comparison)} comparisons: {differences}")
    few = [row for row in undecided if (estimate := row.cells[comparison.primary].estimate) and estimate.seeds < LEAST_SEEDS]
    if few:
        largest = max(few, key=lambda row: abs(row.cells[comparison.primary].estimate.difference))  # type: ignore[union-attr]
        parts.append(
            f"no verdict from two seeds, use at least three; the largest difference is {_with_interval(largest, comparison.primary)}"
        )
    rest = (
        ("undecided", [row for row in undecided if row not in nearly and row not in few]),
        ("no verdict because trials are missing", [row for row in arms if row.verdict == HOLE]),
        ("no verdict from one seed", [row for row in arms if row.verdict == ONE_SEED]),
    )
    for words, named in rest:
        if named:
            parts.append(f"{words}: " + (", ".join(row.name for row in named) if len(named) <= MOST_NAMES else f"{len(named)} arms"))
    sentence = f"{title} against the baseline – " + "; ".join(parts) + "."
    judged = comparison.expectations
    if judged:
        counts = [f"{count} {verdict}" for verdict in MARKS if (count := sum(judgement.verdict == verdict for judgement in judged))]
        sentence += f" Of {len(judged)} expectation{'s' if len(judged) > 1 else ''}: {', '.join(counts)}."
    return sentence


def _with_interval(row: ArmRow, metric: str) -> str:
    cell = row.cells[metric]
    assert cell.estimate is not None
    return f"{row.name} ({difference(cell.estimate, cell.scale)})"


def _sizes(comparison: StudyComparison) -> str:
    """How many comparisons a family has: 3, or 2 to 8."""
    sizes = sorted(comparison.families.values())
    return f"{sizes[0]}" if len(set(sizes)) == 1 else f"{sizes[0]} to {sizes[-1]}" if sizes else "0"


def how_measured(comparison: StudyComparison) -> str:
    """How intervals and verdicts came about, in two sentences."""
    estimates = [row.cells[comparison.primary].estimate for row in comparison.rows]
    known = [estimate for estimate in estimates if estimate]
    noise = "training seeds and evaluation items" if any(estimate.with_items for estimate in known) else "training seeds"
    method = "Welch's t" if known and all(estimate.method == "Welch" for estimate in known) else "a paired t"
    seeds, error = len(comparison.seeds), percent(1 - comparison.confidence)
    sizes, families = _sizes(comparison), len(comparison.families)
    holm = f"Holm over {sizes} comparison{'s' if sizes != '1' else ''}" + (
        f" of one sweep file; there are {families}" if families > 1 else ""
    )
    scale, title = comparison.scale(comparison.primary), metric_title(comparison.primary)
    on = ", on a scale of 0 to 100" if scale.in_percent else ""
    on += "" if scale.higher_is_better else f"; of {title}, lower is better"
    return (
        f"Scores are means over {seeds} seed{'s' if seeds > 1 else ''}{on}; each difference from the baseline has its "
        f"own {percent(comparison.confidence)} interval, from {method} over {noise}. Verdicts are about {title} alone, at a family-wise "
        f"error rate of {error} ({holm}; “no difference” by two one-sided tests against ±{comparison.margin:g}). The other "
        f"columns are exploratory: bold differences there are significant at a false discovery rate of {error} (Benjamini-Hochberg)."
    )


def how_judged(comparison: StudyComparison) -> str:
    """How expectations were judged, in two sentences."""
    families = len({judgement.family for judgement in comparison.expectations})
    error = percent(1 - comparison.confidence)
    over = "over all expectations" if families < 2 else f"over the expectations of one sweep file; there are {families} such families"
    return (
        f"Expectations are confirmed or refuted at a family-wise error rate of {error} (Holm) {over}. “Below by 5” is refuted by a "
        "difference significantly above −5, even if it is below 0."
    )


def detectable(row: ArmRow, primary: str) -> str:
    """The smallest true difference that the row's comparison would have found four times in five."""
    value, scale = row.cells[primary].detectable, row.cells[primary].scale
    return "" if math.isnan(value) else "> 100" if scale.in_percent and value >= 100 else number(value, scale)


# ---------------------------------------------------------------- tables
def wide_table(comparison: StudyComparison) -> pd.DataFrame:
    """A line for each arm, rounded as tables show it."""
    lines = []
    for row in comparison.rows:
        line: dict[str, object] = {"arm": row.name, "seeds": row.n, "verdict": row.verdict}
        for metric in comparison.metrics:
            cell = row.cells[metric]
            estimate = cell.estimate if cell.estimate and cell.estimate.known else None
            title = metric_title(metric)
            line[title] = _rounded(cell.mean, cell.scale)
            line[f"{title} difference"] = _rounded(cell.estimate.difference, cell.scale) if cell.estimate else None
            line[f"{title} low"] = _rounded(estimate.low, cell.scale) if estimate else None
            line[f"{title} high"] = _rounded(estimate.high, cell.scale) if estimate else None
        lines.append({**line, "altered": "; ".join(row.changes), "notes": "; ".join((*row.notes, *row.also_changed))})
    return pd.DataFrame(lines)


def _rounded(value: float, scale: Scale) -> float | None:
    return None if math.isnan(value) else round(value, decimals(value, scale)) + 0.0


# ---------------------------------------------------------------- terminal
def print_comparison(comparison: StudyComparison, console: Console) -> None:
    """Table, conclusion and what a reader should know. Readable from 100 columns."""
    _print_table(comparison, console)
    console.print()
    console.print(Text(headline(comparison), style="bold"))
    for row in comparison.rows:
        told = [confound.text for confound in row.confounds if not confound.is_minor]
        notes = [*row.changes, *row.notes, *([f"also changed: {', '.join(told)}"] if told else [])]
        if notes:
            console.print(Padding(Text(f"{row.name}: {'; '.join(notes)}"), (0, 0, 0, 2)))
    if comparison.expectations:
        console.print("\n[bold]Expected before the run[/]")
    for judgement in comparison.expectations:
        scale = comparison.scale(judgement.expectation.metric)
        found = f"{difference(judgement.estimate, scale)}; " if judgement.estimate else ""
        colour = {"confirmed": "green", "refuted": "red"}.get(judgement.verdict, "yellow")
        line = Text(f"{MARKS[judgement.verdict]} {judgement.verdict}", style=colour)
        line.append(f": {judgement.expectation.because}\n", style="default")
        line.append(f"{judgement.claim}: {found}{judgement.reason}", style="dim default")
        if judgement.expectation.paper:
            line.append(f"\npublished: {judgement.expectation.paper}", style="dim default")
        console.print(Padding(line, (0, 0, 0, 2)))
    print_paper_tables(comparison, console)
    _print_effects(comparison, console)
    print_tasks(comparison, console)
    _print_unreadable(comparison, console)
    console.print()
    if comparison.false_verdicts:
        console.print(Text(comparison.false_verdicts.in_words()))
    judged = [how_judged(comparison)] if comparison.expectations else []
    for remark in (how_measured(comparison), *judged, *comparison.remarks):
        console.print(Text(remark, style="dim"))


def _print_unreadable(comparison: StudyComparison, console: Console) -> None:
    """Bad data; what was not kept, cut or too long was so declared, and is in the report."""
    unreadable = [loss for loss in comparison.data_losses if loss.kind in (LOST, UNREADABLE)]
    if unreadable:
        console.print("\n[bold]Unreadable data[/] [dim]was skipped[/]")
    for loss in unreadable:
        console.print(Padding(Text(loss.in_words(), style="yellow"), (0, 0, 0, 2)))


def _print_effects(comparison: StudyComparison, console: Console) -> None:
    """Main effects, and of the interactions those that are significant."""
    if not comparison.effects:
        return
    title, scale = metric_title(comparison.primary), comparison.scale(comparison.primary)
    console.print(f"\n[bold]Effects in grids[/] [dim]on {title}, means over the other axes; exploratory (Benjamini-Hochberg)[/]")
    shown = [effect for effect in comparison.effects if not effect.is_interaction or comparison.is_significant(effect)]
    for effect in shown:
        significant = comparison.is_significant(effect)
        line = Text(f"{effect.group}: {effect.title}: ")
        line.append(difference(effect.estimate, scale) if effect.estimate else DASH, style="bold" if significant else "")
        line.append("" if significant else " trials missing" if not effect.complete else " not significant", style="dim")
        console.print(Padding(line, (0, 0, 0, 2)))
    hidden = len(comparison.effects) - len(shown)
    if hidden:
        console.print(Padding(Text(f"{hidden} interaction{'s' if hidden > 1 else ''} not significant", style="dim"), (0, 0, 0, 2)))


def _print_table(comparison: StudyComparison, console: Console) -> None:
    layout = _layout(comparison, console.width)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    table.title, table.title_justify, table.title_style = f"{comparison.study}: scores and differences from the baseline", "left", "bold"
    table.add_column("arm", no_wrap=True)
    for metric in layout.metrics:
        table.add_column(Text(metric_title(metric), style="bold" if metric == comparison.primary else ""), justify="right", no_wrap=True)
    table.add_column("verdict", width=layout.verdict)
    group = None
    for row in comparison.rows:
        heading = row.group if short_name(row) != row.name and not row.is_baseline else None
        if heading and heading != group:
            table.add_row(Text(wrapped(heading, layout.name), style="bold"))
        group = heading
        name = wrapped(short_name(row), layout.name - 2).replace("\n", "\n  ") if heading else wrapped(row.name, layout.name)
        cells = [_terminal_cell(row, metric, comparison, layout.brackets) for metric in layout.metrics]
        table.add_row(f"  {escape(name)}" if heading else escape(name), *cells, _terminal_verdict(row, comparison))
    console.print(table)
    left_out = len(comparison.metrics) - len(layout.metrics)
    if left_out:
        console.print(f"[dim]{left_out} more column{'s' if left_out > 1 else ''} in the report; a wider terminal shows them too.[/]")


class _Layout(NamedTuple):
    """What fits: width of names, columns, whether intervals are shown in brackets, width of verdicts."""

    name: int
    metrics: list[str]
    brackets: bool
    verdict: int


def _layout(comparison: StudyComparison, width: int) -> _Layout:
    """Intervals in brackets where there is room, otherwise as ±; names fold before columns are left out, the primary metric never is.

    Columns are three apart.
    """
    rows = comparison.rows
    names = max(len(row.name) if short_name(row) == row.name else max(len(short_name(row)) + 2, len(row.group)) for row in rows)
    least = min(names, 20)
    for brackets, verdict in ((True, 28), (False, 18)):
        metrics = list(comparison.metrics)
        while True:
            widths = [max(_widest(_terminal_cell(row, metric, comparison, brackets)) for row in rows) for metric in metrics]
            columns = [max(cells, len(metric_title(metric))) for cells, metric in zip(widths, metrics, strict=True)]
            room = width - verdict - 3 - sum(column + 3 for column in columns)
            if room >= (names if brackets else least) or (not brackets and len(metrics) == 1):
                return _Layout(max(min(names, room), 8), metrics, brackets, verdict)
            if brackets:
                break
            metrics.remove(next(metric for metric in reversed(metrics) if metric != comparison.primary))
    raise AssertionError("one column always remains")


def wrapped(name: str, width: int) -> str:
    """A long name over several lines, broken where its parts meet."""
    lines, line = [], ""
    for part in re.findall(r"[^/.,=_\- ]*[/.,=_\- ]*", name):
        while len(line) + len(part.rstrip()) > width:
            head = line or part[:width]
            lines.append(head.rstrip())
            part, line = (part, "") if line else (part[width:], "")
        line += part
    return "\n".join([*lines, line] if line else lines)


def _widest(text: Text) -> int:
    return max(len(line) for line in text.plain.splitlines())


def _terminal_cell(row: ArmRow, metric: str, comparison: StudyComparison, brackets: bool) -> Text:
    cell = row.cells[metric]
    text = Text((f"{BELOW_FLOOR} " if comparison.is_below_floor(row, metric) else "") + number(cell.mean, cell.scale))
    if cell.estimate is not None:
        error = interval(cell) if brackets else plus_minus(cell)
        significant = comparison.is_significant(cell)
        style = ("green" if cell.scale.is_better(cell.estimate.difference) else "red") if significant else ""
        text.append(f"\n{signed(cell.estimate.difference, cell.scale)}", style=f"bold {style}" if significant else "")
        text.append(f" {error}" if error else "", style=style or "dim")
    return text


def _terminal_verdict(row: ArmRow, comparison: StudyComparison) -> Text:
    if row.is_baseline:
        return Text(f"{row.verdict}\nn = {row.n}", style="dim")
    text = Text(row.verdict, style=STYLES.get(row.verdict, "bold cyan"))
    details = [part for part in (f"n = {row.n}", probability(row.cells[comparison.primary].p_adjusted)) if part]
    text.append("\n" + ", ".join(details), style="dim")
    if row.verdict == UNDECIDED and (size := detectable(row, comparison.primary)):
        text.append(f"\ndetectable: {size}", style="dim")
    return text
