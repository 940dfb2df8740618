"""Metrics against their references and on cases that exercise each rule."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm1_ablate.config.settings import component_types
from mm1_ablate.evaluation.metrics import Metric, Prediction, metric_class, shares_accepted
from mm1_ablate.evaluation.metrics._annotators import AnnotatorAgreement
from mm1_ablate.evaluation.metrics._cider import Cider
from mm1_ablate.evaluation.metrics._likelihood import of_right_choice, shares_of_ratio
from mm1_ablate.evaluation.metrics.alias_match import AliasMatch
from mm1_ablate.evaluation.metrics.bits_per_byte import BitsPerByte
from mm1_ablate.evaluation.metrics.choice_accuracy import ChoiceAccuracy
from mm1_ablate.evaluation.metrics.choice_accuracy_normalised import ChoiceAccuracyNormalised
from mm1_ablate.evaluation.metrics.exact_match import ExactMatch
from mm1_ablate.evaluation.metrics.lambada_accuracy import LambadaAccuracy
from mm1_ablate.evaluation.metrics.perplexity import Perplexity
from mm1_ablate.evaluation.metrics.slot_f1 import SlotF1
from mm1_ablate.evaluation.metrics.token_loss import TokenLoss
from mm1_ablate.evaluation.metrics.vqa_accuracy import VqaAccuracy


def answers(text: str, *references: str) -> Prediction:
    return Prediction("item", text, references)


def chosen(correct: int, **log_likelihoods: float) -> Prediction:
    return Prediction("item", "", (), tuple(log_likelihoods), correct, tuple(log_likelihoods.values()))


def continued(text: str, log_likelihood: float, greedy: bool = False, tokens: int = 1) -> Prediction:
    return Prediction("item", text, (), (text,), 0, (log_likelihood,), (greedy,), (tokens,))


def test_every_file_is_a_metric_of_its_own_name() -> None:
    for name, metric in component_types("mm1_ablate.evaluation.metrics").items():
        assert issubclass(metric, Metric) and metric.model_fields["type"].default == name


def test_exact_match_ignores_case_and_white_space_and_accepts_any_reference() -> None:
    predictions = [answers("Red  circle", "red circle"), answers("red", "blue", "red"), answers("re", "red"), answers("", "red")]
    assert ExactMatch().score(predictions) == [1, 1, 0, 0]
    assert ExactMatch(ignore_case=False).score(predictions) == [0, 1, 0, 0]


def test_exact_match_ignores_punctuation_and_articles_if_declared() -> None:
    predictions = [answers("the dog.", "dog"), answers("dog!", "dog"), answers("a dog", "dog"), answers("another dog", "dog")]
    assert ExactMatch().score(predictions) == [0, 0, 0, 0]
    assert ExactMatch(ignore_punctuation=True).score(predictions) == [0, 1, 0, 0]
    assert ExactMatch(ignore_articles=True).score(predictions) == [0, 0, 1, 0]
    assert ExactMatch(ignore_punctuation=True, ignore_articles=True).score(predictions) == [1, 1, 1, 0]


def test_what_is_shown_as_the_answer_is_what_the_metric_took_for_it() -> None:
    long_or_short = chosen(0, short=-4.0, much_longer=-5.0)
    for metric, expected in ((ChoiceAccuracy(), 1.0), (ChoiceAccuracyNormalised(), 0.0)):
        one = replace(long_or_short, text="short")
        assert metric.score([one]) == [expected]
        assert (metric.answer(one) == one.choices[0]) == bool(expected)
    assert LambadaAccuracy().answer(continued("word", -1.0, greedy=True)) == "word"
    assert LambadaAccuracy().answer(continued("word", -1.0, greedy=False)) == ""
    assert ExactMatch().answer(answers("red", "blue")) == "red"


def test_no_choice_of_a_model_whose_likelihoods_are_no_numbers_is_right() -> None:
    for correct in (0, 1):
        for metric in (ChoiceAccuracy(), ChoiceAccuracyNormalised()):
            assert metric.score([chosen(correct, one=math.nan, other=math.nan)]) == [0.0]


def test_an_item_without_references_has_no_score_and_does_not_count() -> None:
    for metric in (ExactMatch(), AliasMatch(), SlotF1(slots={"colour": ["red"]})):
        scores = metric.score([answers("red", "red"), answers("red"), answers("red", "blue")])
        assert math.isnan(scores[1]) and metric.aggregate(scores) == 0.5
        assert math.isnan(metric.aggregate([math.nan]))


@pytest.mark.parametrize(
    ("answer", "alias"),
    [
        ("The Beatles", "beatles"),
        ("the_beatles!", "Beatles"),
        ("AC/DC", "ac dc"),
        ("rock-n-roll", "Rock ‘n’ Roll"),
        ("King’s   Cross", "king´s cross"),
        ("an apple a day", "apple day"),
    ],
)
def test_alias_match_normalises_as_triviaqa_does(answer: str, alias: str) -> None:
    assert AliasMatch().score([answers(answer, "something else", alias)]) == [1]


def test_alias_match_joins_no_words_and_keeps_articles_inside_words() -> None:
    assert AliasMatch().score([answers("theatre", "tre"), answers("ACDC", "AC/DC"), answers("1,000", "1000")]) == [0, 0, 0]


def test_choice_accuracy_sums_and_its_normalised_form_divides_by_characters() -> None:
    prediction = chosen(1, red=-2.0, magenta=-3.0)
    assert ChoiceAccuracy().score([prediction]) == [0]
    assert ChoiceAccuracyNormalised().score([prediction]) == [1]


def test_a_continuation_is_right_if_greedy_decoding_gives_it() -> None:
    predictions = [continued("dog", -0.1, True), continued("cat", -0.1, False)]
    assert LambadaAccuracy().score(predictions) == [1, 0]
    with pytest.raises(ValueError, match="item item: needs a correct choice and whether greedy decoding gives it"):
        LambadaAccuracy().score([chosen(0, dog=-1.0)])


def test_perplexity_is_exp_of_the_mean_surprise() -> None:
    predictions = [continued("dog", -math.log(8)), continued("some cats", -math.log(2))]
    scores = Perplexity().score(predictions)
    assert scores == pytest.approx([math.log(8), math.log(2)])
    assert Perplexity.aggregate(scores) == pytest.approx(4)
    assert Perplexity.aggregate([1e6]) == math.inf and not Perplexity.higher_is_better and Perplexity.scale == 1


@given(st.lists(st.tuples(st.text(min_size=1, max_size=9), st.floats(-50, 0), st.integers(1, 9)), min_size=1, max_size=8))
def test_bits_per_byte_and_token_loss_are_ratios_of_totals(texts: list[tuple[str, float, int]]) -> None:
    texts = [(text.encode(errors="replace").decode(), nats, tokens) for text, nats, tokens in texts]
    predictions = [continued(text, nats, tokens=tokens) for text, nats, tokens in texts]
    nats = -sum(own for _, own, _ in texts)
    size = sum(len(text.encode()) for text, _, _ in texts)
    assert BitsPerByte.aggregate(BitsPerByte().score(predictions)) == pytest.approx(nats / math.log(2) / size)
    assert TokenLoss.aggregate(TokenLoss().score(predictions)) == pytest.approx(nats / sum(tokens for _, _, tokens in texts))


def test_bytes_that_are_given_go_before_those_of_the_choice() -> None:
    prediction = Prediction("item", "", (), ("ab",), 0, (-math.log(2),), byte_counts=(4,))
    assert BitsPerByte().score([prediction]) == pytest.approx([0.25])


def test_slot_f1_counts_slot_words_only_and_takes_the_best_reference() -> None:
    metric = SlotF1(slots={"colour": ["red", "blue"], "shape": ["circle", "square"]})
    assert metric.score([answers("a red circle", "one circle that is red")]) == [1]
    assert metric.score([answers("a red square", "a red circle")]) == [0.5]
    assert metric.score([answers("red", "red circle")]) == pytest.approx([2 / 3])
    assert metric.score([answers("blue circle", "red square", "blue circle")]) == [1]
    assert metric.score([answers("a picture", "red circle"), answers("red", "a picture")]) == [0, 0]


@settings(max_examples=40)
@given(st.data())
def test_scores_do_not_depend_on_the_order_of_items_or_references(data: st.DataObject) -> None:
    words = st.lists(st.sampled_from(["a", "red", "blue", "two", "dont", "yes", "Yes", "1,000."]), max_size=4).map(" ".join)
    items = data.draw(st.lists(st.builds(answers, words, words, words, words), min_size=1, max_size=5))
    order = data.draw(st.permutations(range(len(items))))
    for name, kind in component_types("mm1_ablate.evaluation.metrics").items():
        assert issubclass(kind, Metric)
        if kind.kind != "generate":
            continue
        metric = kind.model_validate({"type": name, "slots": {"colour": ["red", "blue"]}} if name == "slot_f1" else {"type": name})
        scores = np.array(metric.score(items))
        turned = metric.score([Prediction(one.item, one.text, one.references[::-1]) for one in (items[place] for place in order)])
        assert turned == pytest.approx(scores[list(order)].tolist(), abs=1e-12)
        assert ((scores >= 0) & (scores <= (10 + 1e-9 if name.startswith("cider") else 1))).all()


def test_answers_that_a_metric_cannot_score_are_named_with_what_they_lack() -> None:
    unsure = replace(chosen(0, a=-1.0, b=-2.0), correct=None)
    short = replace(chosen(0, a=-1.0, b=-2.0), log_likelihoods=(-1.0,))
    for metric in (ChoiceAccuracy(), Perplexity(), LambadaAccuracy()):
        with pytest.raises(ValueError, match=r"^item item: needs a correct choice and "):
            metric.score([unsure])
    with pytest.raises(ValueError, match=r"^item item: needs a correct choice and a log-likelihood of each choice$"):
        ChoiceAccuracy().score([short])
    with pytest.raises(ValueError, match=r"^item item: needs a correct choice and a number of bytes of each choice$"):
        BitsPerByte().score([replace(chosen(0, a=-1.0, b=-2.0), byte_counts=(1,))])
    with pytest.raises(ValueError, match=r"^item item: needs a correct choice and a number of tokens of each choice$"):
        TokenLoss().score([replace(continued("a", -1.0), token_counts=())])
    with pytest.raises(ValueError, match=r"^nothing to divide by: all items are empty$"):
        BitsPerByte().score([replace(continued("a", -1.0), byte_counts=(0,))])
    with pytest.raises(ValueError, match="expected at least one word"):
        SlotF1(slots={"colour": []})
    with pytest.raises(ValueError, match="a word must be of one slot only, these are of several: blue, red "):
        SlotF1(slots={"colour": ["red", "blue"], "shape": ["red", "ring"], "size": ["blue"]})


# ---------------------------------------------------------------- limits
def test_the_class_of_a_rule_is_a_metric_or_an_error() -> None:
    assert metric_class("exact_match") is ExactMatch
    own = "mm1_ablate.model.connectors.average_pool.AveragePool"
    with pytest.raises(TypeError) as error:
        metric_class(own)
    assert str(error.value) == f"'{own}' is not a subclass of mm1_ablate.evaluation.metrics.Metric"


def test_an_answer_is_accepted_by_its_share_of_the_items_that_have_references() -> None:
    asked = [answers("", "Red", "red"), answers("", "red", "blue"), answers("", "blue"), answers("")]
    assert shares_accepted(["RED", "blue", "x"], asked, str.lower) == pytest.approx([2 / 3, 2 / 3, 0])
    assert all(map(math.isnan, shares_accepted(["a", "b"], [answers("")], str.lower)))
    assert ExactMatch().means_of_constants(["RED"], asked) == pytest.approx([2 / 3])
    assert ExactMatch(ignore_case=False).means_of_constants(["RED", "Red"], asked) == pytest.approx([0, 1 / 3])
    assert AliasMatch().means_of_constants(["the red!"], asked) == pytest.approx([2 / 3])
    assert VqaAccuracy().means_of_constants(["red"], [answers("", *["red"] * 4, "no"), answers("", *["no"] * 4), answers("")]) == [0.5]


def test_perplexity_is_infinite_where_a_number_cannot_hold_it() -> None:
    assert Perplexity.aggregate([709.0]) == math.inf
    assert Perplexity.aggregate([708.5]) == pytest.approx(math.exp(708.5)) and Perplexity.aggregate([0.0, math.nan, math.log(4)]) == 2


def test_of_equally_likely_choices_the_first_is_chosen() -> None:
    for metric in (ChoiceAccuracy(), ChoiceAccuracyNormalised()):
        assert metric.score([chosen(0, a=-1.0, b=-1.0), chosen(1, a=-1.0, b=-1.0)]) == [1, 0]
        assert metric.score([chosen(1, a=math.nan, b=-1.0)]) == [0]
    # -3 / 3 and -2 / 2 are as much a character; an empty choice counts as one.
    assert ChoiceAccuracyNormalised().score([chosen(0, abc=-3.0, ab=-2.0)]) == [1]
    empty = Prediction("item", "said", (), ("", "ab"), 0, (-1.5, -2.0))
    assert ChoiceAccuracyNormalised().answer(empty) == "ab" and ChoiceAccuracyNormalised().score([empty]) == [0]
    assert ChoiceAccuracyNormalised().answer(Prediction("item", "said", (), (), None)) == "said"


def test_a_ratio_of_totals_has_a_share_for_each_item_and_none_where_there_are_none() -> None:
    assert shares_of_ratio([1.0, 6.0], [1, 3]) == [0.5, 3.0] and shares_of_ratio([], []) == []
    assert of_right_choice(chosen(1, a=-1.0, b=-2.0), ["x", "y"], "a letter") == "y"
    assert TokenLoss().score([continued("a", -2.0, tokens=1), continued("b", -3.0, tokens=3)]) == [1.0, 1.5]
    two = [
        Prediction("item", "", (), ("é", "ab"), 0, (-math.log(4), -1.0)),
        Prediction("item", "", (), ("é", "abcd"), 1, (-1.0, -math.log(2))),
    ]
    assert BitsPerByte().score(two) == pytest.approx([2 / 3, 1 / 3])  # of 2 and 4 bytes, of which é has two


def test_what_a_metric_is_of_is_as_declared() -> None:
    kinds = {
        name: (metric.kind, metric.scale, metric.higher_is_better, metric.floor, metric.ceiling)
        for name, metric in component_types("mm1_ablate.evaluation.metrics").items()
        if issubclass(metric, Metric)
    }
    constant = ("generate", 100.0, True, "constant_answer")
    measured = ("choose", 1.0, False, "none", "none")
    assert kinds == {
        "exact_match": (*constant, "one"), "alias_match": (*constant, "one"), "slot_f1": (*constant, "best_reference"),
        "vqa_accuracy": (*constant, "best_reference"), "textvqa_accuracy": (*constant, "best_reference"),
        "vizwiz_accuracy": (*constant, "best_reference"), "cider_raw": (*constant, "none"), "cider_ptb": (*constant, "none"),
        "choice_accuracy": ("choose", 100.0, True, "constant_choice", "one"),
        "choice_accuracy_normalised": ("choose", 100.0, True, "constant_choice", "one"),
        "lambada_accuracy": ("choose", 100.0, True, "none", "one"), "probability": ("choose", 100.0, True, "none", "one"),
        "perplexity": measured, "token_loss": measured, "bits_per_byte": measured,
    }  # fmt: skip


def test_articles_and_marks_are_left_out_in_any_case_and_as_words_alone() -> None:
    loose = ExactMatch(ignore_articles=True, ignore_punctuation=True, ignore_case=False)
    assert loose.score([answers("The theatre, An  A", "theatre"), answers("Theatre", "theatre"), answers("a-b", "ab")]) == [1, 0, 1]
    assert ExactMatch().score([answers("STRASSE", "straße")]) == [1]


def test_metrics_that_leave_their_rule_out_say_so() -> None:
    asked = [answers("a", "a")]
    with pytest.raises(TypeError, match=r"^AnnotatorAgreement does not implement what it compares$"):
        AnnotatorAgreement.model_construct(type="x").score(asked)
    with pytest.raises(TypeError, match=r"^Cider does not implement how it splits words$"):
        Cider.model_construct(type="x", frequency="items").score(asked)
