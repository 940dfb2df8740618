"""What would decide a comparison that is undecided: seeds, trials and time.

In: the differences by seed that there are, the common spread of the study's arms, and what counts as decided. Out: a `Price`: the fewest
more seeds with which the comparison is decided with a chance of 90 %, one way or the other.

It is a forecast. The true difference and its spread over seeds are drawn from what is known of them (normal differences, flat prior: the
predictive distribution of Student's t), new seeds from these, and all seeds together are tested. So the luck of the seeds that there are
is in the forecast, where a power at the observed difference would take it for the truth. An arm's own spread and the common one count by
their degrees of freedom, the common one at most `FROM_OTHERS`: spreads of arms differ up to tenfold, and two or three seeds of one arm say
little of its own. Simulated with equal and with unequal spreads, of the comparisons whose price is a number of seeds .90 to .96 are decided
with that many more from three seeds on, and .84 to .86 from two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import special, stats

from mm1_ablate.report.statistics import LEAST_SEEDS, Estimate
from mm1_ablate.report.variance_components import Matrix

CHANCE = 0.9
"""Of a verdict, with the seeds that a price names."""
MOST = 20
"""More seeds than this are not forecast."""
FROM_OTHERS = 2
"""Degrees of freedom that the spread of other arms counts for, at most."""
DRAWS = 2000


class Spread(NamedTuple):
    """A common variance over seeds of the paired differences of several arms, and its degrees of freedom."""

    variance: float = 0.0
    degrees: int = 0


@dataclass(frozen=True, slots=True)
class Price:
    """Attributes:
    seeds: more seeds that would decide with a chance of 90 %; None: more than `MOST`.
    trials: that they are, over all arms of the study.
    seconds: that these take, as far as finished trials tell.
    """

    seeds: int | None
    trials: int | None = None
    seconds: float | None = None

    def in_words(self) -> str:
        """'2 more seeds, 8 trials, about 1:30, would decide this with 90 % chance'."""
        if self.seeds is None:
            return f"more than {MOST} seeds would be needed"
        one = self.seeds == 1
        parts = [f"{self.seeds} more seed{'' if one else 's'}"]
        parts += [f"{self.trials} trial{'' if self.trials == 1 else 's'}"] if self.trials else []
        parts += [f"about {clock(self.seconds)}"] if self.seconds else []
        return ", ".join(parts) + f"{',' if len(parts) > 1 else ''} would decide this with {100 * CHANCE:g} % chance"

    def to_json(self) -> dict[str, Any]:
        return {
            "seeds": self.seeds,
            "trials": self.trials,
            "seconds": self.seconds,
            "chance": CHANCE,
            "more_than": None if self.seeds else MOST,
        }


def clock(seconds: float) -> str:
    """'1:30', '2:05:00'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass(frozen=True, slots=True)
class SeedCost:
    """What another seed costs: trials over all arms, and seconds of each as they pass on the clock; None where it is not known."""

    trials: int | None = None
    seconds: float | None = None

    def price(self, seeds: int | None) -> Price:
        trials = self.trials * seeds if seeds and self.trials else None
        return Price(seeds, trials, trials * self.seconds if trials and self.seconds else None)


def typical(estimates: Iterable[Estimate | None]) -> Spread:
    """The geometric mean of the arms' variances: a single arm that spreads tenfold does not make it its own."""
    known = [estimate for estimate in estimates if estimate and estimate.deviation > 0]
    degrees = np.array([len(estimate.by_seed) - 1 for estimate in known])
    if not known:
        return Spread()
    # The logarithm of an estimated variance is too small in the mean, by that of chi square over its degrees of freedom.
    logarithms = np.log([estimate.deviation**2 for estimate in known]) - special.digamma(degrees / 2) + np.log(degrees / 2)
    return Spread(float(np.exp(logarithms.mean())), int(degrees.sum()))


def pooled(estimates: Iterable[Estimate | None]) -> Spread:
    """The mean of the arms' variances, each by its degrees of freedom."""
    known = [estimate for estimate in estimates if estimate and len(estimate.by_seed) > 1]
    degrees = sum(len(estimate.by_seed) - 1 for estimate in known)
    squares = sum(estimate.deviation**2 * (len(estimate.by_seed) - 1) for estimate in known)
    return Spread(squares / degrees, degrees) if degrees else Spread()


Decides = Callable[[Matrix, Matrix, Matrix], np.ndarray]
"""Whether a difference, its standard error and its degrees of freedom bear a verdict: arrays of one shape."""


def differs(value: float, level: float) -> Decides:
    """From a value, on either side: `level` is that of one side."""
    return lambda difference, error, degrees: np.abs(difference - value) > stats.t.isf(level, degrees) * error


def lies_within(margin: float, level: float) -> Decides:
    """Two one-sided tests against a margin."""
    return lambda difference, error, degrees: np.abs(difference) + stats.t.isf(level, degrees) * error < margin


def lies_outside(margin: float, level: float) -> Decides:
    """Beyond a margin on either side: `level` is that of one side."""
    return lambda difference, error, degrees: np.abs(difference) - stats.t.isf(level, degrees) * error > margin


def seeds_to_decide(estimate: Estimate, common: Spread, ways: Iterable[Decides]) -> int | None:
    """The fewest more seeds with which one of several verdicts is reached with a chance of 90 %; None: more than `MOST`.

    Args:
        estimate: paired, with a spread over at least two seeds.
        common: the spread of all arms, this one among them.
    """
    seeds = np.array(estimate.by_seed)
    count, mean, squares = len(seeds), float(seeds.mean()), float(seeds.var() * len(seeds))
    others = min(FROM_OTHERS, common.degrees - (count - 1))
    degrees = count - 1 + max(others, 0)
    random = np.random.default_rng(0)
    variance = (squares + max(others, 0) * common.variance) / random.chisquare(degrees, size=(DRAWS, 1))
    luck = random.normal(size=(DRAWS, MOST + 1)) * variance**0.5
    new = mean + luck[:, :1] / count**0.5 + luck[:, 1:]
    more = np.arange(1, MOST + 1)
    total = count + more
    means = (count * mean + new.cumsum(axis=1)) / total
    spread = (squares + count * mean**2 + (new**2).cumsum(axis=1) - total * means**2).clip(min=0) / (total - 1)
    errors, freedom = (spread / total + estimate.lasting) ** 0.5, np.broadcast_to(total - 1.0, means.shape[1:])
    decided = np.logical_or.reduce([way(means, errors, freedom) for way in ways])
    enough = (decided.mean(axis=0) >= CHANCE) & (total >= LEAST_SEEDS)
    return int(more[enough.argmax()]) if enough.any() else None
