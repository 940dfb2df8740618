"""Texts in, token ids out, through the `tokenizers` library; the miniature world's word tokenizer or any that transformers reads.

Adds nothing at either end: documents place `end` themselves, and image positions hold `padding`. How texts and images are joined is
written in `joining.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from mm1_ablate.data.hub import hub_if_reachable

SHORT_CHARACTERS = 500
"""Texts up to here may come again and again, such as captions and questions."""


class UnknownWords(ValueError):
    """A text holds words that a word tokenizer does not know."""


class Tokenizer:
    """Encodes without special tokens and remembers what it has encoded, since short texts come again and again.

    Args:
        encode, decode: text to ids and back.
        vocabulary_size: ids are below it.
        end: id that closes every document.
        padding: id that stands at image positions and beside short rows; never predicted.
        token_text: the text of one token, the space that it begins with included.
        special: texts of special tokens. Where a text spells one, it is read as plain text.
        begin: the special token that the tokenizer itself would place before a text; empty if it places none.
    """

    def __init__(
        self,
        encode: Callable[[str], Sequence[int]],
        decode: Callable[[Sequence[int]], str],
        vocabulary_size: int,
        end: int,
        padding: int,
        token_text: Callable[[int], str] | None = None,
        special: Sequence[str] = (),
        begin: str = "",
    ) -> None:
        self._short = lru_cache(maxsize=1 << 15)(lambda text: tuple(encode(text)))
        # Of long texts only the latest are asked for again: to measure their document, then to pack it.
        self._long = lru_cache(maxsize=64)(lambda text: tuple(encode(text)))
        self._decode = decode
        self.vocabulary_size = vocabulary_size
        self.end = end
        self.padding = padding
        self.token_text = token_text or (lambda token: decode([token]))
        self.special = tuple(special)
        self.begin = begin

    def encode(self, text: str) -> list[int]:
        return list(self.ids(text))

    def ids(self, text: str) -> tuple[int, ...]:
        """As `encode`, without the copy."""
        return self._short(text) if len(text) <= SHORT_CHARACTERS else self._long(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        return self._decode([int(token) for token in ids])


def load_tokenizer(name: str = "miniature") -> Tokenizer:
    """The tokenizer of a language model.

    Args:
        name: "miniature", or a name or folder that `transformers.AutoTokenizer` reads.

    Raises:
        ValueError: if the tokenizer has no end-of-text token.
        OSError: transformers', if there is no such tokenizer.
    """
    if name == "miniature":
        return _miniature()
    return _of_transformers(name)


@lru_cache(maxsize=1)
def _miniature() -> Tokenizer:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    from mm1_ablate.miniature.language import END, PADDING, VOCABULARY

    ids = {word: place for place, word in enumerate(VOCABULARY)}
    backend = Backend(WordLevel(ids))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.add_special_tokens([AddedToken(PADDING, special=True), AddedToken(END, special=True)])

    def encode(text: str) -> list[int]:
        if unknown := set(text.split()) - ids.keys():
            raise UnknownWords(f"words that the miniature tokenizer does not know: {', '.join(sorted(unknown))} (in '{text}')")
        return backend.encode(text, add_special_tokens=False).ids

    def decode(tokens: Sequence[int]) -> str:
        return " ".join(VOCABULARY[token] for token in tokens if VOCABULARY[token] not in (PADDING, END))

    return Tokenizer(encode, decode, len(VOCABULARY), ids[END], ids[PADDING])


def _of_transformers(name: str) -> Tokenizer:
    from transformers import AutoTokenizer

    with hub_if_reachable(name):
        loaded: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    if loaded.eos_token_id is None:
        raise ValueError(f"tokenizer '{name}' has no end-of-text token, which every document needs")
    padding = loaded.eos_token_id if loaded.pad_token_id is None else loaded.pad_token_id

    def encode(text: str) -> list[int]:
        # Text that happens to spell the end of a document, as web pages about language models do, is text.
        ids: list[int] = loaded.encode(text, add_special_tokens=False, split_special_tokens=True)
        return ids

    def decode(tokens: Sequence[int]) -> str:
        text: str = loaded.decode(tokens, skip_special_tokens=True)
        return text

    def token_text(token: int) -> str:
        text = str(loaded.convert_ids_to_tokens(token))
        # SentencePiece writes a space so, and loses it when a token is decoded alone.
        return text.replace("▁", " ") if "▁" in text else loaded.decode([token])

    placed = loaded("a").input_ids[:1]
    begins = placed != loaded.encode("a", add_special_tokens=False)[:1] and placed[0] in loaded.all_special_ids
    special = {*loaded.all_special_tokens, *(str(token) for token in loaded.added_tokens_decoder.values() if token.special)}
    return Tokenizer(
        encode,
        decode,
        len(loaded),
        loaded.eos_token_id,
        padding,
        token_text,
        sorted(special),
        str(loaded.convert_ids_to_tokens(placed[0])) if begins else "",
    )
