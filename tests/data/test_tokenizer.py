"""Tokenizers of users: what transformers reads from a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from local_models import tokenizer_folder

from mm1_ablate.data.tokenizer import load_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A byte-level tokenizer on disk."""
    return str(tokenizer_folder(tmp_path))


@pytest.mark.parametrize("text", ["a small red circle", "Größe: 3 × 4 – 漢字", " two  spaces\n", ""])
def test_a_text_comes_back_as_it_was(folder: str, text: str):
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_text_that_spells_the_end_of_a_document_does_not_end_it(folder: str):
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode("say <|endoftext|> twice")
    assert tokenizer.end not in ids
    assert tokenizer.decode(ids) == "say <|endoftext|> twice"
