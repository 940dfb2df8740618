"""Of all language models of transformers, in a tiny size: what is accepted is trained and asked with the logits of plain transformers,
and what would not be is refused. docs/language_models.md says which.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import transformers
from model_types import TYPES, VARIANTS, check, declared, refusal, row

DOCUMENT = (Path(__file__).parents[2] / "docs" / "language_models.md").read_text()
ALL: list[tuple[str, dict[str, Any]]] = [*((name, {}) for name in TYPES), *VARIANTS]


@pytest.mark.parametrize(
    ("model_type", "more"),
    [
        ("llama", {}),
        ("gpt2", {}),
        ("mistral", {}),  # a sliding window
        ("gemma3_text", {}),  # layers of two kinds
        ("gemma4_unified_text", {}),  # heads of two sizes
        ("deepseek_v3", {}),  # values of another size than keys
        ("diffllama", {}),  # two attentions in a layer
        ("hrm_text", {}),  # layers that are used several times
    ],
)
def test_an_accepted_model_is_trained_and_asked_as_transformers_computes_it(model_type: str, more: dict[str, Any]) -> None:
    settings = declared(model_type, more)
    assert refusal(settings) == ""
    check(settings)


@pytest.mark.parametrize(
    ("model_type", "more", "words"),
    [
        ("gemma4_text", {}, "look up token ids a second time, in model.embed_tokens_per_layer"),
        ("gemma3n_text", {}, "look up token ids a second time, in model.embed_tokens_per_layer"),
        ("phimoe", {"sliding_window": 4}, "has a window of 4 tokens, and its attention gets none"),
        ("llama", {"return_dict": False}, "cannot be run on packed documents"),
        ("phi4_multimodal", {}, "have encoders of their own for images or sound (audio_config, vision_config)"),
        ("gpt_oss", {}, "does not support an attention implementation"),
    ],
)
def test_a_model_that_would_be_trained_or_asked_wrongly_is_refused(model_type: str, more: dict[str, Any], words: str) -> None:
    assert words in refusal(declared(model_type, more))


@pytest.mark.parametrize(
    ("model_type", "more", "words"),
    [
        ("gemma3_text", {}, "multiply embeddings by 5.657 themselves, so they would be scaled twice"),
        ("gemma", {}, "multiply embeddings by 5.657 themselves"),
        ("granite", {"embedding_multiplier": 12.0}, "multiply embeddings by 12 themselves"),
        ("ctrl", {}, "multiply embeddings by 5.657 themselves"),
        ("nanochat", {}, "normalise embeddings, so it has no effect"),
        ("llama", {}, ""),
        ("granite", {}, ""),
        ("gpt2", {}, ""),
    ],
)
def test_embeddings_are_not_scaled_twice(model_type: str, more: dict[str, Any], words: str) -> None:
    why = refusal(declared(model_type, more).model_copy(update={"scale_embeddings": True}))
    assert words in why if words else not why


def test_every_type_that_transformers_has_is_in_the_table() -> None:
    if f"transformers {transformers.__version__}" not in DOCUMENT:
        pytest.skip("the table is of another transformers")
    named = re.findall(r"^\| `([^`]+)`(?:, `(.*)`)? \|", DOCUMENT, re.MULTILINE)
    assert [(name, json.loads(more) if more else {}) for name, more in named] == ALL


@pytest.mark.slow
@pytest.mark.parametrize(("model_type", "more"), ALL, ids=lambda value: json.dumps(value) if isinstance(value, dict) else value)
def test_the_table_is_true(model_type: str, more: dict[str, Any]) -> None:
    settings = declared(model_type, more)
    if not refusal(settings):
        check(settings)
    if f"transformers {transformers.__version__}" in DOCUMENT:
        assert row(model_type, more) in DOCUMENT.splitlines()
