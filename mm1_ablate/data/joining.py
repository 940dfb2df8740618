"""How texts and images are joined to one sequence of tokens: one rule, for documents in training and for prompts in evaluation.

- Each text between two images is tokenised on its own and as it stands, white space included. Nothing is added: no token that begins a
  text, no space and no separator between an image and the text beside it.
- A document in training ends with the end token, and with nothing else. A prompt holds no end token, not between demonstrations either:
  what stands between them is the task's `separator`.
- Texts that stand side by side are one text before they are tokenised. Which white space is then between them, and whether white space
  at the ends of a text stays, is up to the source: captions are stripped, texts of interleaved pages stay as they are.

A tokenizer that sees a word and the space before it as one token makes other tokens of " Question" than of "Question". So what a prompt
puts after an image has to begin as the texts after images in training do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mm1_ablate.config.data import Source
from mm1_ablate.data.documents import Document, Image

if TYPE_CHECKING:
    from mm1_ablate.data.tokenizer import Tokenizer

Segment = tuple[int, ...] | Image

TEXTS_LOOKED_AT = 256
"""Texts after images that are looked at, of each source."""
BEFORE, AFTER = 3, 6
"""Tokens before and after an image that are shown."""
SHOWN = 9
"""Texts and images of a long document that are shown."""
END = "<end of document>"


def segments(parts: Iterable[str | Image], tokenizer: Tokenizer) -> tuple[Segment, ...]:
    """Token ids of texts, and images, in reading order."""
    return tuple(part if isinstance(part, Image) else tokenizer.ids(part) for part in parts)


# ---------------------------------------------------------------- what follows images
def leading_space(text: str, tokenizer: Tokenizer) -> str:
    """The white space that the first token of a text begins with; empty where the first token is the one without any white space."""
    stripped, tokens = text.lstrip(), tokenizer.ids(text)
    if len(stripped) == len(text) or not tokens or tokens[:1] == tokenizer.ids(stripped)[:1]:
        return ""
    first = tokenizer.token_text(tokens[0])
    # A tokenizer that falls back to bytes spells a line end otherwise.
    return first[: len(first) - len(first.lstrip())] or text[: len(text) - len(stripped)]


def leading_spaces(source: Source, tokenizer: Tokenizer) -> dict[str, int] | None:
    """How many of the first texts after images in a source begin with which white space, as the tokenizer sees it.

    None where the source does not say without reading all of its files; empty where it shows no images.
    """
    texts = source.texts_after_images(TEXTS_LOOKED_AT)
    return None if texts is None else dict(Counter(leading_space(text, tokenizer) for text in texts))


# ---------------------------------------------------------------- for display
def example(document: Document, tokenizer: Tokenizer) -> str:
    """A document as training reads it, `spelled`."""
    return f"{spelled(segments(document.parts, tokenizer), tokenizer)} {END}"


def spelled(parts: Sequence[Segment], tokenizer: Tokenizer) -> str:
    """Tokens in brackets, spaces and line ends visible, images between them: `<image> [A] [␣dog] … [.]`. Of long texts the tokens next
    to images and to the ends, of long documents the beginning."""
    shown = []
    for part in parts[:SHOWN]:
        if isinstance(part, Image):
            shown.append("<image>")
            continue
        tokens = [f"[{_visible(tokenizer.token_text(token))}]" for token in part]
        shown += tokens if len(tokens) <= BEFORE + AFTER + 1 else [*tokens[:AFTER], "…", *tokens[-BEFORE:]]
    return " ".join([*shown, *(["…"] if len(parts) > SHOWN else [])])


def _visible(text: str) -> str:
    return text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
