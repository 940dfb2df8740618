"""Scores by arm, metric and seed, and what can be said of differences between arms.

In: the results of a study (arm, seed, metric, value) and, if kept, item scores. Out: an `Estimate` of an arm against another, or of any
contrast over several arms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from mm1_ablate.config.evaluation import Group
from mm1_ablate.report.item_scores import ItemScores
from mm1_ablate.report.statistics import Estimate, item_noise, paired_difference, welch_difference


class Scores:
    """Looks up scores and compares them.

    Args:
        results: columns arm, seed, metric, value.
        items: see `item_scores.py`; makes intervals cover the luck of the evaluation items.
        confidence: of the intervals.
        groups: averages over some tasks, by name.
    """

    def __init__(
        self, results: pd.DataFrame, items: pd.DataFrame | None, confidence: float, groups: Mapping[str, Group] | None = None
    ) -> None:
        self.confidence = confidence
        self.metrics = [str(metric) for metric in dict.fromkeys(results["metric"])]
        self._values: dict[tuple[str, str], dict[int, float]] = {}
        for arm, seed, metric, value in results[["arm", "seed", "metric", "value"]].itertuples(index=False):
            if not math.isnan(value):
                self._values.setdefault((str(arm), str(metric)), {})[int(seed)] = float(value)
        self._items = ItemScores(items, self._values, groups)

    def of(self, arm: str, metric: str) -> dict[int, float]:
        """Score by seed."""
        return self._values.get((arm, metric), {})

    def difference(self, arm: str, reference: str, metric: str) -> Estimate | None:
        """An arm less another: paired over common seeds, Welch where hardly any are common. None where either has no score."""
        ours, theirs = self.of(arm, metric), self.of(reference, metric)
        if not ours or not theirs:
            return None
        common = sorted(ours.keys() & theirs.keys())
        enough_apart = min(len(ours), len(theirs))
        if common and (len(common) >= 3 or len(common) >= enough_apart):
            return self.contrast({arm: 1, reference: -1}, metric, common)
        apart = self._items.pair(metric, arm, reference, sorted(ours), sorted(theirs))
        return welch_difference(list(ours.values()), list(theirs.values()), item_noise(*apart) if apart else None, self.confidence)

    def common_seeds(self, arms: Sequence[str], metric: str) -> list[int]:
        """Seeds at which all of some arms have a score."""
        return sorted(set[int].intersection(*(set(self.of(arm, metric)) for arm in arms)))

    def contrast(self, weights: Mapping[str, float], metric: str, seeds: Sequence[int]) -> Estimate:
        """A weighted sum of arms, taken within each seed, so that what a seed does to all of them falls out.

        Args:
            weights: by arm, with the sum 0.
            seeds: at which all of them have a score.
        """
        values = [sum(weight * self.of(arm, metric)[seed] for arm, weight in weights.items()) for seed in seeds]
        return paired_difference(values, self._items.contrast(metric, weights, seeds), self.confidence)
