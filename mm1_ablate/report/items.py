"""Per-item scores, found again for each metric of the comparison.

In: the long table of item scores (arm, seed, task, family, shots, item, metric, score) and the results that were computed from it.
Out: for a metric such as shot_8/average, arrays [seeds, items] for each task, on the scale of the results, so that `statistics.py` can
put the luck of the items into the intervals. A metric whose results are not the mean of these items has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mm1_ablate.report.statistics import Matrix

POINTS = 100.0
"""Item scores are of 1, results of 100."""
ROUNDING = 0.05
"""Points by which a result may differ from the mean of its items, if somebody rounded it."""


class ItemScores:
    """Looks up item scores of arms by metric name.

    Args:
        items: columns arm, seed, task, family (image or text), shots, item, metric, score (of 1) and primary: whether the metric is the
            one of its task that averages are made of. Without that column it is a task's first metric.
        values: results, [(arm, metric)] -> score by seed, of 100.
    """

    def __init__(self, items: pd.DataFrame | None, values: dict[tuple[str, str], dict[int, float]]) -> None:
        self._values = values
        self._tables: dict[tuple[str, str, str], pd.DataFrame] = {}
        self._primary: dict[tuple[str, str], str] = {}
        self._rebuilt: dict[str, bool] = {}
        if items is None or items.empty:
            return
        suites = np.where(items["family"] == "text", "text_core", "shot_" + items["shots"].astype(str))
        for key, rows in items.groupby([suites, "task", "metric"], sort=False, observed=True):
            suite, task, metric = (str(part) for part in key)
            self._tables[suite, task, metric] = rows.pivot_table(index="item", columns=["arm", "seed"], values="score") * POINTS
            if "primary" not in rows or rows["primary"].iloc[0]:
                self._primary.setdefault((suite, task), metric)

    def _tables_of(self, metric: str) -> list[pd.DataFrame]:
        suite, _, name = metric.partition("/")
        if name == "average":
            return [self._tables[suite, task, chosen] for (of, task), chosen in self._primary.items() if of == suite]
        if (suite, name) in self._primary:
            return [self._tables[suite, name, self._primary[suite, name]]]
        return [table for (of, task, of_metric), table in self._tables.items() if of == suite and f"{task}.{of_metric}" == name]

    def _rebuilds(self, metric: str) -> bool:
        """Whether the results are the mean of these items: of other items they would say nothing."""
        if metric not in self._rebuilt:
            tables = self._tables_of(metric)
            reported = {(arm, seed): score for (arm, of), scores in self._values.items() if of == metric for seed, score in scores.items()}
            means: Any = sum((table.mean() for table in tables[1:]), tables[0].mean()) / len(tables) if tables else {}
            shared = [key for key in reported if key in means]
            self._rebuilt[metric] = bool(shared) and all(abs(means[key] - reported[key]) < ROUNDING for key in shared)
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
