"""What goes wrong while a model is tried before a run is told at the setting that it is about, in the words that matter of an error."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import tiny_experiment
from torch import nn

from mm1_ablate.config.connector import Connector
from mm1_ablate.config.model import LanguageModel
from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.hub import Unavailable
from mm1_ablate.model import embedding_scale, packable, preflight
from mm1_ablate.model.packed_attention import NotPackable
from mm1_ablate.model.preflight import facts_about, wrong_parts

WIDE = {"num_attention_heads": 4, "hidden_size": 65, "hidden_act": "gelo"}
VALIDATION = "Class validation error for validator 'validate_heads':"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))


def raising(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, error: BaseException | None) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        assert error is not None
        raise error

    monkeypatch.setattr(place, name, fails)


def refused(settings: LanguageModel) -> tuple[str, str]:
    with pytest.raises(SettingError) as caught:
        facts_about(settings)
    return caught.value.at, caught.value.message


@pytest.mark.parametrize(
    ("configuration", "error", "at"),
    [
        (WIDE, ValueError("the hidden size 65 is no multiple of 4"), "configuration.hidden_size"),
        (WIDE, ValueError("(`Num_Attention_Heads`=4) must divide hidden_size"), "configuration.num_attention_heads"),
        (WIDE, KeyError("gelo"), "configuration.hidden_act"),
        (WIDE, KeyError("GELO of hidden_size"), "configuration.hidden_size"),
        (WIDE, ValueError("a hidden_size_of is no hidden.act"), "configuration"),
        (WIDE, ValueError("it does not support a hidden_size"), "model_type"),
        (WIDE, ValueError("Unrecognized model"), "model_type"),
        (WIDE, ValueError("no model type is named"), "model_type"),
        (WIDE, ValueError("four"), "configuration"),
        ({"Head_Dim": 3}, ValueError("the head_dim is odd"), "configuration.Head_Dim"),
        ({}, ValueError("four"), "model_type"),
        ({}, TypeError("four"), "configuration"),
        ({}, TypeError("Unrecognized"), "model_type"),
    ],
)
def test_an_error_of_transformers_is_told_at_the_field_that_it_names(
    configuration: dict[str, Any], error: Exception, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(monkeypatch, preflight, "without_values", error)
    assert refused(LanguageModel(model_type="llama", configuration=configuration))[0] == at
    assert refused(LanguageModel(name="lab/model"))[0] == "name"


LONG = "word " * 39 + "words"
"""Two hundred characters."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("\n  first \n second"), "first"),
        (ValueError(f"{VALIDATION}\n    ValueError: heads do not divide\nmore"), "heads do not divide"),
        (ValueError(f"{VALIDATION}\n    TypeError: heads are none"), "heads are none"),
        (ValueError(VALIDATION), VALIDATION),
        (ValueError("one\nValueError: two"), "one"),
        (RuntimeError(" \n"), "RuntimeError"),
        (KeyError("gelo"), "there is no 'gelo'"),
        (ValueError(LONG), LONG),
        (ValueError(LONG + "s"), "word " * 39 + "..."),
    ],
)
def test_of_an_error_the_line_that_matters_is_repeated_and_not_too_much_of_it(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = LanguageModel(model_type="llama", configuration=WIDE)
    raising(monkeypatch, preflight, "without_values", error)
    assert refused(settings)[1] == f"transformers cannot make this model: {words}"
    outer = ValueError("refused")
    outer.__cause__ = error
    raising(monkeypatch, preflight, "without_values", outer)
    assert refused(settings)[1] == f"transformers cannot make this model: {words}"


def test_what_cannot_be_looked_at_is_not_wrong_and_what_is_known_to_be_wrong_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = LanguageModel(model_type="llama")
    raising(monkeypatch, preflight, "without_values", OSError("no connection"))
    with pytest.raises(Unavailable):
        facts_about(settings)
    raising(monkeypatch, preflight, "without_values", SettingError("initialisation", "is not covered"))
    assert refused(settings) == ("initialisation", "is not covered")


def made(monkeypatch: pytest.MonkeyPatch, **config: Any) -> None:
    """Every declared language model is one of this configuration."""
    config = {"model_type": "ours", "hidden_size": 48, "max_position_embeddings": 16, **config}
    model = SimpleNamespace(config=SimpleNamespace(**config), supports_gradient_checkpointing=config.pop("recomputes", False))
    monkeypatch.setattr(preflight, "without_values", lambda settings: model)
    monkeypatch.setattr(packable, "check_packable", lambda model: None)


def test_what_is_found_out_of_a_language_model(monkeypatch: pytest.MonkeyPatch) -> None:
    made(monkeypatch)
    assert facts_about(LanguageModel(model_type="llama")) == {"width": 48, "recomputes": 0}
    made(monkeypatch, hidden_size=32, recomputes=True)
    assert facts_about(LanguageModel(model_type="phi")) == {"width": 32, "recomputes": 1}
    assert facts_about(LanguageModel(model_type="llama")) == {"width": 48, "recomputes": 0}, "it is remembered"


@pytest.mark.parametrize("needed", ["hidden_size", "max_position_embeddings"])
def test_a_model_that_does_not_say_how_wide_or_long_it_is_is_refused(needed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made(monkeypatch, **{needed: None})
    words = f"models of type ours have no {needed}"
    assert refused(LanguageModel(model_type="llama")) == ("model_type", words)
    assert refused(LanguageModel(name="lab/model")) == ("name", words)


def test_why_documents_cannot_be_packed_is_told_at_the_field_that_it_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    made(monkeypatch)
    windowed = LanguageModel(model_type="llama", configuration={"sliding_window": 4})
    plain, named = LanguageModel(model_type="llama", configuration={"head_dim": 4}), LanguageModel(name="lab/model")
    raising(monkeypatch, packable, "check_packable", NotPackable("it sees too little", "sliding_window"))
    leave = "it sees too little; leave it out, or choose another kind of model"
    assert refused(windowed) == ("configuration.sliding_window", leave)
    choose = "it sees too little; choose another kind of model"
    assert refused(plain) == ("model_type", choose) and refused(named) == ("name", choose)
    raising(monkeypatch, packable, "check_packable", TypeError("no tensors\nat all"))
    words = "such a model cannot be run on packed documents: no tensors"
    assert refused(plain) == ("configuration", words) and refused(named) == ("name", words)


@pytest.mark.parametrize(
    "limit",
    [
        NotImplementedError("whatever"),
        RuntimeError("Cannot copy out of meta tensor; no data!"),
        RuntimeError("not on the Meta Device"),
        RuntimeError("could not run on the 'Meta' backend"),
        RuntimeError("Data-dependent branching"),
        RuntimeError("Fake tensor without a value"),
    ],
)
def test_what_torch_cannot_do_without_values_is_no_error_of_the_settings(limit: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    made(monkeypatch)
    raising(monkeypatch, packable, "check_packable", limit)
    assert facts_about(LanguageModel(model_type="llama")) == {"width": 48, "recomputes": 0}


@pytest.mark.parametrize(
    ("own", "does"),
    [
        (1.0, None),
        (5.656854, "multiply embeddings by 5.657 themselves, so they would be scaled twice"),
        (0.0, "normalise embeddings, so it has no effect"),
    ],
)
def test_a_scale_beside_the_models_own_is_refused(own: float, does: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    made(monkeypatch)
    monkeypatch.setattr(embedding_scale, "embedding_scale", lambda build: own)
    assert facts_about(LanguageModel(model_type="llama"))
    settings = LanguageModel(model_type="llama", scale_embeddings=True)
    if does is None:
        assert facts_about(settings)
    else:
        assert refused(settings) == ("scale_embeddings", f"models of type ours {does}; leave it out")


def test_a_language_model_that_cannot_recompute_is_told_at_the_setting_that_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, (recomputes, wanted, told) in enumerate(((0, True, True), (1, True, False), (0, False, False))):
        facts = {"width": 32, "recomputes": recomputes}
        monkeypatch.setattr(preflight, "facts_about", lambda settings, facts=facts: facts)
        problems = wrong_parts(tiny_experiment({"training.activation_checkpointing": wanted, "training.steps": 5 + number}))
        message = (
            "transformers does not support activation checkpointing for this language model; leave it out, or choose another kind of model"
        )
        assert [(one.path, one.message) for one in problems] == [(("training", "activation_checkpointing"), message)] * told


# ---------------------------------------------------------------- connectors
class Own(Connector):
    """A connector of one's own that hands on what its test says."""

    type: str = f"{__name__}.Own"
    does: str = "right"

    def build(self, encoder_width: int, grid_side: int, language_width: int) -> nn.Module:
        if self.does == "refuses":
            raise SettingError("does", "is too much")
        if self.does == "fails":
            raise ValueError(f"no {grid_side} sides\nof {encoder_width}")
        does, tokens = self.does, self.image_tokens

        class Module(nn.Module):
            def forward(self, patches: torch.Tensor) -> Any:
                if does == "asks":
                    return patches * float(patches.sum())
                given = patches.new_empty(len(patches), tokens + (does == "more"), language_width)
                return {"none": None, "list": [given]}.get(does, given)

        return Module()


@pytest.mark.parametrize(
    ("does", "path", "words"),
    [
        ("right", None, ""),
        ("asks", None, ""),
        ("more", (), "for 2 images it returns [2, 5, 32], not image tokens of shape [2, 4, 32]"),
        ("none", (), "for 2 images it returns NoneType, not image tokens of shape [2, 4, 32]"),
        ("list", (), "for 2 images it returns list, not image tokens of shape [2, 4, 32]"),
        ("fails", (), "it cannot be made for features of width 16 on 2 x 2 patches: no 2 sides"),
        ("refuses", ("does",), "is too much"),
    ],
)
def test_what_a_connector_of_ones_own_does_with_two_images_is_told_where_it_is_declared(
    does: str, path: tuple[str, ...] | None, words: str
) -> None:
    problems = wrong_parts(tiny_experiment({"model.connector": {"type": f"{__name__}.Own", "image_tokens": 4, "does": does}}))
    expected = [] if path is None else [(("model", "connector", *path), words)]
    assert [(one.path, one.message) for one in problems] == expected
