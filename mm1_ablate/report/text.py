"""A comparison as text: sentences that all outputs share, the terminal table, a rounded table.

In: a `StudyComparison`. Out: strings, a pandas table, or lines on a rich console.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mm1_ablate.config.metric_name import metric_title
from mm1_ablate.report.cells import (
    AGAINST,
    BETTER,
    CONFIRMED,
    HOLE,
    IN_LINE,
    LEANING,
    REFUTED,
    TOO_CLOSE,
    TOO_FEW,
    WORSE,
    ArmRow,
)
from mm1_ablate.report.comparison import StudyComparison
from mm1_ablate.report.expectations import OUTCOMES, Judgement
from mm1_ablate.report.formats import (
    BELOW_FLOOR,
    DASH,
    both_seeds,
    decimals,
    difference,
    interval,
    number,
    percent,
    plus_minus,
    probability,
    seeds_agree,
    short_name,
    signed,
)
from mm1_ablate.report.lost_data import LOST, UNREADABLE
from mm1_ablate.report.metric_info import Scale
from mm1_ablate.report.paper_comparison import print_paper_tables
from mm1_ablate.report.price import Price
from mm1_ablate.report.said_before import BEFORE_ANY, utc
from mm1_ablate.report.statistics import LEAST_SEEDS, Estimate
from mm1_ablate.report.task_table import print_tasks
from mm1_ablate.report.terminal import folded, print_sentence

STYLES = {BETTER: "bold green", WORSE: "bold red", LEANING: "yellow", TOO_CLOSE: "dim", TOO_FEW: "dim", HOLE: "yellow"}
MOST_NAMES = 8
"""Arms that the headline names; of more it says how many have which verdict."""
IN_HEADLINE = {HOLE: "no verdict because trials are missing", TOO_FEW: f"{TOO_FEW}, three at least for a verdict"}
DATA_LOSSES = (
    "Skipped and counted in training. Trials read the same data in the same order, so counts are those of the trial with the largest; "
    "those of each trial are in its data.json."
)
MARKS = {outcome: {CONFIRMED: "✓", REFUTED: "✗", LEANING: "~", IN_LINE: "+", AGAINST: "−"}.get(outcome, "?") for outcome in OUTCOMES}
KINDS = {"check": "Checks", "lesson": "Lessons"}
ABOUT_KINDS = {"check": "What must come out, or something is broken.", "lesson": "What the study is to find out."}
FOOTNOTES = (
    "Holm (1979): the p values of a family are corrected step by step, which keeps the chance of any false verdict in it below the level.",
    "TOST (Schuirmann 1987): two one-sided tests show that a difference lies within a margin.",
    "Benjamini-Hochberg (1995): a correction by which few of the differences that are called significant are false.",
    "Crossed random effects: seeds, evaluation items and demonstration draws are samples, and each one's luck counts in the interval.",
    "Satterthwaite (1946): the degrees of freedom of a sum of variances that are known unequally well.",
)
"""Standard names of the methods, a line each."""


# ---------------------------------------------------------------- sentences
def headline(comparison: StudyComparison) -> str:
    """What was concluded on the primary metric, in one sentence. Of a large study it counts arms, and names the largest differences."""
    title = metric_title(comparison.primary)
    arms = [row for row in comparison.rows if not row.is_baseline]
    if not arms:
        return "Only baselines: there is nothing to compare."
    parts = _counted_arms(arms, comparison) if len(arms) > MOST_NAMES else _named_arms(arms, comparison)
    few = [row for row in arms if row.verdict == TOO_FEW and row.cells[comparison.primary].estimate]
    if few:
        parts.append(f"the largest difference of these is {_largest(few, comparison.primary)}")
    return f"{title} against the baseline – " + "; ".join([*parts, *_counted(comparison)]) + "."


def _named_arms(arms: Sequence[ArmRow], comparison: StudyComparison) -> list[str]:
    """'worse: a (−5.0 [−6.0, −4.0]), b (…)', verdict by verdict."""
    parts = []
    for verdict in _in_order(arms):
        named = [row for row in arms if row.verdict == verdict]
        shown = verdict not in (TOO_CLOSE, TOO_FEW, HOLE)
        told = ", ".join(_with_interval(row, comparison.primary) if shown else row.name for row in named)
        parts.append(f"{IN_HEADLINE.get(verdict, verdict)}: {told}")
    return parts


def _counted_arms(arms: Sequence[ArmRow], comparison: StudyComparison) -> list[str]:
    """'5 of 26 arms worse, most of all a (−61.2 [−65.5, −56.8])', verdict by verdict."""
    parts: list[str] = []
    for verdict in _in_order(arms):
        named = [row for row in arms if row.verdict == verdict]
        most = verdict in (WORSE, BETTER) and f", {'most of all ' if len(named) > 1 else ''}{_largest(named, comparison.primary)}"
        of_all = f" of {len(arms)} arms" if not parts else ""
        parts.append(f"{len(named)}{of_all} {IN_HEADLINE.get(verdict, verdict)}{most or ''}")
    return parts


def _in_order(arms: Sequence[ArmRow]) -> list[str]:
    """The verdicts that occur: what was decided first, what is undecided or missing last."""
    last = (LEANING, TOO_CLOSE, HOLE, TOO_FEW)
    found = dict.fromkeys(row.verdict for row in arms)
    decided = [verdict for verdict in dict.fromkeys([WORSE, BETTER, *found]) if verdict in found and verdict not in last]
    return [*decided, *(verdict for verdict in last if verdict in found)]


def _largest(arms: Sequence[ArmRow], metric: str) -> str:
    """The arm with the largest difference, and that."""
    return _with_interval(max(arms, key=lambda row: abs(row.cells[metric].estimate.difference)), metric)  # type: ignore[union-attr]


def _counted(comparison: StudyComparison) -> list[str]:
    """'of 4 lessons 3 confirmed, 1 leaning' for each kind of expectations."""
    lines = []
    for kind, judged in by_kind(comparison).items():
        counts = [f"{count} {verdict}" for verdict in OUTCOMES if (count := sum(judgement.verdict == verdict for judgement in judged))]
        lines.append(f"of {len(judged)} {kind}{'s' if len(judged) > 1 else ''} {', '.join(counts)}")
    return lines


def missing_trials(comparison: StudyComparison) -> list[tuple[str, str]]:
    """Arms, and which of their trials are missing and why: ('text', 'seeds 0, 2: never run')."""
    found: dict[tuple[str, str], list[int]] = {}
    for hole in comparison.holes:
        found.setdefault((hole.arm, hole.reason), []).append(hole.seed)
    return [(arm, f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}: {why}") for (arm, why), seeds in found.items()]


def by_kind(comparison: StudyComparison) -> dict[str, list[Judgement]]:
    """Checks, then lessons, as far as there are any."""
    found = {kind: [one for one in comparison.expectations if one.expectation.kind == kind] for kind in KINDS}
    return {kind: judged for kind, judged in found.items() if judged}


def _with_interval(row: ArmRow, metric: str) -> str:
    cell = row.cells[metric]
    assert cell.estimate is not None
    return f"{row.name} ({difference(cell.estimate, cell.scale)})"


def _sizes(comparison: StudyComparison) -> str:
    """How many comparisons a family has: 3, or 2 to 8."""
    sizes = sorted(comparison.families.values())
    return f"{sizes[0]}" if len(set(sizes)) == 1 else f"{sizes[0]} to {sizes[-1]}" if sizes else "0"


def how_measured(comparison: StudyComparison) -> str:
    """How intervals and verdicts came about, in a few sentences."""
    known = _known(comparison)
    seeds, error = len(comparison.seeds), percent(1 - comparison.confidence)
    scale, title = comparison.scale(comparison.primary), metric_title(comparison.primary)
    on = ", on a scale of 0 to 100" if scale.in_percent else ""
    on += "" if scale.higher_is_better else f"; of {title}, lower is better"
    interval = f"each difference from the baseline has its own {percent(comparison.confidence)} interval, from {over_what(comparison)}"
    if not any(estimate.shown for estimate in known):
        interval = "differences from the baseline have no intervals"
    over_seeds = f"{seeds} seed{'s' if seeds > 1 else ''}"
    if comparison.looks and seeds > comparison.looks.at[0]:
        over_seeds = f"{comparison.looks.at[0]} to {over_seeds}"
    return (
        f"Scores are means over {over_seeds}{on}; {interval}. Verdicts are about {title} alone, at a family-wise "
        f"error rate of {error} over {of_comparisons(comparison)}; “no difference” is shown against ±{comparison.margin:g}. The other "
        f"columns are exploratory: bold differences there are significant at a false discovery rate of {error}."
        + _looks(comparison)
        + _power(comparison)
        + _undecided(comparison)
    )


def _known(comparison: StudyComparison) -> list[Estimate]:
    """The differences on the primary metric."""
    return [estimate for row in comparison.rows if (estimate := row.cells[comparison.primary].estimate)]


def over_what(comparison: StudyComparison) -> str:
    """'a paired t over training seeds, evaluation items and demonstration draws': where intervals come from."""
    known = _known(comparison)
    noise = ["training seeds", *(["evaluation items"] if any(estimate.with_items for estimate in known) else [])]
    noise += ["demonstration draws"] if any(estimate.with_draws for estimate in known) else []
    over = ", ".join(noise[:-1]) + f" and {noise[-1]}" if len(noise) > 1 else noise[0]
    method = "Welch's t" if known and all(estimate.method == "Welch" for estimate in known) else "a paired t"
    return f"{method} over {over}"


def of_comparisons(comparison: StudyComparison) -> str:
    """'3 comparisons': the size of a family."""
    sizes, families = _sizes(comparison), len(comparison.families)
    return f"{sizes} comparison{'s' if sizes != '1' else ''}" + (f" of one sweep file; there are {families}" if families > 1 else "")


def _looks(comparison: StudyComparison) -> str:
    """How seeds were added until all was decided."""
    if comparison.looks is None:
        return ""
    at, title = comparison.looks.at, metric_title(comparison.primary)
    return (
        f" Seeds were added until all was decided: looks at {at[0]} to {at[-1]} seeds, each at a level that holds the error over all of "
        f"them ({comparison.looks.nominal:.2g} for a single comparison; Pocock 1977). Differences on {title} are those of the look that "
        "decided, or of the last one, with repeated confidence intervals (Jennison and Turnbull 1989)."
    )


def _power(comparison: StudyComparison) -> str:
    """The smallest true difference that the design finds four times in five."""
    value, scale = comparison.detectable, comparison.scale(comparison.primary)
    if math.isnan(value):
        return ""
    if scale.in_percent and value >= 100:
        return " This design finds hardly any difference with 80 % power: its seeds differ too much."
    compared = max(comparison.families.values(), default=1)
    corrected = f", as the first of {compared} comparisons" if compared > 1 else ""
    size = number(value, scale) + (" points" if scale.in_percent else "")
    return f" This design finds differences of {size} or more with 80 % power{corrected}."


def _undecided(comparison: StudyComparison) -> str:
    """What the words for an undecided arm mean, where there is one."""
    words = {row.verdict for row in comparison.rows} | {judgement.verdict for judgement in comparison.expectations}
    told = {
        LEANING: "all seeds agree, or significant by itself and not after correction",
        TOO_CLOSE: "the interval allows both",
        TOO_FEW: f"fewer than {LEAST_SEEDS}",
    }
    said = "; ".join(f"{word}: {meaning}" for word, meaning in told.items() if word in words)
    forecast = any(row.price for row in comparison.rows) or any(judgement.price for judgement in comparison.expectations)
    lines = f" {said[0].upper()}{said[1:]}." if said else ""
    return lines + (" What would decide them is a forecast from the seeds that there are." if forecast else "")


def footnotes(comparison: StudyComparison) -> tuple[str, ...]:
    """The standard names of the methods that were used, a line each."""
    estimates = [cell.estimate for row in comparison.rows for cell in row.cells.values() if cell.estimate]
    crossed = any(estimate.with_items for estimate in estimates)
    return tuple(line for line in FOOTNOTES if crossed or not line.startswith(("Crossed", "Satterthwaite"))) if estimates else ()


def how_judged(comparison: StudyComparison) -> str:
    """How expectations were judged, in a few sentences."""
    judged = comparison.expectations
    families, kinds = len({judgement.family for judgement in judged}), len(by_kind(comparison))
    error = percent(1 - comparison.confidence)
    over = "over all expectations" if families < 2 else f"over the expectations of one sweep file; there are {families} such families"
    apart = ", checks and lessons each by themselves" if kinds > 1 else ""
    return (
        f"Expectations are confirmed or refuted at a family-wise error rate of {error} {over}{apart}. “Below by 5” is refuted by a "
        "difference significantly above −5, even if it is below 0."
    )


def declared_in_words(comparison: StudyComparison) -> str:
    """Whether the expectations were declared before their scores, in a sentence."""
    said = [judgement.said for judgement in comparison.expectations if judgement.said]
    number, when = len(comparison.expectations), [one.when for one in said]
    before, after = when.count("before"), when.count("after")
    if before == number:
        return f"Declared before any score, by {utc(max(one.time for one in said))}."
    if not before and not after:
        return "When they were declared is not recorded."
    parts = [f"{before} of {number} {'was' if before == 1 else 'were'} declared before any score"]
    if after:
        parts.append(f"{after} came after scores and {'is' if after == 1 else 'are'} exploratory, neither confirmed nor refuted")
    if unknown := number - before - after:
        parts.append(f"of {unknown} it is not recorded")
    return "; ".join(parts) + "."


def why(judgement: Judgement, comparison: StudyComparison) -> str:
    """Why an expectation has its verdict, what would decide it and, unless all were declared before any score, when it was declared."""
    alike = all(one.said and one.said.words == BEFORE_ANY for one in comparison.expectations)
    said = judgement.said.words if judgement.said and not alike else ""
    return "; ".join(filter(None, [judgement.reason, price_in_words(judgement.price), judgement.withdrawn or said]))


WITHDRAWN = "No longer declared"
ABOUT_WITHDRAWN = "Expectations that the sweep declared once. Those that were withdrawn after scores still count in the correction."


def price_in_words(price: Price | None) -> str:
    """The price as a sentence's part; empty text without one."""
    return price.in_words() if price else ""


# ---------------------------------------------------------------- tables
def wide_table(comparison: StudyComparison) -> pd.DataFrame:
    """A line for each arm, rounded as tables show it."""
    lines = []
    for row in comparison.rows:
        line: dict[str, object] = {"arm": row.name, "seeds": row.n, "verdict": row.verdict}
        for metric in comparison.metrics:
            cell = row.cells[metric]
            shown = cell.estimate.shown if cell.estimate else None
            title = metric_title(metric)
            line[title] = _rounded(cell.mean, cell.scale)
            line[f"{title} difference"] = _rounded(cell.estimate.difference, cell.scale) if cell.estimate else None
            line[f"{title} low"] = _rounded(shown.low, cell.scale) if shown else None
            line[f"{title} high"] = _rounded(shown.high, cell.scale) if shown else None
        lines.append({**line, "altered": "; ".join(row.changes), "notes": "; ".join((*row.notes, *row.also_changed))})
    return pd.DataFrame(lines)


def _rounded(value: float, scale: Scale) -> float | None:
    return None if math.isnan(value) else round(value, decimals(value, scale)) + 0.0


# ---------------------------------------------------------------- terminal
def print_comparison(comparison: StudyComparison, console: Console) -> None:
    """Table, conclusion and what a reader should know. Numbers that have no room are named."""
    _print_table(comparison, console)
    console.print()
    print_sentence(console, headline(comparison), style="bold")
    for remark in comparison.remarks_on_declarations:
        print_sentence(console, remark, style="yellow")
    for row in comparison.rows:
        price = price_in_words(row.price)
        told = [confound.text for confound in row.confounds if not confound.is_minor]
        notes = [*row.changes, *row.notes, *([price] if price else []), *([f"also changed: {', '.join(told)}"] if told else [])]
        if notes:
            print_sentence(console, f"{row.name}: {'; '.join(notes)}", "  ", "    ")
    for kind, judged in by_kind(comparison).items():
        console.print(f"\n[bold]{KINDS[kind]}[/] [dim]{ABOUT_KINDS[kind]}[/]")
        for judgement in judged:
            _print_judgement(judgement, comparison, console)
    if comparison.withdrawn:
        console.print(f"\n[bold]{WITHDRAWN}[/] [dim]{ABOUT_WITHDRAWN}[/]")
    for judgement in comparison.withdrawn:
        _print_judgement(judgement, comparison, console)
    print_paper_tables(comparison, console)
    _print_effects(comparison, console)
    print_tasks(comparison, console)
    _print_unreadable(comparison, console)
    console.print()
    if comparison.false_verdicts:
        print_sentence(console, comparison.false_verdicts.in_words())
    about = [f"{declared_in_words(comparison)} {how_judged(comparison)}"] if comparison.expectations else []
    for remark in (how_measured(comparison), *about, *comparison.remarks, *footnotes(comparison)):
        print_sentence(console, remark, style="dim")


def _print_judgement(judgement: Judgement, comparison: StudyComparison, console: Console) -> None:
    scale = comparison.scale(judgement.expectation.metric)
    found = f"{difference(judgement.estimate, scale)}; " if judgement.estimate else ""
    colour = {CONFIRMED: "green", REFUTED: "red"}.get(judgement.verdict, "yellow")
    line = Text(f"{MARKS[judgement.verdict]} {judgement.verdict}", style=colour)
    line.append("\n" if judgement.withdrawn else f": {judgement.expectation.because}\n", style="default")
    line.append(f"{judgement.claim}: {found}{why(judgement, comparison)}", style="dim default")
    if judgement.expectation.paper:
        line.append(f"\npublished: {judgement.expectation.paper}", style="dim default")
    console.print(Padding(line, (0, 0, 0, 2)))


def _print_unreadable(comparison: StudyComparison, console: Console) -> None:
    """Bad data; what was not kept, cut or too long was so declared, and is in the report."""
    unreadable = [loss for loss in comparison.data_losses if loss.kind in (LOST, UNREADABLE)]
    if unreadable:
        console.print("\n[bold]Unreadable data[/] [dim]was skipped[/]")
    for loss in unreadable:
        print_sentence(console, loss.in_words(), "  ", "    ", "yellow")


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
            table.add_row(Text(folded(heading, layout.name), style="bold"))
        group = heading
        name = folded(short_name(row), layout.name - 2).replace("\n", "\n  ") if heading else folded(row.name, layout.name)
        cells = [_terminal_cell(row, metric, comparison, layout.brackets) for metric in layout.metrics]
        table.add_row(f"  {escape(name)}" if heading else escape(name), *cells, _terminal_verdict(row, comparison, layout.brackets))
    console.print(table)
    if left_out := [metric_title(metric) for metric in comparison.metrics if metric not in layout.metrics]:
        are, them = ("is", "it") if len(left_out) == 1 else ("are", "them")
        print_sentence(console, f"{', '.join(left_out)} {are} in the report; a wider terminal shows {them} too.", style="dim")


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


def _terminal_verdict(row: ArmRow, comparison: StudyComparison, brackets: bool) -> Text:
    if row.is_baseline:
        return Text(f"{row.verdict}\nn = {row.n}", style="dim")
    text = Text(row.verdict, style=STYLES.get(row.verdict, "bold cyan"))
    cell = row.cells[comparison.primary]
    seeds = "" if brackets else both_seeds(cell.estimate, cell.scale)
    details = [part for part in (seeds or seeds_agree(cell.estimate) or f"n = {row.n}", probability(cell.p_adjusted)) if part]
    text.append("\n" + ", ".join(details), style="dim")
    return text
