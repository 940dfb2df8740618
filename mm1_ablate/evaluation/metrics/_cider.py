"""CIDEr-D in numpy: what `cider_raw` and `cider_ptb` share.

References and captions in, a score for each caption out, that of pycocoevalcap's Python scorer. Vedantam et al. 2015, "CIDEr:
Consensus-based Image Description Evaluation", in the variant with clipping and a length penalty: n-grams of 1 to 4 words, sigma 6,
times 10. An n-gram is a number; the vectors of references are made once for a set of references and kept for the next arm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mm1_ablate.evaluation.metrics import Metric, Prediction, References

ORDERS = 4
SIGMA = 6.0
_WORD_BITS = 31
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Words = Callable[[str], Sequence[str]]


@dataclass(frozen=True, slots=True)
class _Counts:
    """How often each n-gram of one order stands in each text: arrays [pairs], in order of text, then n-gram."""

    text: Integers
    ngram: Integers
    count: Integers


class _Vocabulary:
    """Words and n-grams by number, and in how many items' references each n-gram occurs.

    An n-gram is known by the number of its first n - 1 words and its last word, so that one int64 holds both.

    Args:
        references: words of each reference, of each item.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        self.words: dict[str, int] = {}
        self.keys: dict[int, Integers] = {}
        """By order from 2, sorted keys of n-grams; the place of a key is the n-gram's number."""
        self.inverse_frequency: list[Floats] = []
        """For each order, log(items / items with the n-gram)."""
        texts = [caption for item in references for caption in item]
        item = np.repeat(np.arange(len(references)), [len(captions) for captions in references])
        log_items = math.log(len(references))
        for order, counts in enumerate(self._count(texts, learn=True), start=1):
            size = max(1, len(self.words) if order == 1 else len(self.keys[order]))
            pairs = np.unique(item[counts.text] * size + counts.ngram)
            frequency = np.bincount(pairs % size, minlength=size)
            self.inverse_frequency.append(log_items - np.log(np.maximum(1.0, frequency)))
        self.log_items = log_items

    def count(self, texts: Sequence[Sequence[str]]) -> list[_Counts]:
        """N-grams of each order in texts; unknown ones have numbers above those of the known."""
        return self._count(texts, learn=False)

    def _count(self, texts: Sequence[Sequence[str]], learn: bool) -> list[_Counts]:
        words = self.words if learn else dict(self.words)
        ngrams = np.array([words.setdefault(word, len(words)) for text in texts for word in text], dtype=np.int64)
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        text = np.repeat(np.arange(len(texts)), lengths)
        last_words = ngrams
        words_left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(text))  # from here to the end of the text
        found = []
        for order in range(1, ORDERS + 1):
            starts = np.flatnonzero(words_left >= order)
            if order > 1:
                keys = (ngrams[starts] << _WORD_BITS) | last_words[starts + order - 1]
                ngrams[starts] = self._numbers(keys, order, learn)
            else:
                ngrams = ngrams.copy()
            size = int(ngrams[starts].max(initial=0)) + 1
            pairs, count = np.unique(text[starts] * size + ngrams[starts], return_counts=True)
            found.append(_Counts(pairs // size, pairs % size, count))
        return found

    def _numbers(self, keys: Integers, order: int, learn: bool) -> Integers:
        if learn:
            self.keys[order], numbers = np.unique(keys, return_inverse=True)
            return numbers
        known = self.keys[order]
        numbers = np.searchsorted(known, keys)
        new = np.ones(len(keys), dtype=bool)
        inside = numbers < len(known)
        new[inside] = known[numbers[inside]] != keys[inside]
        numbers[new] = len(known) + np.unique(keys[new], return_inverse=True)[1]
        return numbers

    def weights(self, counts: _Counts, order: int) -> Floats:
        """tf-idf of each n-gram in each text, order from 0; one that no reference has counts as if one had it."""
        inverse = self.inverse_frequency[order]
        known = counts.ngram < len(inverse)
        weights = np.full(len(counts.ngram), self.log_items)
        weights[known] = inverse[counts.ngram[known]]
        return weights * counts.count


def _sums(place: Integers, values: NDArray[np.generic], size: int) -> Floats:
    """Sums of the values of each place, [size]."""
    return np.bincount(place, values, minlength=size).astype(np.float64)  # bincount of nothing would be integers


def _norms(counts: _Counts, weights: Floats, texts: int) -> Floats:
    return np.sqrt(_sums(counts.text, weights * weights, texts))


def _bigrams(counts: Sequence[_Counts], texts: int) -> Floats:
    """How many there are in each text, which stands for its length."""
    return _sums(counts[1].text, counts[1].count, texts)


class ReferenceVectors:
    """The references of the items to be scored, ready to be compared with captions.

    Args:
        references: of each item; at least one.
        frequency_references: of each item of the set that the document frequency is that of.
        words: splits a text into words.
    """

    def __init__(self, references: References, frequency_references: References, words: Words) -> None:
        self._split = words
        own = [[words(text) for text in item] for item in references]
        same = frequency_references is references
        self._vocabulary = _Vocabulary(own if same else [[words(text) for text in item] for item in frequency_references])
        texts = [caption for item in own for caption in item]
        self._per_item = np.array([len(captions) for captions in references], dtype=np.int64)
        self._item = np.repeat(np.arange(len(own)), self._per_item)
        counts = self._vocabulary.count(texts)
        self._bigrams = _bigrams(counts, len(texts))
        self._orders = []
        for order, own_counts in enumerate(counts):
            weights = self._vocabulary.weights(own_counts, order)
            size = int(own_counts.ngram.max(initial=0)) + 1
            key = self._item[own_counts.text] * size + own_counts.ngram
            sorting = np.argsort(key, kind="stable")
            norms = _norms(own_counts, weights, len(texts))
            self._orders.append((size, key[sorting], own_counts.text[sorting], weights[sorting], norms))

    def means_of_constants(self, captions: Sequence[str]) -> Floats:
        """Mean CIDEr-D over all items of each caption, if it were the answer to every item, [captions].

        With min(a, b) as the number of k for which both are at least k, what an n-gram adds is a product of something of the caption and
        something of the references. So sums over all references, for each length, are made once and serve all captions.
        """
        counts = self._vocabulary.count([self._split(caption) for caption in captions])
        lengths = _bigrams(counts, len(captions))
        own_lengths, at_length = np.unique(self._bigrams, return_inverse=True)
        share = 1 / (self._per_item[self._item] * len(self._per_item))
        means = np.zeros(len(captions))
        for order, own in enumerate(counts):
            size, keys, texts, wanted, norms = self._orders[order]
            known = self._vocabulary.inverse_frequency[order]
            ngram = keys % size
            idf = np.where(ngram < len(known), known[np.minimum(ngram, len(known) - 1)], self._vocabulary.log_items)
            # Where the weight of an n-gram is 0 its count does not matter.
            times = np.divide(wanted, idf, out=np.zeros_like(wanted), where=idf > 0).round().astype(np.int64)
            value = np.divide(share[texts] * wanted * idf, norms[texts], out=np.zeros_like(wanted), where=norms[texts] > 0)
            own_norms = _norms(own, self._vocabulary.weights(own, order), len(captions))
            sums = np.zeros(len(captions))
            for level in range(1, int(times.max(initial=0)) + 1):
                in_reference, in_caption = times >= level, (own.count >= level) & (own.ngram < size)
                column = at_length[texts[in_reference]] * size + ngram[in_reference]
                table = np.bincount(column, value[in_reference], minlength=len(own_lengths) * size).reshape(len(own_lengths), size)
                for length in np.unique(lengths):
                    penalty = np.exp(-((length - own_lengths) ** 2) / (2 * SIGMA**2))
                    here = in_caption & (lengths[own.text] == length)
                    sums += _sums(own.text[here], (penalty @ table)[own.ngram[here]], len(captions))
            means += np.divide(sums, own_norms, out=np.zeros_like(sums), where=own_norms > 0)
        return 10 * means / ORDERS

    def score(self, captions: Sequence[str]) -> Floats:
        """CIDEr-D of a caption for each item, [items]."""
        counts = self._vocabulary.count([self._split(caption) for caption in captions])
        similarity = np.zeros(len(self._item))
        for order, (size, keys, texts, wanted, norms) in enumerate(self._orders):
            own = counts[order]
            weights = self._vocabulary.weights(own, order)
            # Every reference of the same item that has the same n-gram.
            key = np.where(own.ngram < size, own.text * size + own.ngram, -1)
            begin, end = np.searchsorted(keys, key, "left"), np.searchsorted(keys, key, "right")
            shared = end - begin
            at = np.repeat(begin - np.concatenate(([0], np.cumsum(shared)[:-1])), shared) + np.arange(shared.sum())
            product = np.minimum(np.repeat(weights, shared), wanted[at]) * wanted[at]
            dot = _sums(texts[at], product, len(self._item))
            scale = _norms(own, weights, len(captions))[self._item] * norms
            similarity += np.divide(dot, scale, out=np.zeros_like(dot), where=scale > 0)
        difference = _bigrams(counts, len(captions))[self._item] - self._bigrams
        similarity *= np.exp(-(difference**2) / (2 * SIGMA**2)) / ORDERS
        return 10 * _sums(self._item, similarity, len(captions)) / self._per_item


@lru_cache(maxsize=16)
def reference_vectors(
    references: tuple[tuple[str, ...], ...], frequency_references: tuple[tuple[str, ...], ...] | None, words: Words
) -> ReferenceVectors:
    """The same for every arm and number of shots, so kept."""
    return ReferenceVectors(references, references if frequency_references is None else frequency_references, words)


class Cider(Metric):
    """Settings and rule that the two variants share; `words` tells them apart."""

    frequency: Literal["items", "split"] = "items"
    """Where the document frequency comes from: the references of the items that are scored, or of all items of their split. Over other
    items CIDEr is another metric: with `split`, scores of a part of the items are comparable with those of all, and with others'."""

    @property
    def wants_split_references(self) -> bool:
        return self.frequency == "split"

    def words(self) -> Words:
        """What splits a text; the same object at each call, as vectors are kept by it."""
        raise TypeError(f"{type(self).__name__} does not implement how it splits words")

    def score(self, predictions: Sequence[Prediction], split_references: References | None = None) -> list[float]:
        scores = np.full(len(predictions), np.nan)
        judged = [number for number, prediction in enumerate(predictions) if prediction.references]
        vectors = self._vectors([predictions[number] for number in judged], split_references)
        if vectors is not None:
            scores[judged] = vectors.score([predictions[number].text for number in judged])
        return scores.tolist()

    def means_of_constants(
        self, answers: Sequence[str], predictions: Sequence[Prediction], split_references: References | None = None
    ) -> list[float]:
        vectors = self._vectors([one for one in predictions if one.references], split_references)
        return vectors.means_of_constants(answers).tolist() if vectors is not None else [math.nan] * len(answers)

    def _vectors(self, judged: Sequence[Prediction], split_references: References | None) -> ReferenceVectors | None:
        """Of the references of items; nothing where there are no items."""
        if self.frequency == "split" and split_references is None:
            raise ValueError(f"{self.type} with frequency: split needs the references of all items of the split")
        split = tuple(tuple(own) for own in split_references or () if own) if self.frequency == "split" else None
        return reference_vectors(tuple(one.references for one in judged), split, self.words()) if judged else None
