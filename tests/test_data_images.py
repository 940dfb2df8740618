"""Images of a batch: deterministic sizes, and the features that a frozen encoder left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mm1_ablate.data.documents import Image
from mm1_ablate.data.images import FeatureCache, ImagePipeline, resize
from mm1_ablate.data.miniature.rendering import image_pool


def test_smaller_images_are_averages_of_areas():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), np.uint8)
    smaller = resize(pixels, 12)
    exact = pixels.reshape(3, 12, 4, 12, 4, 3).mean((2, 4))
    assert smaller.shape == (3, 12, 12, 3) and np.abs(smaller - exact).max() <= 0.5
    assert resize(pixels, 48) is pixels


@pytest.mark.parametrize("shape", [(48, 48), (30, 60), (200, 100), (17, 17)])
def test_any_image_gets_the_size_of_the_encoder(shape: tuple[int, int]):
    pixels = np.full((2, *shape, 3), 130, np.uint8)
    assert (resize(pixels, 32) == 130).all() and resize(pixels, 32).shape == (2, 32, 32, 3)


def test_a_batch_may_hold_images_of_several_sizes():
    images = [Image(str(side), lambda side=side: np.full((side, 2 * side, 3), side, np.uint8)) for side in (20, 50, 20)]
    loaded = ImagePipeline(24).load(images)
    assert loaded.shape == (3, 3, 24, 24) and loaded.dtype == torch.uint8
    assert loaded[:, 0, 0, 0].tolist() == [20, 50, 20]


def test_no_images_are_a_batch_of_none():
    assert ImagePipeline(24).load([]).shape == (0, 3, 24, 24)


def test_pixels_come_channel_first():
    image = image_pool("training")[5]
    assert np.array_equal(ImagePipeline(48).load([image])[0].permute(1, 2, 0).numpy(), image.load())


def test_cached_features_stand_for_images_that_are_all_known(tmp_path: Path):
    pool = image_pool("training")[:5]
    features = np.random.default_rng(0).normal(size=(5, 4, 6)).astype(np.float32)
    FeatureCache.write(tmp_path, [image.key for image in pool], iter([features[:2], features[2:]]))
    cache = FeatureCache(tmp_path)
    pipeline = ImagePipeline(48, cache)
    assert len(cache) == 5 and cache.has([pool[0].key])
    assert torch.equal(pipeline.load([pool[3], pool[1]]), torch.from_numpy(features[[3, 1]]))
    assert pipeline.load([]).shape == (0, 4, 6)
    assert pipeline.load([pool[0], image_pool("training")[9]]).dtype == torch.uint8


def test_a_cache_that_was_cut_off_is_no_cache(tmp_path: Path):
    with pytest.raises(ValueError, match="1 features for 2 keys"):
        FeatureCache.write(tmp_path, ["one", "two"], [np.zeros((1, 2, 3), np.float32)])
    with pytest.raises(FileNotFoundError):
        FeatureCache(tmp_path)
