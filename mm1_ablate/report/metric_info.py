"""What kind of number a metric is: its scale, which way is better, and whether it is a mean over items.

In: names of metrics such as shot_8/vqa and, if kept, the item scores that say which metric each is. Out: a `Scale` of each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import pandas as pd

from mm1_ablate.config.metric_name import MetricName
from mm1_ablate.config.settings import UnknownType
from mm1_ablate.evaluation.metrics import Metric, metric_class


@dataclass(frozen=True, slots=True)
class Scale:
    """Attributes:
    points: results are this many times the aggregate of item scores.
    higher_is_better: whether more is better.
    mean_of_items: whether that aggregate is the mean, so that item scores say how sure a result is; not so of perplexity.
    bounded: whether results lie between 0 and `points`; not so of CIDEr.
    """

    points: float = 100.0
    higher_is_better: bool = True
    mean_of_items: bool = True
    bounded: bool = True

    @property
    def in_percent(self) -> bool:
        return self.points == 100

    def is_better(self, difference: float) -> bool:
        """Whether a difference from something is for the better."""
        return difference > 0 if self.higher_is_better else difference < 0


PERCENT = Scale()
LOSS = Scale(points=1.0, higher_is_better=False, bounded=False)
"""Loss per token and bits per byte of held-out documents."""


def scale_of(family: str, rule: str) -> Scale:
    """The scale of a metric type for tasks of a family; that of percentages where there is no such type.

    Args:
        family: image, text or loss.
        rule: the type of a metric, such as exact_match.
    """
    if family == "loss":
        return LOSS
    try:
        found = metric_class(rule)
    except (UnknownType, TypeError):
        return PERCENT
    of_items = found.aggregate.__func__ is Metric.aggregate.__func__  # type: ignore[attr-defined]
    return Scale(found.scale, found.higher_is_better, of_items, bounded=of_items and found.ceiling != "none")


def scales(metrics: Iterable[str], items: pd.DataFrame | None = None) -> dict[str, Scale]:
    """The scale of each metric, by its name; where no items are at hand by what the name says.

    Args:
        items: columns family, shots, task, metric and perhaps primary (without it all are).
    """
    found: dict[str, Scale] = {}
    if items is not None and not items.empty:
        keys = ["family", "shots", "task", "metric", *(["primary"] if "primary" in items else [])]
        for family, shots, task, rule, *primary in items[keys].drop_duplicates().itertuples(index=False):
            column = MetricName.of_task(str(family), int(shots), str(task), str(rule), bool(primary[0]) if primary else True)
            found.setdefault(str(column), scale_of(str(family), str(rule)))
    # An average lies between 0 and 100 where all that it may be made of does.
    unbounded = {MetricName.parse(column).suite for column, scale in found.items() if scale.in_percent and not scale.bounded}
    return {metric: found.get(metric) or _by_name(metric, unbounded) for metric in metrics}


def _by_name(metric: str, unbounded: Collection[str]) -> Scale:
    parsed = MetricName.parse(metric)
    if parsed.is_loss:
        return LOSS
    scale = scale_of("", parsed.rule) if parsed.rule else PERCENT
    return replace(scale, bounded=False) if parsed.suite in unbounded else scale
