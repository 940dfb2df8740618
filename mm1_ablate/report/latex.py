"""A comparison as LaTeX tables for a paper: arms by metrics, with differences from the baseline and their intervals (booktabs).

In: a `StudyComparison`. Out: text that a paper takes in by `\\input`; the packages that it needs are named in its first line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mm1_ablate.config.metric_name import metric_title
from mm1_ablate.report.cells import ArmRow
from mm1_ablate.report.comparison import StudyComparison
from mm1_ablate.report.formats import DASH, bracketed, number, percent, short_name, signed
from mm1_ablate.report.markdown import sections
from mm1_ablate.report.text import of_comparisons, over_what

PREAMBLE = r"% In the preamble: \usepackage[utf8]{inputenc} \usepackage[T1]{fontenc} \usepackage{booktabs,array}"
NAMES = r">{\raggedright\arraybackslash}p{0.25\linewidth}"
"""The column of names, in which long ones and verdicts are folded."""
BELOW_FLOOR = r"$^{\dagger}$"
CHARACTERS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "→": r"$\rightarrow$",
    "–": "--",
    "—": "---",
    "…": r"\dots{}",
    "“": "``",
    "”": "''",
    "‘": "`",
    "’": "'",
    "\N{NO-BREAK SPACE}": "~",
}
"""What LaTeX reads otherwise than it is written, or what its usual typefaces lack."""


def latex(comparison: StudyComparison) -> str:
    """The tables: one, or for a large study one for each group of arms under its baseline."""
    own = sections(comparison)
    tables = [_table(comparison, heading, rows, place) for place, (heading, rows) in enumerate(own)]
    return "\n\n".join([PREAMBLE, *tables]) + "\n"


def escaped(text: str) -> str:
    """A text of anybody's, as LaTeX that prints it; on one line, as a blank line would end a caption."""
    return "".join(CHARACTERS.get(character, character) for character in " ".join(text.split()))


def foldable(text: str) -> str:
    """A name that may go on in another line where its parts meet."""
    return re.sub(r"([/,]|\.(?!\d)|\\_)", r"\1\\allowbreak{}", escaped(text))


def _table(comparison: StudyComparison, heading: str, rows: Sequence[ArmRow], place: int) -> str:
    metrics = comparison.metrics
    titles = [_title(metric, comparison) for metric in metrics]
    columns = len(metrics) + 2
    lines = [
        r"\begin{table}[t]",
        r"\centering\footnotesize",
        r"\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{_caption(comparison, heading, rows) if place == 0 else _continued(comparison, heading)}}}",
        rf"\label{{tab:{_label(comparison.study)}{f'-{place + 1}' if place else ''}}}",
        rf"\begin{{tabular}}{{{NAMES}r{'r' * len(metrics)}}}",
        r"\toprule",
        " & ".join(["Arm", "$n$", *titles]) + r" \\",
        r"\midrule",
    ]
    group = ""
    for row in rows:
        grouped = not row.is_baseline and short_name(row) != row.name
        if grouped and row.group != group:
            lines.append(rf"\multicolumn{{{columns}}}{{l}}{{\emph{{{escaped(row.group)}}}}} \\")
        group = row.group if grouped else ""
        indent = r"\hangafter=0\hangindent=1em " if grouped else ""
        lines += [" & ".join(cells) + r" \\" for cells in _lines(row, comparison, indent, foldable(short_name(row)))]
        lines.append(r"\midrule" if row.is_baseline and row is not rows[-1] else r"\addlinespace[2pt]")
    if lines[-1].startswith(r"\addlinespace"):
        lines.pop()
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _lines(row: ArmRow, comparison: StudyComparison, indent: str, name: str) -> list[list[str]]:
    """An arm: its scores and differences, and below these its verdict and the intervals."""
    cells = [row.cells[metric] for metric in comparison.metrics]
    upper = [indent + name, str(row.n)]
    lower = [rf"{indent}{{\scriptsize {escaped(row.verdict)}}}", ""]
    for metric, cell in zip(comparison.metrics, cells, strict=True):
        text = "--" if (mean := number(cell.mean, cell.scale)) == DASH else escaped(mean)
        text += BELOW_FLOOR if comparison.is_below_floor(row, metric) else ""
        if cell.estimate is not None:
            difference = f"${signed(cell.estimate.difference, cell.scale).replace('−', '-')}$"
            text += rf" ({{\boldmath{difference}}})" if comparison.is_significant(cell) else f" ({difference})"
        upper.append(text)
        found = bracketed(cell.estimate, cell.scale)
        lower.append(rf"{{\scriptsize {escaped(found)}}}" if found else "")
    return [upper] if row.is_baseline else [upper, lower]


def _title(metric: str, comparison: StudyComparison) -> str:
    title = escaped(metric_title(metric))
    return rf"\textbf{{{title}}}" if metric == comparison.primary else title


def _caption(comparison: StudyComparison, heading: str, rows: Sequence[ArmRow]) -> str:
    """What is shown, what n and the intervals are, and what is bold."""
    own = comparison.scale(comparison.primary)
    primary, error, level = metric_title(comparison.primary), percent(1 - comparison.confidence), percent(comparison.confidence)
    scale = ", on a scale of 0 to 100" if own.in_percent else ""
    parts = [
        f"{comparison.study}{f', {heading}' if heading else ''}: "
        f"scores are means over n training seeds{scale}, with the difference from the baseline in parentheses.",
    ]
    estimates = [cell.estimate for row in comparison.rows for cell in row.cells.values() if cell.estimate]
    if any(estimate.shown for estimate in estimates):
        parts.append(f"Below it its {level} confidence interval, from {over_what(comparison)}.")
    if any(not estimate.shown and len(estimate.by_seed) == 2 for estimate in estimates):
        parts.append("Where n is 2, the differences of both seeds stand in its place.")
    if comparison.families:
        parts.append(
            f"Verdicts are about {primary}, at a family-wise error rate of {error} over {of_comparisons(comparison)}; bold differences on "
            f"other metrics are significant at a false discovery rate of {error}."
        )
    if comparison.looks:
        parts.append(
            f"Seeds were added until all was decided (looks at {comparison.looks.at[0]} to {comparison.looks.at[-1]} seeds): "
            f"differences on {primary} are those of the deciding look, with repeated confidence intervals."
        )
    told = escaped(" ".join(parts)).replace("means over n training", "means over $n$ training").replace("Where n is", "Where $n$ is")
    floors = any(comparison.is_below_floor(row, metric) for row in rows for metric in comparison.metrics)
    return told + (rf" {BELOW_FLOOR}Below what needs no image and no question." if floors else "")


def _continued(comparison: StudyComparison, heading: str) -> str:
    return rf"{escaped(f'{comparison.study}, {heading}')}. Numbers as in Table~\ref{{tab:{_label(comparison.study)}}}."


def _label(study: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "-", study).strip("-").lower() or "comparison"
