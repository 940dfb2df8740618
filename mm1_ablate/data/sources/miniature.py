"""The miniature world as a source: nothing to download, every document a pure function of (world seed, content, index)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import PositiveInt, model_validator

from mm1_ablate.data.documents import Document, after_images
from mm1_ablate.data.readers.open_files import check_columns, kept_columns
from mm1_ablate.data.sources._interleaved import InterleavedSource


class Miniature(InterleavedSource):
    """Images, captions, interleaved documents and text drawn by code."""

    version: ClassVar[int] = 2
    type: Literal["miniature"] = "miniature"
    content: Literal["alt_text", "synthetic_captions", "interleaved", "text"]
    """What the documents are: images with alt texts, images with full captions, interleaved documents, or text alone."""
    documents: PositiveInt | None = None
    """Documents of one epoch; None: a caption for each of 20,000 images, 40,000 interleaved documents or texts."""
    world_seed: int = 0
    """Seed of the world: another one has other images and other documents."""

    @model_validator(mode="after")
    def _switches_have_something_to_switch(self) -> Miniature:
        if self.content != "interleaved" and not (self.images and self.interleaving):
            raise ValueError(f"images and interleaving can be removed from interleaved documents, not from {self.content}")
        return self

    def open(self, seed: int = 0, name: str = "") -> OpenMiniature:
        """The documents. The seed changes nothing: their order is the mixture's."""
        return OpenMiniature(self, name or self.type)

    def texts_after_images(self, most: int) -> list[str]:
        opened = self.open()
        return [text for index in range(min(most, len(opened))) for text in after_images(opened[index].parts)][:most]

    def check(self) -> None:
        check_columns({}, kept_columns(self.keep))


@dataclass(frozen=True)
class OpenMiniature:
    """Documents by index."""

    settings: Miniature
    name: str

    @property
    def _documents(self) -> int:
        from mm1_ablate.miniature.documents import DOCUMENTS

        return self.settings.documents or DOCUMENTS[self.settings.content]

    def __len__(self) -> int:
        from mm1_ablate.miniature.documents import first_pairs

        if self.settings.interleaving:
            return self._documents
        return int(first_pairs(self.settings.world_seed, self._documents)[-1])

    def __getitem__(self, index: int) -> Document:
        from mm1_ablate.miniature import documents

        settings = self.settings
        if not 0 <= index < len(self):
            raise IndexError(index)
        content: str = settings.content
        if content != "interleaved":
            parts = documents.PARTS[content](settings.world_seed, index)
        elif settings.interleaving:
            parts = documents.interleaved(settings.world_seed, index, settings.images)
        else:
            parts = documents.interleaved_pair(settings.world_seed, index, self._documents, settings.images)
            content = "interleaved-pairs"
        return Document(f"miniature-{settings.world_seed}/{content}/{index}", self.name, settings.data_type, parts)
