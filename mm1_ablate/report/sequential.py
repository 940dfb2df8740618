"""The price of looking: how often a test that is repeated as seeds are added is wrong, and the level of each look that keeps a promise.

In: at which numbers of seeds one looks, and a p value or an error. Out: the error over all looks of a test that rejects as soon as the
p value of the paired t over the first n seeds is at most a constant (Pocock 1977, for the t of each look's degrees of freedom), and the
constant that has a given error.

Computed, not simulated. With x[1], x[2], ... independent normal differences without a true difference, let U[n] be their sum over the root
of the sum of their squares. The t over n seeds is U sqrt((n-1)/(n-U^2)). The direction of normal numbers is independent of their length, so

    U[n+1] = U[n] cos(a) + sin(a),   density of the angle a proportional to cos(a)^(n-1) between -pi/2 and pi/2, independent of U[n]

is a Markov chain in one number, whose crossings of the bounds are integrated backwards from the last look.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import interpolate, optimize, special, stats

from mm1_ablate.report.variance_components import Matrix

KNOTS = 17
"""Points of each smooth piece at which the chance of a later crossing is kept between two seeds."""
NODES = 12
"""Of the Gauss-Legendre rule on each piece of an integral."""
BENDS = 4
"""Looks ahead whose bounds bend the chance of a crossing enough for the pieces to end there."""
NEAR = 1e-6
"""Pieces that are shorter are part of their neighbour."""
LEAST_P = 1e-9
"""Below it the error is the p value times the number of looks, which is never less than the true one, and near it."""
SMALL, LARGE = 20, (0.08, 0.12, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 0.9, 1.0)
"""P values whose errors are computed: so many up to .05, evenly on a logarithmic scale, and these. Others are interpolated."""
PLACES, WEIGHTS = np.polynomial.legendre.leggauss(NODES)


def error_over_looks(p: float, looks: tuple[int, ...], sides: int) -> float:
    """The chance that at some look the paired t has a p value of at most `p`, where there is no difference.

    Args:
        looks: numbers of seeds, increasing, the first at least 2.
        sides: 2 for a two-sided p value, 1 for a one-sided one.

    Returns:
        At least `p`, and at most `p` times the number of looks. NaN stays NaN.
    """
    if math.isnan(p) or len(looks) == 1 or p >= 1:
        return p
    if p < LEAST_P:
        return p * len(looks)
    bounds = {n: _bound(p, n, sides) for n in looks}
    first, last = looks[0], looks[-1]
    edges = {n: _edges(n, bounds, sides) for n in range(first, last + 1)}
    later = _Later(edges[last], None)
    for n in range(last - 1, first - 1, -1):
        knots = _knots(edges[n])
        later = _Later(edges[n], interpolate.PchipInterpolator(knots, _crossing_next(knots, n, n + 1 in bounds, later)))
    # The first look: the cosine of U's direction, U / sqrt(n), has the density of a projection of a uniform direction.
    angles = np.arcsin(np.clip(np.array(edges[first]) / math.sqrt(first), -1, 1))
    middle, half = (angles[1:] + angles[:-1]) / 2, (angles[1:] - angles[:-1]) / 2
    points = middle[:, None] + half[:, None] * PLACES
    values = later.chance(math.sqrt(first) * np.sin(points))
    crossed = float((np.cos(points) ** (first - 2) * values * WEIGHTS * half[:, None]).sum()) / special.beta(0.5, (first - 1) / 2)
    return float(min(max(p + crossed, p), p * len(looks), 1.0))


@lru_cache(maxsize=64)
def _tabulated(looks: tuple[int, ...], sides: int) -> interpolate.PchipInterpolator:
    """The logarithm of the error by that of the p value."""
    grid = np.concatenate([np.linspace(math.log(LEAST_P), math.log(0.05), SMALL), np.log(LARGE)])
    return interpolate.PchipInterpolator(grid, [math.log(error_over_looks(math.exp(one), looks, sides)) for one in grid])


def corrected_for_looks(p: ArrayLike, looks: Sequence[int], sides: int) -> Matrix:
    """P values of a look, corrected for all looks: each becomes the error of all looks whose constant level it is.

    Interpolated from a table that is computed once in a process, in about a second.

    Args:
        p: of any shape. NaN stays NaN.
        looks, sides: as in `error_over_looks`.
    """
    p = np.asarray(p, dtype=float)
    if len(looks) == 1:
        return p
    inside = np.clip(p, LEAST_P, 1.0)
    corrected = np.exp(_tabulated(tuple(looks), sides)(np.log(inside)))
    # Bonferroni's is never exceeded, but by rounding of the table.
    return np.asarray(np.where(p < LEAST_P, p * len(looks), np.minimum(corrected, np.minimum(p * len(looks), 1.0))))


@lru_cache(maxsize=1024)
def nominal_level(error: float, looks: tuple[int, ...], sides: int) -> float:
    """The level of each look with which all looks together have an error: the inverse of `corrected_for_looks`."""
    if len(looks) == 1:
        return error
    low, high = math.log(error / len(looks)) - 0.01, math.log(error)
    found = optimize.brentq(lambda level: float(corrected_for_looks(math.exp(level), looks, sides)) - error, low, high, xtol=1e-10)
    return math.exp(float(found))


def _bound(p: float, n: int, sides: int) -> float:
    """The U of n seeds whose p value is `p`."""
    t = float(stats.t.isf(p / sides, n - 1))
    return math.copysign(math.sqrt(n * t * t / (n - 1 + t * t)), t)


def _edges(n: int, bounds: Mapping[int, float], sides: int) -> tuple[float, ...]:
    """The ends of where U of n seeds rejects nothing, and between them where the chance of a crossing bends.

    It bends where the U of a later look can only just reach its bound.

    Args:
        bounds: by the number of seeds of a look.
    """
    high = bounds.get(n, math.sqrt(n))
    low = -high if sides == 2 else -math.sqrt(n)
    near = [(later - n, bound**2) for later, bound in bounds.items() if n < later <= n + BENDS]
    bends = [math.sqrt(square - ahead) for ahead, square in near if square > ahead]
    edges = [low]
    for place in sorted({*bends, *(-bend for bend in bends)}):
        if edges[-1] + NEAR < place < high - NEAR:
            edges.append(place)
    return (*edges, high)


def _knots(edges: tuple[float, ...]) -> Matrix:
    """Points between edges, dense at each of them."""
    dense = (1 - np.cos(np.linspace(0, np.pi, KNOTS))) / 2
    return np.unique(np.concatenate([start + (end - start) * dense for start, end in itertools.pairwise(edges)]))


@dataclass(frozen=True)
class _Later:
    """The chance of a crossing after some number of seeds, where none was so far."""

    edges: tuple[float, ...]
    by_u: interpolate.PchipInterpolator | None
    """None: no look is left."""

    def chance(self, u: Matrix) -> Matrix:
        return np.asarray(self.by_u(np.clip(u, self.edges[0], self.edges[-1]))) if self.by_u is not None else np.zeros_like(u)


def _crossing_next(u: Matrix, n: int, looks: bool, later: _Later) -> Matrix:
    """By U of n seeds, the chance that the next seed, or one after it, crosses a bound.

    Args:
        u: [points].
        looks: whether there is a look at n + 1 seeds.
        later: the crossings after that.
    """
    length, turn = np.sqrt(1 + u**2), np.arctan(u)
    # U' = length sin(angle + turn): where it is at an edge the integral is cut into smooth pieces.
    cuts = [np.full_like(u, -np.pi / 2), np.full_like(u, np.pi / 2)]
    for edge in later.edges:
        reached = np.arcsin(np.clip(edge / length, -1, 1))
        cuts += [reached - turn, np.pi - reached - turn, -np.pi - reached - turn]
    ends = np.sort(np.clip(np.stack(cuts), -np.pi / 2, np.pi / 2), axis=0)  # [cuts, points]
    middle, half = (ends[1:] + ends[:-1]) / 2, (ends[1:] - ends[:-1]) / 2
    angles = middle[..., None] + half[..., None] * PLACES  # [pieces, points, nodes]
    centre = length * np.sin(middle + turn)
    crosses = (centre > later.edges[-1]) | (centre < later.edges[0]) if looks else np.zeros_like(centre, dtype=bool)
    values = np.where(crosses[..., None], 1.0, later.chance(length[:, None] * np.sin(angles + turn[:, None])))
    density = np.cos(angles) ** (n - 1) / special.beta(0.5, n / 2)
    return np.asarray((density * values * WEIGHTS * half[..., None]).sum(axis=(0, 2)))
