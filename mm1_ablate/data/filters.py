"""A source's settings in, its documents out as far as `keep` keeps them.

The same rules for every source. What is not kept raises `LeftOut` with a reason that is counted; a number that `keep` asks for and
that a document does not have is bad data, and raises `Unreadable`.
"""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from typing import Any

from mm1_ablate.config.data import Bounds, Keep, Source
from mm1_ablate.data.documents import Document, Image, LeftOut, Unreadable
from mm1_ablate.data.lost_documents import losses_in
from mm1_ablate.data.sources import OpenSource
from mm1_ablate.data.sources._interleaved import joined


def open_source(settings: Source, seed: int = 0, name: str = "") -> OpenSource:
    """The documents of a source that its settings keep. Where `keep` keeps all, the source itself.

    Args:
        settings: of any source.
        seed: handed to the source.
        name: that its documents carry.
    """
    source: OpenSource = settings.open(seed, name)
    return Filtered(source, settings.keep) if binds(settings.keep) else source


def binds(keep: Keep) -> bool:
    """Whether anything could be left out."""
    return bool(keep.columns) or keep.text_characters.binds or keep.images.binds or keep.image_side.binds


class Filtered:
    """A source of the same length whose documents obey `keep`; those that do not raise `LeftOut`."""

    def __init__(self, source: OpenSource, keep: Keep) -> None:
        self.source = source
        self.keep = keep
        self.losses = losses_in(source)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Document:
        document = self.source[index]
        keep = self.keep
        # What costs nothing comes first; only image sides ask for the pictures.
        for name, bounds in keep.columns.items():
            _require(_number(document, name), bounds, f"{_literal(name)} below {{:g}}", f"{_literal(name)} above {{:g}}")
        if keep.text_characters.binds:
            characters = sum(len(part) for part in document.parts if isinstance(part, str))
            _require(characters, keep.text_characters, "text of fewer than {:g} characters", "text of more than {:g} characters")
        if keep.image_side.binds:
            document = _without_small_images(document, keep.image_side)
        if keep.images.binds:
            _require(len(document.images), keep.images, "document of fewer than {:g} images", "document of more than {:g} images")
        return document


def _require(value: float, bounds: Bounds, below: str, above: str) -> None:
    """Raise LeftOut with one of two reasons, in which the bound is yet to be named, if a value is out of bounds."""
    if bounds.at_least is not None and value < bounds.at_least:
        raise LeftOut(below.format(bounds.at_least))
    if bounds.at_most is not None and value > bounds.at_most:
        raise LeftOut(above.format(bounds.at_most))


def _literal(name: str) -> str:
    return name.replace("{", "{{").replace("}", "}}")


def _number(document: Document, name: str) -> float:
    value: Any = document.columns.get(name)
    try:
        if isinstance(value, bool | str) or value is None:
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise Unreadable(f"no number in column '{name}'", document.key) from None
    if not isfinite(number):
        raise Unreadable(f"no number in column '{name}'", document.key)
    return number


def _without_small_images(document: Document, bounds: Bounds) -> Document:
    """The document without the images whose shorter side is out of bounds; of captioned documents nothing is left without the image."""
    parts: list[str | Image] = []
    damage: list[Unreadable] = []
    left_out = ""
    for part in document.parts:
        if isinstance(part, Image):
            try:
                _require(_side(part), bounds, "image side below {:g} pixels", "image side above {:g} pixels")
            except LeftOut as error:
                if document.data_type != "interleaved":
                    raise
                left_out = error.reason
                continue
            except Unreadable as error:
                if document.data_type != "interleaved":
                    raise
                damage.append(error)
                continue
        parts.append(part)
    if len(parts) == len(document.parts):
        return document
    if not parts:
        if left_out:
            raise LeftOut(left_out)
        raise damage[0]
    return replace(document, parts=joined(tuple(parts), " "), damage=(*document.damage, *damage))


def _side(image: Image) -> int:
    """Pixels of the shorter side."""
    return min(image.size()) if image.size is not None else min(image.load().shape[:2])
