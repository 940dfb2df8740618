"""A comparison as a Markdown document that can be read by itself: what was expected and came out first, then the tables.

In: a `StudyComparison` and, if there are any, the places of its pictures. Out: text; or a file with its pictures beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from mm1_ablate.config.metric_name import metric_title
from mm1_ablate.config.passwords import without_passwords
from mm1_ablate.report.cells import ArmRow
from mm1_ablate.report.comparison import StudyComparison
from mm1_ablate.report.effects import Effect
from mm1_ablate.report.expectations import Judgement
from mm1_ablate.report.formats import BELOW_FLOOR, DASH, bracketed, interval, number, seeds_agree, signed
from mm1_ablate.report.metric_info import Scale
from mm1_ablate.report.paper_comparison import HEADING, about_paper, paper_tables
from mm1_ablate.report.task_table import about_tasks, task_lines, task_titles, unasked_lines
from mm1_ablate.report.text import (
    ABOUT_KINDS,
    ABOUT_WITHDRAWN,
    DATA_LOSSES,
    KINDS,
    WITHDRAWN,
    by_kind,
    declared_in_words,
    footnotes,
    headline,
    how_judged,
    how_measured,
    missing_trials,
    why,
)

PICTURES = {
    "forest": "Differences from the baseline, with intervals",
    "shots": "Scores against the number of shots",
    "tasks": "Differences task by task",
    "mixtures": "Scores against the mixture of data",
    "costs": "Scores against cost",
    "effects": "Effects in grids",
    "curves": "Training loss against steps",
}
"""What each picture shows, in the order of the document."""


def write_markdown(path: Path, comparison: StudyComparison, curves: pd.DataFrame | None = None) -> list[Path]:
    """Write the document, and its pictures as PNG.

    Args:
        path: a file that ends in .md, whose pictures go into a folder of its name beside it; or a folder, for report.md and its pictures.

    Returns:
        What was written, the document first.
    """
    from mm1_ablate.report import figures

    document = path if path.suffix == ".md" else path / "report.md"
    folder = document.with_suffix("") if path.suffix == ".md" else path
    folder.mkdir(parents=True, exist_ok=True)
    written = [document]
    links = {}
    for name, figure in figures.drawn(comparison, curves).items():
        picture = folder / f"{name}.png"
        picture.write_bytes(figures.png(figure))
        links[name] = picture.relative_to(document.parent).as_posix().replace(" ", "%20")
        written.append(picture)
    document.write_text(without_passwords(markdown(comparison, links)), encoding="utf-8")
    return written


def markdown(comparison: StudyComparison, pictures: Mapping[str, str] = {}) -> str:
    """The document.

    Args:
        pictures: by name (see `PICTURES`) where the document finds them.
    """
    links = {name: ["", f"![{PICTURES[name]}]({place})"] for name, place in pictures.items()}
    lines = [f"# {comparison.study}", "", headline(comparison)]
    lines += [line for remark in comparison.remarks_on_declarations for line in ("", f"**{remark}**")]
    if comparison.description:
        lines += ["", comparison.description]
    lines += _expectations(comparison)
    lines += ["", "## Comparison"]
    for heading, rows in sections(comparison):
        lines += ["", f"### {heading}"] if heading else []
        lines += ["", comparison.descriptions[heading]] if heading in comparison.descriptions else []
        lines += ["", *_table(comparison, rows)]
    lines += [line for name in ("forest", "shots", "tasks", "mixtures", "costs") for line in links.get(name, [])]
    lines += _published(comparison)
    lines += _effects(comparison)
    lines += links.get("effects", [])
    if comparison.false_verdicts:
        lines += ["", "## False verdicts", "", comparison.false_verdicts.in_words()]
    if comparison.holes:
        lines += ["", "## Missing trials", "", *(f"- {arm}, {told}" for arm, told in missing_trials(comparison))]
    lines += _tasks(comparison)
    lines += _data_losses(comparison)
    lines += _held_constant(comparison)
    lines += ["", "## How it was measured", "", how_measured(comparison)]
    lines += ["", *(f"- {remark}" for remark in comparison.remarks)] if comparison.remarks else []
    lines += ["", *(f"- {line}" for line in footnotes(comparison))] if footnotes(comparison) else []
    lines += links.get("curves", [])
    return "\n".join(lines) + "\n"


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _expectations(comparison: StudyComparison) -> list[str]:
    lines: list[str] = []
    for kind, judged in by_kind(comparison).items():
        lines += ["", f"## {KINDS[kind]}", "", ABOUT_KINDS[kind]]
        papers = any(judgement.expectation.paper for judgement in judged)
        titles = [kind, *(["the paper's numbers"] if papers else []), "ours", "verdict"]
        families = list(dict.fromkeys(judgement.family for judgement in judged))
        for family in families:
            lines += ["", f"### {family}"] if len(families) > 1 else []
            lines += ["", _pipes(titles), "|---" * len(titles) + "|"]
            for judgement in (one for one in judged if one.family == family):
                expected = judgement.expectation
                verdict = f"**{judgement.verdict}**: {why(judgement, comparison)}"
                ours = _ours(judgement, comparison.scale(expected.metric))
                lines.append(_pipes([expected.because, *([expected.paper or DASH] if papers else []), ours, verdict]))
    if lines:
        lines += ["", f"{declared_in_words(comparison)} Differences have intervals. {how_judged(comparison)}"]
    if comparison.withdrawn:
        lines += ["", f"## {WITHDRAWN}", "", ABOUT_WITHDRAWN, "", _pipes(["ours", "what came out"]), "|---|---|"]
    for judgement in comparison.withdrawn:
        ours = _ours(judgement, comparison.scale(judgement.expectation.metric))
        lines.append(_pipes([ours, f"**{judgement.verdict}**: {why(judgement, comparison)}"]))
    return lines


def _ours(judgement: Judgement, scale: Scale) -> str:
    estimate, metric = judgement.estimate, metric_title(judgement.expectation.metric)
    difference = f"{metric} {signed(estimate.difference, scale)} {bracketed(estimate, scale)}" if estimate else f"{metric} {DASH}"
    return f"{difference.strip()}; expected: {judgement.claim}"


def sections(comparison: StudyComparison) -> list[tuple[str, list[ArmRow]]]:
    """A table for each group, under its baseline; all that is small stands in one."""
    is_small = len(comparison.rows) <= 10 and len(comparison.groups) < 2
    return [("", list(comparison.rows))] if is_small else comparison.sections()


def _table(comparison: StudyComparison, rows: Sequence[ArmRow]) -> list[str]:
    titles = [f"**{metric_title(metric)}**" if metric == comparison.primary else metric_title(metric) for metric in comparison.metrics]
    lines = [_pipes(["arm", "n", *titles, "seeds", "verdict"]), "|---|--:|" + "--:|" * len(titles) + "--:|---|"]
    for row in rows:
        cells = [_cell(row, metric, comparison) for metric in comparison.metrics]
        told = [f"decided at {row.decided_at} seeds"] if row.decided_at else [row.price.in_words()] if row.price else []
        verdict = "; ".join([row.verdict, *told])
        lines.append(_pipes([row.name, str(row.n), *cells, seeds_agree(row.cells[comparison.primary].estimate), verdict]))
    return lines


def _cell(row: ArmRow, metric: str, comparison: StudyComparison) -> str:
    cell = row.cells[metric]
    mean = (f"{BELOW_FLOOR} " if comparison.is_below_floor(row, metric) else "") + number(cell.mean, cell.scale)
    if cell.estimate is None:
        return mean
    difference = signed(cell.estimate.difference, cell.scale)
    told = f"{f'**{difference}**' if comparison.is_significant(cell) else difference} {interval(cell)}".rstrip()
    return f"{mean} ({told})"


def _published(comparison: StudyComparison) -> list[str]:
    tables = paper_tables(comparison)
    lines = ["", f"## {HEADING}", "", about_paper()] if tables else []
    for table in tables:
        lines += ["", f"### {table.title}", *(["", f"{table.about[0].upper()}{table.about[1:]}."] if table.about else [])]
        lines += ["", _pipes(table.titles), "|---|---" + "|--:" * len(table.metrics) + "|"]
        lines += [_pipes([row.arm, row.label, *(f"{ours}, *{paper}*" for ours, paper in row.cells)]) for row in table.rows]
    return lines


def _effects(comparison: StudyComparison) -> list[str]:
    if not comparison.effects:
        return []
    intro = (
        f"Contrasts on {metric_title(comparison.primary)}, taken within each seed: a main effect is the mean difference of a level from "
        "the axis's first, over the points of the grid that both have; an interaction is how much such a difference changes along "
        "another axis, zero where the axes add up. Exploratory: bold ones are significant at the false discovery rate of the other columns."
    )
    lines = ["", "## Effects in grids", "", intro, "", _pipes(["grid", "effect", "points", "difference"]), "|---|---|--:|--:|"]
    for effect in comparison.effects:
        lines.append(_pipes([effect.group, effect.title, str(effect.points), _effect(effect, comparison)]))
    return lines


def _effect(effect: Effect, comparison: StudyComparison) -> str:
    if effect.estimate is None:
        return DASH
    scale = comparison.scale(comparison.primary)
    difference = signed(effect.estimate.difference, scale)
    bold = f"**{difference}**" if comparison.is_significant(effect) else difference
    return f"{bold} {bracketed(effect.estimate, scale)}" + ("" if effect.complete else " (trials missing)")


def _tasks(comparison: StudyComparison) -> list[str]:
    lines = task_lines(comparison)
    if not lines:
        return []
    told = [
        "",
        "## Tasks, their floors and ceilings",
        "",
        about_tasks(comparison),
        "",
        _pipes(task_titles(comparison)),
        "|---|--:|---|--:|---|---|",
    ]
    told += [_pipes(line) for line in lines]
    if comparison.tasks.unasked:
        told += ["", "Items that could not be evaluated:", "", *(f"- {problem}" for problem in unasked_lines(comparison))]
    return told


def _data_losses(comparison: StudyComparison) -> list[str]:
    if not comparison.data_losses:
        return []
    lines = ["", "## Data that was skipped or cut", "", DATA_LOSSES, ""]
    lines += [_pipes(["source", "what", "reason", "number", "of documents drawn", "first ones"]), "|---|---|---|--:|--:|---|"]
    for loss in comparison.data_losses:
        examples = ", ".join(f"`{example}`" for example in loss.examples)
        lines.append(_pipes([loss.source, loss.kind, loss.reason, f"{loss.count:,}", f"{loss.drawn:,}", examples]))
    return lines


def _held_constant(comparison: StudyComparison) -> list[str]:
    lines = ["", "## What was altered, and what was held constant", ""]
    if comparison.held_constant:
        lines += [f"As in the baseline, in every arm: {', '.join(comparison.held_constant)}.", ""]
    lines += [_pipes(["arm", "altered", "⚑ also changed", "notes"]), "|---|---|---|---|"]
    for row in comparison.rows:
        if not row.is_baseline or row.notes or row.changes:
            lines.append(_pipes([row.name, "; ".join(row.changes), "; ".join(row.also_changed), "; ".join(row.notes)]))
    return lines
