"""Numbers and names as people read them, the same in all outputs. Scores of 100 have one decimal, differences their sign."""

from __future__ import annotations

import math

from mm1_ablate.report.cells import ArmRow, Cell
from mm1_ablate.report.metric_info import PERCENT, Scale
from mm1_ablate.report.statistics import Estimate

DASH = "–"
BELOW_FLOOR = "▾"
"""Marks scores that are worse than what needs no image and no question."""


def decimals(value: float, scale: Scale = PERCENT) -> int:
    """One of 100; of losses and the like as many as make four digits."""
    return 1 if scale.in_percent or abs(value) >= 100 else 2 if abs(value) >= 10 else 3


def number(value: float | None, scale: Scale = PERCENT) -> str:
    """'55.3', '1.274'."""
    return DASH if value is None or math.isnan(value) else f"{value + 0.0:.{decimals(value, scale)}f}".replace("-", "−")


def signed(value: float | None, scale: Scale = PERCENT) -> str:
    """'+2.4', '−37.1', '−0.013'."""
    if value is None or math.isnan(value):
        return DASH
    places = decimals(value, scale)
    return f"{0:.{places}f}" if abs(value) < 0.5 * 10**-places else f"{value:+.{places}f}".replace("-", "−")


def bracketed(estimate: Estimate | None, scale: Scale = PERCENT) -> str:
    """'[−41.2, −33.0]', or empty text where it is unknown."""
    return f"[{signed(estimate.low, scale)}, {signed(estimate.high, scale)}]" if estimate and estimate.known else ""


def difference(estimate: Estimate, scale: Scale = PERCENT) -> str:
    """'+2.4 [+1.1, +3.7]', or only '+2.4' where the interval is unknown."""
    return f"{signed(estimate.difference, scale)} {bracketed(estimate, scale)}".rstrip()


def interval(cell: Cell) -> str:
    """The interval of a cell's difference."""
    return bracketed(cell.estimate, cell.scale)


def plus_minus(cell: Cell) -> str:
    """'± 4.1', half the width of the interval."""
    return f"± {number(cell.estimate.half_width, cell.scale)}" if cell.estimate and cell.estimate.known else ""


def probability(value: float) -> str:
    """'p 0.003', 'p < 0.001'."""
    return "" if math.isnan(value) else "p < 0.001" if value < 0.001 else f"p {value:.3f}" if value < 0.1 else f"p {value:.2f}"


def short_name(row: ArmRow) -> str:
    """The arm's name without that of its group."""
    return row.name.removeprefix(f"{row.group}/") if row.name != row.group else row.name


def percent(confidence: float) -> str:
    """'95 %'."""
    return f"{100 * confidence:g} %"
