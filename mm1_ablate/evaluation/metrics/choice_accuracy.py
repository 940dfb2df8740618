"""Accuracy of a choice by likelihood: `acc` of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from mm1_ablate.evaluation.metrics import Metric, Prediction


def is_correct(prediction: Prediction, scores: Sequence[float]) -> float:
    """1.0 if the right choice has the highest score (of equal ones the first counts), else 0.0."""
    if prediction.correct is None or len(scores) != len(prediction.choices):
        raise ValueError(f"item {prediction.item}: needs a right choice and a log-likelihood of each choice")
    return float(int(np.argmax(scores)) == prediction.correct)


class ChoiceAccuracy(Metric):
    """1 if the right choice has the highest log-likelihood, summed over its tokens; else 0."""

    type: Literal["choice_accuracy"] = "choice_accuracy"
    kind = "choose"

    def score(self, predictions: Sequence[Prediction]) -> list[float]:
        return [is_correct(prediction, prediction.log_likelihoods) for prediction in predictions]
