"""Perplexity of the right continuation, a continuation counting as one: `perplexity` of LAMBADA in lm-evaluation-harness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from mm1_ablate.evaluation.metrics import Metric, Prediction, References
from mm1_ablate.evaluation.metrics._likelihood import surprise


class Perplexity(Metric):
    """exp of the mean negative log-likelihood of the right continuation. The score of an item is its negative log-likelihood in nats."""

    type: Literal["perplexity"] = "perplexity"
    kind = "choose"
    scale = 1.0
    higher_is_better = False
    floor = "none"

    def score(self, predictions: Sequence[Prediction], split_references: References | None = None) -> list[float]:
        return [surprise(prediction) for prediction in predictions]

    @classmethod
    def aggregate(cls, scores: Sequence[float]) -> float:
        mean = super().aggregate(scores)
        return math.exp(mean) if mean < 709 else math.inf  # what a float64 can hold
