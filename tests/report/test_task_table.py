"""The table of tasks, line by line: titles, numbers of items, floors in words, ceilings, who is below; and items without a score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from made_up import made_up_study, scores

from mm1_ablate.report.comparison import StudyComparison, compare
from mm1_ablate.report.metric_info import LOSS, PERCENT, scale_of
from mm1_ablate.report.task_scores import ScoreBounds, TaskScore, TaskScores, UnscoredItems, task_scores
from mm1_ablate.report.task_table import floor_in_words, listed, task_lines, task_titles, unasked_lines

ARMS = ("baseline", "a", "b", "c", "d")


def column(name: str, bounds: ScoreBounds = ScoreBounds(), items: Mapping[str, int] | None = None, **more: Any) -> TaskScore:
    suite, _, task = name.partition("/")
    family = "image" if suite.startswith("shot_") else "text" if suite == "text_core" else "loss"
    whole = dict.fromkeys(ARMS, 1240) if items is None else dict(items)
    shots = int(suite.removeprefix("shot_")) if family == "image" else 0
    declared = {"rule": "exact_match", "primary": True, "scale": LOSS if family == "loss" else PERCENT} | more
    return TaskScore(name, family, task, shots, items=whole, bounds=dict.fromkeys(ARMS, bounds) if bounds.floor else {}, **declared)


def compared(columns: list[TaskScore], values: Mapping[str, Mapping[str, float]] | None = None, **more: Any) -> StudyComparison:
    """Arms with the same score at every seed: by column and arm, otherwise 50."""
    study = made_up_study(ARMS[1:])
    names = ["shot_8/average", *(one.column for one in columns)]
    tables = [scores(study, {arm: [(values or {}).get(name, {}).get(arm, 50.0)] * 3 for arm in ARMS}, name) for name in names]
    return compare(study, pd.concat(tables), tasks=TaskScores({one.column: one for one in columns}, **more))


@pytest.mark.parametrize(
    ("names", "title"),
    [
        (["shot_1/vqa"], "baseline at 1 shot"),
        (["shot_4/vqa", "shot_0/vqa"], "baseline at 0 and 4 shots"),
        (["shot_8/vqa", "shot_0/vqa", "shot_4/other"], "baseline at 0, 4 and 8 shots"),
        (["shot_0/vqa", "shot_1/vqa"], "baseline at 0 and 1 shot"),
        (["text_core/facts"], "baseline"),
    ],
)
def test_the_title_of_scores_says_of_which_arm_and_at_how_many_shots(names: list[str], title: str) -> None:
    told = task_titles(compared([column(name) for name in names]))
    assert told == ["task", "items", "floor", "ceiling", title, "▾ below it"]


def test_numbers_are_listed_with_commas_and_an_and() -> None:
    assert (listed([0]), listed([0, 4]), listed([0, 4, 8])) == ("0", "0 and 4", "0, 4 and 8")


def test_each_line_is_a_task_by_a_metric_with_its_scores_in_the_order_of_shots() -> None:
    own = ScoreBounds(24.04, "unanswerable", 98.46)
    lines = task_lines(
        compared(
            [
                column("shot_8/miniature_vqa", own),
                column("shot_0/miniature_vqa", own, {"baseline": 1238, "a": 1240}),
                column("shot_4/other_task", ScoreBounds(25.0, "", 100.0), {"baseline": 7, "a": 7}),
                column("shot_0/captions.cider_raw", rule="cider_raw", primary=False),
                column("bits_per_byte/old_books", rule="bits_per_byte"),
                column("text_core/facts", ScoreBounds(26.0, "always choice 2", 100.0)),
            ],
            {
                "shot_8/miniature_vqa": {"baseline": 30.04},
                "shot_0/miniature_vqa": {"baseline": 25.0},
                "shot_4/other_task": {"baseline": 31.0},
                "bits_per_byte/old_books": {"baseline": 1.2345},
            },
        )
    )
    assert lines == [
        ["miniature vqa", "1,238 to 1,240 ⚑", "24.0 “unanswerable”", "98.5", "25.0, –, 30.0", "–"],
        ["other task", "7", "25.0 by chance", "100", "–, 31.0, –", "–"],
        ["captions.cider raw: cider raw", "1,240", "–", "–", "50.0, –, –", "–"],
        ["bits per byte of old books", "1,240", "–", "–", "1.234", "–"],
        ["facts", "1,240", "26.0 always choice 2", "100", "50.0", "–"],
    ]
    both = [column("shot_0/vqa", items={"a": 9}), column("shot_4/vqa", items={"a": 10}), column("shot_0/more", rule="rule", primary=False)]
    assert [line[:2] for line in task_lines(compared(both), primary_only=True)] == [["vqa", "9 to 10"]], "of all arms alike: no flag"
    assert len(task_lines(compared(both))) == 2


def test_a_constant_answer_is_cut_where_it_is_longer_than_there_is_room() -> None:
    one = column("shot_0/vqa")
    assert floor_in_words(one, ScoreBounds(30.0, "abcdefgh"), 8) == "30.0 “abcdefgh”"
    assert floor_in_words(one, ScoreBounds(30.0, "abcdefghi"), 8) == "30.0 “abcdefg…”"
    assert floor_in_words(one, ScoreBounds(30.0, "abcdef hi"), 8) == "30.0 “abcdef…”"
    assert floor_in_words(one, ScoreBounds(30.0, "abcdefghi")) == "30.0 “abcdefghi”"
    assert floor_in_words(one, ScoreBounds(0.0, "")) == "0.0 by chance" and floor_in_words(one, ScoreBounds(None, "a")) == "–"


def test_arms_below_a_floor_are_named_up_to_four_and_counted_beyond() -> None:
    own = ScoreBounds(30.0, "yes", 100.0)
    low = {arm: 29.9 for arm in ARMS}
    columns = [column(name, own) for name in ("shot_0/vqa", "shot_1/vqa", "shot_4/vqa", "text_core/facts")]
    values = {
        "shot_0/vqa": {arm: 29.9 for arm in "abcd"},
        "shot_1/vqa": low,
        "shot_4/vqa": {arm: 29.9 for arm in "abcd"} | {"baseline": 30.0},
        "text_core/facts": {"b": 29.9},
    }
    assert [line[-1] for line in task_lines(compared(columns, values))] == ["a, b, c, d at 0 and 4 shots; 5 of 5 arms at 1 shot", "b"]


def test_of_losses_more_is_below_the_floor() -> None:
    one = replace(column("shot_0/vqa", ScoreBounds(2.0)), scale=scale_of("loss", "loss"))
    assert [one.is_below_floor("a", mean) for mean in (1.9, 2.0, 2.1)] == [False, False, True]
    assert not one.is_below_floor("unknown", 9.0)


def test_items_without_a_score_are_told_with_their_arms_where_these_are_some_and_few() -> None:
    unasked = tuple(UnscoredItems("vqa", "no image", 1234, arms, ("x", "y")) for arms in (ARMS, ("a",), ARMS[1:], ()))
    told = unasked_lines(compared([column("shot_0/vqa")], unasked=unasked))
    begin = "vqa: 1,234 no image (first: x, y)"
    assert told == [begin, f"{begin}, in a", f"{begin}, in a, b, c, d", begin]
    six = compared([column("shot_0/vqa")], unasked=(UnscoredItems("vqa", "no image", 1, ARMS, ("x",)),))
    more = replace(six, rows=(*six.rows, replace(six.rows[1], name="e")))
    assert unasked_lines(more) == ["vqa: 1 no image (first: x)"], "of five in six arms no name helps"


def test_what_could_not_be_scored_is_counted_by_reason_in_the_trial_with_most() -> None:
    study = made_up_study(["a"])
    lines = [("baseline", 0, "vqa", str(place), "") for place in range(9)] + [("a", 0, "vqa", str(place), "") for place in range(9)]
    lines += [("a", seed, "vqa", f"x{place}", f"no image: file {place}") for seed in (0, 1) for place in range(4 + seed)]
    lines += [("baseline", 0, "vqa", "x0", "too large"), ("a", 1, "facts", "y", "too large"), ("a", 1, "vqa", "x0", "odd")]
    table = pd.DataFrame(lines, columns=["arm", "seed", "task", "item", "problem"])
    shown = {"family": "image", "shots": 0, "metric": "exact_match", "primary": True}
    table = table.assign(**shown, score=[None if problem else 1.0 for problem in table["problem"]])
    table = pd.concat([table, table.assign(shots=4)])
    found = task_scores(study, table)
    assert [(one.task, one.reason, one.count, one.arms, one.examples) for one in found.unasked] == [
        ("facts", "too large", 1, ("a",), ("y",)),
        ("vqa", "no image", 5, ("a",), ("x0", "x1", "x2")),
        ("vqa", "odd", 1, ("a",), ("x0",)),
        ("vqa", "too large", 1, ("baseline",), ("x0",)),
    ]
    whole = {"baseline": 9, "a": 9}
    assert {name: dict(one.items) for name, one in found.columns.items()} == {"shot_0/vqa": whole, "shot_4/vqa": whole}
    assert found.uneven_in_words() == () and task_scores(study, table.drop(columns="problem")).unasked == ()
    assert task_scores(study, table.drop(columns="item")) == task_scores(study, None) == task_scores(study, table[:0]) == TaskScores()


def test_columns_over_fewer_items_are_told_together_where_the_numbers_are_alike() -> None:
    some = {"baseline": 1240, "a": 1000, "b": 1240}
    columns = [column("shot_0/vqa", items=some), column("shot_4/vqa", items=some), column("text_core/facts", items={"baseline": 5, "a": 7})]
    assert TaskScores({one.column: one for one in columns}).uneven_in_words() == (
        "⚑ Scored over fewer items in some arms than in others: shot_0/vqa, shot_4/vqa over 1,240 items, but 1,000 in a; "
        "text_core/facts over 7 items, but 5 in baseline.",
    )
