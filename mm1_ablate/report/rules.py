"""When a p value is a verdict: the level of a family and its correction for several comparisons.

In: the p values of a family. Out: p values that are held against the level of the family, and the level that the next verdict of it has
to reach. `FixedSeeds` is the rule of a design whose seeds are declared; another design needs another class of the same shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from mm1_ablate.report.statistics import holm, holm_of_directions
from mm1_ablate.report.variance_components import Matrix

Claims = Literal["different", "equivalent", "expected"]
"""Arms that differ from the baseline (two-sided p), arms within the smallest difference of interest (one-sided), expectations
(one-sided)."""
TOLERANCE = 1e-12


class Rule(Protocol):
    @property
    def level(self) -> float:
        """Chance of any false verdict in a family, such as 0.05."""

    def adjusted(self, p_values: Sequence[float], claims: Claims, family: str) -> Matrix:
        """Adjusted p values: a claim is proven where its own is at most the level. NaN stays NaN, and still counts.

        Args:
            p_values: of all members of a family, in the order in which they are declared.
            family: its name, as far as a rule depends on it.
        """

    def level_of(self, left: int, claims: Claims) -> float:
        """The level at which the next claim of a family is tested that has so many undecided ones."""


@dataclass(frozen=True)
class FixedSeeds:
    """All seeds are declared, and verdicts are taken once: Holm's correction at the level of the family."""

    level: float

    def adjusted(self, p_values: Sequence[float], claims: Claims, family: str) -> Matrix:
        return holm_of_directions(p_values, self.level) if claims == "expected" else holm(p_values)

    def level_of(self, left: int, claims: Claims) -> float:
        return self.level / max(left, 1)


def proven(rule: Rule, p_adjusted: float) -> bool:
    """Whether an adjusted p value bears a verdict; NaN does not."""
    return p_adjusted <= rule.level + TOLERANCE
