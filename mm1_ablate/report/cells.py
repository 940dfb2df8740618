"""What a comparison is made of: cells, rows and holes, and the words of a verdict. Numbers that cannot be known are NaN."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from mm1_ablate.config.study import Change
from mm1_ablate.report.metric_info import PERCENT, Scale
from mm1_ablate.report.price import Price
from mm1_ablate.report.statistics import Estimate

BASELINE, BETTER, WORSE, HOLE = "baseline", "better", "worse", "no verdict: missing trials"
CONFIRMED, REFUTED, NO_VERDICT = "confirmed", "refuted", "no verdict"
IN_LINE: Final = "exploratory: in line"
AGAINST: Final = "exploratory: against"
"""Of expectations that were declared after scores: what would have confirmed or refuted them."""
LEANING, TOO_CLOSE, TOO_FEW = "leaning", "too close to call", "too few seeds"
"""Undecided, of arms as of expectations. Leaning: all seeds lie on the same side of the bound (of an equivalence: inside it), or the
difference is significant by itself and not after correction; three seeds at least. Too close to call: none of these. Too few: one seed or
two."""
UNDECIDED = (LEANING, TOO_CLOSE, TOO_FEW)
Cost = float | int | str


def no_difference(margin: float) -> str:
    """The verdict of an equivalence test."""
    return f"no difference larger than {margin:g}"


@dataclass(frozen=True)
class Hole:
    """A trial that gave no scores."""

    arm: str
    seed: int
    reason: str


@dataclass(frozen=True)
class Cell:
    """One arm on one metric. Numbers that cannot be known are NaN."""

    mean: float
    deviation: float
    """Standard deviation over seeds."""
    n: int
    """Seeds with a score."""
    estimate: Estimate | None = None
    """The difference from the baseline; None for a baseline or where either has no score."""
    p_adjusted: float = float("nan")
    """Holm over the arms on the primary metric, Benjamini-Hochberg over the other columns of the table, NaN elsewhere."""
    p_equivalent: float = float("nan")
    """Of being within the smallest difference of interest, Holm over the arms; on the primary metric only."""
    scale: Scale = PERCENT
    """What kind of number the metric is."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that an arm took, saw or answered: its parameters, its tokens of training, its code.

    Attributes:
        kind: exact: equal or different; seen: counted in training, and never quite equal, as another mixture fills rows a little
            differently; epochs: how often the source of this name was read; code: equal, and the same at all seeds, or different.
    """

    name: str
    value: Cost
    kind: Literal["exact", "seen", "epochs", "code"] = "exact"

    @property
    def title(self) -> str:
        """'parameters', 'tokens seen', 'epochs of text'."""
        return f"{self.name} seen" if self.kind == "seen" else f"epochs of {self.name}" if self.kind == "epochs" else self.name


@dataclass(frozen=True, slots=True)
class Confound:
    """A difference from the baseline that the ablation does not name."""

    text: str
    is_minor: bool = False
    """Whether only the report shows it: another mixture always has other numbers of documents and images."""


@dataclass(frozen=True)
class ArmRow:
    """One arm."""

    name: str
    group: str
    baseline: str
    seeds: tuple[int, ...]
    """Seeds with a score on the primary metric."""
    cells: Mapping[str, Cell]
    verdict: str = ""
    """Empty until it is judged."""
    notes: tuple[str, ...] = ()
    decided_at: int | None = None
    """Where seeds were added until all was decided: the number of seeds at the look that decided it."""
    price: Price | None = None
    """What would decide an undecided arm, as far as there is a forecast."""
    changes: tuple[str, ...] = ()
    """What the ablation declares, setting by setting; of a baseline what the sweep sets everywhere."""
    differences: tuple[Change, ...] = ()
    """All settings in which the arm differs from its baseline."""
    confounds: tuple[Confound, ...] = ()
    """What else differs from the baseline."""
    costs: Mapping[str, Measure] = field(default_factory=dict)
    """What the arm took, saw and answered, by title."""
    mixture: Mapping[str, float] = field(default_factory=dict)
    """The share of each type of data in what it was trained on."""

    @property
    def n(self) -> int:
        return len(self.seeds)

    @property
    def is_baseline(self) -> bool:
        return self.name == self.baseline

    @property
    def also_changed(self) -> tuple[str, ...]:
        """The confounds in words."""
        return tuple(confound.text for confound in self.confounds)


def cell_json(cell: Cell) -> dict[str, Any]:
    """Plain JSON values; what is unknown is null."""
    estimate = cell.estimate
    numbers = {
        "mean": cell.mean,
        "deviation": cell.deviation,
        "difference": estimate.difference if estimate else None,
        "low": estimate.shown.low if estimate and estimate.shown else None,
        "high": estimate.shown.high if estimate and estimate.shown else None,
        "p": estimate.p if estimate else None,
        "p_adjusted": cell.p_adjusted,
        "p_equivalent": cell.p_equivalent,
    }
    known = {key: None if value is None or math.isnan(value) else float(value) for key, value in numbers.items()}
    seeds = list(estimate.by_seed) if estimate else []
    return {**known, "n": cell.n, "method": estimate.method if estimate else None, "differences_by_seed": seeds}


def amount(value: Cost) -> str:
    """A cost for display: 1.24M, 426k, 16."""
    if isinstance(value, str):
        return value
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e4)):
        # As rounded: 999,999 is 1M.
        if abs(value) >= size or (size > 1e4 and float(f"{abs(value):.3g}") >= size):
            return f"{value / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"
