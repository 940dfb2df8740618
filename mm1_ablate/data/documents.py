"""What the data room hands out: documents to train on and items to be judged by, whatever files they came from.

A `Document` is a sequence of texts and images in reading order; captions, interleaved pages and plain text are all that. An
`Image` is a key and a way to load its pixels, so that nothing is decoded before a batch needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Image:
    """A picture that is loaded when somebody looks at it."""

    key: str
    """Unique identity of the picture: two images with one key have the same pixels."""
    load: Callable[[], np.ndarray]
    """Returns uint8 [height, width, 3]; not to be written to."""


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

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(part for part in self.parts if isinstance(part, Image))

    @property
    def text(self) -> str:
        """The texts alone, for people and for encoders that learn from captions."""
        return " ".join(part for part in self.parts if isinstance(part, str))


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
    """Index of the right choice, where there are choices."""


@dataclass(frozen=True, slots=True)
class ItemSet:
    """A task's queries and the demonstrations that they may be shown."""

    queries: list[Item]
    demonstrations: list[Item]
