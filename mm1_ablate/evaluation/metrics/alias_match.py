"""Alias match: the answer is any of the accepted names, normalised as TriviaQA's official evaluation does it.

Joshi et al. 2017, "TriviaQA: A Large Scale Distantly Supervised Challenge Dataset for Reading Comprehension"; the exact match of the
dataset's own script. Serves WebQuestions too, with its accepted answers as the aliases.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from mm1_ablate.evaluation.metrics import Metric, Prediction, References, best_reference, shares_accepted

_TO_SPACE = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


@lru_cache(maxsize=1 << 16)
def normalise(text: str) -> str:
    """Lower case; punctuation (underscores and curly quotes included) and the articles give way to a space; single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_TO_SPACE)).split())


class AliasMatch(Metric):
    """1 if the normalised answer equals any normalised reference; else 0. References may be normalised already: nothing changes then."""

    type: Literal["alias_match"] = "alias_match"
    ceiling = "one"

    def score(self, predictions: Sequence[Prediction], split_references: References | None = None) -> list[float]:
        scores = []
        for prediction in predictions:
            answer = normalise(prediction.text)
            scores.append(best_reference(prediction, [float(answer == normalise(alias)) for alias in prediction.references]))
        return scores

    def means_of_constants(
        self, answers: Sequence[str], predictions: Sequence[Prediction], split_references: References | None = None
    ) -> list[float]:
        return shares_accepted(answers, predictions, normalise)
