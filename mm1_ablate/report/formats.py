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
    """'[−41.2, −33.0]'; of two seeds '(−41.2 to −33.0)'; empty text where nothing is known."""
    if estimate is None:
        return ""
    if shown := estimate.shown:
        return f"[{signed(shown.low, scale)}, {signed(shown.high, scale)}]"
    return f"({both})" if (both := both_seeds(estimate, scale)) else ""


def difference(estimate: Estimate, scale: Scale = PERCENT) -> str:
    """'+2.4 [+1.1, +3.7]', or only '+2.4' where the interval is unknown."""
    return f"{signed(estimate.difference, scale)} {bracketed(estimate, scale)}".rstrip()


def interval(cell: Cell) -> str:
    """The interval of a cell's difference."""
    return bracketed(cell.estimate, cell.scale)


def plus_minus(cell: Cell) -> str:
    """'± 4.1', half the width of the interval; where it ends at what is possible '[−50, +13]'; empty text where there is none."""
    estimate = cell.estimate
    if estimate is None or (shown := estimate.shown) is None:
        return ""
    if shown == (estimate.low, estimate.high):
        return f"± {number(estimate.half_width, cell.scale)}"
    low, high = (f"{end:+.0f}".replace("-", "−") for end in shown)
    return f"[{low}, {high}]"


def both_seeds(estimate: Estimate | None, scale: Scale = PERCENT) -> str:
    """'−41.2 to −33.0' where there are two seeds."""
    if estimate is None or len(estimate.by_seed) != 2:
        return ""
    return " to ".join(signed(one, scale) for one in sorted(estimate.by_seed))


def seeds_agree(estimate: Estimate | None) -> str:
    """'5/5 below': how many seeds' own differences lie where their mean does; empty text where seeds are not paired."""
    if estimate is None or not estimate.by_seed:
        return ""
    below = estimate.difference < 0
    count = estimate.seeds_below(0.0) if below else estimate.seeds_above(0.0)
    return f"{count}/{len(estimate.by_seed)} {'below' if below else 'above'}"


def probability(value: float) -> str:
    """'p 0.003', 'p < 0.001'."""
    return "" if math.isnan(value) else "p < 0.001" if value < 0.001 else f"p {value:.3f}" if value < 0.1 else f"p {value:.2f}"


def short_name(row: ArmRow) -> str:
    """The arm's name without that of its group."""
    return row.name.removeprefix(f"{row.group}/") if row.name != row.group else row.name


def percent(confidence: float) -> str:
    """'95 %'."""
    return f"{100 * confidence:g} %"
