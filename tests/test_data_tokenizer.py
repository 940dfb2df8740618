"""Tokenizers of users: what transformers reads from a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mm1_ablate.data.tokenizer import load_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A byte-level tokenizer on disk."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["a small red circle"] * 5, trainer)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize("text", ["a small red circle", "Größe: 3 × 4 – 漢字", " two  spaces\n", ""])
def test_a_text_comes_back_as_it_was(folder: str, text: str):
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_text_that_spells_the_end_of_a_document_does_not_end_it(folder: str):
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode("say <|endoftext|> twice")
    assert tokenizer.end not in ids
    assert tokenizer.decode(ids) == "say <|endoftext|> twice"
