"""What can honestly be said about a difference between two arms with a few seeds.

In: scores or differences of scores per seed and, if kept, per evaluation item. Out: an `Estimate` (difference, standard error,
degrees of freedom, interval, p) and what follows from it: correction for several comparisons, equivalence, detectable effect.
Everything is on the scale of the scores that come in.

Crossed random effects. A trained arm differs from seed to seed, and all arms and seeds answer the same evaluation items after the same
demonstrations, so the sampling of these is common to all seeds and does not show in the spread between them. With D[s, i] the difference at
seed s and item i, D[s, i] = difference + seed[s] + item[i] + residual[s, i], all taken as random, the mean over n seeds and m items has
variance

    var(seed)/n + var(item)/m + var(residual)/(n m)

The spread between seeds estimates the first and the last term, the spread between items (averaged over seeds) the last two; the
residual, known from the two-way table, is taken off once (Searle, Casella and McCulloch, Variance Components, 1992, chapter 4). Where
demonstrations were drawn several times, what the draws add is a third part (`variance_components.py`); of a single draw it is not known.
Degrees of freedom are after Satterthwaite (1946), but never fewer than the fewest that a part has by itself: a sum of
variances cannot have less, and what is taken off one brings his rule below that by chance alone (Gaylor and Hopper 1969). With two or
three seeds the approximation is too sure of itself where seeds dominate (simulated: at the corrected level of a family of six it misses
up to nine times too often). So an interval is never narrower than the paired t over the seeds alone: the wider of the two is given, and
that holds its level throughout (it misses at most 1.2 times as often as it should, usually far less). Without items the interval is the
ordinary paired t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from mm1_ablate.report.variance_components import Answers, ItemNoise, Matrix, add, paired_item_noise

Method = Literal["paired t", "Welch", "evaluation items only", "evaluation items and draws only", "none"]


class Interval(NamedTuple):
    low: float
    high: float


class Student(NamedTuple):
    """A standard error and its degrees of freedom."""

    standard_error: float
    degrees: float

    def tail(self, distance: float) -> float:
        """P(T > distance): `distance` on the scale of the scores."""
        return float(stats.t.sf(distance / self.standard_error, self.degrees)) if self.standard_error > 0 else 0.0


LEAST_SEEDS = 3
"""Fewer seeds have an interval, but no verdict: with one degree of freedom a small spread is often chance."""


@dataclass(frozen=True)
class Estimate:
    """A difference and how well it is known. Numbers that cannot be known are NaN."""

    difference: float
    errors: tuple[Student, ...]
    """Ways of estimating the error; the most cautious counts. Empty where it is unknown."""
    confidence: float
    seeds: int
    """Seeds that it rests on: pairs of the paired t, the smaller side of Welch."""
    method: Method
    with_items: bool = False
    """Whether the interval covers the sampling of evaluation items."""
    with_draws: bool = False
    """Whether it covers the drawing of demonstrations too."""
    by_seed: tuple[float, ...] = ()
    """The difference at each seed that both sides have, where they are paired."""
    lasting: float = 0.0
    """The part of the variance that more seeds would not lessen: that of evaluation items and demonstrations."""
    possible: tuple[float, float] = (-math.inf, math.inf)
    """Between which values the difference can lie. Intervals are shown no wider; tests do not know of it."""

    @property
    def known(self) -> bool:
        """Whether there is an interval at all: not so with one seed and no items, or where the seeds show no spread."""
        return any(error.standard_error > 0 for error in self.errors)

    @property
    def half_width(self) -> float:
        """Half the length of the interval, which is symmetric."""
        if not self.known:
            return float("nan")
        return max(float(stats.t.ppf((1 + self.confidence) / 2, error.degrees)) * error.standard_error for error in self.errors)

    @property
    def low(self) -> float:
        return self.difference - self.half_width

    @property
    def high(self) -> float:
        return self.difference + self.half_width

    @property
    def p(self) -> float:
        """Two-sided, against no difference."""
        return self.p_against(0.0)

    def p_against(self, value: float) -> float:
        """Two-sided p of the hypothesis that the difference is `value`."""
        return min(1.0, 2 * min(self.p_above(value), self.p_below(value))) if self.known else float("nan")

    def p_above(self, value: float) -> float:
        """One-sided p: small where the difference is above `value`."""
        return max(error.tail(self.difference - value) for error in self.errors) if self.known else float("nan")

    def p_below(self, value: float) -> float:
        """One-sided p: small where the difference is below `value`."""
        return max(error.tail(value - self.difference) for error in self.errors) if self.known else float("nan")

    @property
    def shown(self) -> Interval | None:
        """The interval as it is shown: within what is possible, and not from two seeds, which are shown themselves."""
        if not self.known or self.seeds == 2:
            return None
        low, high = self.possible
        return Interval(min(max(self.low, low), high), max(min(self.high, high), low))

    @property
    def span(self) -> Interval | None:
        """The interval as it is shown; of two seeds from the one to the other."""
        return Interval(min(self.by_seed), max(self.by_seed)) if len(self.by_seed) == 2 else self.shown

    def seeds_below(self, value: float) -> int:
        """How many seeds' own differences are below a value."""
        return sum(one < value for one in self.by_seed)

    def seeds_above(self, value: float) -> int:
        return sum(one > value for one in self.by_seed)

    def agrees_about(self, value: float) -> bool:
        """Whether all seeds lie on the same side of a value."""
        return bool(self.by_seed) and len(self.by_seed) in (self.seeds_below(value), self.seeds_above(value))

    @property
    def deviation(self) -> float:
        """Standard deviation over seeds of the paired difference; NaN with fewer than two."""
        return float(np.std(self.by_seed, ddof=1)) if len(self.by_seed) > 1 else float("nan")

    def detectable(self, power: float = 0.8, comparisons: int = 1) -> float:
        """The true difference that a comparison with these errors finds with the given power (see `detectable_difference`)."""
        if not self.known:
            return float("nan")
        return max(detectable_difference(*error, self.confidence, power, comparisons) for error in self.errors)


def paired_difference(
    seed_differences: ArrayLike, item_differences: Sequence[ArrayLike | Answers] | None = None, confidence: float = 0.95
) -> Estimate:
    """The mean of paired differences with its interval.

    Args:
        seed_differences: [seeds], arm less baseline, one for each seed that both have.
        item_differences: for each task of the metric [seeds, items] or `Answers`, on the same scale; makes the interval cover the sampling
            of the evaluation items, and of demonstrations that were drawn several times. With a single seed it is all that it covers.
    """
    differences = np.asarray(seed_differences, dtype=float)
    noise = paired_item_noise(item_differences) if item_differences else None
    seeds = len(differences)
    by_seed = tuple(float(difference) for difference in differences)
    if seeds < 2:
        return replace(_items_only(float(differences.mean()) if seeds else float("nan"), seeds, noise, confidence), by_seed=by_seed)
    variance = _variance(differences) / seeds
    return replace(_combine(float(differences.mean()), variance, seeds - 1, noise, confidence, seeds, "paired t"), by_seed=by_seed)


def welch_difference(scores: ArrayLike, reference: ArrayLike, noise: ItemNoise | None = None, confidence: float = 0.95) -> Estimate:
    """The difference between the means of two arms that share no seeds: [seeds of the arm], [seeds of the reference]."""
    ours, theirs = np.asarray(scores, dtype=float), np.asarray(reference, dtype=float)
    seeds = min(len(ours), len(theirs))
    difference = float(ours.mean() - theirs.mean())
    if seeds < 2:
        return _items_only(difference, seeds, noise, confidence)
    variance, degrees = add([(_variance(arm) / len(arm), len(arm) - 1) for arm in (ours, theirs)])
    return _combine(difference, variance, degrees, noise, confidence, seeds, "Welch")


def _variance(values: Matrix) -> float:
    """Sample variance, exactly zero where only rounding differs."""
    spread = float(values.max() - values.min())
    return float(values.var(ddof=1)) if spread > 1e-9 * max(1.0, float(np.abs(values).max())) else 0.0


def _items_only(difference: float, seeds: int, noise: ItemNoise | None, confidence: float) -> Estimate:
    if noise is None or seeds == 0:
        return Estimate(difference, (), confidence, seeds, "none")
    method: Method = "evaluation items and draws only" if noise.covers_draws else "evaluation items only"
    parts = [(noise.items, noise.items_degrees), *_parts_of_draws(noise)]
    least = min(noise.items_degrees, noise.draws_degrees) if noise.of_draws else noise.items_degrees
    return Estimate(difference, (_sum(parts, least),), confidence, seeds, method, True, noise.covers_draws)


def _parts_of_draws(noise: ItemNoise) -> list[tuple[float, float]]:
    """What demonstrations add, as a sum of estimated variances; what is taken off has a minus."""
    if not noise.of_draws:
        return []
    return [(noise.draws, noise.draws_degrees), (-noise.draws_residual, noise.draws_residual_degrees)]


def _sum(parts: Sequence[tuple[float, float]], least: float) -> Student:
    """The error from a sum of variances with their degrees of freedom, some of them taken off.

    Args:
        least: degrees of freedom that it has at least.
    """
    total, spread = sum(variance for variance, _ in parts), sum(variance**2 / degrees for variance, degrees in parts)
    return Student(total**0.5, max(total**2 / spread, least) if spread else least)


def _combine(
    difference: float, variance: float, degrees: float, noise: ItemNoise | None, confidence: float, seeds: int, method: Method
) -> Estimate:
    """All parts of the noise together, and never less than the seeds alone."""
    if noise is None:
        return Estimate(difference, (Student(variance**0.5, degrees),), confidence, seeds, method)
    # Seeds cannot truly spread by less than the residual makes them: two that happen to agree are no certainty.
    between_seeds = Student(max(variance, noise.residual) ** 0.5, degrees)
    # The residual shows in both spreads and is taken off once. Where seeds spread by less than it alone would make them, which is chance,
    # nothing is left to take it off from, and the items (with the residual) are the whole.
    parts = [(noise.items, noise.items_degrees), *_parts_of_draws(noise)]
    if variance > noise.residual:
        parts += [(variance, degrees), (-noise.residual, noise.residual_degrees)]
    least = min(degrees, noise.items_degrees, noise.draws_degrees if noise.of_draws else degrees)
    errors = (between_seeds, _sum(parts, least))
    lasting = max(noise.items - noise.residual, 0.0) + noise.of_draws
    return Estimate(difference, errors, confidence, seeds, method, True, noise.covers_draws, lasting=lasting)


# ---------------------------------------------------------------- several comparisons
def holm(p_values: ArrayLike) -> Matrix:
    """Holm's (1979) adjusted p values: the chance of any false verdict in the family stays below the level.

    Args:
        p_values: [comparisons]. NaN (a hole) stays NaN but still counts: a failed arm does not make the others easier.
    """
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(p), np.nan)
    order = [index for index in np.argsort(p) if not np.isnan(p[index])]
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, float(p[index]) * (len(p) - rank)))
        adjusted[index] = running
    return adjusted


PASSED_ON = 10
"""A direction passes its share of the level on where its p is that many times smaller than it had to be."""


def holm_of_directions(p_values: ArrayLike, level: float) -> Matrix:
    """Adjusted p values of claims each of which says on which side of a bound a difference lies.

    Of "above the bound" and "not above it" one is false and the other true, so one p value, of the side where the difference was found, has
    the whole level. But then every member of the family has a true hypothesis, and Holm's proof, by which a member that was decided
    passes its share on, does not hold: where two differences lie exactly on their bounds, a true claim about one would make a false one
    about the other easier (simulated, two differences that go together: an error of up to .062 at a level of .05). A difference on its
    bound is seldom far beyond it. So a share is passed on where p is a tenth of what it had to be; then the level holds.

    Args:
        p_values: [claims], one-sided. NaN stays NaN but still counts.
    """
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(p), np.nan)
    running, left = 0.0, len(p)
    for index in (index for index in np.argsort(p) if not np.isnan(p[index])):
        own = float(p[index]) * left
        running = max(running, min(1.0, own))
        adjusted[index] = running
        left -= left > 1 and PASSED_ON * own <= level
    return adjusted


def benjamini_hochberg(p_values: ArrayLike) -> Matrix:
    """Adjusted p values that hold the false discovery rate (Benjamini and Hochberg 1995); NaN stays NaN."""
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(p), np.nan)
    known = ~np.isnan(p)
    if known.any():
        adjusted[known] = stats.false_discovery_control(p[known])
    return adjusted


# ---------------------------------------------------------------- equivalence and power
def equivalence(estimate: Estimate, margin: float) -> float:
    """p of two one-sided tests (Schuirmann 1987): small where the difference lies within -margin and +margin."""
    return max(estimate.p_above(-margin), estimate.p_below(margin)) if estimate.known else float("nan")


def detectable_difference(
    standard_error: float, degrees: float, confidence: float = 0.95, power: float = 0.8, comparisons: int = 1
) -> float:
    """The true difference that a two-sided t test finds with the given power, from the noncentral t.

    Args:
        comparisons: size of the family; the level is divided by it (the first and hardest step of Holm).

    Returns:
        On the scale of `standard_error`; NaN where that is unknown.
    """
    if not (standard_error >= 0 and degrees > 0):
        return float("nan")
    critical = stats.t.ppf(1 - (1 - confidence) / comparisons / 2, degrees)
    # P(T > critical) with T = (Z + shift) / sqrt(V / degrees), averaged over quantiles of V: steadier than the noncentral t's own
    # distribution function, whose series fail at one degree of freedom and far shifts. The other tail is below 1e-6 at this power.
    grid = (np.arange(4000) + 0.5) / 4000
    scale = np.sqrt(stats.chi2.ppf(grid, degrees) / degrees) if np.isfinite(degrees) else np.ones(1)
    shift = optimize.brentq(lambda value: float(stats.norm.cdf(value - critical * scale).mean()) - power, 0, 10 * critical)
    return float(shift * standard_error)


def minimum_detectable_effect(deviation: float, seeds: int, confidence: float = 0.95, power: float = 0.8, comparisons: int = 1) -> float:
    """The difference that a paired t over `seeds` seeds finds with the given power.

    Args:
        deviation: standard deviation over seeds of the paired difference.
    """
    if seeds < 2:
        return float("nan")
    return detectable_difference(deviation / seeds**0.5, seeds - 1, confidence, power, comparisons)
