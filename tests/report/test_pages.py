"""Pieces of the pages for people: shares, spreads, pictures, prompts and references; and which items two arms answered differently."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mm1_ablate.data.inspection import Spread
from mm1_ablate.report.examples import counts, differing, margin, side_by_side
from mm1_ablate.report.pages import data_address, foldable, grouped, parts, percent, picture, spread


def test_shares_have_one_decimal_and_one_above_nothing_is_never_shown_as_nothing() -> None:
    assert [percent(share) for share in (0.0, 1e-9, 0.00049, 0.0005, 0.0006, 0.1234, 1.0)] == [
        "0.0 %", "< 0.1 %", "< 0.1 %", "0.1 %", "0.1 %", "12.3 %", "100.0 %",
    ]  # fmt: skip


def test_a_spread_is_its_median_and_if_it_has_any_its_ends() -> None:
    assert spread(None) == "–"
    assert spread(Spread(mean=1.0, low=1234.0, median=1234.0, high=1234.0)) == "1,234"
    assert spread(Spread(mean=9.0, low=1000.4, median=2345.6, high=98_765.0)) == "2,346 (1,000 to 98,765)"


@pytest.mark.parametrize(
    ("height", "width", "kind", "small", "size"),
    [
        (159, 20, "png", True, (20, 159)),
        (160, 20, "jpeg", False, (20, 160)),
        (20, 160, "jpeg", False, (160, 20)),
        (210, 840, "jpeg", False, (420, 105)),
        (420, 421, "jpeg", False, (420, 419)),
    ],
)
def test_small_pictures_keep_their_dots_and_large_ones_are_made_smaller(
    height: int, width: int, kind: str, small: bool, size: tuple[int, int]
) -> None:
    address, told = picture(np.full((height, width, 3), 200, dtype=np.uint8))
    head, _, body = str(address).partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(body)))
    assert (told, head, image.format, image.size) == (small, f"data:image/{kind};base64", kind.upper(), size)


def test_an_address_holds_the_pixels_whether_they_come_as_an_array_or_as_an_image() -> None:
    pixels = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    for given in (pixels, Image.fromarray(pixels)):
        body = str(data_address(given)).removeprefix("data:image/png;base64,")
        np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(base64.b64decode(body)))), pixels)


def test_a_prompt_is_told_with_the_places_of_its_images() -> None:
    assert parts("<image>Question: <image><image> what?") == [
        (True, "image"), (False, "Question: "), (True, "image"), (True, "image"), (False, " what?"),
    ]  # fmt: skip
    assert parts("plain") == [(False, "plain")] and parts("") == []


def test_names_may_fold_where_their_parts_meet_and_stay_text() -> None:
    assert str(foldable("a/b.c,d=e_f-g h")) == "a/<wbr>b.<wbr>c,<wbr>d=<wbr>e_<wbr>f-<wbr>g h"
    assert str(foldable("<b>")) == "&lt;b&gt;"


def test_references_that_are_given_again_are_counted_the_most_frequent_first() -> None:
    assert grouped(["dark red", "red", "red", "blue", "red"]) == ["red (3 times)", "dark red", "blue"]


def test_the_margin_is_that_over_the_likeliest_wrong_choice() -> None:
    assert margin([-3.0, -1.0, -2.5], 1) == pytest.approx(1.5)
    assert margin([-3.0, -1.0, -2.5], 0) == pytest.approx(-2.0)
    assert margin([-3.0], 0) is None and margin([-3.0, -1.0], 2) is None and margin([], 0) is None


# ---------------------------------------------------------------- items that two arms answered differently
def table(scores: dict[tuple[str, int, int, str], float], family: str = "image", metric: str = "exact_match", **more: Any) -> pd.DataFrame:
    """Item scores by task, number of shots, evaluation seed and item."""
    rows = [
        {"task": task, "family": family, "shots": shots, "evaluation_seed": seed, "item": item, "metric": metric, "primary": True,
         "prediction": f"{score:g}", "log_likelihoods": "", "demonstration_set": '["d"]' if shots else "",
         "prompt": f"what is {item}?",
         "reference": "right", "score": score, **more}
        for (task, shots, seed, item), score in scores.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_of_two_arms_each_item_is_counted_once_without_demonstrations_and_once_a_seed_with_them() -> None:
    keys = [("vqa", shots, seed, item) for shots in (0, 4) for seed in (0, 1) for item in "abc"]
    ours, theirs = dict.fromkeys(keys, 1.0), dict.fromkeys(keys, 0.25)
    ours["vqa", 0, 0, "b"] = ours["vqa", 0, 1, "b"] = 0.25
    ours["vqa", 4, 0, "a"] = 0.0
    theirs["vqa", 4, 1, "c"] = float("nan")
    both = side_by_side(table(ours), table(theirs))
    found = {one.shots: one for one in counts(both)}
    assert [(one.items, one.first_better, one.equal, one.second_better, one.not_judged) for one in (found[0], found[4])] == [
        (3, 2, 1, 0, 0), (5, 4, 0, 1, 1),
    ]  # fmt: skip
    assert (found[0].first_score, found[0].second_score) == (pytest.approx(75), pytest.approx(25))
    assert (found[4].first_score, found[4].second_score) == (pytest.approx(80), pytest.approx(25))
    assert list(both["gain"].dropna().unique()) == [75.0, 0.0, -25.0]


def test_losses_other_metrics_and_items_of_one_arm_alone_are_left_out_and_less_is_better_where_it_is() -> None:
    ours = pd.concat([
        table({("vqa", 0, 0, "a"): 1.0, ("vqa", 0, 0, "b"): 1.0}),
        table({("vqa", 0, 0, "a"): 1.0}, metric="alias_match", primary=False),
        table({("books", 0, 0, "a"): 2.0}, family="loss", metric="token_loss"),
        table({("lambada", 0, 0, "a"): 3.0}, family="text", metric="token_loss"),
    ])  # fmt: skip
    theirs = ours[ours["item"] == "a"].assign(score=lambda one: one["score"] + 1)
    both = side_by_side(ours, theirs)
    assert [(one.task, one.metric, one.items) for one in counts(both)] == [("vqa", "exact_match", 1), ("lambada", "token_loss", 1)]
    assert list(both["gain"]) == [-100.0, 1.0]
    vqa, lambada = counts(both)
    assert (vqa.second_better, lambada.first_better, lambada.first_score) == (1, 1, pytest.approx(3.0))


def test_tasks_take_turns_and_what_one_side_lacks_the_other_shows() -> None:
    items = [f"{place:02}" for place in range(8)]
    gains = {("a", 0, 0, item): (place + 1) / 10 for place, item in enumerate(items)}
    gains |= {("b", 0, 0, item): 0.05 for item in items[:2]}
    worse = {("a", 0, 0, "worse"): -0.5}
    both = side_by_side(table(gains | worse), table(dict.fromkeys([*gains, *worse], 0.0)))
    shown = differing(both, 6, seed=0)
    assert [one.first_is_better for one in shown] == [True] * 5 + [False]
    assert [(one.task, round(one.first.score)) for one in shown] == [("a", 80), ("a", 70), ("a", 60), ("b", 5), ("b", 5), ("a", -50)]
    assert shown[0].second.score == 0 and shown[0].first.text == "0.8" and shown[0].references == ("right",)
    assert len(differing(both, 1, seed=0)) == 1 and differing(both, 0, seed=0) == [] and len(differing(both, 99, seed=0)) == 11
    assert [one.item for one in differing(both, 6, seed=0)] == [one.item for one in shown]


@pytest.mark.parametrize(("number", "first", "second"), [(1, 1, 0), (4, 2, 2), (5, 3, 2), (6, 3, 3), (20, 7, 5)])
def test_equally_many_are_shown_where_one_or_the_other_arm_is_better(number: int, first: int, second: int) -> None:
    ours = {("a", 0, 0, f"{place:02}"): float(place < 7) for place in range(12)}
    both = side_by_side(table(ours), table({key: 1 - score for key, score in ours.items()}))
    better = [one.first_is_better for one in differing(both, number, seed=0)]
    assert better == [True] * first + [False] * second
