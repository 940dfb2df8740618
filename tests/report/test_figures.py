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

from mm1_ablate.config.study import Grid, Study
from mm1_ablate.report.comparison import StudyComparison, compare
from mm1_ablate.report.figures import curves, drawn, effects, forest, shots

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


def test_points_stand_at_differences_and_intervals_end_where_they_do_or_at_an_arrow(figure: Figure) -> None:
    axes = figure.axes[1]
    low, high = axes.get_xlim()
    assert (low, high) == pytest.approx((-18 - 0.06 * 36, 18 + 0.06 * 36)), "four fifths of the largest difference beyond it, and an edge"
    for place, arm, marker in ((1, "group/up", "^"), (2, "group/down", "v"), (3, "same", "D"), (5, "gone", "x")):
        own = [one for one in DIFFERENCES[arm] if not np.isnan(one)]
        ends = [2, 8] if arm == "gone" else list(stats.ttest_1samp(own, 0).confidence_interval())
        found = lines_at(axes, place)
        assert found[0] == ("None", pytest.approx(ends)) and found[-1] == (marker, pytest.approx([np.mean(own)]))
        assert len(found) == 2, "no arrows"
        assert lines_at(axes, place + 0.24) == [(".", pytest.approx(own))], "the seeds"
    assert lines_at(axes, 4) == [("None", [low, high]), ("<", [low]), (">", [high]), ("o", pytest.approx([5.0]))]
    assert [line.get_linestyle() for line in axes.lines if len(line.get_xdata()) == 2 and line.get_ydata()[0] == 5] == [":"]
    solid = [line.get_linestyle() for line in axes.lines if len(line.get_xdata()) == 2 and 0 < line.get_ydata()[0] < 5]
    assert solid == ["-"] * 4


def test_verdicts_are_told_apart_by_colour_and_what_is_open_by_a_hollow_point(figure: Figure) -> None:
    axes = figure.axes[1]
    points = {line.get_ydata()[0]: line for line in axes.lines if len(line.get_xdata()) == 1 and str(line.get_marker()) not in "<>"}
    colours = [to_hex(points[place].get_color()) for place in range(1, 6)]
    assert len(set(colours[:4])) == 4 and colours[4] == colours[3]
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
def test_scores_stand_at_their_shots_with_a_deviation_and_a_name() -> None:
    study = made_up_study(["group/up", "group/high", "other/down", "other/low"])
    results, _ = noisy_results(study, {"baseline": 50.0, "group/up": 60.0, "group/high": 59.0, "other/down": 40.0, "other/low": 41.0})
    comparison = compare(study, results)
    found = shots(comparison)
    assert (
        found is not None
        and [axes.get_title(loc="left") for axes in found.axes] == ["group", "other"]
        and drawn(comparison).keys() == {"forest", "shots"}
    )
    for axes, arms in zip(found.axes, (("group/up", "group/high"), ("other/down", "other/low")), strict=True):
        rows = [comparison.row(name) for name in ("baseline", *arms)]
        assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "4", "8"]
        assert axes.get_xlabel() == "shots"
        legend = axes.get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == ["baseline", *(arm.partition("/")[2] for arm in arms)]
        assert len(axes.containers) == 3
        for container, row, shift in zip(axes.containers, rows, (-0.06, 0.0, 0.06), strict=True):
            line, _, (bars,) = container.lines  # type: ignore[attr-defined]
            cells = [row.cells[f"shot_{count}/average"] for count in (0, 4, 8)]
            assert list(line.get_xdata()) == pytest.approx([shift, 1 + shift, 2 + shift])
            assert list(line.get_ydata()) == pytest.approx([cell.mean for cell in cells])
            heights = [segment[:, 1] for segment in bars.get_segments()]
            assert np.array(heights) == pytest.approx(
                np.array([(cell.mean - cell.deviation, cell.mean + cell.deviation) for cell in cells])
            )
        first, second, _ = (container.lines[0] for container in axes.containers)  # type: ignore[attr-defined]
        assert first.get_color() != second.get_color() and first.get_marker() != second.get_marker()
        assert first.get_linewidth() > second.get_linewidth()
    assert [axes.get_ylabel() for axes in found.axes] == ["mean score\n(bars: standard deviation over seeds)", ""]


def test_arms_of_a_panel_are_told_apart_by_colour_and_marker_and_panels_without_arms_are_empty() -> None:
    arms = [f"group/{number}" for number in range(8)]
    study = made_up_study(arms)
    results, _ = noisy_results(study, dict.fromkeys(["baseline", *arms], 50.0), items=4)
    found = shots(compare(study, results))
    assert found is not None
    (axes,) = found.axes
    looks = {(container.lines[0].get_color(), container.lines[0].get_marker()) for container in axes.containers}  # type: ignore[attr-defined]
    assert len(looks) == 9
    five = [f"{letter}/{number}" for letter in "abcde" for number in "12"]
    study = made_up_study(five)
    results, _ = noisy_results(study, dict.fromkeys(["baseline", *five], 50.0), items=4)
    found = shots(compare(study, results))
    assert found is not None
    assert [axes.get_visible() for axes in found.axes] == [True] * 5 + [False]
    assert [axes.get_title(loc="left") for axes in found.axes[:5]] == list("abcde")
    assert [bool(axes.get_ylabel()) for axes in found.axes] == [True, False, False, True, False, False]


def test_curves_are_the_losses_of_each_seed_and_their_mean() -> None:
    comparison = compared({"arm": [1.0, 2.0, 4.0]})
    table = pd.MultiIndex.from_product([["baseline", "arm"], [0, 1], range(3)], names=["arm", "seed", "step"]).to_frame(index=False)
    losses = table.assign(loss=4.0 - table["step"] + table["seed"] + 10 * (table["arm"] == "arm"))
    losses.loc[len(losses)] = ["arm", 0, 2, float("nan")]
    found = curves(comparison, losses)
    assert found is not None
    (axes,) = found.axes
    curve = {arm: [[start - step + seed for step in range(3)] for seed in (0, 1)] for arm, start in (("baseline", 4.0), ("arm", 14.0))}
    expected = [own for arm in ("baseline", "arm") for own in (*curve[arm], np.mean(curve[arm], axis=0))]
    assert [list(line.get_ydata()) for line in axes.lines] == [pytest.approx(list(own)) for own in expected]
    assert all(list(line.get_xdata()) == [0.5, 1.5, 2.0] for line in axes.lines), "middles of steps, none after the last"
    colours = [to_hex(line.get_color()) for line in axes.lines]
    assert len({*colours[:3]}) == len({*colours[3:]}) == 1 and colours[0] != colours[3]
    legend = axes.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["baseline", "arm"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "training loss\n(faint: single seeds)")
    assert axes.get_ylim()[1] == pytest.approx(np.quantile(losses["loss"].dropna(), 0.98))


def test_long_curves_are_drawn_by_sixty_means_of_neighbours_and_an_arm_without_losses_is_left_out() -> None:
    losses = pd.DataFrame({"arm": "baseline", "seed": 0, "step": range(601), "loss": [float(step) for step in range(601)]})
    found = curves(compared({"arm": [1.0, 2.0, 4.0]}), losses)
    assert found is not None
    line = found.axes[0].lines[0]
    assert len(found.axes[0].lines) == 2 and len(line.get_xdata()) == 55
    assert list(line.get_xdata())[:2] == [5.5, 16.5] and list(line.get_ydata())[:2] == [5.0, 16.0]
    assert curves(compared({"arm": [1.0, 2.0, 4.0]}), losses.iloc[:0]) is None
