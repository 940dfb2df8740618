"""The mixture: exact at every prefix, the same order inside a source for every arm, resumed from a few integers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm1_ablate.config.data import Data
from mm1_ablate.data.counter_based_random import permuted
from mm1_ablate.data.documents import Document, LeftOut, Unreadable
from mm1_ablate.data.mixture import Mixture

WEIGHTS = st.lists(st.integers(1, 1000), min_size=1, max_size=8)


class Listed:
    """A source of documents of given lengths in words. One of length 0 is bad data, one of length -1 is not kept."""

    def __init__(self, name: str, lengths: list[int]) -> None:
        self.name, self.lengths = name, lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Document:
        if self.lengths[index] == 0:
            raise Unreadable("empty text", f"{self.name}/{index}")
        if self.lengths[index] < 0:
            raise LeftOut("text of fewer than 1 characters")
        return Document(f"{self.name}/{index}", self.name, "text", ("word " * self.lengths[index],))


def words(document: Document) -> int:
    return len(document.text.split())


def mixture_of(
    weights: list[int],
    lengths: list[int] | None = None,
    count: str = "documents",
    seed: int = 0,
    max_epochs: Sequence[float | None] = (),
) -> Mixture:
    names = [f"source-{place}" for place in range(len(weights))]
    shares = {name: Fraction(weight, sum(weights)) for name, weight in zip(names, weights, strict=True)}
    sources = {name: Listed(name, lengths or [3] * 5) for name in names}
    epochs = dict(zip(names, max_epochs, strict=False))
    return Mixture(shares, sources, count, seed, words, epochs)  # type: ignore[arg-type]


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


# ---------------------------------------------------------------- documents that cannot be used
UNUSABLE = st.lists(st.sampled_from([0, -1, 3, 5]), min_size=1, max_size=12).filter(lambda lengths: max(lengths) > 0)


@settings(max_examples=40, deadline=None)
@given(WEIGHTS, UNUSABLE)
def test_shares_are_exact_over_the_documents_that_can_be_used(weights: list[int], lengths: list[int]):
    mixture = mixture_of(weights, lengths)
    for drawn in range(1, 150):
        assert words(next(mixture)) > 0
        for count, weight in zip(mixture.drawn.values(), weights, strict=True):
            assert abs(count - Fraction(weight * drawn, sum(weights))) < 1


@settings(max_examples=25, deadline=None)
@given(UNUSABLE)
def test_what_cannot_be_used_is_counted_and_the_rest_keeps_its_order(lengths: list[int]):
    mixture = mixture_of([1], lengths)
    drawn = [next(mixture).key for _ in range(40)]
    # The order of the same source with every document in it.
    clean = mixture_of([1], [1] * len(lengths))
    usable = [key for key in (next(clean).key for _ in range(40 * len(lengths))) if lengths[int(key.split("/")[1])] > 0]
    assert drawn == usable[:40]
    accounting = mixture.accounting["source-0"]
    assert (accounting.documents, accounting.drawn) == (40, 40 + accounting.bad_documents + accounting.left_out.total())
    assert accounting.bad_documents == accounting.bad["empty text"]
    assert mixture.epochs["source-0"] == accounting.drawn / len(lengths)


@pytest.mark.parametrize("max_epochs", [[], [0.5], [3]])
def test_a_source_of_which_nothing_can_be_used_is_an_error_that_says_why(max_epochs: list[float]):
    with pytest.raises(ValueError, match=r"none of the .* documents of source 'source-0' can be used: \d+ empty text .*fewer than 1 char"):
        next(mixture_of([1], [0, 0, -1, -1, -1, -1], max_epochs=max_epochs))


def test_one_usable_document_among_many_is_enough_wherever_the_epochs_put_it():
    mixture = mixture_of([1], [0] * 30 + [1])
    assert {next(mixture).key for _ in range(50)} == {"source-0/30"}
    assert mixture.epochs["source-0"] > 49


def test_a_refused_document_is_dropped_for_the_reason_given():
    source = Listed("source", [1, 2, 3])
    refuse = lambda document: "too long" if words(document) > 2 else None  # noqa: E731
    mixture = Mixture({"source": Fraction(1)}, {"source": source}, refuse=refuse)
    assert {next(mixture).key for _ in range(8)} == {"source/0", "source/1"}
    assert mixture.accounting["source"].dropped["too long"] >= 3


# ---------------------------------------------------------------- sources that may not be repeated for ever
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 1000), st.sampled_from([0.5, 1, 1.5, 4])), min_size=1, max_size=8), UNUSABLE)
def test_a_used_up_source_leaves_and_the_others_are_exact_from_then_on(declared: list[tuple[int, float]], lengths: list[int]):
    lengths = [*lengths, 1]
    mixture = mixture_of([weight for weight, _ in declared], lengths, max_epochs=[most for _, most in declared])
    weights = dict(zip(mixture.drawn, (weight for weight, _ in declared), strict=True))
    base = previous = mixture.drawn
    left: list[str] = []
    try:
        for _ in mixture:
            if mixture.used_up != left:
                base, left = previous, mixture.used_up
            previous = mixture.drawn
            seen = {name: previous[name] - base[name] for name in weights}
            whole = sum(weight for name, weight in weights.items() if name not in left)
            for name, weight in weights.items():
                expected = Fraction(0) if name in left else Fraction(weight * sum(seen.values()), whole)
                assert abs(seen[name] - expected) < 1
    except ValueError as error:
        # Half an epoch may hold no usable document; that is said, not passed over.
        assert "can be used" in str(error)
        return
    assert mixture.used_up == list(weights)
    for name, (_, most) in zip(weights, declared, strict=True):
        assert mixture.epochs[name] == int(most * len(lengths)) / len(lengths)


@pytest.mark.parametrize("count", ["documents", "tokens"])
def test_epochs_are_whole_and_each_document_comes_so_often(count: str):
    mixture = mixture_of([1, 3], [1, 5, 2, 9], count, max_epochs=[2, 3])
    keys = [document.key for document in mixture]
    assert {keys.count(f"source-0/{index}") for index in range(4)} == {2}
    assert {keys.count(f"source-1/{index}") for index in range(4)} == {3}
    with pytest.raises(StopIteration):
        next(mixture)


def test_an_endless_source_takes_over_from_a_used_up_one():
    mixture = mixture_of([1, 1, 2], [1] * 10, max_epochs=[None, None, 1])
    for _ in range(120):
        next(mixture)
    assert mixture.drawn == {"source-0": 55, "source-1": 55, "source-2": 10}
    assert mixture.used_up == ["source-2"]


def test_epochs_that_are_no_document_are_an_error():
    with pytest.raises(ValueError, match=r"0\.1 epochs of source 'source-0' with its 5 documents are less than one document"):
        mixture_of([1], max_epochs=[0.1])


@settings(max_examples=40, deadline=None)
@given(WEIGHTS, UNUSABLE, st.sampled_from(["documents", "tokens"]), st.integers(0, 80))
def test_a_mixture_restored_past_rejections_and_used_up_sources_continues_exactly(
    weights: list[int], lengths: list[int], count: str, position: int
):
    def drawn(mixture: Mixture, most: int) -> list[str]:
        return [document.key for _, document in zip(range(most), mixture, strict=False)]

    epochs = [float(2 + place % 3) for place in range(len(weights))]
    whole, fresh = (mixture_of(weights, lengths, count, max_epochs=epochs) for _ in range(2))
    drawn(whole, position)
    fresh.restore(json.loads(json.dumps(whole.state())))
    assert drawn(fresh, 60) == drawn(whole, 60)
    assert fresh.accounting.account() == whole.accounting.account() and fresh.used_up == whole.used_up


# ---------------------------------------------------------------- what is declared
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
