"""What a model that learnt nothing scores: the best constant answer, or a random choice. And what no model can surpass.

Predictions of a task in (only their references and choices count), a number on the scale of tables out. Pure functions: the same items
give the same floor and ceiling, in whatever order they come.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from mm1_ablate.evaluation.metrics import Metric, Prediction, References

CANDIDATES = 64
"""Answers that are tried at most: half of them the most frequent, half the most typical."""


@dataclass(frozen=True, slots=True)
class Floor:
    """A score that needs no image and no question.

    Attributes:
        value: on the scale of tables.
        answer: the constant answer that scores it; empty for a random choice.
    """

    value: float
    answer: str = ""


def floor(metric: Metric, predictions: Sequence[Prediction], split_references: References | None = None) -> Floor | None:
    """The floor of a task under a metric; None where the metric has none, as perplexity, or no item can be judged."""
    if metric.floor == "chance" and predictions:
        return Floor(metric.scale * chance(predictions))
    if metric.floor == "constant_answer" and any(prediction.references for prediction in predictions):
        return constant_answer(metric, predictions, split_references)
    return None


def chance(predictions: Sequence[Prediction]) -> float:
    """How often a random choice is right: the mean of 1 / number of choices, of 1."""
    return math.fsum(1 / len(prediction.choices) for prediction in predictions) / len(predictions)


def constant_answer(
    metric: Metric, predictions: Sequence[Prediction], split_references: References | None = None, candidates: int = CANDIDATES
) -> Floor:
    """The reference that scores best as the answer to every item; of equally good ones the first in the alphabet.

    No more than `candidates` are tried, so for captions, which seldom occur twice, it is a lower bound of the best constant answer.

    Raises:
        ValueError: where no item has a reference.
    """
    answers = _promising([prediction.references for prediction in predictions], candidates)
    if not answers:
        raise ValueError("no item has a reference, so there is no constant answer")
    # In the order of items, so that sums come out to the last bit whatever the order was.
    items = sorted(predictions, key=lambda prediction: (prediction.item, prediction.references))
    scored = (
        Floor(metric.scale * metric.aggregate(metric.score([replace(one, text=answer) for one in items], split_references)), answer)
        for answer in sorted(answers)
    )
    return max(scored, key=lambda one: one.value if metric.higher_is_better else -one.value)


def ceiling(metric: Metric, predictions: Sequence[Prediction], split_references: References | None = None) -> float | None:
    """The best score that can be reached, on the scale of tables; None where it is not known.

    It is below 100 where annotators disagree: whatever the answer, VQA accuracy never agrees with all of them.
    """
    if metric.ceiling == "one":
        return metric.scale
    answers = [tuple(dict.fromkeys(prediction.references)) for prediction in predictions]
    if metric.ceiling == "none" or not any(answers):
        return None
    best = [math.nan] * len(predictions)
    for place in range(max(map(len, answers))):
        # An item with fewer answers gives its last one again.
        given = [replace(one, text=own[min(place, len(own) - 1)] if own else "") for one, own in zip(predictions, answers, strict=True)]
        found = metric.score(given, split_references)
        best = [score if math.isnan(old) else max(old, score) for old, score in zip(best, found, strict=True)]
    return metric.scale * metric.aggregate(best)


def _promising(references: References, most: int) -> list[str]:
    """The answers that most items have among their references, and those whose words and pairs of words most items have."""
    spellings: dict[str, Counter[str]] = {}
    items_with: Counter[str] = Counter()
    items_with_part: Counter[str] = Counter()
    for own in references:
        plain = {reference: _plain(reference) for reference in own}
        items_with.update(set(plain.values()))
        items_with_part.update({part for text in set(plain.values()) for part in _parts(text)})
        for reference in own:
            spellings.setdefault(plain[reference], Counter())[reference] += 1

    def typicality(text: str) -> float:
        parts = _parts(text)
        return sum(items_with_part[part] for part in parts) / len(parts) if parts else 0.0

    by_frequency = sorted(spellings, key=lambda text: (-items_with[text], text))[: (most + 1) // 2]
    taken = set(by_frequency)
    by_typicality = sorted((text for text in spellings if text not in taken), key=lambda text: (-typicality(text), text))
    chosen = (by_frequency + by_typicality)[:most]
    # Of spellings that hardly differ, such as Yes and yes, the most frequent one stands for all.
    return [min(spellings[text], key=lambda spelling: (-spellings[text][spelling], spelling)) for text in chosen]


def _plain(text: str) -> str:
    return " ".join(re.sub(r"\W+", " ", text.casefold()).split()) or text.strip()


def _parts(text: str) -> list[str]:
    """Words and neighbouring pairs of them, as a list so that sums over it come in one order."""
    words = text.split()
    return list(dict.fromkeys([*words, *(f"{first} {second}" for first, second in pairwise(words))]))
