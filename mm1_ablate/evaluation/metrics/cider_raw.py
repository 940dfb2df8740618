"""CIDEr-D on strings as they are, split at white space: no PTB tokeniser, no Java.

Vedantam et al. 2015, "CIDEr: Consensus-based Image Description Evaluation"; the variant with clipping and a length penalty that
pycocoevalcap's `CiderScorer` computes: n-grams of 1 to 4 words, sigma 6, times 10, document frequency from the references given.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from mm1_ablate.evaluation.metrics import Metric, Prediction

ORDERS = 4
SIGMA = 6.0
Ngram = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Vector:
    """tf-idf weights by order of n-gram, their norms, and the number of bigrams (which stands for the length)."""

    weights: tuple[dict[Ngram, float], ...]
    norms: tuple[float, ...]
    bigrams: int


def _ngrams(text: str) -> Counter[Ngram]:
    words = text.split()
    return Counter(tuple(words[start : start + order]) for order in range(1, ORDERS + 1) for start in range(len(words) - order + 1))


def _vector(text: str, document_frequency: Mapping[Ngram, int], log_items: float) -> _Vector:
    weights: tuple[dict[Ngram, float], ...] = tuple({} for _ in range(ORDERS))
    bigrams = 0
    for ngram, count in _ngrams(text).items():
        weights[len(ngram) - 1][ngram] = count * (log_items - math.log(max(1, document_frequency.get(ngram, 0))))
        if len(ngram) == 2:
            bigrams += count
    return _Vector(weights, tuple(math.sqrt(sum(weight * weight for weight in order.values())) for order in weights), bigrams)


@lru_cache(maxsize=16)
def _reference_vectors(references: tuple[tuple[str, ...], ...]) -> tuple[dict[Ngram, int], list[list[_Vector]]]:
    """Document frequencies and vectors of a set of references; the same for every arm and number of shots, so kept."""
    frequency: Counter[Ngram] = Counter()
    for captions in references:
        frequency.update({ngram for caption in captions for ngram in _ngrams(caption)})
    log_items = math.log(len(references))
    return dict(frequency), [[_vector(caption, frequency, log_items) for caption in captions] for captions in references]


def _similarity(caption: _Vector, reference: _Vector) -> float:
    """Mean over orders of the clipped cosine, times the penalty for another length."""
    total = 0.0
    for order in range(ORDERS):
        wanted = reference.weights[order]
        product = sum(min(weight, wanted[ngram]) * wanted[ngram] for ngram, weight in caption.weights[order].items() if ngram in wanted)
        norms = caption.norms[order] * reference.norms[order]
        total += product / norms if norms else 0.0
    return total / ORDERS * math.exp(-((caption.bigrams - reference.bigrams) ** 2) / (2 * SIGMA**2))


class CiderRaw(Metric):
    """CIDEr-D of each caption: 0 to 10, where 1 is about what people reach on COCO.

    The document frequency is that of the references of exactly the items scored: over other items it is another metric, and over
    one item it is 0.
    """

    type: Literal["cider_raw"] = "cider_raw"

    def score(self, predictions: Sequence[Prediction]) -> list[float]:
        if not predictions:
            return []
        frequency, references = _reference_vectors(tuple(prediction.references for prediction in predictions))
        log_items = math.log(len(predictions))
        scores = []
        for prediction, captions in zip(predictions, references, strict=True):
            caption = _vector(prediction.text, frequency, log_items)
            scores.append(10 * sum(_similarity(caption, reference) for reference in captions) / len(captions) if captions else 0.0)
        return scores
