"""A source of documents of which some are bad: in their place, in a part of them, or only when an image is decoded; and its batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mm1_ablate.config.data import Data, Source
from mm1_ablate.data.counter_based_random import Draws, key
from mm1_ablate.data.documents import Document, Image, LeftOut, Unreadable
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.loader import Batch, BatchLoader
from mm1_ablate.data.tokenizer import load_tokenizer

PIPELINE = ImagePipeline(12)
FLAWS = {"bad_documents": 10, "left_out": 10, "missing_images": 10, "unreadable_images": 15}
WORDS = ("red", "blue", "green", "card", "mesh")


def flawed(max_bad_share: float = 1.0, max_epochs: float | None = None, **flaws: int) -> Data:
    """Sources of every data type with these flaws."""
    declared = {"type": "flawed.Flawed", "max_epochs": max_epochs, **flaws}
    types = {"captioned": 4, "synthetic_captioned": 2, "interleaved": 4, "text": 1}
    return Data.model_validate(
        {
            "mixture": types,
            "sources": {f"some_{name}": {**declared, "data_type": name} for name in types},
            "packing": {"row_tokens": 48, "nominal_image_tokens": 4, "max_images": 6, "buffer_documents": 20},
            "max_bad_share": max_bad_share,
        }
    )


class Flawed(Source):
    """Shares are of 100; documents are pure functions of their index."""

    type: str
    documents: int = 60
    bad_documents: int = 0
    left_out: int = 0
    missing_images: int = 0
    unreadable_images: int = 0

    def open(self, seed: int = 0, name: str = "") -> OpenFlawed:
        return OpenFlawed(self, name)


class OpenFlawed:
    def __init__(self, settings: Flawed, name: str) -> None:
        self.settings, self.name = settings, name

    def __len__(self) -> int:
        return self.settings.documents

    def __getitem__(self, index: int) -> Document:
        settings, draws = self.settings, Draws(key("flawed", self.name), index)
        if draws.below(100) < settings.bad_documents:
            raise Unreadable("empty caption", f"{self.name}/{index}")
        if draws.below(100) < settings.left_out:
            raise LeftOut("text of fewer than 5 characters")
        images = {"text": 0, "interleaved": 1 + draws.below(5)}.get(settings.data_type, 1)
        parts: list[str | Image] = []
        damage = []
        for place in range(images):
            if draws.below(100) < settings.missing_images and settings.data_type == "interleaved":
                damage.append(Unreadable("missing image", f"{self.name}/{index}/{place}"))
            else:
                parts.append(self._image(f"{self.name}/{index}/{place}", draws.below(100) < settings.unreadable_images))
            parts.append(" ".join(draws.choice(WORDS) for _ in range(1 + draws.below(12))))
        if not images:
            parts.append(" ".join(draws.choice(WORDS) for _ in range(1 + draws.below(60))))
        return Document(f"{self.name}/{index}", self.name, settings.data_type, tuple(parts), damage=tuple(damage))

    @staticmethod
    def _image(name: str, unreadable: bool) -> Image:
        def load() -> np.ndarray:
            if unreadable:
                raise Unreadable("truncated JPEG", name)
            return np.full((12, 12, 3), Draws(key(name), 0).below(256), np.uint8)

        return Image(name, load)


def of(declared: Data, **options: Any) -> BatchLoader:
    """Its batches: 7 steps of 4 rows, unless the options say otherwise."""
    options = {"steps": 7, "batch_rows": 4, **options}
    return BatchLoader(declared, load_tokenizer(), 3, PIPELINE, 0, **options)


def pictures(batch: Batch) -> list[int]:
    """A pixel of each image: which image it is."""
    return batch.images[:, 0, 0, 0].tolist()


def same(first: Batch, second: Batch) -> bool:
    """Whether two batches are the same bit for bit."""
    tensors = all(torch.equal(value, getattr(second, name)) for name, value in vars(first).items() if isinstance(value, torch.Tensor))
    return tensors and first.documents == second.documents and first.document_lengths == second.document_lengths
