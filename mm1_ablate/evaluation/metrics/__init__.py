"""Metrics: predictions of one task in, a score per item out. Each is one file here, with its settings and its rule.

A newcomer adds a file with one subclass of `Metric`; a task record then names it by `type`. numpy and the standard library only,
so that stored predictions can be scored again without a model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from mm1_ablate.config.metric import Ceiling, Floor, Kind, Metric, Prediction, References
from mm1_ablate.config.settings import find_component

__all__ = ["Ceiling", "Floor", "Kind", "Metric", "Prediction", "References", "best_reference", "metric_class", "shares_accepted"]


def metric_class(rule: str) -> type[Metric]:
    """The class of a metric's type.

    Raises:
        UnknownType: there is none.
        TypeError: it is no metric.
    """
    found = find_component(__name__, rule)
    if not issubclass(found, Metric):
        raise TypeError(f"'{rule}' is not a subclass of mm1_ablate.evaluation.metrics.Metric")
    return found


def shares_accepted(answers: Sequence[str], predictions: Sequence[Prediction], form: Callable[[str], str]) -> list[float]:
    """For each answer the share of the items, of those with references, that have it among their references, compared by a form of both."""
    judged = [one.references for one in predictions if one.references]
    accepted = Counter(known for references in judged for known in {form(reference) for reference in references})
    return [accepted[form(answer)] / len(judged) if judged else math.nan for answer in answers]


def best_reference(prediction: Prediction, scores: Sequence[float]) -> float:
    """The best of the scores against each reference; nan where there is none."""
    return max(scores) if prediction.references else math.nan
