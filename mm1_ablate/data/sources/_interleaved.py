"""What sources of interleaved documents share: switches that remove images or the interleaving, and where pictures lie.

Without `interleaving` a document becomes pairs: each run of consecutive images with the text that follows it, and text that comes
before the first image with that. So every image and every text stays, once. How many pairs each document has is counted once and
kept in the cache, so that any pair is found without reading the documents before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np

from mm1_ablate.config.data import Source
from mm1_ablate.config.identity.fingerprint import canonical, digest
from mm1_ablate.config.settings import HowItRuns
from mm1_ablate.data.cache import ProgressCallback, build_once, memory_mapped
from mm1_ablate.data.documents import Document, Image, LeftOut, Unreadable, after_images
from mm1_ablate.data.files import Files, digest_files
from mm1_ablate.data.lost_documents import Losses
from mm1_ablate.data.readers.image_index import ImageIndex, ImagesBy, contents_of, lost_pictures
from mm1_ablate.data.readers.open_files import found_files, kept_columns
from mm1_ablate.data.readers.quick_check import lost_rows

Parts = tuple[str | Image, ...]


class InterleavedSource(Source):
    """The switches of every source of interleaved documents."""

    images: bool = True
    """The images of interleaved documents. Removed: only the text stays."""
    interleaving: bool = True
    """Whether images and texts are interleaved. Removed: each image and its text become a separate document."""


class InterleavedFiles(InterleavedSource):
    """Interleaved documents in files, their pictures there too or beside them. A format says what its pages are."""

    data_type: Literal["interleaved"] = "interleaved"
    """The data type of the mixture that this source provides."""
    files: Files
    """Patterns of the files with the documents."""
    image_files: Annotated[Files | None, HowItRuns] = None
    """Patterns of picture files, or of tars with pictures, where the documents only name them. A picture that is not among them is
    left out of its document and counted as missing; the text stays."""
    images_by: ImagesBy = "base_name"
    """How a document's picture is looked up in `image_files`: path (relative to the folder where the pattern's wildcards begin, or within
    the tar), base_name (the last part of the path), url (from the JSON that img2dataset writes beside a picture in a tar), or
    url_sha256 (pictures are named by the SHA-256 of their url)."""

    def open(self, seed: int = 0, name: str = "") -> OpenInterleaved:
        """The documents. The seed changes nothing: their order is the mixture's."""
        return self._opened(name or self.type)

    def losses(self) -> list[Losses]:
        needed = {**self.needed(), **dict(kept_columns(self.keep).values())}
        pictures = lost_pictures(self.image_files) if self._looks_up and self.image_files else []
        return [*lost_rows(found_files(self.files), needed), *pictures]

    def needed(self) -> Mapping[str, Sequence[str]]:
        """The columns that the format has, each with the kinds that will do."""
        raise NotImplementedError

    def texts_after_images(self, most: int) -> list[str]:
        """Every picture that a document names is taken to be there."""
        if not self.images:
            return []
        return [text for row in self.first_rows(most) for text in after_images(self.places_of(row))][:most]

    def first_rows(self, most: int) -> list[dict[str, Any]]:
        """The first rows of the files, without the pictures; for `places_of`."""
        raise NotImplementedError

    def places_of(self, row: Mapping[str, Any]) -> list[str | None]:
        """The texts of a document, None where an image stands."""
        raise NotImplementedError

    def contents(self) -> str:
        documents = digest_files(found_files(self.files))
        if not (self._looks_up and self.image_files):
            return documents
        return f"{documents} {contents_of(self.image_files)}"

    def make_ready(self, report: Any = None) -> None:
        self._opened(self.type, report)

    def pages(self, images: bool, report: Any = None) -> Pages:
        """The documents as they are.

        Args:
            images: with their images; else their texts alone.
            report: called with the progress of indices and copies.
        """
        raise NotImplementedError

    def picture_files(self, report: Any = None) -> ImageIndex | None:
        """The pictures beside the documents, if settings name any."""
        return ImageIndex(self.image_files, self.images_by, report) if self.image_files else None

    @property
    def _looks_up(self) -> bool:
        # What a pair is depends on the images, also if only its text is kept.
        return self.images or not self.interleaving

    @property
    def _separator(self) -> str:
        return " "

    def _opened(self, name: str, report: Any = None) -> OpenInterleaved:
        pages = self.pages(self._looks_up, report)
        firsts = None if self.interleaving else count_pairs(pages, self._shape(), report)
        return OpenInterleaved(self, pages, name, self._separator, firsts)

    def _shape(self) -> str:
        """Identity of the pages: what files hold, and the settings that make pages of it."""
        # The stamps as well: contents do not see what changes in the middle of a file, where old counts would point past a page.
        stamps = [file.stamp for file in found_files(self.files)]
        whole = Source.model_fields.keys() | InterleavedSource.model_fields.keys()
        shaped = {key: value for key, value in canonical(self).items() if key not in whole}
        return digest({"contents": self.contents(), "stamps": stamps, **shaped})


@dataclass(frozen=True, slots=True)
class Page:
    """A document as its source has it."""

    key: str
    parts: Parts
    columns: dict[str, Any] = field(default_factory=dict)
    damage: tuple[Unreadable, ...] = ()
    pictures: int = 0
    """Images that the source names on the page, whether they were looked for or not, found or not."""


class Pages(Protocol):
    """Pages by index; one that cannot be read raises Unreadable."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Page: ...


class OpenInterleaved:
    """Documents by index, as settings want them.

    Args:
        settings: with the switches.
        pages: the documents as they are.
        name: of the source.
        separator: what stands between texts where images between them are removed.
        firsts: from `count_pairs`, if the interleaving is removed.
    """

    def __init__(
        self, settings: InterleavedSource, pages: Pages, name: str, separator: str = " ", firsts: np.ndarray | None = None
    ) -> None:
        self.settings = settings
        self.pages = pages
        self.name = name
        self._separator = separator
        self._firsts = firsts

    def __len__(self) -> int:
        return len(self.pages) if self._firsts is None else int(self._firsts[-1])

    @property
    def losses(self) -> list[Losses]:
        """What of the pages' files cannot be read, and of the pictures' beside them."""
        pages = getattr(self.pages, "losses", [])
        return pages if self._firsts is None else [one.scaled(len(self) / max(1, len(self.pages))) for one in pages]

    def __getitem__(self, index: int) -> Document:
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self._firsts is None:
            page = self.pages[index]
            return self._document(page.key, page, page.parts, page.damage)
        number = int(self._firsts.searchsorted(index, side="right")) - 1
        pair = index - int(self._firsts[number])
        page = self.pages[number]
        pairs = pairs_of(page.parts)
        # What a page lacks is counted once, with its first pair.
        return self._document(f"{page.key}#{pair}", page, pairs[pair], page.damage if pair == 0 else ())

    def _document(self, key: str, page: Page, parts: Parts, damage: tuple[Unreadable, ...]) -> Document:
        if not self.settings.images:
            parts = tuple(part for part in parts if not isinstance(part, Image))
            if not parts and page.pictures:
                raise LeftOut("no text beside its images")
        if not parts:
            if damage:
                raise damage[0]
            if page.pictures:
                raise LeftOut("no text, and no image that is kept")
            raise Unreadable("empty document", key)
        return Document(key, self.name, self.settings.data_type, joined(parts, self._separator), page.columns, damage)


def pairs_of(parts: Parts) -> list[Parts]:
    """The pairs of a document; laid end to end they are the document. One without images is one piece."""
    pairs: list[list[str | Image]] = [[]]
    has_image = False
    for part in parts:
        is_image = isinstance(part, Image)
        if is_image and has_image and isinstance(pairs[-1][-1], str):
            pairs.append([])
        pairs[-1].append(part)
        has_image = has_image or is_image
    return [tuple(pair) for pair in pairs]


def joined(parts: Parts, separator: str) -> Parts:
    """The same parts with texts that stand side by side as one."""
    out: list[str | Image] = []
    for part in parts:
        if isinstance(part, str) and out and isinstance(out[-1], str):
            out[-1] = f"{out[-1]}{separator}{part}"
        else:
            out.append(part)
    return tuple(out)


def count_pairs(pages: Pages, identity: str, report: Any = None) -> np.ndarray:
    """int64 [pages + 1]: the number of pairs in all pages before each, and in all. A page that cannot be read counts as one.

    Args:
        identity: of what the pages hold, and of the settings that shape them.
        report: called with the progress of the counting, the first time.
    """

    def build(folder: Path, report: ProgressCallback) -> None:
        firsts = np.zeros(len(pages) + 1, np.int64)
        for index in range(len(pages)):
            try:
                firsts[index + 1] = len(pairs_of(pages[index].parts))
            except Unreadable:
                firsts[index + 1] = 1
            if index % 1000 == 0:
                report("counting pairs (documents)", index, len(pages))
        np.save(folder / "firsts.npy", firsts.cumsum())

    folder = build_once("pairs", identity, 8 * (len(pages) + 16), build, report)
    return memory_mapped(folder / "firsts.npy")
