"""Exact match: the answer is one of the accepted ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mm1_ablate.evaluation.metrics import Metric, Prediction


class ExactMatch(Metric):
    """1 if the answer equals any reference, runs of white space counted as one space; else 0."""

    type: Literal["exact_match"] = "exact_match"
    ignore_case: bool = True
    """Compare in lower case."""

    def _plain(self, text: str) -> str:
        text = " ".join(text.split())
        return text.casefold() if self.ignore_case else text

    def score(self, predictions: Sequence[Prediction]) -> list[float]:
        return [
            float(self._plain(prediction.text) in {self._plain(reference) for reference in prediction.references})
            for prediction in predictions
        ]
