"""Floors: what needs neither image nor question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm1_ablate.evaluation import chance_baselines
from mm1_ablate.evaluation.chance_baselines import (
    ChanceBaseline,
    can_score,
    ceiling,
    chance_baseline,
    constant_answer,
    random_choice,
)
from mm1_ablate.evaluation.metrics import Metric, Prediction, References
from mm1_ablate.evaluation.metrics.alias_match import AliasMatch
from mm1_ablate.evaluation.metrics.choice_accuracy import ChoiceAccuracy
from mm1_ablate.evaluation.metrics.choice_accuracy_normalised import ChoiceAccuracyNormalised
from mm1_ablate.evaluation.metrics.cider_ptb import CiderPtb
from mm1_ablate.evaluation.metrics.cider_raw import CiderRaw
from mm1_ablate.evaluation.metrics.exact_match import ExactMatch
from mm1_ablate.evaluation.metrics.perplexity import Perplexity
from mm1_ablate.evaluation.metrics.slot_f1 import SlotF1
from mm1_ablate.evaluation.metrics.textvqa_accuracy import TextvqaAccuracy
from mm1_ablate.evaluation.metrics.vizwiz_accuracy import VizwizAccuracy
from mm1_ablate.evaluation.metrics.vqa_accuracy import VqaAccuracy


def items(*references: tuple[str, ...]) -> list[Prediction]:
    return [Prediction(str(place), "what a model said", own) for place, own in enumerate(references)]


def choices(*counts: int) -> list[Prediction]:
    return [Prediction(str(place), "", (), tuple("abcdefgh"[:count]), 0, (0.0,) * count) for place, count in enumerate(counts)]


def test_the_best_constant_answer_is_the_one_that_most_items_accept() -> None:
    assert chance_baseline(ExactMatch(), items(("red", "dark red"), ("red",), ("blue",), ("Blue", "red"))) == ChanceBaseline(75.0, "red")


def test_chance_is_one_in_the_number_of_choices() -> None:
    assert random_choice(choices(2, 4)) == pytest.approx(0.375)


def chosen(*right: int, texts: str = "") -> list[Prediction]:
    """Items with four choices each, of which one is right: texts that no other item has, or the same four."""
    return [
        Prediction(str(item), "", (), tuple(texts or [f"{item}{letter}" for letter in "abcd"]), correct)
        for item, correct in enumerate(right)
    ]


def test_the_floor_of_a_choice_is_the_best_constant_choice_and_chance_at_least() -> None:
    for metric in (ChoiceAccuracy(), ChoiceAccuracyNormalised()):
        assert chance_baseline(metric, chosen(0, 1, 2, 3)) == ChanceBaseline(25.0)
        assert chance_baseline(metric, chosen(0, 1, 1, 3)) == ChanceBaseline(50.0, "always choice 2")
        assert chance_baseline(metric, chosen(0, 3, 1, 3, texts="wxyz")) == ChanceBaseline(50.0, "z")
    # The same text at other places.
    shuffled = [
        Prediction("0", "", (), ("yes", "no"), 0),
        Prediction("1", "", (), ("no", "yes"), 1),
        Prediction("2", "", (), ("no", "yes"), 0),
    ]
    assert chance_baseline(ChoiceAccuracy(), shuffled) == ChanceBaseline(pytest.approx(200 / 3), "yes")
    # The right choice's place is not known: its text is.
    unplaced = [Prediction(str(item), "", (text,), tuple("0123")) for item, text in enumerate("aab")]
    assert chance_baseline(ChoiceAccuracy(), unplaced) == ChanceBaseline(pytest.approx(200 / 3), "a")


def test_a_record_that_lists_the_right_choice_at_one_place_tells_nothing_by_it() -> None:
    assert chance_baseline(ChoiceAccuracy(), chosen(*[3] * 8)) == ChanceBaseline(25.0)


def test_there_is_no_floor_where_nothing_is_accepted_or_likelihood_is_measured() -> None:
    assert chance_baseline(Perplexity(), choices(1)) is None
    assert chance_baseline(ExactMatch(), items((), ())) is None
    with pytest.raises(ValueError, match="no item has a reference"):
        constant_answer(ExactMatch(), items(()))


def test_an_answer_that_few_annotators_give_of_many_items_can_be_the_best() -> None:
    split = ("unanswerable",) * 2
    found = chance_baseline(VqaAccuracy(), items(("red",) * 8 + split, ("blue",) * 8 + split, ("dog",) * 8 + split))
    assert found == ChanceBaseline(pytest.approx(60.0), "unanswerable")


def test_the_constant_caption_is_a_typical_one() -> None:
    common = [(f"a man riding a {animal} in the park",) for animal in ("horse", "camel", "donkey", "mule")]
    found = chance_baseline(CiderRaw(), items(*common, ("two zebras",), ("green bananas everywhere",)))
    assert found is not None and found.answer.startswith("a man riding a") and found.value > 0


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_floor_of_exact_match_is_the_best_of_all_answers_whatever_the_order(data: st.DataObject) -> None:
    words = st.sampled_from(["red", "Red", "blue", "two dogs", "a dog"])
    references = data.draw(st.lists(st.lists(words, min_size=1, max_size=3).map(tuple), min_size=1, max_size=6))
    predictions = items(*references)
    found = chance_baseline(ExactMatch(ignore_case=False), predictions)
    every = {answer for own in references for answer in own}
    best = max(sum(answer in own for own in references) for answer in every) / len(references)
    assert found is not None and found.value <= 100 * best + 1e-9
    assert chance_baseline(ExactMatch(), predictions).value >= found.value - 1e-9  # type: ignore[union-attr]
    assert chance_baseline(ExactMatch(ignore_case=False), data.draw(st.permutations(predictions))) == found


words = st.sampled_from(["a", "the", "red", "Red", "blue", "circle", "ring", "circle.", "on", "on a", "2", "two", "man's"])
texts = st.lists(words, min_size=1, max_size=7).map(" ".join)
METRICS = [
    CiderRaw(), CiderPtb(), CiderRaw(frequency="split"), ExactMatch(), ExactMatch(ignore_case=False, ignore_articles=True), AliasMatch(),
    VqaAccuracy(), TextvqaAccuracy(), VizwizAccuracy(), SlotF1(slots={"colour": ["red", "blue"], "shape": ["circle", "ring"]}),
]  # fmt: skip


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: repr(metric))
@settings(max_examples=40, deadline=None)
@given(references=st.lists(st.lists(texts, min_size=1, max_size=4).map(tuple), min_size=1, max_size=8))
def test_no_reference_beats_the_constant_answer(metric: Metric, references: list[tuple[str, ...]]) -> None:
    predictions = items(*references)
    split = [*references, ("a ring on a wall",)] if metric.wants_split_references else None

    def score(answer: str) -> float:
        return metric.scale * metric.aggregate(metric.score([replace(one, text=answer) for one in predictions], split))

    found = chance_baseline(metric, predictions, split)
    every = sorted({reference for own in references for reference in own})
    assert found is not None and found.answer in every and found.value == score(found.answer)
    assert found.value >= max(map(score, every)) - 1e-9
    assert metric.means_of_constants(every, predictions, split) == pytest.approx(
        [score(answer) / metric.scale for answer in every], abs=1e-9
    )


def test_a_typical_caption_is_found_among_more_than_were_ever_tried() -> None:
    # The best of these is neither among the 32 most frequent nor among the 32 with the most frequent words.
    random = Random(9)
    vocabulary = [f"word{number}" for number in range(200)]
    weights = [1 / (number + 3) for number in range(200)]
    references = [tuple(" ".join(random.choices(vocabulary, weights, k=random.randint(3, 12))) for _ in range(2)) for _ in range(100)]
    predictions = items(*references)
    found = chance_baseline(CiderRaw(), predictions)
    every = [reference for own in references for reference in own]
    best = max(100 * CiderRaw().aggregate(CiderRaw().score([replace(one, text=answer) for one in predictions])) for answer in every)
    assert found is not None and found.value == pytest.approx(best) == pytest.approx(22.207948)


# ---------------------------------------------------------------- ties and limits
class Fewer(SlotF1):
    """A metric of which less is better: the words that differ."""

    higher_is_better: ClassVar[bool] = False
    scale: ClassVar[float] = 1.0

    def score(self, predictions: Sequence[Prediction], split_references: References | None = None) -> list[float]:
        return [float(len(set(one.text.split()) ^ set(one.references[0].split()))) for one in predictions]


def test_of_equally_good_answers_the_most_frequent_counts_and_then_the_first_in_the_alphabet() -> None:
    assert chance_baseline(ExactMatch(), items(("b",), ("a",))) == ChanceBaseline(50.0, "a")
    assert chance_baseline(ExactMatch(), items(("Red",), ("red",), ("Red",))) == ChanceBaseline(100.0, "Red")
    fewer = Fewer.model_construct(type="slot_f1", slots={"x": ["red"]})
    # Of one word each: "red blue" differs by 1, 1 and 0.
    assert constant_answer(fewer, items(("red",), ("blue",), ("red blue",))) == ChanceBaseline(pytest.approx(2 / 3), "red blue")


def test_of_equally_frequent_choices_the_first_counts() -> None:
    assert chance_baseline(ChoiceAccuracy(), chosen(3, 1, 3, 1, 2)) == ChanceBaseline(40.0, "always choice 2")
    assert chance_baseline(ChoiceAccuracy(), []) is None
    same = [Prediction(str(place), "", (), ("z", "y"), place // 2) for place in range(4)]
    # A random choice, a text and a place are right as often: what needs no words counts.
    assert chance_baseline(ChoiceAccuracy(), same) == ChanceBaseline(50.0)
    texts = [Prediction(str(place), "", (), ("z", "y", str(place)), place // 2) for place in range(4)]
    assert chance_baseline(ChoiceAccuracy(), texts) == ChanceBaseline(50.0, "y")


def test_where_not_all_answers_can_be_tried_the_frequent_and_the_typical_are(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    score = SlotF1.score

    def noting(self: SlotF1, predictions: Sequence[Prediction], split_references: References | None = None) -> list[float]:
        tried.append(predictions[0].text)
        return score(self, predictions, split_references)

    monkeypatch.setattr(SlotF1, "score", noting)
    asked = items(
        ("Red dog!", "red dog"), ("red dog", "a"), ("cat", "a red dog runs"), ("cat", "a bird"), ("blue fish swims far",), ("a red cat",)
    )

    def answers(most: int, scored: int = 0) -> list[str]:
        monkeypatch.setattr(chance_baselines, "FEWEST", most)
        monkeypatch.setattr(chance_baselines, "SCORED", scored)
        tried.clear()
        assert constant_answer(SlotF1(slots={"colour": ["red"], "animal": ["dog", "cat"]}), asked).answer in tried
        return tried[:-1]  # the best is scored once more

    # In two items each stand "cat" and "red dog", of whose spellings the second is the more frequent.
    assert answers(1) == ["cat"]
    assert answers(2) == ["a", "cat"]
    assert answers(3) == ["a", "cat", "red dog"]
    # Words and pairs of words in items: a 4, red 4, cat 3, dog 3, "red dog" 3, "a red" 2, else 1. "a" 4; "a red cat" (4+4+3+2+1)/5.
    assert answers(4) == ["a", "a red cat", "cat", "red dog"]
    assert answers(5) == ["a", "a red cat", "a red dog runs", "cat", "red dog"]
    every = ["Red dog!", "a", "a bird", "a red cat", "a red dog runs", "blue fish swims far", "cat", "red dog"]
    assert answers(7) != every == answers(8) == answers(1, scored=6 * 8) and len(answers(1, scored=6 * 8 - 1)) == 7


@pytest.mark.parametrize("place", [0, 15, 16, 255, 256, 299])
def test_a_single_item_that_can_score_is_found_wherever_it_stands(place: int) -> None:
    asked = items(*[("red",)] * 300)
    answers = [("", "blue")] * 300
    assert not can_score(ExactMatch(), asked, answers) and not can_score(ExactMatch(), [], [])
    answers[place] = ("", "blue", "red")
    assert can_score(ExactMatch(), asked, answers)
    answers[place] = ()
    assert not can_score(ExactMatch(), asked, answers)


def test_a_ceiling_is_the_best_that_any_reference_scores_at_each_item() -> None:
    slots = SlotF1(slots={"colour": ["red", "blue"]})
    # The second item names no slot: 0 whatever is said. An item without references does not count.
    assert ceiling(slots, items(("a", "red", "a b"), ("nothing", "here"), ())) == pytest.approx(50)
    assert ceiling(slots, items(("red",), ("a", "b", "blue"))) == pytest.approx(100)
