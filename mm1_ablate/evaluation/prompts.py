"""From an item to a prompt: a template over the item's fields becomes text and images, then tokens and images.

A template holds `{image}`, `{answer}` and any of the item's fields. A demonstration is the whole template followed by the separator;
a question is what stands before `{answer}`, white space at its end cut off. Every demonstration and the question are tokenised on
their own: so demonstrations that many questions share are the same tokens in all of them. White space of a template stays as it is
written, and nothing is added: texts and images are joined as in training (`data/joining.py`).

A template that names `{choice}` asks a question of its own for each choice, with the item's first reference as the answer of all
(WinoGrande, where the choice stands in the middle of a sentence).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mm1_ablate.config.task_record import ANSWER, CHOICE, IMAGE, template_pieces
from mm1_ablate.data.documents import Image, Item
from mm1_ablate.data.joining import segments
from mm1_ablate.data.tokenizer import Tokenizer

IMAGE_MARK = "<image>"
"""How an image is written where a prompt is shown to people."""


class Incomplete(LookupError):
    """An item lacks what a prompt names. `reason` is the same for all items that lack it."""

    def __init__(self, item: Item, reason: str, message: str) -> None:
        super().__init__(f"item {item.id} has {reason}{message}")
        self.reason = reason


def render(template: str, item: Item, values: Mapping[str, str], until: str | None = None, images: bool = True) -> tuple[str | Image, ...]:
    """A template filled in for an item: texts and images in turn, no two texts beside each other, no empty ones.

    Args:
        values: what the template's fields stand for, besides `{image}`.
        until: a field at which to end.
        images: whether `{image}` shows the image, or nothing.

    Raises:
        Incomplete: where the item lacks a field or an image that the template names.
    """
    parts: list[str | Image] = []
    text = ""
    for literal, field in template_pieces(template):
        text += literal
        if field == until and field is not None:
            break
        if field == IMAGE and images:
            if item.image is None:
                raise Incomplete(item, "no image", f", which the prompt {template!r} shows")
            parts += [text, item.image] if text else [item.image]
            text = ""
        elif field is not None and field != IMAGE:
            if field not in values:
                raise Incomplete(item, f"no field '{field}'", f" (it has: {', '.join(sorted(values))}), which {template!r} names")
            text += values[field]
    return (*parts, text) if text else tuple(parts)


def right_answer(item: Item) -> str:
    """What a demonstration answers: the first reference, or the right choice where there are none."""
    if item.references:
        return item.references[0]
    if item.correct is None:
        raise Incomplete(item, "no reference", ", so it cannot demonstrate an answer")
    return item.choices[item.correct]


def demonstration(prompt: str, separator: str, item: Item, images: bool = True) -> tuple[str | Image, ...]:
    """A solved item, with the separator after it."""
    return render(prompt + separator, item, {**item.fields, ANSWER: right_answer(item)}, images=images)


def question(prompt: str, item: Item, choice: str | None = None) -> tuple[tuple[str | Image, ...], str]:
    """An item up to its answer, and the white space between the two, which belongs to the answer."""
    parts = render(prompt, item, item.fields if choice is None else {**item.fields, CHOICE: choice}, until=ANSWER)
    if parts and isinstance(parts[-1], str):
        text = parts[-1].rstrip()
        space = parts[-1][len(text) :]
        return ((*parts[:-1], text) if text else parts[:-1]), space
    return parts, ""


@dataclass(frozen=True, slots=True)
class TokenisedPrompt:
    """Token ids and images in turn."""

    segments: tuple[tuple[int, ...] | Image, ...]

    @property
    def images(self) -> list[Image]:
        return [segment for segment in self.segments if not isinstance(segment, tuple)]

    @property
    def text_tokens(self) -> int:
        """Positions that its texts take."""
        return sum(len(segment) for segment in self.segments if isinstance(segment, tuple))

    def length(self, image_tokens: Callable[[Image], int]) -> int:
        """Positions that it takes, where an image takes `image_tokens` of it."""
        return self.text_tokens + sum(image_tokens(image) for image in self.images)


def tokenise(parts: Sequence[str | Image], tokenizer: Tokenizer) -> TokenisedPrompt:
    """Encode each text of a prompt on its own, as in training."""
    return TokenisedPrompt(segments(parts, tokenizer))


def continuation(parts: Sequence[str | Image], space: str, choice: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens of a choice after a question: encoded with the text before it, whose own tokens are then left away.

    The rule of lm-evaluation-harness, for tokenizers that see a word and the space before it as one token.
    """
    before = parts[-1] if parts and isinstance(parts[-1], str) else ""
    return tuple(tokenizer.encode(before + space + choice)[len(tokenizer.encode(before)) if before else 0 :])


def cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop string, and whether there was one."""
    found = [place for place in (text.find(string) for string in stop) if place >= 0]
    return (text[: min(found)], True) if found else (text, False)


def shown(parts: Sequence[str | Image]) -> str:
    """A prompt as people read it."""
    return "".join(part if isinstance(part, str) else IMAGE_MARK for part in parts)
