"""Seeds that were added after scores were there are said to be a second look, with its price."""

from __future__ import annotations

from typing import Any

import pytest
from made_up import made_up_study

from mm1_ablate.config.declarations import Declaration, History, declared
from mm1_ablate.report.second_looks import second_looks


def history(*designs: tuple[int, int], until_decided: bool = False) -> History:
    """What was declared: numbers of seeds, and how many trials had scores then; the last one may be until decided."""
    entries = []
    for place, (seeds, scored) in enumerate(designs):
        sequential: dict[str, Any] = {"until_decided": (3, seeds)} if until_decided and place == len(designs) - 1 else {}
        content = declared(made_up_study(["arm"], seeds=range(seeds), **sequential))
        trials = [trial for arm in content["arms"].values() for trial in arm["trials"]]
        entries.append(Declaration(float(place), content, frozenset(trials[:scored])))
    return History(tuple(entries))


@pytest.mark.parametrize(
    ("designs", "says"),
    [
        ([(3, 0), (5, 6)], "looks at 3 and 5 seeds: without any difference, a verdict at 5 % comes out false at one of them in 8.6 % "),
        (
            [(3, 0), (4, 6), (5, 8), (6, 10), (7, 12), (8, 14)],
            "looks at 3, 4, 5, 6, 7 and 8 seeds: without any difference, a verdict at 5 %",
        ),
        ([(3, 0), (4, 6), (5, 8), (6, 10), (7, 12), (8, 14)], "in 14.6 % of studies"),
    ],
)
def test_looks_at_a_growing_design_have_the_price_that_a_simulation_has(designs: list[tuple[int, int]], says: str) -> None:
    (remark,) = second_looks(history(*designs), 0.95)
    assert says in remark


@pytest.mark.parametrize("designs", [[(3, 0)], [(3, 0), (5, 0)], [(2, 0), (5, 4)], [(5, 0), (3, 10)]])
def test_what_was_not_looked_at_or_could_bear_no_verdict_is_no_look(designs: list[tuple[int, int]]) -> None:
    assert second_looks(history(*designs), 0.95) == []


def test_a_design_that_begins_after_scores_says_so() -> None:
    (remark,) = second_looks(history((3, 0), (8, 6), until_decided=True), 0.95)
    assert remark == "The seeds were changed from 3 fixed ones after 6 of 16 trials had scores: looks before that are not counted."
