"""Preparing an image encoder from captioned images of which some cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_experiment

from mm1_ablate.config.data import DataType, Source
from mm1_ablate.config.image_encoder import EncoderPreparation
from mm1_ablate.config.preparation import Preparation
from mm1_ablate.data.accounting import TooMuchBadData
from mm1_ablate.data.decoding import encoded_image
from mm1_ablate.data.documents import Document, Image, LeftOut, Unreadable
from mm1_ablate.data.images import FeatureCache, ImagePipeline
from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.training.image_text_batches import NAME, ImageTextBatches
from mm1_ablate.training.preparation import prepare

PIPELINE = ImagePipeline(4)


class Greys(Source):
    """Document i is a picture of grey i; what `defects` names is unreadable."""

    type: str = "Greys"
    data_type: DataType = "captioned"
    documents: int = 100
    images: tuple[int, ...] = ()
    captions: tuple[int, ...] = ()
    unwanted: tuple[int, ...] = ()
    texts: tuple[int, ...] = ()

    def open(self, seed: int = 0, name: str = "") -> OpenGreys:
        return OpenGreys(self, name)


@dataclass
class OpenGreys:
    settings: Greys
    name: str

    def __len__(self) -> int:
        return self.settings.documents

    def __getitem__(self, index: int) -> Document:
        if index in self.settings.captions:
            raise Unreadable("empty caption", f"document {index}")
        if index in self.settings.unwanted:
            raise LeftOut("text of fewer than 5 characters")
        image = Image(str(index), lambda: np.full((8, 8, 3), index, np.uint8))
        if index in self.settings.images:
            image = encoded_image(str(index), lambda: b"<html>")
        return Document(str(index), self.name, "captioned", ("a blue cross",) if index in self.settings.texts else (image, "a blue cross"))


def captioned_images(pipeline: ImagePipeline = PIPELINE, batch_images: int = 32, steps: int = 4, **source: object) -> ImageTextBatches:
    settings = EncoderPreparation.model_construct(
        source=Greys(**source),
        batch_images=batch_images,
        steps=steps,
    )
    return ImageTextBatches(settings, load_tokenizer("miniature"), pipeline, seed=0)


def drawn(data: ImageTextBatches) -> list[list[int]]:
    """Which documents came in each batch."""
    batches = []
    for pixels, tokens, starts in data:
        assert pixels.shape == (data.settings.batch_images, 3, 4, 4) and len(starts) == len(pixels) and starts[-1] < len(tokens)
        batches.append(pixels[:, 0, 0, 0].tolist())
    return batches


BAD = {"images": (3, 50, 51), "captions": (7, 90), "unwanted": (8, 9), "texts": (20,)}


def test_what_cannot_be_used_is_replaced_and_the_rest_of_the_order_stays():
    clean, damaged = drawn(captioned_images()), drawn(captioned_images(max_bad_share=0.2, **BAD))
    unusable = {index for indices in BAD.values() for index in indices}
    for whole, batch in zip(clean, damaged, strict=True):
        kept = [index for index in whole if index not in unusable]
        assert batch[: len(kept)] == kept and not unusable & set(batch) and len(set(batch)) == 32
    assert drawn(captioned_images(max_bad_share=0.2, **BAD)) == damaged
    assert drawn(captioned_images(ImagePipeline(4, threads=2), max_bad_share=0.2, **BAD)) == damaged


def test_everything_that_is_skipped_is_counted():
    data = captioned_images(batch_images=100, steps=1, documents=108, max_bad_share=0.2, **BAD)
    batches = drawn(data)
    account = data.accounting.account()[NAME]
    assert account["bad"] == {"not an image": 3, "empty caption": 2}
    examples = {reason: sorted(names) for reason, names in account["examples"].items()}
    assert examples == {"not an image": ["3", "50", "51"], "empty caption": ["document 7", "document 90"]}
    assert account["left_out"] == {"text of fewer than 5 characters": 2, "document without an image": 1}
    assert sorted(batches[0]) == [index for index in range(108) if index not in {3, 7, 8, 9, 20, 50, 51, 90}]
    assert (account["documents"], account["images"], account["drawn"]) == (100, 100, 108)


def test_a_source_of_which_too_much_is_bad_ends_the_preparation():
    with pytest.raises(TooMuchBadData, match=r"[12][0-9]\.[0-9]% .*not an image.*image_encoder\.preparation\.source\.max_bad_share"):
        drawn(captioned_images(images=tuple(range(0, 100, 4)), steps=40))
    assert drawn(captioned_images(images=tuple(range(0, 100, 4)), steps=40, max_bad_share=1.0))


def test_a_source_without_anything_to_use_says_so():
    with pytest.raises(ValueError, match=r"none of the 5 documents can be used.*32 document without an image"):
        drawn(captioned_images(documents=5, texts=tuple(range(5))))


@pytest.mark.parametrize("documents", [5, 40])
def test_documents_come_twice_where_fewer_can_be_used_than_a_batch_has(documents: int):
    for batch in drawn(captioned_images(documents=documents, unwanted=tuple(range(2, documents)))):
        assert set(batch) == {0, 1}


@pytest.fixture
def world_with_damage(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The miniature world, whose pictures 3 and 5 are HTML pages from now on."""
    from mm1_ablate.data.sources.miniature import OpenMiniature

    whole = OpenMiniature.__getitem__

    def damaged(self: OpenMiniature, index: int) -> Document:
        document = whole(self, index)
        if index not in (3, 5):
            return document
        parts = tuple(encoded_image(part.key, lambda: b"<html>") if isinstance(part, Image) else part for part in document.parts)
        return Document(document.key, document.source, document.data_type, parts)

    return lambda: monkeypatch.setattr(OpenMiniature, "__getitem__", damaged)


def test_a_prepared_folder_says_what_was_bad_and_keeps_the_features_of_the_rest(tmp_path: Path, world_with_damage: Callable[[], None]):
    source = {"type": "miniature", "data_type": "captioned", "content": "synthetic_captions", "documents": 12, "max_bad_share": 0.5}
    experiment = tiny_experiment({"model.image_encoder.preparation.source": source}, prepared=True)
    encoder = experiment.model.image_encoder
    world_with_damage()
    prepare(Preparation(kind="image_encoder", settings=encoder, seed=0), tmp_path, lambda progress: None)
    account = json.loads((tmp_path / "data.json").read_text())[NAME]
    assert account["bad"].keys() == {"not an image"} and account["bad"]["not an image"] > 0
    cache = FeatureCache(tmp_path / f"features{encoder.feature_layer}")
    assert len(cache) == 10 and np.isfinite(cache.features[:10]).all()
    assert torch.load(tmp_path / "weights.pt")
