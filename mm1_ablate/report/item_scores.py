"""Per-item scores, found again for each metric of the comparison.

In: the long table of item scores (arm, seed, task, family, shots, item, metric, score) and the results that were computed from it.
Out: for a metric such as shot_8/average, arrays [seeds, items] for each task, on the scale of the results, so that `statistics.py` can
put the luck of the items into the intervals. A metric whose results are not the mean of these items, such as perplexity, has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mm1_ablate.config.evaluation import Group
from mm1_ablate.report.metric_info import LOSSES, Scale, scale_of
from mm1_ablate.report.statistics import Matrix

ROUNDING = 0.0005
"""Part of its scale (0.05 points of 100) by which a result may differ from the mean of its items, if somebody rounded it."""
Key = tuple[str, str, str]
"""Suite, task, metric."""


class ItemScores:
    """Looks up item scores of arms by metric name.

    Args:
        items: columns arm, seed, task, family (image, text or loss), shots, item, metric, score and primary: whether the metric is the
            one of its task that averages are made of. Without that column it is a task's first metric.
        values: results, [(arm, metric)] -> score by seed, on the scale of tables.
        groups: averages over some tasks, by name.
    """

    def __init__(
        self,
        items: pd.DataFrame | None,
        values: dict[tuple[str, str], dict[int, float]],
        groups: Mapping[str, Group] | None = None,
    ) -> None:
        self._values = values
        self._groups = groups or {}
        self._tables: dict[Key, pd.DataFrame] = {}
        self._primary: dict[tuple[str, str], Key] = {}
        self._scales: dict[Key, Scale] = {}
        self._looked_up: dict[str, list[pd.DataFrame]] = {}
        self._rebuilt: dict[str, bool] = {}
        if items is None or items.empty:
            return
        # Held-out documents have a family of their own, and two metrics of which each is a suite.
        families = [items["family"] == "text", items["family"] == "loss"]
        suites = np.select(families, ["text_core", items["metric"].astype(str)], "shot_" + items["shots"].astype(str))
        for (suite, task, metric), rows in items.groupby([suites, "task", "metric"], sort=False, observed=True):
            key = (str(suite), str(task), str(metric))
            scale = self._scales[key] = scale_of(str(rows["family"].iloc[0]), key[2])
            if scale.mean_of_items:
                self._tables[key] = rows.pivot_table(index="item", columns=["arm", "seed"], values="score") * scale.points
            if "primary" not in rows or rows["primary"].iloc[0]:
                self._primary.setdefault(key[:2], key)

    def _tables_of(self, metric: str) -> list[pd.DataFrame]:
        """ParquetRows whose unweighted mean is the metric; none where it is no mean of items."""
        if metric not in self._looked_up:
            shares = self._shares(metric)
            # Of weights in a group: the tables are multiplied by them, so that an unweighted mean is left to be taken.
            tables = [self._tables[key] * (share * len(shares)) for key, share in shares.items() if key in self._tables]
            self._looked_up[metric] = tables if len(tables) == len(shares) else []
        return self._looked_up[metric]

    def _shares(self, metric: str) -> dict[Key, float]:
        """What a metric is a mean of, and each one's part in it; the parts sum to 1."""
        suite, _, name = metric.partition("/")
        if suite not in LOSSES and name in self._groups and (shares := self._group(suite, name)):
            return shares
        if name == "average":  # of all, where a group of this name has no task of the suite
            averaged = [key for (of, _), key in self._primary.items() if of == suite and self._scales[key].in_percent]
            return {key: 1 / len(averaged) for key in averaged}
        if (suite, name) in self._primary:
            return {self._primary[suite, name]: 1.0}
        return {key: 1.0 for key in self._scales if key[0] == suite and f"{key[1]}.{key[2]}" == name}

    def _group(self, suite: str, name: str) -> dict[Key, float]:
        """The parts of a group's tasks in its mean, as far as they are in the suite."""
        group = self._groups[name]
        members: list[tuple[float, dict[Key, float]]] = []
        for member in group.tasks:
            key = self._primary.get((suite, member))
            own = self._group(suite, member) if member in self._groups else {key: 1.0} if key and self._scales[key].in_percent else {}
            if own:
                members.append((group.weights.get(member, 1.0), own))
        shares: dict[Key, float] = {}
        for weight, own in members:
            for key, share in own.items():
                shares[key] = shares.get(key, 0.0) + share * weight / sum(weight for weight, _ in members)
        return shares

    def _rebuilds(self, metric: str) -> bool:
        """Whether the results are the mean of these items: of other items they would say nothing."""
        if metric not in self._rebuilt:
            tables = self._tables_of(metric)
            tolerance = ROUNDING * max((self._scales[key].points for key in self._shares(metric)), default=0.0)
            reported = {(arm, seed): score for (arm, of), scores in self._values.items() if of == metric for seed, score in scores.items()}
            means: Any = sum((table.mean() for table in tables[1:]), tables[0].mean()) / len(tables) if tables else {}
            shared = [key for key in reported if key in means]
            self._rebuilt[metric] = bool(shared) and all(abs(means[key] - reported[key]) < tolerance for key in shared)
        return self._rebuilt[metric]

    def contrast(self, metric: str, weights: Mapping[str, float], seeds: Sequence[int]) -> list[Matrix] | None:
        """Weighted sums of the arms' scores on the items that all of them answered.

        Args:
            weights: by arm.

        Returns:
            For each task [seeds, items]; None where any is missing.
        """
        if not self._rebuilds(metric):
            return None
        found = []
        for table in self._tables_of(metric):
            wanted = [(arm, seed) for arm in weights for seed in seeds]
            if not all(column in table.columns for column in wanted):
                return None
            answered = table[wanted].dropna()
            if len(answered) < 2:
                return None
            by_arm = answered.to_numpy().T.reshape(len(weights), len(seeds), -1)
            found.append(np.tensordot(list(weights.values()), by_arm, axes=1))
        return found

    def pair(
        self, metric: str, arm: str, baseline: str, seeds: Sequence[int], other: Sequence[int]
    ) -> tuple[list[Matrix], list[Matrix]] | None:
        """Scores of the items that both arms answered.

        Args:
            seeds: of the arm; other: of the baseline.

        Returns:
            For each task [seeds, items] of the arm, and the same of the baseline; None where any is missing.
        """
        if not self._rebuilds(metric):
            return None
        ours, theirs = [], []
        for table in self._tables_of(metric):
            wanted = [[(arm, seed) for seed in seeds], [(baseline, seed) for seed in other]]
            if not all(column in table.columns for columns in wanted for column in columns):
                return None
            both = table[list(dict.fromkeys(wanted[0] + wanted[1]))].dropna()
            if len(both) < 2:
                return None
            ours.append(both[wanted[0]].to_numpy().T)
            theirs.append(both[wanted[1]].to_numpy().T)
        return ours, theirs
