"""Images of a batch: deterministic sizes, and the features that a frozen encoder left."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as pil
from timm.data import create_transform, resolve_model_data_config
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from mm1_ablate.data.decoding import encoded_image
from mm1_ablate.data.documents import Image, Unreadable
from mm1_ablate.data.images import FeatureCache, ImagePipeline
from mm1_ablate.data.resizing import resize
from mm1_ablate.miniature.rendering import image_pool
from mm1_ablate.model.image_encoder import PatchEncoder


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


@pytest.mark.parametrize("shape", [(240, 320), (333, 250), (150, 150), (480, 130), (60, 45), (224, 400), (448, 448)])
@pytest.mark.parametrize("size", [64, 224, 378])
def test_a_photograph_is_resized_as_timm_resizes_it(shape: tuple[int, int], size: int):
    rough = np.random.default_rng(sum(shape)).integers(0, 256, (40, 30, 3), np.uint8)
    photograph = pil.fromarray(rough).resize(shape[::-1], pil.Resampling.BICUBIC)
    expected = CenterCrop(size)(Resize(size, InterpolationMode.BICUBIC)(photograph))
    difference = np.abs(resize(np.asarray(photograph)[None], size)[0].astype(int) - np.asarray(expected))
    assert difference.max() <= 2 and difference.mean() < 0.2 and (difference > 1).mean() < 1e-4


def test_pixels_reach_an_encoder_as_timms_own_transform_gives_them() -> None:
    """Size, crop, mean and std of weights' own: in 255ths, so as to compare with what can be seen."""
    name, size = "vit_large_patch14_clip_quickgelu_336.openai", 336
    with torch.device("meta"):
        data = resolve_model_data_config(timm.create_model(name))
    theirs = create_transform(**data)
    vision = timm.models.VisionTransformer(img_size=size, patch_size=336, embed_dim=4, depth=1, num_heads=1, num_classes=0)
    ours = PatchEncoder(vision, data["mean"], data["std"], -1)
    for shape in ((672, 672), (500, 375), (200, 640)):
        photograph = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
        expected = theirs(pil.fromarray(photograph))
        (loaded,) = ImagePipeline(size).load([Image("one", lambda photograph=photograph: photograph)])
        difference = ((loaded - ours.mean[0]) / ours.std[0] - expected).abs() * ours.std[0]
        assert difference.max() < 2.01 and (difference > 1.01).float().mean() < 1e-4


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), size=st.integers(1, 80))
def test_pictures_of_any_shape_become_squares_of_any_size(height: int, width: int, size: int):
    pixels = np.full((1, height, width, 3), 130, np.uint8)
    assert resize(pixels, size).shape == (1, size, size, 3) and (resize(pixels, size) == 130).all()


@pytest.mark.parametrize("shape", [(3, 10_000), (10_000, 3), (1, 1_000_000)])
def test_a_long_picture_is_its_middle_and_takes_little_memory(shape: tuple[int, int]):
    pixels = np.zeros((1, *shape, 3), np.uint8)
    middle = [slice(side // 2 - 50, side // 2 + 50) if side > 100 else slice(None) for side in shape]
    pixels[0, middle[0], middle[1]] = 200
    # Upright, it would be fitted to 378 x 378,000,000 pixels.
    assert (resize(pixels, 378) == 200).all()


@pytest.mark.parametrize("shape", [(13, 60), (60, 13)])
def test_the_middle_of_a_long_picture_stays_in_the_middle(shape: tuple[int, int]):
    half = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    even = np.maximum(half, half[::-1, ::-1])[None]
    small = resize(even, 8)
    assert np.abs(small.astype(int) - small[:, ::-1, ::-1]).max() <= 1


def test_no_images_are_a_batch_of_none():
    assert ImagePipeline(24).load([]).shape == (0, 3, 24, 24)


def test_pixels_come_channel_first():
    image = image_pool("training")[5]
    assert np.array_equal(ImagePipeline(48).load([image])[0].permute(1, 2, 0).numpy(), image.load())


def test_pictures_are_not_written_to():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    pixels.flags.writeable = False
    before = pixels.copy()
    ImagePipeline(24).load([Image("one", lambda: pixels)]).fill_(0)
    assert np.array_equal(pixels, before)


def photographs(count: int) -> list[Image]:
    """JPEGs of several sizes; the third of each five is cut off, the fifth is an HTML page."""
    images = []
    for number in range(count):
        rough = np.random.default_rng(number).integers(0, 256, (5, 6, 3), np.uint8)
        file = io.BytesIO()
        pil.fromarray(rough).resize((40 + number, 70 - number), pil.Resampling.BICUBIC).save(file, "JPEG")
        data = {2: file.getvalue()[:-60], 4: b"<html>"}.get(number % 5, file.getvalue())
        images.append(encoded_image(f"photograph-{number}", lambda data=data: data))
    return images


def test_what_cannot_be_read_is_reported_by_place_and_the_rest_stays_in_order():
    images = photographs(10)
    pixels, unreadable = ImagePipeline(24).load_readable(images)
    assert {place: str(error) for place, error in unreadable.items()} == {
        2: "truncated image: photograph-2",
        4: "not an image: photograph-4",
        7: "truncated image: photograph-7",
        9: "not an image: photograph-9",
    }
    readable = [image for place, image in enumerate(images) if place not in unreadable]
    assert pixels.shape == (6, 3, 24, 24) and torch.equal(pixels, ImagePipeline(24).load(readable))
    with pytest.raises(Unreadable, match="truncated image: photograph-2"):
        ImagePipeline(24).load(images)
    none, unreadable = ImagePipeline(24).load_readable([images[4]])
    assert none.shape == (0, 3, 24, 24) and list(unreadable) == [0]


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(threads: int):
    images = photographs(33)
    alone, unreadable = ImagePipeline(24).load_readable(images)
    pipeline = ImagePipeline(24, threads=threads)
    for _ in range(2):
        pixels, failed = pipeline.load_readable(images)
        assert torch.equal(pixels, alone) and list(failed) == list(unreadable)
    again = pickle.loads(pickle.dumps(pipeline))
    assert torch.equal(again.load_readable(photographs(2))[0], alone[:2])


def test_what_is_no_defect_of_the_data_is_not_hidden():
    def broken() -> np.ndarray:
        raise ZeroDivisionError

    for threads in (0, 2):
        with pytest.raises(ZeroDivisionError):
            ImagePipeline(24, threads=threads).load_readable([Image("one", broken), Image("two", broken)])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_process_loads_with_threads_of_its_own():
    images = [image_pool("training")[number] for number in range(9)]
    pipeline = ImagePipeline(48, threads=2)
    before = pipeline.load(images)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(pipeline.load(images), before) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_cached_features_stand_for_images_that_are_all_known(tmp_path: Path):
    pool = image_pool("training")[:5]
    keys = [image.key for image in pool]
    features = np.random.default_rng(0).normal(size=(5, 4, 6)).astype(np.float32)
    FeatureCache.write(tmp_path, iter([(keys[:2], features[:2]), (keys[2:], features[2:])]), rows=5)
    cache = FeatureCache(tmp_path)
    pipeline = ImagePipeline(48, cache)
    assert len(cache) == 5 and cache.has([pool[0].key])
    assert torch.equal(pipeline.load([pool[3], pool[1]]), torch.from_numpy(features[[3, 1]]))
    assert pipeline.load([]).shape == (0, 4, 6)
    other = image_pool("training")[9]
    assert torch.equal(pipeline.load([pool[0], other, pool[2]]), ImagePipeline(48).load([pool[0], other, pool[2]]))


def test_an_unreadable_image_leaves_the_features_of_the_others(tmp_path: Path):
    pool = image_pool("training")[:3]
    bad = encoded_image("bad", lambda: b"<html>")
    features = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)
    # Of the three images that there might have been, two could be read.
    FeatureCache.write(tmp_path, [([pool[0].key, pool[1].key], features)], rows=3)
    pipeline = ImagePipeline(48, FeatureCache(tmp_path))
    loaded, unreadable = pipeline.load_readable([pool[1], bad, pool[0]])
    assert torch.equal(loaded, torch.from_numpy(features[[1, 0]]))
    assert {place: error.reason for place, error in unreadable.items()} == {1: "not an image"}
    assert pipeline.load_readable([bad])[0].shape == (0, 4, 6)
    loaded, unreadable = pipeline.load_readable([pool[1], bad, pool[2]])
    assert torch.equal(loaded, ImagePipeline(48).load([pool[1], pool[2]])) and list(unreadable) == [1]


def test_a_cache_that_was_cut_off_is_no_cache(tmp_path: Path):
    features = np.zeros((1, 2, 3), np.float32)
    with pytest.raises(ValueError, match="1 features for 2 keys"):
        FeatureCache.write(tmp_path, [(["one", "two"], features)], rows=2)
    with pytest.raises(ValueError, match="more than 1 images"):
        FeatureCache.write(tmp_path, [(["one"], features), (["two"], features)], rows=1)
    with pytest.raises(ValueError, match="no features"):
        FeatureCache.write(tmp_path, [], rows=1)
    with pytest.raises(FileNotFoundError):
        FeatureCache(tmp_path)
