"""Captioned images with other captions: a table of recaptions (VeCap, Lai et al. 2023) joined to the tars or tables that hold the images.

The join is made once and kept in the cache: which row of the table belongs to which sample. Samples without a row are left out; their
own captions are never looked at. A sample whose key others have is left out as well: it is unknown which of them a caption belongs to.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from hashlib import blake2b, sha256
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import model_validator

from mm1_ablate.config.data import AnySource, Bounds, Keep, Source
from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.cache import build_once, memory_mapped
from mm1_ablate.data.documents import Document, Unreadable
from mm1_ablate.data.files import DataFile, Files, digest_files
from mm1_ablate.data.lost_documents import Losses, losses_in
from mm1_ablate.data.readers.open_files import check_columns, columns_of, first_rows, first_values, found_files, kept_columns, open_rows
from mm1_ablate.data.readers.quick_check import lost_rows
from mm1_ablate.data.readers.rows import BYTES, NUMBER, TEXT, Rows, texts_of
from mm1_ablate.data.sources._captions import caption_of, check_captions

VERSION = "2"
"""Changes when joins are made otherwise, so that those in a cache are made anew."""
REPORTED = 10_000
"""Values between two reports of progress."""


@runtime_checkable
class ImageSettings(Protocol):
    """What the settings of a source need besides, to be recaptioned."""

    def join_columns(self) -> Iterable[str]:
        """What a join can go by, as far as the beginning of the data shows."""
        ...


class OpenImages(Protocol):
    """What an open source needs besides, to be recaptioned."""

    bad: list[Unreadable]
    """Damaged files, which yield no documents."""

    def __len__(self) -> int: ...

    def values(self, column: str) -> Iterator[Any]:
        """Of each document in order what a join can match; None where it has none. What is damaged may be left out at the end."""
        ...

    def with_caption(self, index: int, caption: str) -> Document:
        """The document of an index with another caption; its own is not looked at."""
        ...


class Recaptioned(Source):
    """Images of one source, captions of a table."""

    type: Literal["recaptioned"] = "recaptioned"
    data_type: Literal["captioned", "synthetic_captioned"] = "synthetic_captioned"
    """The data type of the mixture that this source provides."""
    images: AnySource
    """Where the images are: a webdataset or an image_text_table."""
    captions: Files
    """Patterns of the table: parquet or JSON lines."""
    caption: str = "caption"
    """The table's column with the captions."""
    joined_by: str = "key"
    """Field of the images to join by: 'key' (of a sample in a tar) or a field of its JSON, such as url; any column of parquet."""
    key: str | None = None
    """The table's column to join by. None: it has the same name."""

    @model_validator(mode="after")
    def _kept_as_a_whole(self) -> Recaptioned:
        if self.images.keep != Keep():
            raise SettingError("images.keep", "expected beside 'images', not in it: what is kept is decided with the new captions")
        return self

    def open(self, seed: int = 0, name: str = "") -> OpenRecaptioned:
        """The documents. The seed changes nothing: their order is the mixture's."""
        return OpenRecaptioned(self, name or self.type, seed)

    def check(self) -> None:
        columns = self._caption_columns()
        needed = {"caption": (self.caption, (TEXT, BYTES)), "key": (self.key or self.joined_by, (TEXT, NUMBER, BYTES))}
        own, others = self._kept_columns(columns)
        check_columns(columns, {**needed, **kept_columns(Keep(columns=own))})
        check_captions("caption", f"column '{self.caption}'", first_values(self._caption_files(), self.caption))
        images = self._images(others)
        try:
            # What there is of their own captions does not matter.
            getattr(images, "check_images", images.check)()
            there = sorted(self._joinable(images).join_columns())
        except SettingError as error:
            raise (
                error if error.at.startswith("keep") else SettingError(f"images.{error.at}" if error.at else "images", error.message)
            ) from None
        if self.joined_by not in there:
            raise SettingError("joined_by", f"the images have no '{self.joined_by}'; they have {', '.join(there)}")

    def losses(self) -> list[Losses]:
        own, others = self._kept_columns(self._caption_columns())
        needed = {self.caption: (TEXT, BYTES), self.key or self.joined_by: (TEXT, NUMBER, BYTES)}
        kept = dict(kept_columns(Keep(columns=own)).values())
        captions = lost_rows(self._caption_files(), {**needed, **kept}, "captions")
        images = self._images(others)
        return [*(one.scaled(1, f"images.{one.field}") for one in getattr(images, "image_losses", images.losses)()), *captions]

    def warnings(self) -> list[SettingError]:
        # What there is of their own captions does not matter.
        return [SettingError(f"images.{found.at}", found.message) for found in self.images.warnings() if found.at != "caption"]

    def texts_after_images(self, most: int) -> list[str]:
        rows = first_rows(self._caption_files(), [self.caption], most)
        return [text.strip() for text in texts_of(row.get(self.caption) for row in rows)]

    def contents(self) -> str:
        return sha256(f"{self.images.contents()} {digest_files(self._caption_files())}".encode()).hexdigest()

    def make_ready(self, report: Any = None) -> None:
        self.images.make_ready(report)
        OpenRecaptioned(self, self.type, 0, report)

    def _caption_files(self) -> list[DataFile]:
        return found_files(self.captions, "captions")

    def _caption_columns(self) -> dict[str, str]:
        files = self._caption_files()
        try:
            return columns_of(files)
        except SettingError as error:
            raise SettingError("captions", error.message) from None

    def _kept_columns(self, columns: Iterable[str]) -> tuple[dict[str, Bounds], dict[str, Bounds]]:
        """What of `keep.columns` the table of captions has, and what the images are to have."""
        there = set(columns)
        own = {name: bounds for name, bounds in self.keep.columns.items() if name in there}
        return own, {name: bounds for name, bounds in self.keep.columns.items() if name not in there}

    def _images(self, columns: dict[str, Bounds]) -> Source:
        """The settings of the images, such that documents carry these columns."""
        return self.images.model_copy(update={"keep": Keep(columns=columns)})

    def _joinable(self, images: Source) -> ImageSettings:
        if not isinstance(images, ImageSettings):
            raise SettingError(
                "", f"documents of type '{images.type}' cannot be joined to captions; expected webdataset or image_text_table"
            )
        return images


class OpenRecaptioned:
    """Documents by index: those samples that have a recaption, in the order of the images. What is damaged comes last."""

    def __init__(self, settings: Recaptioned, name: str, seed: int, report: Any = None) -> None:
        self.settings = settings
        self.name = name
        self._key = settings.key or settings.joined_by
        own, others = settings._kept_columns(settings._caption_columns())
        self._columns = tuple(own)
        self._rows = open_rows(settings._caption_files(), list(dict.fromkeys([self._key, settings.caption, *own])), report)
        images = settings._images(others)
        settings._joinable(images)
        self._images: OpenImages = images.open(seed, name)
        self.bad = [*self._images.bad, *self._rows.bad]
        self._sample, self._row, self.unmatched = self._joined(report)
        """`unmatched`: how many samples have no row, or a key that others have; rows no sample, no key, or one that an earlier row has."""

    def __len__(self) -> int:
        return len(self._sample) + len(self.bad)

    @property
    def losses(self) -> list[Losses]:
        """What cannot be read of the images, and of the captions: in documents, of which each lost one would have been a part."""
        matched = len(self._sample)
        images = [one.scaled(matched / max(1, len(self._images)), f"images.{one.field}") for one in losses_in(self._images)]
        return [*images, *(one.scaled(matched / max(1, len(self._rows)), "captions") for one in self._rows.losses)]

    def __getitem__(self, index: int) -> Document:
        if not 0 <= index < len(self):
            raise IndexError(index)
        if index >= len(self._sample):
            raise self.bad[index - len(self._sample)]
        row = int(self._row[index])
        values = self._rows[row]
        caption = caption_of(values.get(self.settings.caption), self._rows.place(row))
        document = self._images.with_caption(int(self._sample[index]), caption)
        columns = {**document.columns, **{name: values.get(name) for name in self._columns}}
        return Document(document.key, self.name, self.settings.data_type, document.parts, columns)

    def _joined(self, report: Any) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
        """Samples and their rows, in the order of samples; and how many of either have no partner."""
        settings, samples, rows = self.settings, len(self._images), len(self._rows)
        identity = f"{VERSION} {settings.contents()} {samples} {rows} {settings.joined_by} {self._key}"

        def build(folder: Path, report: Any) -> None:
            wanted = _hashes(self._images.values(settings.joined_by), samples, "reading keys of images", report)
            given = _hashes(_column(self._rows, self._key), rows, "reading keys of captions", report)
            unique, first = np.unique(given, return_index=True)
            place = np.minimum(np.searchsorted(unique, wanted), len(unique) - 1)
            # One url has one picture, however often it was downloaded; a key that several samples have says nothing.
            shared = _shared(wanted) if settings.joined_by == "key" else np.zeros(samples, bool)
            matched = np.flatnonzero((unique[place] == wanted) & (wanted != 0) & ~shared)
            np.save(folder / "sample.npy", matched)
            np.save(folder / "row.npy", first[place[matched]])
            usable, keyed = int((unique != 0).sum()), int((given != 0).sum())
            counts = {
                "samples whose key others have": int(shared.sum()),
                "samples without a row": samples - len(self._images.bad) - len(matched) - int(shared.sum()),
                "rows without a sample": usable - len(np.unique(place[matched])),
                "rows without a key": rows - len(self._rows.bad) - keyed,
                "rows whose key an earlier row has": keyed - usable,
            }
            (folder / "counts.json").write_text(json.dumps({what: number for what, number in counts.items() if number}), encoding="utf-8")

        folder = build_once("joins", identity, 16 * samples, build, report)
        if not (sample := memory_mapped(folder / "sample.npy")).size:
            ours, theirs = _like(self._images.values(settings.joined_by)), _like(_column(self._rows, self._key))
            unmatched = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
            shared = unmatched.get("samples whose key others have")
            message = "no row of the table matches an image" + (f" ({shared:,} images have keys that others have)" if shared else "")
            raise SettingError(
                "joined_by", f"{message}: '{settings.joined_by}' of the images is, for example, {ours}, '{self._key}' of the table {theirs}"
            )
        return sample, memory_mapped(folder / "row.npy"), json.loads((folder / "counts.json").read_text(encoding="utf-8"))


def _column(rows: Rows, column: str) -> Iterator[Any]:
    for index in range(len(rows)):
        try:
            yield rows[index].get(column)
        except Unreadable:
            yield None


def _hashes(values: Iterator[Any], count: int, what: str, report: Any) -> np.ndarray:
    """uint64 [count]: what joins match by, so that hundreds of millions of urls fit in memory; 0 where there is no value.

    Two of a billion values agree by chance in one case of forty.
    """
    found = np.zeros(count, np.uint64)
    for place, value in enumerate(islice(values, count)):
        if value is not None and value != "":
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
            found[place] = int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little") or 1
        if place % REPORTED == 0:
            report(what, place, count)
    report(what, count, count)
    return found


def _shared(hashes: np.ndarray) -> np.ndarray:
    """bool [N]: which of them occur more than once; none that is 0."""
    ordered = np.sort(hashes)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    return np.isin(hashes, repeated[repeated != 0])


def _like(values: Iterator[Any]) -> str:
    """The first value, for display."""
    return repr(next((value for value in values if value is not None), None))
