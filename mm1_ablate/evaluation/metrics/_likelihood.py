"""What metrics over likelihoods share: the values of the right choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from mm1_ablate.evaluation.metrics import Prediction

Value = TypeVar("Value")


def of_right_choice(prediction: Prediction, values: Sequence[Value], what: str) -> Value:
    """The value of the right choice.

    Raises:
        ValueError: where there is no correct choice, or not a value for each choice.
    """
    if prediction.correct is None or len(values) != len(prediction.choices):
        raise ValueError(f"item {prediction.item}: needs a correct choice and {what} of each choice")
    return values[prediction.correct]


def surprise(prediction: Prediction) -> float:
    """Negative log-likelihood of the right choice, in nats."""
    return -of_right_choice(prediction, prediction.log_likelihoods, "a log-likelihood")


def shares_of_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Numbers whose mean is the sum of the numerators over the sum of the denominators.

    So a ratio of totals has a score for each item, and item statistics hold for it as for any mean.
    """
    mean = sum(denominators) / len(denominators) if denominators else 0.0
    if denominators and mean <= 0:
        raise ValueError("nothing to divide by: all items are empty")
    return [numerator / mean for numerator in numerators]
