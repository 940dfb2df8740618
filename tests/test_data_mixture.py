"""The mixture: exact at every prefix, the same order inside a source for every arm, resumed from a few integers."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm1_ablate.data.documents import Document
from mm1_ablate.data.mixture import Mixture
from mm1_ablate.data.randomness import permuted
from mm1_ablate.spec.experiment import Data

WEIGHTS = st.lists(st.integers(1, 1000), min_size=1, max_size=8)


class Listed:
    """A source of documents of given lengths in words."""

    def __init__(self, name: str, lengths: list[int]) -> None:
        self.name, self.lengths = name, lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Document:
        return Document(f"{self.name}/{index}", self.name, "text", ("word " * self.lengths[index],))


def words(document: Document) -> int:
    return len(document.text.split())


def mixture_of(weights: list[int], lengths: list[int] | None = None, count: str = "documents", seed: int = 0) -> Mixture:
    names = [f"source-{place}" for place in range(len(weights))]
    shares = {name: Fraction(weight, sum(weights)) for name, weight in zip(names, weights, strict=True)}
    return Mixture(shares, {name: Listed(name, lengths or [3] * 5) for name in names}, count, seed, words)  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(WEIGHTS)
def test_every_source_is_within_one_document_of_its_share_at_every_prefix(weights: list[int]):
    mixture = mixture_of(weights)
    for drawn in range(1, 300):
        next(mixture)
        for count, weight in zip(mixture.drawn.values(), weights, strict=True):
            assert abs(count - Fraction(weight * drawn, sum(weights))) < 1


@settings(max_examples=40, deadline=None)
@given(WEIGHTS, st.lists(st.integers(1, 60), min_size=1, max_size=20))
def test_by_tokens_every_source_stays_within_two_of_the_longest_documents(weights: list[int], lengths: list[int]):
    mixture = mixture_of(weights, lengths, "tokens")
    for _ in range(300):
        next(mixture)
        tokens = mixture.state()["tokens"]
        for count, weight in zip(tokens.values(), weights, strict=True):
            assert abs(count - Fraction(weight * sum(tokens.values()), sum(weights))) < 2 * max(lengths)


def test_one_source_of_three_documents_is_read_once_an_epoch_in_another_order_each():
    mixture = mixture_of([1], [1] * 50)
    epochs = [[next(mixture).key for _ in range(50)] for _ in range(3)]
    assert all(len(set(epoch)) == 50 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert mixture.epochs == {"source-0": 3.0}


def test_arms_that_differ_in_their_mixture_read_each_source_in_the_same_order():
    orders = []
    for weights in ([45, 45, 10], [1, 97, 2], [5, 1, 1]):
        keys = [next(mixture).key for mixture in [mixture_of(weights, [1] * 40)] for _ in range(400)]
        orders.append({name: [key for key in keys if key.startswith(name)] for name in ("source-0", "source-1", "source-2")})
    for name in orders[0]:
        shortest = min(len(order[name]) for order in orders)
        assert orders[0][name][:shortest] == orders[1][name][:shortest] == orders[2][name][:shortest]


def test_seeds_order_differently():
    assert [next(mixture_of([1], [1] * 9, seed=seed)).key for seed in range(9)] != ["source-0/0"] * 9


def test_the_sequence_is_the_same_for_ever():
    mixture = mixture_of([45, 45, 10])
    drawn = " ".join(next(mixture).key.removeprefix("source-") for _ in range(12))
    assert drawn == "0/0 1/2 0/2 1/1 0/3 1/0 0/1 1/4 2/3 0/4 1/3 0/0"


@settings(max_examples=25, deadline=None)
@given(WEIGHTS, st.sampled_from(["documents", "tokens"]), st.integers(0, 120))
def test_a_restored_mixture_continues_exactly(weights: list[int], count: str, position: int):
    lengths = [3, 1, 9, 4, 4, 7, 30]
    whole, fresh = mixture_of(weights, lengths, count), mixture_of(weights, lengths, count)
    for _ in range(position):
        next(whole)
    fresh.restore(whole.state())
    assert fresh.position == whole.position == position
    assert [next(fresh).key for _ in range(50)] == [next(whole).key for _ in range(50)]


def test_weights_are_weights():
    def shares(mixture):
        source = {"type": "miniature", "content": "text"}
        return Data(mixture=mixture, sources={name: {**source, "data_type": name} for name in mixture}).shares()

    assert shares({"captioned": 45, "interleaved": 45, "text": 9}) == shares({"captioned": 5, "interleaved": 5, "text": 1})
    assert shares({"captioned": 66, "interleaved": 33}) == {"captioned": Fraction(2, 3), "interleaved": Fraction(1, 3)}


def test_nothing_to_draw_from_is_an_error():
    with pytest.raises(ValueError, match="source 'empty' has no documents"):
        Mixture({"empty": Fraction(1)}, {"empty": Listed("empty", [])})
    with pytest.raises(ValueError, match="at least one source"):
        Mixture({}, {})
    with pytest.raises(ValueError, match="the state is of sources"):
        mixture_of([1, 1]).restore(mixture_of([1]).state())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(1, 300))
def test_the_order_of_an_epoch_is_a_permutation(key: int, length: int):
    assert sorted(permuted(key, index, length) for index in range(length)) == list(range(length))
