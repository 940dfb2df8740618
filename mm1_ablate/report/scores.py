"""Scores by arm, metric and seed, and the tables that statistics of differences need.

In: the results of a study (arm, seed, metric, value) and, if kept, the long table of item scores (arm, seed, task, family, shots, item,
metric, score) that they were computed from. Out: an `Estimate` of an arm against another, or of any contrast over several arms.

Item scores are found again for each metric: for shot_8/average, arrays [seeds, draws, items] for each task, on the scale of the results, so
that `statistics.py` can make intervals cover the sampling of items and of demonstrations. A metric whose results are not the mean of these
items, such as perplexity, has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mm1_ablate.config.evaluation import TaskGroup
from mm1_ablate.config.metric_name import AVERAGE, TEXT_CORE, MetricName
from mm1_ablate.evaluation.scores import group_mean
from mm1_ablate.report.metric_info import PERCENT, Scale, scale_of
from mm1_ablate.report.statistics import Estimate, paired_difference, welch_difference
from mm1_ablate.report.variance_components import Answers, Matrix, item_noise

ROUNDING = 0.0005
"""Part of its scale (0.05 points of 100) by which a result may differ from the mean of its items, because of rounding."""
Key = tuple[str, str, str]
"""Suite, task, metric."""


class Scores:
    """Looks up scores and compares them.

    Args:
        results: columns arm, seed, metric, value.
        items: see `ItemScores`; makes intervals cover the sampling of evaluation items.
        confidence: of the intervals.
        groups: averages over some tasks, by name.
        scales: what kind of number each metric is; where it is bounded, differences are shown no larger than is possible.
    """

    def __init__(
        self,
        results: pd.DataFrame,
        items: pd.DataFrame | None,
        confidence: float,
        groups: Mapping[str, TaskGroup] | None = None,
        scales: Mapping[str, Scale] | None = None,
    ) -> None:
        self.confidence = confidence
        self._scales = scales or {}
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
            estimate = self.contrast({arm: 1, reference: -1}, metric, common)
            return replace(estimate, possible=self._possible(metric, [theirs[seed] for seed in common]))
        apart = self._items.pair(metric, arm, reference, sorted(ours), sorted(theirs))
        noise = item_noise(*apart) if apart else None
        estimate = welch_difference(list(ours.values()), list(theirs.values()), noise, self.confidence)
        return replace(estimate, possible=self._possible(metric, list(theirs.values())))

    def _possible(self, metric: str, reference: Sequence[float]) -> tuple[float, float]:
        """Between which values the difference from a mean can lie."""
        scale, mean = self._scales.get(metric, PERCENT), sum(reference) / len(reference)
        known = [value for (_, of), values in self._values.items() if of == metric for value in values.values()]
        if not scale.bounded or not 0 <= min(known) <= max(known) <= scale.points:
            return -math.inf, math.inf
        return -mean, scale.points - mean

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


def suites(items: pd.DataFrame) -> np.ndarray:
    """Of each line of item scores, the suite of its metric: shot_8, text_core, loss."""
    # Held-out documents have a family of their own, and two metrics of which each is a suite.
    families = [items["family"] == "text", items["family"] == "loss"]
    return np.select(families, [TEXT_CORE, items["metric"].astype(str)], "shot_" + items["shots"].astype(str))


class ItemScores:
    """Looks up item scores of arms by metric name.

    Args:
        items: columns arm, seed, task, family (image, text or loss), shots, item, metric, score and primary: whether the metric is the
            one of its task that averages are made of. Without that column it is a task's first metric. With columns evaluation_seed and
            demonstration_set the draws of demonstrations are told apart.
        values: results, [(arm, metric)] -> score by seed, on the scale of tables.
        groups: averages over some tasks, by name.
    """

    def __init__(
        self,
        items: pd.DataFrame | None,
        values: dict[tuple[str, str], dict[int, float]],
        groups: Mapping[str, TaskGroup] | None = None,
    ) -> None:
        self._values = values
        self._groups = groups or {}
        self._tables: dict[Key, pd.DataFrame] = {}
        self._primary: dict[tuple[str, str], Key] = {}
        self._scales: dict[Key, Scale] = {}
        self._sets: dict[Key, pd.DataFrame | None] = {}
        self._looked_up: dict[str, list[_Table]] = {}
        self._rebuilt: dict[str, bool] = {}
        if items is None or items.empty:
            return
        for (suite, task, metric), rows in items.groupby([suites(items), "task", "metric"], sort=False, observed=True):
            key = (str(suite), str(task), str(metric))
            scale = self._scales[key] = scale_of(str(rows["family"].iloc[0]), key[2])
            if scale.mean_of_items:
                drawn = rows if "evaluation_seed" in rows else rows.assign(evaluation_seed=0)
                self._tables[key] = (
                    drawn.pivot_table(index="item", columns=["arm", "seed", "evaluation_seed"], values="score") * scale.points
                )
                self._sets[key] = _demonstration_sets(drawn)
            if "primary" not in rows or rows["primary"].iloc[0]:
                self._primary.setdefault(key[:2], key)

    def _tables_of(self, metric: str) -> list[_Table]:
        """Tables whose unweighted mean is the metric; none where it is not a mean of items."""
        if metric not in self._looked_up:
            shares = self._shares(metric)
            # Of weights in a group: the tables are multiplied by them, so that an unweighted mean is left to be taken.
            tables = [
                _Table(self._tables[key] * (share * len(shares)), self._sets[key]) for key, share in shares.items() if key in self._tables
            ]
            self._looked_up[metric] = tables if len(tables) == len(shares) else []
        return self._looked_up[metric]

    def _shares(self, metric: str) -> dict[Key, float]:
        """What a metric is a mean of, and each one's part in it; the parts sum to 1."""
        parsed = MetricName.parse(metric)
        suite, name = parsed.suite, parsed.name
        if not parsed.is_loss and name in self._groups and (shares := self._group(suite, name)):
            return shares
        if name == AVERAGE:  # of all, where a group of this name has no task of the suite
            averaged = list(self._averaged(suite).values())
            return {key: 1 / len(averaged) for key in averaged}
        if (suite, name) in self._primary:
            return {self._primary[suite, name]: 1.0}
        return {key: 1.0 for key in self._scales if key[0] == suite and f"{key[1]}.{key[2]}" == name}

    def _averaged(self, suite: str) -> dict[str, Key]:
        """By task, the metrics that averages of a suite are made of."""
        return {task: key for (of, task), key in self._primary.items() if of == suite and self._scales[key].in_percent}

    def _group(self, suite: str, name: str) -> dict[Key, float]:
        """The parts of a group's tasks in its mean, as far as they are in the suite."""
        averaged = self._averaged(suite)
        # The mean of unit vectors, one for each task, is the tasks' shares.
        units = dict(zip(averaged, np.eye(len(averaged)), strict=True))
        shares = group_mean(name, self._groups, units)
        return {key: float(share) for key, share in zip(averaged.values(), shares, strict=True) if share} if shares is not None else {}

    def _rebuilds(self, metric: str) -> bool:
        """Whether the results are the mean of these items: of other items they would say nothing."""
        if metric not in self._rebuilt:
            tables = self._tables_of(metric)
            tolerance = ROUNDING * max((self._scales[key].points for key in self._shares(metric)), default=0.0)
            reported = {(arm, seed): score for (arm, of), scores in self._values.items() if of == metric for seed, score in scores.items()}
            own = [table.scores.mean().groupby(level=["arm", "seed"]).mean() for table in tables]
            means: Any = sum(own[1:], own[0]) / len(own) if own else {}
            shared = [key for key in reported if key in means]
            self._rebuilt[metric] = bool(shared) and all(abs(means[key] - reported[key]) < tolerance for key in shared)
        return self._rebuilt[metric]

    def contrast(self, metric: str, weights: Mapping[str, float], seeds: Sequence[int]) -> list[Answers] | None:
        """Weighted sums of the arms' scores on the items that all of them answered.

        Args:
            weights: by arm.

        Returns:
            For each task; None where any is missing.
        """
        if not self._rebuilds(metric):
            return None
        found = []
        for table in self._tables_of(metric):
            if (answered := table.answered([[(arm, seed) for arm in weights for seed in seeds]])) is None:
                return None
            (own,), sets = answered
            by_arm = own.reshape(len(weights), len(seeds), *own.shape[1:])
            found.append(Answers(np.tensordot(list(weights.values()), by_arm, axes=1), sets))
        return found

    def pair(
        self, metric: str, arm: str, baseline: str, seeds: Sequence[int], other: Sequence[int]
    ) -> tuple[list[Answers], list[Answers]] | None:
        """Scores of the items that both arms answered.

        Args:
            seeds: of the arm; other: of the baseline.

        Returns:
            For each task those of the arm, and the same of the baseline; None where any is missing.
        """
        if not self._rebuilds(metric):
            return None
        ours, theirs = [], []
        for table in self._tables_of(metric):
            if (answered := table.answered([[(arm, seed) for seed in seeds], [(baseline, seed) for seed in other]])) is None:
                return None
            (own, reference), sets = answered
            ours.append(Answers(own, sets))
            theirs.append(Answers(reference, sets))
        return ours, theirs


def _demonstration_sets(rows: pd.DataFrame) -> pd.DataFrame | None:
    """By item and evaluation seed a number for the demonstrations that it was asked after; None where there are none."""
    if "demonstration_set" not in rows or not rows["demonstration_set"].any():
        return None
    numbers = rows.assign(number=pd.factorize(rows["demonstration_set"])[0]).drop_duplicates(["item", "evaluation_seed"])
    return numbers.pivot(index="item", columns="evaluation_seed", values="number")


class _Table(NamedTuple):
    """Scores of a task by item, with columns arm, seed, evaluation seed; and the demonstrations by item and evaluation seed."""

    scores: pd.DataFrame
    sets: pd.DataFrame | None

    def answered(self, groups: Sequence[Sequence[tuple[str, int]]]) -> tuple[list[Matrix], NDArray[np.int64] | None] | None:
        """Of the items that all systems answered, scores [systems, draws, items] for each group of systems, and `Answers.sets`.

        Where systems differ in their draws, the mean over the draws of each stands for a single one.

        Returns:
            None where a system has no scores, or there are fewer than two such items.
        """
        wanted = list(dict.fromkeys(system for group in groups for system in group))
        by_system: dict[tuple[str, int], list[Any]] = {}
        for column in self.scores.columns.to_frame(index=False).itertuples(index=False):
            by_system.setdefault((str(column[0]), int(column[1])), []).append(column[2])
        if not all(system in by_system for system in wanted):
            return None
        draws = by_system[wanted[0]]
        scores, alike = self.scores, all(by_system[system] == draws for system in wanted)
        if not alike:
            scores = scores.T.groupby(level=["arm", "seed"]).mean().T
            scores.columns = pd.MultiIndex.from_tuples([(*system, 0) for system in scores.columns], names=self.scores.columns.names)
            draws = [0]
        both = scores[[(*system, draw) for system in wanted for draw in draws]].dropna()
        if len(both) < 2:
            return None
        cells = [both[[(*system, draw) for system in group for draw in draws]].to_numpy().T for group in groups]
        found = [cell.reshape(len(group), len(draws), -1) for cell, group in zip(cells, groups, strict=True)]
        sets = self.sets.reindex(index=both.index, columns=draws) if self.sets is not None and alike else None
        return found, sets.to_numpy(dtype=np.int64).T if sets is not None and not sets.isna().any(axis=None) else None
