"""Where pictures put points, intervals, curves and words, against numbers known from elsewhere. How lines look is not looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_study, noisy_results, scores
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy import stats

from mm1_ablate.config.study import Change, Grid, Study
from mm1_ablate.report.cells import Measure
from mm1_ablate.report.comparison import StudyComparison, compare
from mm1_ablate.report.figures import costs, curves, drawn, effects, forest, mixtures, shots, tasks
from mm1_ablate.report.figures.style import ALONE, EQUIVALENT, INK, OF_BETTER, OF_WORSE, OPEN

BASE = np.array([50.0, 51.0, 50.5])
DIFFERENCES = {
    "group/up": [9.0, 10.0, 11.0],
    "group/down": [-9.0, -10.0, -11.0],
    "same": [0.1, -0.1, 0.05],
    "wild": [-30.0, 40.0, 5.0],
    "gone": [2.0, 8.0, float("nan")],
}


def compared(differences: Mapping[str, Sequence[float]], **sweep: Any) -> StudyComparison:
    study = made_up_study(list(differences), seeds=range(len(next(iter(differences.values())))), **sweep)
    base = np.resize(BASE, len(study.sweep.seeds))
    return compare(study, scores(study, {"baseline": list(base), **{arm: list(base + own) for arm, own in differences.items()}}))


@pytest.fixture(scope="module")
def figure() -> Figure:
    found = forest(compared(DIFFERENCES))
    assert found is not None
    return found


def words(axes: Axes) -> list[tuple[float, str]]:
    """Texts with the line that they are on."""
    return [(text.get_position()[1], text.get_text()) for text in axes.texts]


def lines_at(axes: Axes, height: float) -> list[tuple[str, list[float]]]:
    """What is drawn at a height: marker and places on the other axis."""
    lines = [line for line in axes.lines if list(line.get_ydata()) == [height] * len(line.get_ydata())]
    return [(str(line.get_marker()), [float(place) for place in line.get_xdata()]) for line in lines]


# ---------------------------------------------------------------- differences
def test_each_arm_has_its_name_numbers_and_verdict_on_a_line_below_its_group(figure: Figure) -> None:
    names, _, numbers, verdicts = figure.axes
    assert words(names) == [(0, "group"), (1, "up"), (2, "down"), (3, "same"), (4, "wild"), (5, "gone")]
    assert [text.get_position()[0] > 0 for text in names.texts] == [False, True, True, False, False, False]
    assert [text.get_fontweight() for text in names.texts] == ["bold", *["normal"] * 5]
    assert words(numbers)[0] == (0, "")
    assert [text for _, text in words(numbers)][1:3] == ["+10.0 [+7.5, +12.5]", "−10.0 [−12.5, −7.5]"]
    told = ["better", "worse", "no difference larger than 1", "too close to call", "no verdict: missing trials"]
    assert words(verdicts) == list(zip(range(1, 6), told, strict=True))
    assert [text.get_fontweight() for text in verdicts.texts] == ["bold", "bold", "normal", "normal", "normal"]
    for axes in figure.axes:
        assert axes.get_ylim() == (5.5, -0.5)


def test_points_stand_at_differences_and_the_axis_contains_every_interval_and_seed(figure: Figure) -> None:
    axes = figure.axes[1]
    low, high = axes.get_xlim()
    for place, arm, marker in ((1, "group/up", "^"), (2, "group/down", "v"), (3, "same", "D"), (4, "wild", "o"), (5, "gone", "x")):
        own = [one for one in DIFFERENCES[arm] if not np.isnan(one)]
        ends = [2, 8] if arm == "gone" else list(stats.ttest_1samp(own, 0).confidence_interval())
        ends = [max(ends[0], -100), min(ends[1], 100)]
        (interval, point) = lines_at(axes, place)
        assert interval[0] == "None" and point == (marker, pytest.approx([np.mean(own)])), "and nothing else"
        assert arm == "wild" or interval[1] == pytest.approx(ends)
        assert all(low < end < high for end in (*interval[1], *own))
        assert lines_at(axes, place + 0.24) == [(".", pytest.approx(own))], "the seeds"
    assert [line.get_linestyle() for line in axes.lines if len(line.get_xdata()) == 2 and line.get_ydata()[0] == 5] == [":"]
    solid = [line.get_linestyle() for line in axes.lines if len(line.get_xdata()) == 2 and 0 < line.get_ydata()[0] < 5]
    assert solid == ["-"] * 4


def test_what_is_significant_alone_and_not_after_correction_has_a_mark_and_words_of_its_own() -> None:
    arms = {"alone": [4.0, 6.5, 5.8], "open": [-3.0, 4.0, 1.0], **{f"other{number}": [-6.0, 7.0, 1.5] for number in range(8)}}
    comparison = compared(arms)
    assert comparison.row("alone").verdict == "leaning" and comparison.is_significant_alone(comparison.row("alone").cells["shot_8/average"])
    assert not comparison.is_significant_alone(comparison.row("open").cells["shot_8/average"])
    found = forest(comparison)
    assert found is not None
    points = {line.get_ydata()[0]: line for line in found.axes[1].lines if len(line.get_xdata()) == 1}
    assert (to_hex(points[0].get_color()), points[0].get_fillstyle()) == (ALONE.colour, "left")
    assert to_hex(points[1].get_color()) == OPEN.colour and to_hex(points[1].get_markerfacecolor()) == "#ffffff"
    (key,) = found.legends
    assert [text.get_text() for text in key.get_texts()] == ["significant alone, not after correction", "undecided"]
    alone = compared({"alone": [4.0, 6.5, 5.8]})
    assert not alone.is_significant_alone(alone.row("alone").cells["shot_8/average"]), "it holds"


def test_the_key_of_a_picture_is_below_its_axes_and_has_what_occurs() -> None:
    study = made_up_study(["group/up", "group/down"])
    results, _ = noisy_results(study, {"baseline": 50.0, "group/up": 70.0, "group/down": 20.0})
    comparison = compare(study, results)
    for found, words in ((forest(comparison), ["worse", "better"]), (shots(comparison), ["baseline", "worse", "better"])):
        assert found is not None
        found.canvas.draw()
        (key,) = found.legends
        assert [text.get_text() for text in key.get_texts()] == words
        lowest = min(axes.get_window_extent().y0 for axes in found.axes)
        assert key.get_window_extent().y1 <= lowest


def test_verdicts_are_told_apart_by_colour_and_what_is_open_by_a_hollow_point(figure: Figure) -> None:
    axes = figure.axes[1]
    points = {line.get_ydata()[0]: line for line in axes.lines if len(line.get_xdata()) == 1 and str(line.get_marker()) not in "<>"}
    colours = [to_hex(points[place].get_color()) for place in range(1, 6)]
    assert len(set(colours[:4])) == 4 and colours[4] == colours[3] and colours[:3] == [OF_BETTER.colour, OF_WORSE.colour, EQUIVALENT.colour]
    assert [to_hex(points[place].get_markerfacecolor()) == "#ffffff" for place in range(1, 6)] == [False, False, False, True, False]
    verdicts = [to_hex(text.get_color()) for text in figure.axes[3].texts]
    assert verdicts[:3] == colours[:3] and verdicts[3] not in colours


def test_the_difference_of_interest_is_shaded_and_said_with_the_level(figure: Figure) -> None:
    axes = figure.axes[1]
    assert len(axes.patches) == 1
    assert axes.patches[0].get_extents().transformed(axes.transData.inverted()).intervalx == pytest.approx([-1, 1])
    assert [list(line.get_xdata()) for line in axes.lines if list(line.get_ydata()) == [0, 1]] == [[0, 0]]
    assert axes.get_title(loc="left") == "8-shot: difference from the baseline, in points"
    assert axes.get_xlabel() == "95 % intervals; dots: seeds; shaded: ±1, the smallest difference of interest"
    assert not axes.get_yticks().size


def test_columns_of_a_forest_stand_beside_one_another_and_long_names_have_room() -> None:
    for arms in ({"a": [1.0, 2.0, 4.0]}, {"a-very-long-name-of-an-arm-that-needs-room": [1.0, 2.0, 4.0], "b": [1.0, 1.0, 3.0]}):
        found = forest(compared(arms))
        assert found is not None
        found.canvas.draw()
        boxes = [axes.get_position() for axes in found.axes]
        assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))
        assert boxes[0].x0 > 0 and boxes[-1].x1 <= 1 and all(box.y0 > 0 and box.y1 < 1 for box in boxes)
        for axes in (found.axes[0], *found.axes[2:]):
            window = axes.get_window_extent()
            assert all(text.get_window_extent().x1 <= window.x1 for text in axes.texts)


def test_one_seed_has_a_hollow_point_and_without_items_no_interval() -> None:
    found = forest(compared({"arm": [3.0]}))
    assert found is not None
    assert lines_at(found.axes[1], 0) == [("o", [3.0])]
    assert words(found.axes[3]) == [(0, "too few seeds")] and words(found.axes[2]) == [(0, "+3.0 ")]


# ---------------------------------------------------------------- effects
TYPES, SIZES = ("average", "attention"), ("small", "large")


NAMES = {point: "baseline" if point == ("average", "small") else "grid/" + ",".join(point) for point in product(TYPES, SIZES)}


def grid_study(seeds: int = 2) -> Study:
    return made_up_study([name for name in NAMES.values() if name != "baseline"], seeds=range(seeds))


def grid(gaps: Sequence[tuple[str, str]] = (), groups: Sequence[str] = ("grid",)) -> StudyComparison:
    """Large is 10 better and a little uneven, attention makes no clear difference."""
    names, study = NAMES, grid_study(3)
    study = replace(study, grids={group: Grid({"model.connector.type": TYPES, "size": SIZES}, names) for group in groups})
    luck = {point: np.random.default_rng(place).normal(scale=0.4, size=3) for place, point in enumerate(names)}
    truth = {names[point]: list(BASE + 10 * (point[1] == "large") + luck[point]) for point in names}
    for point in gaps:
        truth[names[point]][1] = float("nan")
    return compare(study, scores(study, truth))


def test_effects_stand_at_their_estimates_and_those_that_hold_are_full() -> None:
    comparison = grid()
    found = effects(comparison)
    assert found is not None
    (axes,) = found.axes
    shown = comparison.effects
    titles = [text.get_text() for text in axes.get_yticklabels()]
    assert titles[:2] == ["connector.type: attention against average", "size: large against small"]
    assert titles[2] == "connector.type × size: attention against average,\nat large more than at small"
    reach = 1.1 * max(abs(end) for effect in shown if effect.estimate for end in (effect.estimate.low, effect.estimate.high))
    assert axes.get_xlim() == pytest.approx((-reach, reach)) and axes.get_ylim() == (2.5, -0.5)
    markers = ["o", "o", "D"]
    for place, (effect, marker) in enumerate(zip(shown, markers, strict=True)):
        assert effect.estimate is not None
        ends = [effect.estimate.low, effect.estimate.high]
        assert lines_at(axes, place) == [("None", pytest.approx(ends)), (marker, pytest.approx([effect.estimate.difference]))]
    points = [line for line in axes.lines if len(line.get_xdata()) == 1]
    assert [to_hex(point.get_markerfacecolor()) == "#ffffff" for point in points] == [True, False, True]
    assert to_hex(points[0].get_color()) == to_hex(points[1].get_color()) != to_hex(points[2].get_color())
    assert axes.get_title(loc="left") == "8-shot: effects in grids, in points"
    assert axes.get_xlabel() == "95 % intervals; circles: main effects, diamonds: interactions"


def test_effects_of_which_trials_are_missing_are_dotted_and_those_of_several_grids_say_of_which() -> None:
    comparison = grid(gaps=[("attention", "large")], groups=("one", "other"))
    found = effects(comparison)
    assert found is not None
    axes = found.axes[0]
    assert [text.get_text().split(":")[0] for text in axes.get_yticklabels()] == ["one"] * 3 + ["other"] * 3
    intervals = [line for line in axes.lines if len(line.get_xdata()) == 2 and list(line.get_ydata()) != [0, 1]]
    assert len(intervals) == 6 and {line.get_linestyle() for line in intervals} == {":"}
    intervals = [end for effect in comparison.effects if effect.estimate for end in effect.estimate.by_seed]
    assert axes.get_xlim()[1] == pytest.approx(1.1 * max(map(abs, intervals)))


def test_two_seeds_of_an_effect_have_a_range_that_does_not_dwarf_the_points() -> None:
    study = replace(grid_study(), grids={"grid": Grid({"model.connector.type": TYPES, "size": SIZES}, NAMES)})
    truth = {
        "baseline": [50.0, 50.0],
        "grid/average,large": [51.0, 49.5],
        "grid/attention,small": [50.0, 52.0],
        "grid/attention,large": [50.0, 49.0],
    }
    comparison = compare(study, scores(study, truth))
    found = effects(comparison)
    assert found is not None
    seeds = [abs(one) for effect in comparison.effects if effect.estimate for one in effect.estimate.by_seed]
    assert found.axes[0].get_xlim() == pytest.approx((-1.1 * max(seeds), 1.1 * max(seeds)))


# ---------------------------------------------------------------- shots and curves
def visible(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_visible()]


def bands(axes: Axes) -> list[tuple[list[float], list[float]]]:
    """Lower and upper edges of what is filled, from left to right."""
    found = []
    for band in axes.collections:
        points = band.get_paths()[0].vertices
        places = sorted({float(place) for place in points[:, 0]})
        heights = [[float(height) for place, height in points if place == one] for one in places]
        found.append(([min(own) for own in heights], [max(own) for own in heights]))
    return found


def test_each_arm_has_a_panel_in_which_its_scores_stand_at_their_shots_beside_its_baseline() -> None:
    study = made_up_study(["group/up", "group/high", "other/down", "low"])
    results, _ = noisy_results(study, {"baseline": 50.0, "group/up": 60.0, "group/high": 59.0, "other/down": 40.0, "low": 41.0})
    comparison = compare(study, results)
    found = shots(comparison)
    assert found is not None
    arms = ("group/up", "group/high", "other/down", "low")
    assert [axes.get_title(loc="left") for axes in visible(found)] == ["group\nup", "group\nhigh", "other\ndown", "low"]
    for axes, arm in zip(visible(found), arms, strict=True):
        assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "4", "8"] and axes.get_xlabel() == "shots"
        for line, band, name in zip(axes.lines, bands(axes), ("baseline", arm), strict=True):
            cells = [comparison.row(name).cells[f"shot_{count}/average"] for count in (0, 4, 8)]
            assert list(line.get_xdata()) == [0, 1, 2] and list(line.get_ydata()) == pytest.approx([cell.mean for cell in cells])
            assert band[0] == pytest.approx([cell.mean - cell.deviation for cell in cells])
            assert band[1] == pytest.approx([cell.mean + cell.deviation for cell in cells])
    assert found.get_supylabel() == "mean score" and found.get_supxlabel() == "bands: standard deviation over seeds"


def test_a_colour_means_the_same_in_every_panel_and_picture() -> None:
    arms = {f"{group}/{kind}": {"up": 70.0, "down": 20.0}[kind] for group in "abc" for kind in ("up", "down")}
    study = made_up_study(list(arms))
    results, _ = noisy_results(study, {"baseline": 50.0, **arms})
    comparison = compare(study, results)
    table = pd.MultiIndex.from_product([["baseline", *arms], [0, 1], range(3)], names=["arm", "seed", "step"]).to_frame(index=False)
    expected = {"up": OF_BETTER.colour, "down": OF_WORSE.colour}
    for found in (shots(comparison), curves(comparison, table.assign(loss=1.0 + table["step"]))):
        assert found is not None and len(visible(found)) == 6
        for axes in visible(found):
            first, second = (to_hex(line.get_color()) for line in axes.lines)
            assert (first, second) == (INK, expected[axes.get_title(loc="left").rpartition("\n")[2]])


def test_panels_stand_four_in_a_row_and_arms_without_scores_are_counted() -> None:
    arms = [f"group/{number}" for number in range(6)]
    study = made_up_study(arms)
    results, _ = noisy_results(study, dict.fromkeys(["baseline", *arms], 50.0), items=4)
    found = shots(compare(study, results[results["arm"] != "group/5"]))
    assert found is not None
    assert [axes.get_visible() for axes in found.axes] == [True] * 5 + [False] * 3
    assert found.get_supxlabel().endswith("; of 1 arm there is nothing yet")
    assert [bool(axes.get_xlabel()) for axes in visible(found)] == [False, True, True, True, True], "the lowest of each column"


def test_a_study_of_probabilities_draws_these_by_shots() -> None:
    primary = "shot_8/average.probability"
    study = made_up_study(["arm"], compare={"primary": primary, "metrics": [primary]}, experiment={"evaluation.probability": True})
    exact, _ = noisy_results(study, {"baseline": 50.0, "arm": 60.0}, items=4)
    soft = exact[exact["metric"].str.endswith("/average")].assign(metric=lambda rows: rows["metric"] + ".probability", value=12.5)
    found = shots(compare(study, pd.concat([exact, soft])))
    assert found is not None and {height for axes in visible(found) for line in axes.lines for height in line.get_ydata()} == {12.5}
    assert found.get_supylabel() == "mean probability"
    plain = shots(compare(made_up_study(["arm"]), pd.concat([exact, soft])))
    assert plain is not None and 12.5 not in plain.axes[0].lines[0].get_ydata()


def test_curves_are_the_mean_over_seeds_in_a_band_from_the_lowest_to_the_highest() -> None:
    comparison = compared({"arm": [1.0, 2.0, 4.0]})
    table = pd.MultiIndex.from_product([["baseline", "arm"], [0, 1], range(3)], names=["arm", "seed", "step"]).to_frame(index=False)
    losses = table.assign(loss=4.0 - table["step"] + table["seed"] + 10 * (table["arm"] == "arm"))
    losses.loc[len(losses)] = ["arm", 0, 2, float("nan")]
    found = curves(comparison, losses)
    assert found is not None
    (axes,) = visible(found)
    lowest = {arm: [start - step for step in range(3)] for arm, start in (("baseline", 4.0), ("arm", 14.0))}
    for line, band, own in zip(axes.lines, bands(axes), lowest.values(), strict=True):
        assert list(line.get_xdata()) == [0.5, 1.5, 2.0], "middles of steps, none after the last"
        assert list(line.get_ydata()) == pytest.approx([one + 0.5 for one in own])
        assert band == (pytest.approx(own), pytest.approx([one + 1 for one in own]))
    assert axes.get_xlabel() == "step" and found.get_supylabel() == "training loss"
    assert found.get_supxlabel() == "bands: lowest to highest seed"
    assert axes.get_ylim()[1] == pytest.approx(np.quantile(losses["loss"].dropna(), 0.98))


def test_long_curves_are_drawn_by_sixty_means_of_neighbours_and_an_arm_without_losses_is_left_out() -> None:
    losses = pd.DataFrame({"arm": "baseline", "seed": 0, "step": range(601), "loss": [float(step) for step in range(601)]})
    found = curves(compared({"arm": [1.0, 2.0, 4.0]}), losses)
    assert found is not None
    (line,) = found.axes[0].lines
    assert len(line.get_xdata()) == 55
    assert list(line.get_xdata())[:2] == [5.5, 16.5] and list(line.get_ydata())[:2] == [5.0, 16.0]
    assert curves(compared({"arm": [1.0, 2.0, 4.0]}), losses.iloc[:0]) is None


# ---------------------------------------------------------------- tasks, mixtures, costs
def test_tasks_are_a_table_of_the_differences_of_each_arm() -> None:
    study = made_up_study(["up", "down"])
    results, items = noisy_results(study, {"baseline": 50.0, "up": 60.0, "down": 20.0}, items=20)
    comparison = compare(study, results, items=items)
    found = tasks(comparison)
    assert found is not None
    (axes,) = found.axes
    names = [text.get_text() for text in axes.get_xticklabels()]
    assert names[0] == "TextCore facts" and len(names) == 7 and [text.get_text() for text in axes.get_yticklabels()] == ["up", "down"]
    metrics = ["text_core/facts", *(f"shot_{count}/{task}" for count in (0, 4, 8) for task in ("attributes", "vqa"))]
    values = axes.collections[0].get_array().reshape(2, 7)
    for text, (line, place) in zip(axes.texts, product(range(2), range(7)), strict=True):
        cell = comparison.row(("up", "down")[line]).cells[metrics[place]]
        assert cell.estimate is not None and cell.estimate.shown is not None
        assert text.get_position() == (place, line) and text.get_text() == f"{cell.estimate.difference:+.1f}".replace("-", "−")
        assert (text.get_fontweight() == "bold") == (cell.estimate.shown.low > 0 or cell.estimate.shown.high < 0)
        assert np.sign(values[line, place]) == np.sign(cell.estimate.difference)
    assert tasks(compare(made_up_study([]), results)) is None and tasks(compared({"arm": [1.0, 2.0, 3.0]})) is None


def with_mixtures(shares: Mapping[str, Mapping[str, float]], other: Sequence[str] = ()) -> StudyComparison:
    """A study whose arms differ from the baseline in the mixture; `other` in something else as well."""
    study = made_up_study(list(shares))
    change, more = Change("data.mixture.text", 10, 0), Change("training.steps", 4, 5)
    arms = tuple(replace(arm, changes=(change, *([more] if arm.name in other else []))) if arm.changes else arm for arm in study.arms)
    study = replace(study, arms=arms)
    results, _ = noisy_results(study, {"baseline": 50.0, **dict.fromkeys(shares, 40.0)}, items=4)
    comparison = compare(study, results)
    assert set(comparison.rows[0].mixture) and sum(comparison.rows[0].mixture.values()) == pytest.approx(1)
    return replace(comparison, rows=tuple(replace(row, mixture=shares[row.name]) if row.name in shares else row for row in comparison.rows))


def test_scores_stand_in_the_order_of_the_mixture_with_the_baseline_among_them() -> None:
    comparison = with_mixtures({"mix/none": {"captioned": 1.0}, "mix/most": {"captioned": 0.1, "interleaved": 0.9}, "alone": {"text": 1.0}})
    baseline = {"captioned": 0.5, "interleaved": 0.25, "text": 0.25}
    comparison = replace(comparison, rows=tuple(replace(row, mixture=baseline) if row.is_baseline else row for row in comparison.rows))
    found = mixtures(comparison)
    assert found is not None
    (axes,) = visible(found)
    assert axes.get_title(loc="left") == "mix", "a group of one arm has no panel"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["100\n0\n0", "50\n25\n25\nbaseline", "10\n90\n0"]
    for container, metric in zip(axes.containers, comparison.metrics, strict=True):
        own = [comparison.row(name).cells[metric].mean for name in ("mix/none", "baseline", "mix/most")]
        assert list(container.lines[0].get_ydata()) == pytest.approx(own)  # type: ignore[attr-defined]
    (key,) = found.legends
    assert [text.get_text() for text in key.get_texts()] == ["TextCore", "0-shot", "4-shot", "8-shot"]


def test_arms_that_change_more_than_the_mixture_are_not_drawn_by_mixture() -> None:
    shares = {"mix/a": {"captioned": 1.0}, "mix/b": {"text": 1.0}}
    assert mixtures(with_mixtures(shares)) is not None and mixtures(with_mixtures(shares, other=["mix/a"])) is None


def test_scores_stand_at_their_cost_and_a_line_joins_what_is_best_for_it() -> None:
    study = made_up_study(["cheap", "dear", "wasted"])
    truth = {"baseline": [50.0, 51.0, 50.5], "cheap": [40.0, 41.0, 40.5], "dear": [60.0, 61.0, 60.5], "wasted": [45.0, 46.0, 45.5]}
    parameters = {"baseline": 1e6, "cheap": 5e5, "dear": 2e6, "wasted": 3e6}
    measured = {name: [Measure("parameters", value), Measure("image tokens", 16)] for name, value in parameters.items()}
    comparison = compare(study, scores(study, truth), costs=measured)
    found = costs(comparison)
    assert found is not None
    (axes,) = found.axes
    assert axes.get_title(loc="left") == "parameters", "image tokens are the same in all arms"
    points = [(container.lines[0].get_xdata()[0], container.lines[0].get_ydata()[0]) for container in axes.containers]  # type: ignore[attr-defined]
    means = {name: float(np.mean(own)) for name, own in truth.items()}
    assert points == [pytest.approx((parameters[name], means[name])) for name in truth]
    best = axes.lines[0]
    assert list(best.get_xdata()) == [5e5, 1e6, 2e6] and list(best.get_ydata()) == pytest.approx(
        [means["cheap"], means["baseline"], means["dear"]]
    )
    assert [text.get_text() for text in axes.texts] == list(truth)
    alike = {name: [Measure("parameters", 1e6)] for name in truth}
    assert costs(compare(study, scores(study, truth), costs=alike)) is None


def test_only_what_a_study_has_is_drawn() -> None:
    study = made_up_study(["arm"])
    results, _ = noisy_results(study, {"baseline": 50.0, "arm": 60.0}, items=4)
    assert drawn(compare(study, results)).keys() == {"forest", "shots", "tasks"}
