"""Loss per token of text, as training reports it: comparable between models of one tokenizer only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mm1_ablate.evaluation.metrics import Metric, Prediction, References
from mm1_ablate.evaluation.metrics._likelihood import of_right_choice, shares_of_ratio, surprise


class TokenLoss(Metric):
    """Negative log-likelihood of all items together in nats, divided by their tokens.

    The score of an item is its nats divided by the mean tokens of an item, so that the mean of scores is the ratio of the totals.
    """

    type: Literal["token_loss"] = "token_loss"
    kind = "choose"
    scale = 1.0
    higher_is_better = False
    floor = "none"

    def score(self, predictions: Sequence[Prediction], split_references: References | None = None) -> list[float]:
        tokens = [of_right_choice(prediction, prediction.token_counts, "a number of tokens") for prediction in predictions]
        return shares_of_ratio([surprise(prediction) for prediction in predictions], tokens)
