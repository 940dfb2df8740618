"""What the data room hands out: documents to train on and evaluation items, from files of any format.

A `Document` is a sequence of texts and images in reading order; captions, interleaved pages and plain text are all that. An
`Image` is a key and a way to load its pixels, so that nothing is decoded before a batch needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np


class Unreadable(Exception):
    """Data that cannot be used: skipped, counted by reason, and named as an example; it never ends a run by itself.

    Args:
        reason: a few words by which it is counted, the same for all of a kind: "truncated JPEG", "empty caption".
        what: which one, for display: the key of the document or image, the file that it is in.
    """

    def __init__(self, reason: str, what: str = "") -> None:
        super().__init__(f"{reason}: {what}" if what else reason)
        self.reason = reason
        self.what = what


class KnownLoss(Unreadable):
    """Stands where a source's damaged file ends. What is lost with the file the open source says itself (`losses`), with its number of
    documents; so it is not counted again when its turn comes."""


class LeftOut(Exception):
    """A document that the settings do not keep (`data.sources.<name>.keep`). Counted by reason; not bad data."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Image:
    """A picture that is loaded when its pixels are needed."""

    key: str
    """Unique identity of the picture: two images with one key have the same pixels."""
    load: Callable[[], np.ndarray]
    """Returns uint8 [height, width, 3]; not to be written to.

    Raises:
        Unreadable: the picture is missing or damaged.
    """
    size: Callable[[], tuple[int, int]] | None = None
    """Returns (width, height) in pixels without decoding, where the source knows a way. Raises Unreadable likewise."""


@dataclass(frozen=True, slots=True)
class Document:
    """Texts and images in reading order."""

    key: str
    """Unique within its source."""
    source: str
    """Name of the source in the mixture."""
    data_type: str
    """captioned, interleaved or text."""
    parts: tuple[str | Image, ...]
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Further numbers of the document, such as a CLIP score, for `keep.columns`."""
    damage: tuple[Unreadable, ...] = ()
    """Parts that were unavailable and left out, such as missing images."""

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(part for part in self.parts if isinstance(part, Image))

    @property
    def text(self) -> str:
        """The texts alone, for display and for encoders that learn from captions."""
        return " ".join(part for part in self.parts if isinstance(part, str))


def after_images(parts: Sequence[object]) -> list[str]:
    """The texts that directly follow something other than a text, such as an image."""
    return [part for before, part in pairwise(parts) if isinstance(part, str) and not isinstance(before, str)]


@dataclass(frozen=True, slots=True)
class Item:
    """One question of an evaluation task, or one demonstration of it."""

    id: str
    group: str
    """Demonstrations of a query come from its own group (an episode: one hidden attribute in one format, say)."""
    image: Image | None
    fields: Mapping[str, str]
    """What the templates of a task record can name."""
    references: tuple[str, ...]
    """Right answers; the first is the one that a demonstration shows."""
    choices: tuple[str, ...] = ()
    correct: int | None = None
    """Index of the correct choice, if there are choices."""


@dataclass(frozen=True, slots=True)
class ItemSet:
    """A task's queries and the demonstrations that they may be shown."""

    queries: list[Item]
    demonstrations: list[Item]
    bad: list[Unreadable] = field(default_factory=list)
    """Queries that were drawn and cannot be evaluated (a missing image, no reference). Others replaced them where possible."""
    bad_demonstrations: list[Unreadable] = field(default_factory=list)
    """The same of demonstrations; no score counts these."""
