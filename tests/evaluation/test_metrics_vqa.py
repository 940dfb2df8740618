"""VQA accuracy on cases that exercise each rule of the official evaluations: VQAv2's, TextVQA's and VizWiz's."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm1_ablate.evaluation.metrics import Prediction
from mm1_ablate.evaluation.metrics._annotators import CONTRACTIONS, normalise
from mm1_ablate.evaluation.metrics.textvqa_accuracy import TextvqaAccuracy
from mm1_ablate.evaluation.metrics.vizwiz_accuracy import VizwizAccuracy
from mm1_ablate.evaluation.metrics.vqa_accuracy import VqaAccuracy
from mm1_ablate.evaluation.protocols import load_task


def agreement(answer: str, annotators: Sequence[str], metric: Any = None) -> float:
    (score,) = (metric or VqaAccuracy()).score([Prediction("1", answer, tuple(annotators))])
    return score


@pytest.mark.parametrize(("matches", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1)])
def test_agreement_leaves_out_one_annotator_at_a_time(matches: int, score: float) -> None:
    others = [f"other {number}" for number in range(10 - matches)]
    assert agreement("red", ["red"] * matches + others) == pytest.approx(score)


def test_one_annotator_is_left_out_and_not_all_of_the_same_answer() -> None:
    # By equality, no other would be left to match for those who gave this answer: 0.7 in place of 1.
    assert agreement("red", ["red"] * 3 + ["blue"] * 7) == pytest.approx((3 * 2 / 3 + 7) / 10)
    assert agreement("red", ["red"] * 9 + ["blue"]) == 1


@pytest.mark.parametrize(("annotators", "score"), [(1, 0), (2, 1 / 3), (3, 2 / 3), (4, 1)])
def test_fewer_annotators_follow_the_same_rule(annotators: int, score: float) -> None:
    assert agreement("red", ["red"] * annotators) == pytest.approx(score)


def test_nothing_is_normalised_where_all_annotators_agree() -> None:
    assert agreement("Yes", ["yes"] * 10) == 0
    assert agreement("Yes", ["yes"] * 9 + ["no"]) == 1
    assert agreement("the red", ["red"] * 9 + ["a red"]) == 1
    assert agreement(" two\n", ["two"] * 10) == 1  # white space around goes in any case


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("The Dog", "dog"),  # case and articles
        ("a an the", ""),
        ("theatre", "theatre"),
        ("None", "0"),  # number words, ten and below
        ("two dogs", "2 dogs"),
        ("ten eleven", "10 eleven"),
        ("dont", "don't"),  # contractions
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("twas", "'twas"),
        ("somebody'd", "somebodyd"),  # the reversed entry of the official table
        ("ow'sat", "ow'sat"),
        ("'ow'sat", "'ow's'at"),
        ("Im", "im"),  # entries with a capital never match
        ("Id've", "id've"),
        ("red/blue", "red blue"),  # a mark between letters gives way to a space
        ("red / blue", "red blue"),  # one with a space beside it vanishes
        ("red/ blue/green", "red bluegreen"),  # and then everywhere in the answer
        ("t-shirt", "t shirt"),
        ("yes!", "yes"),
        ("what?", "what"),
        ("[a] {b} (c)", "b c"),
        ("rock'n'roll: o'clock", "rock'n'roll: o'clock"),  # the apostrophe and the colon stay
        ("1,000", "1000"),  # a comma inside a number
        ("1,000 red/blue", "1000 redblue"),  # makes all marks vanish
        ("a,b", "b"),
        ("x,y", "x y"),
        ("2.5", "2.5"),  # a full stop before a digit stays
        ("5.", "5"),
        ("u.s.", "us"),
        ("no.5", "no.5"),
        ("x." * 40, "x" * 32 + "x." * 8),  # no more than 32 full stops go
        ("red\tcircle", "red circle"),
    ],
)
def test_answers_are_normalised_by_the_official_rules(answer: str, plain: str) -> None:
    assert normalise(answer) == plain


@given(st.text("abt the1,0.-'/ ", max_size=20), st.lists(st.text("abt 1,.-", max_size=5), min_size=1, max_size=10), st.randoms())
def test_scores_are_shares_and_the_order_of_annotators_does_not_matter(answer: str, annotators: list[str], random) -> None:
    score = agreement(answer, annotators)
    assert 0 <= score <= 1
    random.shuffle(annotators)
    assert agreement(answer, annotators) == score


def test_items_are_scored_in_order_and_one_without_annotators_has_no_score() -> None:
    predictions = [Prediction("1", "red", ("red",) * 10), Prediction("2", "red", ()), Prediction("3", "blue", ("red",) * 10)]
    scores = VqaAccuracy().score(predictions)
    assert scores[0] == 1 and math.isnan(scores[1]) and scores[2] == 0


# ---------------------------------------------------------------- each benchmark by its own rule
def test_each_benchmark_is_scored_by_its_own_rule() -> None:
    rules = {name: load_task(name).primary for name in ("vqav2", "okvqa", "textvqa", "vizwiz")}
    assert rules == {"vqav2": "vqa_accuracy", "okvqa": "vqa_accuracy", "textvqa": "textvqa_accuracy", "vizwiz": "vizwiz_accuracy"}


ALL, MOST = 10, 9


@pytest.mark.parametrize(
    ("answer", "annotator", "times", "vqav2", "textvqa", "vizwiz"),
    [
        ("Nokia", "nokia", ALL, 0, 1, 1),
        ("Nokia", "nokia", MOST, 1, 1, 1),
        ("nokia", "Nokia", ALL, 0, 1, 0),  # VizWiz never touches what annotators typed
        ("nokia", "Nokia", MOST, 1, 1, 0),
        ("the red", "a red", ALL, 0, 1, 0),
        ("two", "2", ALL, 0, 1, 1),
        ("1,000", "1000", ALL, 0, 1, 1),
        ("1,000 b/c", "1000 bc", MOST, 1, 0, 1),  # beside 1,000 all marks vanish; TextVQA's evaluator sees no comma
        ("1,000 b/c", "1000 b c", MOST, 0, 1, 0),
        ("what?no", "what no", MOST, 1, 0, 1),  # TextVQA removes question marks and commas, VQAv2 puts a space there
        ("what?no", "whatno", MOST, 0, 1, 0),
        ("joe's", "joe s", MOST, 0, 0, 0),
        ("joe's", "joe's", MOST, 1, 1, 1),
        ("joes", "joe's", MOST, 0, 0, 0),
        ("hes", "he's", MOST, 1, 0, 0),  # TextVQA's annotator is "he 's" by then; VizWiz's table has curly apostrophes
        ("dont", "don't", MOST, 1, 1, 0),
        ("dont", "don’t", MOST, 0, 0, 1),
        ("cant", "can't", MOST, 1, 1, 1),
        ("no.", "no", ALL, 0, 1, 1),
        (" no\n", "no", ALL, 1, 1, 1),
    ],
)
def test_the_official_evaluators_differ_in_what_they_normalise(
    answer: str, annotator: str, times: int, vqav2: float, textvqa: float, vizwiz: float
) -> None:
    annotators = [annotator] * times + ["something else"] * (10 - times)
    found = [agreement(answer, annotators, metric) for metric in (VqaAccuracy(), TextvqaAccuracy(), VizwizAccuracy())]
    assert found == [vqav2, textvqa, vizwiz]


def process_punctuation(text: str) -> str:
    """What all three evaluators call so, written anew from their rules."""
    found = text
    for mark in [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!"]:
        vanishes = mark + " " in text or " " + mark in text or re.search(r"\d,\d", text)
        found = found.replace(mark, "" if vanishes else " ")
    return re.sub(r"(?!<=\d)(\.)(?!\d)", "", found, count=32)


def process_digit_article(text: str, contractions: dict[str, str]) -> str:
    numbers = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    words = [str(numbers.index(word)) if word in numbers else "0" if word == "none" else word for word in text.lower().split()]
    return " ".join(contractions.get(word, word) for word in words if word not in ("a", "an", "the"))


def mean_over_annotators(answer: str, annotators: Sequence[str]) -> float:
    found = []
    for left_out in range(len(annotators)):
        others = [annotator for place, annotator in enumerate(annotators) if place != left_out]
        found.append(min(1, sum(annotator == answer for annotator in others) / 3))
    return sum(found) / len(found)


def textvqa_evaluator(answer: str, annotators: Sequence[str]) -> float:
    """`TextVQAAccuracyEvaluator` of MMF."""

    def processed(text: str) -> str:
        text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
        text = text.replace("\n", " ").replace("\t", " ").strip()
        return process_digit_article(process_punctuation(text), CONTRACTIONS)

    return mean_over_annotators(processed(answer), [processed(annotator) for annotator in annotators])


def vizwiz_evaluator(answer: str, annotators: Sequence[str]) -> float:
    """`VQAEval` of VizWiz's API; the contractions of the texts drawn here are its own with a curly apostrophe."""
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    return mean_over_annotators(process_digit_article(process_punctuation(text), {"dont": "don’t"}), annotators)


texts = st.lists(
    st.sampled_from(
        ["a", "The", "nokia", "Nokia", "two", "2", "1,000", "5.", "u.s.", "b/c", "-", "dont", "don’t", "it's", "?", "x?y", " ", "\n"]
    ),
    max_size=4,
).map(" ".join)


@given(texts, st.lists(texts, min_size=1, max_size=10))
def test_textvqa_and_vizwiz_are_scored_as_their_evaluators_score(answer: str, annotators: list[str]) -> None:
    assert agreement(answer, annotators, TextvqaAccuracy()) == pytest.approx(textvqa_evaluator(answer, annotators))
    assert agreement(answer, annotators, VizwizAccuracy()) == pytest.approx(vizwiz_evaluator(answer, annotators))
