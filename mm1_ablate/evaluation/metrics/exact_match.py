"""Exact match: the answer is one of the accepted ones."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Literal

from mm1_ablate.evaluation.metrics import Metric, Prediction, References, best_reference, shares_accepted


class ExactMatch(Metric):
    """1 if the answer equals any reference, runs of white space counted as one space; else 0."""

    type: Literal["exact_match"] = "exact_match"
    ceiling = "one"
    ignore_case: bool = True
    """Compare in lower case."""
    ignore_punctuation: bool = False
    """Compare without ASCII punctuation."""
    ignore_articles: bool = False
    """Compare without the words a, an and the."""

    def _plain(self, text: str) -> str:
        if self.ignore_punctuation:
            text = text.translate(str.maketrans("", "", string.punctuation))
        if self.ignore_articles:
            text = re.sub(r"\b(?:a|an|the)\b", " ", text, flags=re.IGNORECASE)
        text = " ".join(text.split())
        return text.casefold() if self.ignore_case else text

    def score(self, predictions: Sequence[Prediction], split_references: References | None = None) -> list[float]:
        scores = []
        for prediction in predictions:
            answer = self._plain(prediction.text)
            scores.append(best_reference(prediction, [float(answer == self._plain(reference)) for reference in prediction.references]))
        return scores

    def means_of_constants(
        self, answers: Sequence[str], predictions: Sequence[Prediction], split_references: References | None = None
    ) -> list[float]:
        return shares_accepted(answers, predictions, self._plain)
