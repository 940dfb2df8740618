"""Main effects and interactions of grids whose truth is known: whole, with gaps, with holes; and how sure the intervals are."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from made_up import made_up_study, noisy_results, scores
from rich.console import Console
from scipy import stats

from mm1_ablate.config.study import Grid, Study
from mm1_ablate.report.comparison import StudyComparison, compare
from mm1_ablate.report.effects import Effect, contrasts
from mm1_ablate.report.figures import effects as draw
from mm1_ablate.report.figures import png
from mm1_ablate.report.html import html
from mm1_ablate.report.markdown import markdown
from mm1_ablate.report.text import print_comparison

TYPES, SIZES = ("average", "attention"), ("small", "large")


def name(*point: str) -> str:
    return "baseline" if point == ("average", "large") else "grid/" + ",".join(point)


def grid_study(points: Sequence[tuple[str, ...]] | None = None, seeds: Sequence[int] = (0, 1, 2), **sweep: Any) -> Study:
    """A grid of two axes in which the baseline stands at (average, large)."""
    points = points if points is not None else list(product(TYPES, SIZES))
    study = made_up_study([name(*point) for point in points if name(*point) != "baseline"], seeds=seeds, **sweep)
    return replace(study, grids={"grid": Grid({"model.connector.type": TYPES, "size": SIZES}, {point: name(*point) for point in points})})


def compared(truth: dict[tuple[str, str], list[float]], **sweep: Any) -> StudyComparison:
    study = grid_study(list(truth), seeds=range(len(next(iter(truth.values())))), **sweep)
    return compare(study, scores(study, {name(*point): values for point, values in truth.items()}))


def by_title(comparison: StudyComparison) -> dict[tuple[str, ...], Effect]:
    return {effect.levels: effect for effect in comparison.effects}


WHOLE = {
    ("average", "small"): [50.0, 52.0, 51.0],
    ("average", "large"): [60.0, 61.0, 63.0],
    ("attention", "small"): [48.0, 51.0, 50.0],
    ("attention", "large"): [70.0, 72.0, 75.0],
}


def test_contrasts_of_a_whole_grid_are_those_of_the_textbook() -> None:
    found = by_title(compared(WHOLE))
    cells = {point: np.array(values) for point, values in WHOLE.items()}
    kind = (cells["attention", "small"] + cells["attention", "large"] - cells["average", "small"] - cells["average", "large"]) / 2
    size = (cells["average", "large"] + cells["attention", "large"] - cells["average", "small"] - cells["attention", "small"]) / 2
    both = cells["attention", "large"] - cells["average", "large"] - cells["attention", "small"] + cells["average", "small"]
    for levels, contrast in ((("attention",), kind), (("large",), size), (("attention", "large"), both)):
        estimate = found[levels].estimate
        expected = stats.ttest_1samp(contrast, 0)
        assert estimate is not None and estimate.difference == pytest.approx(contrast.mean())
        assert (estimate.low, estimate.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
        assert estimate.p == pytest.approx(expected.pvalue)
    assert found["attention", "large"].is_interaction and not found["large",].is_interaction


def test_effects_are_corrected_together() -> None:
    effects = compared(WHOLE).effects
    ps = [effect.estimate.p for effect in effects if effect.estimate]
    assert [effect.p_adjusted for effect in effects] == pytest.approx(list(stats.false_discovery_control(ps)))


def test_a_grid_with_a_gap_gives_main_effects_from_the_points_that_there_are_and_no_interaction() -> None:
    found = by_title(compared({point: values for point, values in WHOLE.items() if point != ("attention", "large")}))
    assert set(found) == {("attention",), ("large",)}
    estimate = found["attention",].estimate
    assert found["attention",].points == 1 and estimate is not None and estimate.difference == pytest.approx(np.mean([-2, -1, -1]))


def test_axes_without_common_points_have_no_effect() -> None:
    assert compared({("average", "small"): [1.0, 2.0, 3.0], ("attention", "large"): [1.0, 2.0, 4.0]}).effects == ()


def test_three_axes_are_averaged_over_the_third() -> None:
    axes = {"a": ("0", "1"), "b": ("0", "1", "2"), "c": ("0", "1")}
    grid = Grid(axes, {point: ",".join(point) for point in product(*axes.values())})
    found = {(names, levels): (points, weights) for names, levels, _, points, weights in contrasts(grid)}
    assert len(found) == 4 + 5
    points, weights = found[("b", "c"), ("2", "1")]
    assert points == 2 and weights == {
        f"{a},{b},{c}": sign / 2 for a in "01" for b, c, sign in (("2", "1", 1), ("2", "0", -1), ("0", "1", -1), ("0", "0", 1))
    }
    assert all(abs(sum(weights.values())) < 1e-12 for _, weights in found.values())


def test_a_hole_is_shown_and_not_judged() -> None:
    truth = {**WHOLE, ("attention", "large"): [70.0, float("nan"), 75.0]}
    found = by_title(compared(truth))
    assert not found["attention",].complete and np.isnan(found["attention",].p_adjusted)
    estimate = found["attention",].estimate
    assert estimate is not None and estimate.seeds == 2


def test_an_axis_of_one_grid_alone_and_studies_without_grids_have_none() -> None:
    study = made_up_study(["grid/a"])
    single = replace(study, grids={"grid": Grid({"steps": ("1", "2")}, {("1",): "baseline", ("2",): "grid/a"})})
    results = scores(study, {"baseline": [50.0, 51, 52], "grid/a": [40.0, 42, 42]})
    assert compare(single, results).effects == compare(study, results).effects == ()


def test_items_widen_the_intervals_of_effects() -> None:
    study = grid_study()
    results, items = noisy_results(study, {name(*point): 50.0 for point in product(TYPES, SIZES)}, seed_noise=0.2, items=40)
    for with_items, without in zip(compare(study, results, items=items).effects, compare(study, results).effects, strict=True):
        assert with_items.estimate is not None and without.estimate is not None and with_items.estimate.with_items
        assert with_items.estimate.difference == pytest.approx(without.estimate.difference)
        assert with_items.estimate.half_width >= without.estimate.half_width


def test_intervals_of_effects_hold_their_level_and_true_effects_are_found() -> None:
    """Two hundred made-up grids of three seeds: seed noise common to all points, an effect of size, no interaction."""
    random = np.random.default_rng(0)
    covered, judged_false, found_size = 0, 0, 0
    for _ in range(200):
        common = random.normal(scale=3, size=3)
        truth = {(kind, size): list(50 + 8 * (size == "large") + common + random.normal(size=3)) for kind, size in product(TYPES, SIZES)}
        comparison = compared(truth)
        effects = by_title(comparison)
        kind, interaction, size = (effects[levels] for levels in (("attention",), ("attention", "large"), ("large",)))
        covered += sum(effect.estimate.low <= 0 <= effect.estimate.high for effect in (kind, interaction) if effect.estimate)
        judged_false += any(comparison.is_significant(effect) for effect in (kind, interaction))
        found_size += comparison.is_significant(size)
    assert 0.92 <= covered / 400 <= 0.98
    assert judged_false / 200 <= 0.09
    assert found_size / 200 > 0.8


def test_effects_are_reported_everywhere_and_drawn() -> None:
    comparison = compared(WHOLE)
    stream = io.StringIO()
    print_comparison(comparison, Console(file=stream, width=120))
    figure = draw(comparison)
    assert figure is not None and png(figure).startswith(b"\x89PNG")
    for text in (stream.getvalue(), markdown(comparison), html(comparison)):
        assert "connector.type: attention against average" in text and "xploratory" in text
    found = json.loads(json.dumps(comparison.to_json(), allow_nan=False))["effects"]
    assert [effect["axes"] for effect in found] == [["model.connector.type"], ["size"], ["model.connector.type", "size"]]
