"""Probability of the right answer: a score without steps, for every kind of task, on the scale of accuracy.

A right answer that a model finds a little likelier changes accuracy only where it overtakes the likeliest, so accuracy over few items and
seeds moves in jumps that a probability does not make (Schaeffer et al. 2023, "Are Emergent Abilities of Large Language Models a Mirage?";
Magnusson et al. 2025, "DataDecide", who take it as a proxy of accuracy in small experiments).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from mm1_ablate.evaluation.metrics import Metric, Prediction, References
from mm1_ablate.evaluation.metrics._likelihood import of_right_choice


class Probability(Metric):
    """From 0 to 1, whatever the task. Asked for by `evaluation.probability`, never by a record.

    - Of several choices: the probability of the right one among them, by their log-likelihoods.
    - Where text is generated, or the likelihood of a text is asked: the probability of the first reference after the prompt, per word: the
      geometric mean over its words. Of an answer of one word that is its probability, of a caption the inverse of its perplexity per word.
      So answers of any length, and models with any tokenizer, are on one scale. What ends the answer is not counted.
    """

    type: Literal["probability"] = "probability"
    kind = "choose"
    floor = "none"
    ceiling = "one"

    def score(self, predictions: Sequence[Prediction], split_references: References | None = None) -> list[float]:
        return [_probability(prediction) for prediction in predictions]


def _probability(prediction: Prediction) -> float:
    """nan where the likelihood was not asked; 0 of a broken model, whose likelihoods are no numbers."""
    if len(prediction.choices) > 1:
        nats = of_right_choice(prediction, prediction.log_likelihoods, "a log-likelihood")
        return 0.0 if np.isnan(prediction.log_likelihoods).any() else float(np.exp(nats - np.logaddexp.reduce(prediction.log_likelihoods)))
    if prediction.choices:
        return _per_word(of_right_choice(prediction, prediction.log_likelihoods, "a log-likelihood"), prediction.choices[0])
    if prediction.reference_log_likelihoods:
        return _per_word(prediction.reference_log_likelihoods[0], prediction.references[0])
    return math.nan


def _per_word(nats: float, answer: str) -> float:
    """The geometric mean over words of the probability of an answer."""
    return 0.0 if math.isnan(nats) else math.exp(nats / max(1, len(answer.split())))
