"""VQA accuracy on cases that exercise each rule of the official evaluation."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm1_ablate.evaluation.metrics import Prediction
from mm1_ablate.evaluation.metrics.vqa_accuracy import VqaAccuracy, agreement, normalise


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
