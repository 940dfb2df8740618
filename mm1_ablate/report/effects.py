"""What each axis of a grid does by itself, and whether axes depend on one another.

In: the scores of a study and the grids of its sweep. Out: main effects and two-way interactions on the primary metric as contrasts with
intervals. A contrast is taken within each seed, over the points that exist, so a grid may have gaps:

* main effect of a level: the mean of (this level - first level), over the points of the other axes at which both were run;
* interaction of two levels: the mean of (difference at this level of the other axis - the same difference at its first level), over the
  points of the remaining axes at which all four were run. Zero where the axes add up.

All of them are exploratory, whatever the verdicts say, and corrected together (Benjamini-Hochberg).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

from mm1_ablate.config.study import Grid, Study
from mm1_ablate.report.scores import Scores
from mm1_ablate.report.statistics import LEAST_SEEDS, Estimate, benjamini_hochberg


@dataclass(frozen=True)
class Effect:
    """A contrast over a grid."""

    group: str
    axes: tuple[str, ...]
    """One: a main effect; two: an interaction."""
    levels: tuple[str, ...]
    references: tuple[str, ...]
    """On each axis the level that it is held against, the first."""
    points: int
    """Points of the remaining axes that it is a mean over."""
    estimate: Estimate | None
    complete: bool
    """Whether every trial that it needs has a score. Otherwise it is shown and not judged."""
    p_adjusted: float = float("nan")

    @property
    def is_interaction(self) -> bool:
        return len(self.axes) > 1

    @property
    def title(self) -> str:
        """'connector.type: attention_pool against average_pool'."""
        axes = [".".join(axis.split(".")[-2:]) for axis in self.axes]
        if not self.is_interaction:
            return f"{axes[0]}: {self.levels[0]} against {self.references[0]}"
        (level, other), (reference, other_reference) = self.levels, self.references
        return f"{axes[0]} × {axes[1]}: {level} against {reference}, at {other} more than at {other_reference}"

    def to_json(self) -> dict[str, Any]:
        shown = self.estimate.shown if self.estimate else None
        return {
            "group": self.group,
            "axes": list(self.axes),
            "levels": list(self.levels),
            "references": list(self.references),
            "points": self.points,
            "seeds": self.estimate.seeds if self.estimate else 0,
            "difference": self.estimate.difference if self.estimate else None,
            "low": shown.low if shown else None,
            "high": shown.high if shown else None,
            "p_adjusted": self.p_adjusted if self.p_adjusted == self.p_adjusted else None,
            "complete": self.complete,
        }


def effects(study: Study, scores: Scores, metric: str) -> tuple[Effect, ...]:
    """Effects in all grids of a study that have two axes or more; along a single axis the table says all."""
    found = []
    for group, grid in study.grids.items():
        if sum(len(values) > 1 for values in grid.axes.values()) > 1:
            found += [_effect(study, scores, metric, group, *contrast) for contrast in contrasts(grid)]
    judged = [effect.estimate if effect.complete and effect.estimate and effect.estimate.seeds >= LEAST_SEEDS else None for effect in found]
    ps = [estimate.p if estimate else float("nan") for estimate in judged]
    return tuple(replace(effect, p_adjusted=float(p)) for effect, p in zip(found, benjamini_hochberg(ps), strict=True))


Contrast = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], int, Mapping[str, float]]
"""Axes, levels, reference levels, points that it is a mean over, weight of each arm."""


def contrasts(grid: Grid) -> Iterator[Contrast]:
    """Main effects, then interactions, as far as the grid has the points for them."""
    for size in (1, 2):
        for places in combinations(range(len(grid.axes)), size):
            yield from _contrasts(grid, places)


def _contrasts(grid: Grid, places: tuple[int, ...]) -> Iterator[Contrast]:
    names, values = list(grid.axes), list(grid.axes.values())
    first = tuple(values[place][0] for place in places)
    elsewhere = [values[place] for place in range(len(values)) if place not in places]
    for levels in product(*(values[place][1:] for place in places)):
        corners = [(corner, _sign(corner, first)) for corner in product(*zip(levels, first, strict=True))]
        weights: dict[str, float] = {}
        used = [standing for rest in product(*elsewhere) if all((standing := _arms(grid, places, corners, rest)).values())]
        for standing in used:
            for corner, sign in corners:
                arm = standing[corner]
                weights[arm] = weights.get(arm, 0.0) + sign / len(used)
        if used:
            yield tuple(names[place] for place in places), levels, first, len(used), weights


def _sign(corner: tuple[str, ...], first: tuple[str, ...]) -> int:
    """-1 for each axis that is at its first level."""
    at_first = sum(level == reference for level, reference in zip(corner, first, strict=True))
    return -1 if at_first % 2 else 1


def _arms(
    grid: Grid, places: tuple[int, ...], corners: Iterable[tuple[tuple[str, ...], int]], rest: tuple[str, ...]
) -> dict[tuple[str, ...], str]:
    """The arm at each corner, with the other axes at given levels; empty where there is none."""
    found = {}
    for corner, _ in corners:
        own, others = dict(zip(places, corner, strict=True)), iter(rest)
        point = tuple(own[place] if place in own else next(others) for place in range(len(grid.axes)))
        found[corner] = grid.cells.get(point, "")
    return found


def _effect(
    study: Study,
    scores: Scores,
    metric: str,
    group: str,
    axes: tuple[str, ...],
    levels: tuple[str, ...],
    references: tuple[str, ...],
    points: int,
    weights: Mapping[str, float],
) -> Effect:
    needed = {arm: weight for arm, weight in weights.items() if weight}
    seeds = scores.common_seeds(list(needed), metric)
    estimate = scores.contrast(needed, metric, seeds) if seeds else None
    return Effect(group, axes, levels, references, points, estimate, complete=set(seeds) >= set(study.sweep.seeds))
