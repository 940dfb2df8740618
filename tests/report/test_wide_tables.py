"""Tables that are too wide for a page: all columns are in some part, in order, and no part is too wide."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from made_up import made_up_study, scores

from mm1_ablate.report.cells import Measure
from mm1_ablate.report.comparison import compare
from mm1_ablate.report.html import html
from mm1_ablate.report.markdown import markdown
from mm1_ablate.report.wide_tables import MOST_METRICS, costs_of, in_parts, metric_tables


@given(st.lists(st.integers()), st.integers(1, 9))
def test_parts_hold_all_columns_in_order_and_are_about_the_same_size(columns: list[int], most: int) -> None:
    parts = in_parts(columns, most)
    assert [column for part in parts for column in part] == columns
    sizes = {len(part) for part in parts}
    assert all(0 < size <= most for size in sizes) and (not sizes or max(sizes) - min(sizes) <= 1)


SUITES = st.sampled_from(["text_core", "shot_0", "shot_4", "shot_16", "loss"])


@given(st.lists(st.builds("{}/t{}".format, SUITES, st.integers(0, 9)), unique=True))
def test_metrics_are_each_in_one_table_by_shots_with_the_suites_in_its_title(metrics: list[str]) -> None:
    tables = metric_tables(metrics)
    told = [metric for _, own in tables for metric in own]
    assert sorted(told) == sorted(metrics) and all(0 < len(own) <= MOST_METRICS for _, own in tables)
    order = ["text_core", "shot_0", "shot_4", "shot_16", "loss"]
    assert [order.index(metric.split("/")[0]) for metric in told] == sorted(order.index(metric.split("/")[0]) for metric in metrics)
    titles = {"text_core": "TextCore", "shot_0": "0-shot", "shot_4": "4-shot", "shot_16": "16-shot", "loss": "loss"}
    for title, own in tables:
        assert title.split(", ") == list(dict.fromkeys(titles[metric.split("/")[0]] for metric in own))


def test_what_is_the_same_in_all_arms_is_a_sentence_and_what_differs_a_table() -> None:
    study = made_up_study(["arm"])
    table = scores(study, {"baseline": [1.0, 2.0, 3.0], "arm": [2.0, 3.0, 4.5]})
    costs = {
        "baseline": [Measure("parameters", 1e6), Measure("image tokens", 4)],
        "arm": [Measure("parameters", 2e6), Measure("image tokens", 4)],
    }
    comparison = compare(study, table, costs=costs)
    assert costs_of(comparison).same == ("image tokens 4",) and [list(part) for part in costs_of(comparison).tables] == [["parameters"]]
    page = html(comparison)
    assert "The same in all arms: image tokens 4." in page and "<th>parameters</th>" in page and "<th>image tokens</th>" not in page
    assert "<br>" not in markdown(comparison)
