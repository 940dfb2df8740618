"""A vocabulary that is declared: sizes without a tokenizer, and an error where the two do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny_experiment

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.model.language_model import build_language_model, token_ids
from mm1_ablate.model.multimodal import build
from mm1_ablate.model.profiler import count_parameters

TOKENS = load_tokenizer().vocabulary_size


def declared(tokens: int | None, tokenizer: str = "miniature") -> Experiment:
    settings = tiny_experiment().model.language_model
    configuration = {**settings.configuration, **({} if tokens is None else {"vocab_size": tokens})}
    return tiny_experiment({"model.language_model.configuration": configuration, "model.language_model.tokenizer": tokenizer})


def test_sizes_need_no_tokenizer_where_the_vocabulary_is_declared(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "no-such-tokenizer")
    assert count_parameters(declared(TOKENS, nowhere)) == count_parameters(declared(None))
    assert token_ids(declared(TOKENS, nowhere).model.language_model)[0] == TOKENS
    with pytest.raises((OSError, ValueError)):
        count_parameters(declared(None, nowhere))


def test_a_vocabulary_may_be_as_large_as_the_tokenizers_or_rounded_up() -> None:
    larger, exact = build(declared(TOKENS + 60), 0), build(declared(TOKENS), 0)
    assert exact.language_model.get_input_embeddings().weight.shape[0] == TOKENS
    width = exact.language_model.config.hidden_size
    assert larger.language_model.get_input_embeddings().weight.shape == (TOKENS + 60, width)


@pytest.mark.parametrize(("tokens", "message"), [(TOKENS - 1, "too few"), (TOKENS + 5000, "more than rounding up explains")])
def test_a_vocabulary_that_is_not_the_tokenizers_is_an_error_when_the_model_is_made(tokens: int, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build(declared(tokens), 0)
    assert f"{TOKENS:,} tokens" in str(caught.value) and "vocab_size" in str(caught.value)


def test_without_a_declaration_the_vocabulary_is_the_tokenizers() -> None:
    tokenizer, settings = load_tokenizer(), declared(None).model.language_model
    model = build_language_model(settings, tokenizer.vocabulary_size, tokenizer.padding, tokenizer.end)
    assert model.config.vocab_size == TOKENS
