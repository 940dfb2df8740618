"""Accuracy of a choice by likelihood per character: `acc_norm` of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from mm1_ablate.evaluation.metrics import Metric, Prediction, References
from mm1_ablate.evaluation.metrics.choice_accuracy import is_correct


class ChoiceAccuracyNormalised(Metric):
    """1 if the right choice has the highest log-likelihood divided by its characters, so that long choices are not at a
    disadvantage; else 0. The space before a choice is not counted."""

    type: Literal["choice_accuracy_normalised"] = "choice_accuracy_normalised"
    kind = "choose"
    floor = "constant_choice"
    ceiling = "one"

    def score(self, predictions: Sequence[Prediction], split_references: References | None = None) -> list[float]:
        return [is_correct(prediction, _per_character(prediction)) for prediction in predictions]

    def answer(self, prediction: Prediction) -> str:
        likelihoods = _per_character(prediction)
        return prediction.choices[int(np.argmax(likelihoods))] if likelihoods else prediction.text


def _per_character(prediction: Prediction) -> list[float]:
    """The log-likelihood of each choice, divided by its characters."""
    return [nats / max(1, len(choice)) for choice, nats in zip(prediction.choices, prediction.log_likelihoods, strict=True)]
