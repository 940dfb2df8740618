"""Bits per byte of text: how well a model predicts it, whatever its tokenizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from mm1_ablate.evaluation.metrics import Metric, Prediction, References
from mm1_ablate.evaluation.metrics._likelihood import of_right_choice, shares_of_ratio, surprise


class BitsPerByte(Metric):
    """Negative log2-likelihood of all items together, divided by their bytes in UTF-8.

    The score of an item is its bits divided by the mean bytes of an item, so that the mean of scores is the ratio of the totals.
    """

    type: Literal["bits_per_byte"] = "bits_per_byte"
    kind = "choose"
    scale = 1.0
    higher_is_better = False
    floor = "none"

    def score(self, predictions: Sequence[Prediction], split_references: References | None = None) -> list[float]:
        counts = [one.byte_counts or tuple(len(choice.encode()) for choice in one.choices) for one in predictions]
        sizes = [of_right_choice(one, own, "a number of bytes") for one, own in zip(predictions, counts, strict=True)]
        return shares_of_ratio([surprise(prediction) / math.log(2) for prediction in predictions], sizes)
