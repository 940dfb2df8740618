"""Metrics: predictions of one task in, a score per item out. Each is one file here, with its settings and its rule.

A newcomer adds a file with one subclass of `Metric`; a task record then names it by `type`. numpy and the standard library only,
so that stored predictions can be scored again without a model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from mm1_ablate.config.metric import Ceiling, Floor, Kind, Metric, Prediction, References

__all__ = ["Ceiling", "Floor", "Kind", "Metric", "Prediction", "References", "best_reference", "shares_accepted"]


def shares_accepted(answers: Sequence[str], predictions: Sequence[Prediction], form: Callable[[str], str]) -> list[float]:
    """For each answer the share of the items, of those with references, that have it among their references, compared by a form of both."""
    judged = [one.references for one in predictions if one.references]
    accepted = Counter(known for references in judged for known in {form(reference) for reference in references})
    return [accepted[form(answer)] / len(judged) if judged else math.nan for answer in answers]


def best_reference(prediction: Prediction, scores: Sequence[float]) -> float:
    """The best of the scores against each reference; nan where there is none."""
    return max(scores) if prediction.references else math.nan
