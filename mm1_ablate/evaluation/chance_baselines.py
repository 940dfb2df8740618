"""Chance baselines: what a model that has not learnt anything scores, the best constant answer or choice. And the best score possible.

Predictions of a task in (only their references and choices count), a number on the scale of tables out. Pure functions: the same items
give the same baseline and ceiling, in whatever order they come.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from mm1_ablate.evaluation.metrics import Metric, Prediction, References

RULE = 2
"""Version of the rules of baselines and ceilings: increased when they give other results for the same items, as reports keep them."""
SCORED = 1_000_000
"""Item scores that the search for a constant answer may take, where a metric cannot tell what many answers score at once."""
FEWEST = 64
"""Answers that are tried in any case: half of them the most frequent, half the most typical."""

PLACE = "always choice "
"""Begins the answer of a baseline that is the choice at one place, whose number from 1 comes after it."""


@dataclass(frozen=True, slots=True)
class ChanceBaseline:
    """A score that needs no image and no question.

    Attributes:
        value: on the scale of tables.
        answer: the constant answer or choice that scores it; empty for a random choice.
    """

    value: float
    answer: str = ""


def chance_baseline(metric: Metric, predictions: Sequence[Prediction], split_references: References | None = None) -> ChanceBaseline | None:
    """The chance baseline of a task under a metric; None where the metric has none, as perplexity, or no item can be judged."""
    if metric.floor == "constant_choice" and predictions:
        return constant_choice(metric, predictions)
    if metric.floor == "constant_answer" and any(prediction.references for prediction in predictions):
        return constant_answer(metric, predictions, split_references)
    return None


def random_choice(predictions: Sequence[Prediction]) -> float:
    """How often a random choice is right: the mean of 1 / number of choices, of 1."""
    return math.fsum(1 / len(prediction.choices) for prediction in predictions) / len(predictions)


def constant_choice(metric: Metric, predictions: Sequence[Prediction]) -> ChanceBaseline:
    """The best of three: a random choice, always the choice at the same place, always the same text where it can be chosen.

    Where it is not known which choice is right, its text is the first reference. A place counts only where the right choice stands at
    several places: a record that always lists it at the same one (SciQ, whose last choice is right) says nothing about chance, as
    models do not see the order.
    """
    total = len(predictions)
    found = [ChanceBaseline(metric.scale * random_choice(predictions))]
    texts = Counter(right for prediction in predictions if (right := _right_choice(prediction)))
    if texts:
        text, times = min(texts.items(), key=lambda entry: (-entry[1], entry[0]))
        found.append(ChanceBaseline(metric.scale * times / total, text))
    places = Counter(prediction.correct for prediction in predictions if prediction.correct is not None)
    if len(places) > 1:
        place, times = min(places.items(), key=lambda entry: (-entry[1], entry[0]))
        found.append(ChanceBaseline(metric.scale * times / total, f"{PLACE}{place + 1}"))
    return max(found, key=lambda one: one.value)


def _right_choice(prediction: Prediction) -> str:
    if prediction.correct is not None:
        return prediction.choices[prediction.correct]
    return prediction.references[0] if prediction.references else ""


def constant_answer(metric: Metric, predictions: Sequence[Prediction], split_references: References | None = None) -> ChanceBaseline:
    """The reference that scores best as the answer to every item; of equally good ones the most frequent, then the first in the alphabet.

    No reference is better, unless the metric cannot tell what many answers score at once and there are more items and different answers
    than `SCORED` allows: then those that are tried are the most frequent and the most typical ones.

    Raises:
        ValueError: where no item has a reference.
    """
    # In the order of items, so that sums come out to the last bit whatever the order was.
    items = sorted(predictions, key=lambda prediction: (prediction.item, prediction.references))
    frequency = Counter(reference for one in items for reference in one.references)
    if not frequency:
        raise ValueError("no item has a reference, so there is no constant answer")
    at_once = type(metric).means_of_constants is not Metric.means_of_constants
    most = len(frequency) if at_once else max(FEWEST, SCORED // len(items))
    answers = sorted(frequency) if len(frequency) <= most else sorted(_promising([one.references for one in items], most))
    means = metric.means_of_constants(answers, items, split_references)
    sign = 1 if metric.higher_is_better else -1

    def order(entry: tuple[str, float]) -> tuple[float, int, str]:
        # Sums of the same numbers in another order may differ in the last bits.
        return -sign * round(entry[1], 12), -frequency[entry[0]], entry[0]

    best = min(zip(answers, means, strict=True), key=order)[0]
    scores = metric.score([replace(one, text=best) for one in items], split_references)
    return ChanceBaseline(metric.scale * metric.aggregate(scores), best)


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


def can_score(metric: Metric, predictions: Sequence[Prediction], answers: References) -> bool:
    """Whether any item can have another score than 0, with these answers to choose from for each."""
    size = 16
    while True:
        few = list(zip(predictions[:size], answers[:size], strict=True))
        for place in range(max((len(own) for _, own in few), default=0)):
            given = [replace(one, text=own[min(place, len(own) - 1)] if own else "") for one, own in few]
            if any(score > 0 for score in metric.score(given)):
                return True
        if size >= len(predictions):
            return False
        size *= 16


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
