"""Our scores beside the paper's, for arms that have a counterpart there.

In: a `StudyComparison`, whose study says which arms those are. Out: a table for each table of the paper, as strings that Markdown, the
page and the terminal set in their own way.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mm1_ablate.config.metric_name import metric_title
from mm1_ablate.config.paper_results import Counterparts, results
from mm1_ablate.report.cells import ArmRow
from mm1_ablate.report.comparison import StudyComparison
from mm1_ablate.report.formats import number, signed
from mm1_ablate.report.terminal import fit

HEADING = "Compared with the paper"


@dataclass(frozen=True)
class PaperRow:
    """An arm and the row of the paper that it corresponds to."""

    arm: str
    label: str
    cells: tuple[tuple[str, str], ...]
    """By metric: ours, the paper's."""


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper, as far as the study has its rows."""

    title: str
    about: str
    metrics: tuple[str, ...]
    """By our names; those that the paper gives and the study has scores of."""
    rows: tuple[PaperRow, ...]

    @property
    def titles(self) -> list[str]:
        return ["arm", "in the paper", *map(metric_title, self.metrics)]


def about_paper() -> str:
    """What the tables show, in three sentences."""
    return (
        f"Each cell has our mean, then the number of {results().published}, which has one run a row and no error bars. Differences from "
        "the arm's baseline are in brackets, where the paper has that baseline. Compare these, not scores: tasks, data and sizes differ."
    )


def paper_tables(comparison: StudyComparison) -> list[PaperTable]:
    """The tables of the paper that arms have counterparts in, in the order of the study."""
    return [table for known in comparison.published if (table := _table(comparison, known)).metrics]


def _table(comparison: StudyComparison, known: Counterparts) -> PaperTable:
    paper = results().tables[known.table]
    rows = [row for name in known.rows for row in comparison.rows if row.name == name]
    given = dict.fromkeys(metric for row in rows for metric in known.numbers(row.name))
    metrics = tuple(metric for metric in given if any(metric in row.cells for row in rows))
    beside = [PaperRow(row.name, known.rows[row.name], tuple(_cell(row, metric, known) for metric in metrics)) for row in rows]
    return PaperTable(paper.title, paper.about, metrics, tuple(beside))


def _cell(row: ArmRow, metric: str, known: Counterparts) -> tuple[str, str]:
    theirs, reference = known.numbers(row.name).get(metric), known.numbers(row.baseline).get(metric)
    cell = row.cells.get(metric)
    paper, ours = number(theirs), number(cell.mean, cell.scale) if cell else number(None)
    if not row.is_baseline and theirs is not None and reference is not None:
        paper += f" ({signed(theirs - reference)})"
        ours += f" ({signed(cell.estimate.difference, cell.scale)})" if cell and cell.estimate else ""
    return ours, paper


def print_paper_tables(comparison: StudyComparison, console: Console) -> None:
    """The tables, for the terminal."""
    tables = paper_tables(comparison)
    if tables:
        console.print(f"\n[bold]{HEADING}[/] [dim]ours above, the paper's below[/]")
    for table in tables:
        shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False, title=table.title, title_justify="left")
        shown.title_style = "dim"
        for place, title in enumerate(table.titles):
            shown.add_column(title, justify="left" if place < 2 else "right", no_wrap=place >= 2, overflow="fold")
        for row in table.rows:
            cells = [Text(ours).append(f"\n{paper}", style="dim") for ours, paper in row.cells]
            shown.add_row(Text(row.arm), Text(row.label, style="dim"), *cells)
        fit(shown, console)
        console.print(shown)
