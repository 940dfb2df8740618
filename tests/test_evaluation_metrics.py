"""Metrics against their references and on cases that exercise each rule."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm1_ablate.evaluation.metrics import Metric, Prediction
from mm1_ablate.evaluation.metrics.choice_accuracy import ChoiceAccuracy
from mm1_ablate.evaluation.metrics.choice_accuracy_normalised import ChoiceAccuracyNormalised
from mm1_ablate.evaluation.metrics.cider_raw import CiderRaw
from mm1_ablate.evaluation.metrics.exact_match import ExactMatch
from mm1_ablate.evaluation.metrics.slot_f1 import SlotF1
from mm1_ablate.spec.settings import component_types


def answers(text: str, *references: str) -> Prediction:
    return Prediction("item", text, references)


def chosen(correct: int, **log_likelihoods: float) -> Prediction:
    return Prediction("item", "", (), tuple(log_likelihoods), correct, tuple(log_likelihoods.values()))


def test_every_file_is_a_metric_of_its_own_name() -> None:
    for name, metric in component_types("mm1_ablate.evaluation.metrics").items():
        assert issubclass(metric, Metric) and metric.model_fields["type"].default == name


def test_exact_match_ignores_case_and_white_space_and_accepts_any_reference() -> None:
    predictions = [answers("Red  circle", "red circle"), answers("red", "blue", "red"), answers("re", "red"), answers("", "red")]
    assert ExactMatch().score(predictions) == [1, 1, 0, 0]
    assert ExactMatch(ignore_case=False).score(predictions) == [0, 1, 0, 0]


def test_choice_accuracy_sums_and_its_normalised_form_divides_by_characters() -> None:
    prediction = chosen(1, red=-2.0, magenta=-3.0)
    assert ChoiceAccuracy().score([prediction]) == [0]
    assert ChoiceAccuracyNormalised().score([prediction]) == [1]


def test_slot_f1_counts_slot_words_only_and_takes_the_best_reference() -> None:
    metric = SlotF1(slots={"colour": ["red", "blue"], "shape": ["circle", "square"]})
    assert metric.score([answers("a red circle", "one circle that is red")]) == [1]
    assert metric.score([answers("a red square", "a red circle")]) == [0.5]
    assert metric.score([answers("red", "red circle")]) == pytest.approx([2 / 3])
    assert metric.score([answers("blue circle", "red square", "blue circle")]) == [1]
    assert metric.score([answers("a picture", "red circle"), answers("red", "a picture")]) == [0, 0]


captions = st.lists(st.sampled_from(["a", "red", "blue", "circle", "on", "the", "wall", "."]), max_size=9).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(captions, st.lists(captions.filter(bool), min_size=1, max_size=3)), min_size=2, max_size=6))
def test_cider_is_that_of_pycocoevalcap(items: list[tuple[str, list[str]]]) -> None:
    scorer_module = pytest.importorskip("pycocoevalcap.cider.cider_scorer")
    scorer = scorer_module.CiderScorer()
    for text, references in items:
        scorer += (text, references)
    _, expected = scorer.compute_score()
    assert CiderRaw().score([answers(text, *references) for text, references in items]) == pytest.approx(expected.tolist(), abs=1e-9)
