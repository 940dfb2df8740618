"""Accuracy of a choice by likelihood per character: `acc_norm` of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mm1_ablate.evaluation.metrics import Metric, Prediction
from mm1_ablate.evaluation.metrics.choice_accuracy import is_correct


class ChoiceAccuracyNormalised(Metric):
    """1 if the right choice has the highest log-likelihood divided by its characters, so that long choices are not at a
    disadvantage; else 0. The space before a choice is not counted."""

    type: Literal["choice_accuracy_normalised"] = "choice_accuracy_normalised"
    kind = "choose"

    def score(self, predictions: Sequence[Prediction]) -> list[float]:
        return [
            is_correct(
                prediction,
                [
                    log_likelihood / max(1, len(choice))
                    for choice, log_likelihood in zip(prediction.choices, prediction.log_likelihoods, strict=True)
                ],
            )
            for prediction in predictions
        ]
