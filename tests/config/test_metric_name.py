"""Names of metrics: both spellings mean the same, in every place that takes one."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_files import study_of, the_problem
from hypothesis import given
from hypothesis import strategies as st

from mm1_ablate.config.metric_name import LOSSES, TEXT_CORE, MetricName, canonical, metric_title
from mm1_ablate.config.paper_results import Table

suites = st.one_of(st.integers(0, 200).map("shot_{}".format), st.just(TEXT_CORE), st.sampled_from(LOSSES))
words = st.text(alphabet="abcXYZ019_-@", min_size=1, max_size=8)
metrics = st.builds(
    MetricName,
    suites,
    st.one_of(st.sampled_from(["average", "probability", "average.probability"]), words, st.builds("{}.{}".format, words, words)),
)


@given(metrics)
def test_both_spellings_lead_back_to_the_same_metric(metric: MetricName) -> None:
    assert MetricName.parse(str(metric)) == metric
    assert MetricName.parse(metric.title) == metric
    assert canonical(metric.title) == canonical(str(metric)) == str(metric)


@given(suites, st.text(min_size=1))
def test_a_canonical_name_may_hold_anything_behind_its_slash(suite: str, name: str) -> None:
    assert MetricName.parse(f"{suite}/{name}") == MetricName(suite, name)


@given(st.text())
def test_what_is_no_metric_is_left_for_checks_to_complain_of(text: str) -> None:
    try:
        parsed = MetricName.parse(text)
    except ValueError:
        assert canonical(text) == text
    else:
        assert canonical(text) == str(parsed) and canonical(str(parsed)) == str(parsed)


@given(st.sampled_from(["image", "text", "loss"]), st.integers(0, 64), words, words, st.booleans())
def test_a_name_tells_what_it_was_made_of(family: str, shots: int, task: str, rule: str, primary: bool) -> None:
    measure = "loss" if family == "loss" else rule
    metric = MetricName.of_task(family, shots, task, measure, primary)
    assert metric.task == task and metric.is_loss == (family == "loss")
    assert metric.shots == (shots if family == "image" else None)
    assert metric.rule == ("" if primary or family == "loss" else rule)


@pytest.mark.parametrize(
    ("text", "name", "title"),
    [
        ("8-shot", "shot_8/average", "8-shot"),
        ("shot_8/average", "shot_8/average", "8-shot"),
        ("TextCore", "text_core/average", "TextCore"),
        ("8-shot vqa v2", "shot_8/vqa_v2", "8-shot vqa v2"),
        ("8-shot/vqa_v2", "shot_8/vqa_v2", "8-shot vqa v2"),
        ("TextCore/arc", "text_core/arc", "TextCore arc"),
        ("shot_8/my task", "shot_8/my task", "8-shot my task"),
        ("0-shot coco.cider raw", "shot_0/coco.cider_raw", "0-shot coco.cider raw"),
        ("8-shot probability", "shot_8/average.probability", "8-shot probability"),
        ("TextCore probability", "text_core/average.probability", "TextCore probability"),
        ("0-shot coco.probability", "shot_0/coco.probability", "0-shot coco.probability"),
        ("8-shot/probability", "shot_8/probability", "8-shot/probability"),  # a task of this name
        ("loss probability", "loss/probability", "loss probability"),
        ("loss web", "loss/web", "loss web"),
        ("bits_per_byte/average", "bits_per_byte/average", "bits_per_byte average"),
    ],
)
def test_spellings(text: str, name: str, title: str) -> None:
    assert canonical(text) == name and metric_title(name) == title


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8",
        "8-shot/",
        "8-shot ",
        "08-shot",
        "shot_08/average",
        "shot_8",
        "shot_8/",
        "text_core",
        "textcore",
        "loss",
        "acc/vqa",
        "8-shots",
    ],
)
def test_what_is_no_metric(text: str) -> None:
    with pytest.raises(ValueError, match="is not a metric"):
        MetricName.parse(text)


# ---------------------------------------------------------------- in a sweep
LESS = "less: {remove: data.mixture.text}"


def test_a_sweep_in_either_spelling_is_the_same(tmp_path: Path) -> None:
    studies = []
    for primary, metrics, expected in (
        ("shot_8/average", "[text_core/average, shot_0/average, shot_4/miniature_vqa]", "text_core/miniature_text_qa"),
        ("8-shot", "[TextCore, 0-shot, 4-shot miniature vqa]", "TextCore miniature text qa"),
    ):
        claim = f"{{arm: less, metric: {expected}, is: within, by: 2, because: it was so}}"
        studies.append(study_of(tmp_path, LESS, f"compare: {{primary: {primary}, metrics: {metrics}}}\nexpect: [{claim}]"))
    first, second = studies
    assert first.sweep == second.sweep and first.sweep.compare.primary == "shot_8/average"
    assert [trial.evaluation_fingerprint for trial in first.trials] == [trial.evaluation_fingerprint for trial in second.trials]


@pytest.mark.parametrize(
    ("rest", "at", "message", "hint"),
    [
        ("compare: {primary: 8-shott}", "8-shott", "'8-shott' is not a metric", "did you mean '8-shot'?"),
        ("compare: {metrics: [8-shot, textcore]}", "textcore", "'textcore' is not a metric", "did you mean 'TextCore'?"),
        (
            "compare: {metrics: [8-shot miniature vqs]}",
            "8-shot mini",
            "'shot_8/miniature_vqs' is not evaluated",
            "did you mean 'miniature_vqa'?",
        ),
        ("expect: [{arm: less, metric: TextCor, is: below, because: it was so}]", "TextCor", "is not a metric", "did you mean 'TextCore'?"),
        (
            "expect: [{arm: less, metric: 16-shot, is: below, because: it was so}]",
            "16-shot",
            "is not evaluated",
            "add 16 to evaluation.shots",
        ),
    ],
)
def test_a_misspelt_metric_is_reported_with_what_was_meant(tmp_path: Path, rest: str, at: str, message: str, hint: str) -> None:
    told = the_problem(tmp_path, LESS, rest)
    assert told[0].startswith(at) and message in told[1] and told[2] == hint


@pytest.mark.parametrize(("first", "second"), [("shot_8", "text_core"), ("8-shot", "TextCore")])
def test_tables_of_the_paper_may_have_either_spelling(first: str, second: str) -> None:
    table = Table(title="a", label="{loss}", columns=["loss", "image/text", second, first], rows=[["x", "91/9", 50.0, 60.0]])
    assert table.numbers() == {"x": {"text_core/average": 50.0, "shot_8/average": 60.0}}
