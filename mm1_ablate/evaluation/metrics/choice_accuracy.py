"""Accuracy of a choice by likelihood: `acc` of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from mm1_ablate.evaluation.metrics import Metric, Prediction, References
from mm1_ablate.evaluation.metrics._likelihood import of_right_choice


def is_correct(prediction: Prediction, scores: Sequence[float]) -> float:
    """1.0 if the right choice has the highest score (of equal ones the first counts), else 0.0. Of a broken model, whose scores are no
    numbers, no choice is right."""
    of_right_choice(prediction, scores, "a log-likelihood")
    if np.isnan(scores).any():
        return 0.0
    return float(int(np.argmax(scores)) == prediction.correct)


class ChoiceAccuracy(Metric):
    """1 if the right choice has the highest log-likelihood, summed over its tokens; else 0."""

    type: Literal["choice_accuracy"] = "choice_accuracy"
    kind = "choose"
    floor = "constant_choice"
    ceiling = "one"

    def score(self, predictions: Sequence[Prediction], split_references: References | None = None) -> list[float]:
        return [is_correct(prediction, prediction.log_likelihoods) for prediction in predictions]
