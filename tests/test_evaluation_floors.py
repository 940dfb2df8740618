"""Floors: what needs neither image nor question."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm1_ablate.evaluation.floors import Floor, chance, constant_answer, floor
from mm1_ablate.evaluation.metrics import Prediction
from mm1_ablate.evaluation.metrics.choice_accuracy import ChoiceAccuracy
from mm1_ablate.evaluation.metrics.cider_raw import CiderRaw
from mm1_ablate.evaluation.metrics.exact_match import ExactMatch
from mm1_ablate.evaluation.metrics.perplexity import Perplexity
from mm1_ablate.evaluation.metrics.vqa_accuracy import VqaAccuracy


def items(*references: tuple[str, ...]) -> list[Prediction]:
    return [Prediction(str(place), "what a model said", own) for place, own in enumerate(references)]


def choices(*counts: int) -> list[Prediction]:
    return [Prediction(str(place), "", (), tuple("abcdefgh"[:count]), 0, (0.0,) * count) for place, count in enumerate(counts)]


def test_the_best_constant_answer_is_the_one_that_most_items_accept() -> None:
    assert floor(ExactMatch(), items(("red", "dark red"), ("red",), ("blue",), ("Blue", "red"))) == Floor(75.0, "red")


def test_chance_is_one_in_the_number_of_choices() -> None:
    assert chance(choices(2, 4)) == pytest.approx(0.375)
    assert floor(ChoiceAccuracy(), choices(2, 4)) == Floor(37.5)


def test_there_is_no_floor_where_nothing_is_accepted_or_likelihood_is_measured() -> None:
    assert floor(Perplexity(), choices(1)) is None
    assert floor(ExactMatch(), items((), ())) is None
    with pytest.raises(ValueError, match="no item has a reference"):
        constant_answer(ExactMatch(), items(()))


def test_an_answer_that_few_annotators_give_of_many_items_can_be_the_best() -> None:
    split = ("unanswerable",) * 2
    found = floor(VqaAccuracy(), items(("red",) * 8 + split, ("blue",) * 8 + split, ("dog",) * 8 + split))
    assert found == Floor(pytest.approx(60.0), "unanswerable")


def test_the_constant_caption_is_a_typical_one() -> None:
    common = [(f"a man riding a {animal} in the park",) for animal in ("horse", "camel", "donkey", "mule")]
    found = floor(CiderRaw(), items(*common, ("two zebras",), ("green bananas everywhere",)))
    assert found is not None and found.answer.startswith("a man riding a") and found.value > 0


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_floor_of_exact_match_is_the_best_of_all_answers_whatever_the_order(data: st.DataObject) -> None:
    words = st.sampled_from(["red", "Red", "blue", "two dogs", "a dog"])
    references = data.draw(st.lists(st.lists(words, min_size=1, max_size=3).map(tuple), min_size=1, max_size=6))
    predictions = items(*references)
    found = floor(ExactMatch(ignore_case=False), predictions)
    every = {answer for own in references for answer in own}
    best = max(sum(answer in own for own in references) for answer in every) / len(references)
    assert found is not None and found.value <= 100 * best + 1e-9
    assert floor(ExactMatch(), predictions).value >= found.value - 1e-9  # type: ignore[union-attr]
    assert floor(ExactMatch(ignore_case=False), data.draw(st.permutations(predictions))) == found
