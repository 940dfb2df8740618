"""Large images become an overview and a grid of crops: which grid, which pixels, in which order, and where their tokens go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers.image_processing_utils import select_best_resolution

from mm1_ablate.config.model import SubImages
from mm1_ablate.data.documents import Image, Unreadable
from mm1_ablate.data.images import FeatureCache, ImagePipeline
from mm1_ablate.data.loader import collate
from mm1_ablate.data.packing import TokenisedDocument
from mm1_ablate.data.sub_images import GREY, fitted, grid_of, views_of

SIZE = 24


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth, as photographs are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BICUBIC))


def image(height: int, width: int, seed: int = 0) -> Image:
    pixels = photograph(height, width, seed)
    return Image(f"{height} x {width} {seed}", lambda: pixels)


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(1, 900),
    width=st.integers(1, 900),
    at_least=st.integers(1, 4),
    more=st.integers(0, 6),
    size=st.sampled_from([14, 224]),
)
def test_the_grid_is_the_one_of_llava_next_or_of_equals_the_one_that_shows_more(
    height: int, width: int, at_least: int, more: int, size: int
) -> None:
    declared = SubImages(at_least=at_least, at_most=max(2, at_least + more))
    rows, columns = grid_of(height, width, size, declared)
    assert declared.at_least <= rows * columns <= declared.at_most
    grids = [
        (size * first, size * second)
        for first in range(1, declared.at_most + 1)
        for second in range(1, declared.at_most + 1)
        if declared.at_least <= first * second <= declared.at_most
    ]
    theirs, ours = select_best_resolution((height, width), grids), (rows * size, columns * size)

    def shown(grid: tuple[int, int]) -> int:
        scale = min(grid[1] / width, grid[0] / height)
        return int(width * scale) * int(height * scale)

    if theirs is not None and ours != theirs:  # nothing where a side would vanish
        assert ours[0] * ours[1] == theirs[0] * theirs[1]
        assert min(shown(ours), width * height) == min(shown(theirs), width * height) and shown(ours) > shown(theirs)


@pytest.mark.parametrize(
    ("height", "width", "grid"),
    [(20, 24, (1, 1)), (48, 48, (2, 2)), (30, 96, (1, 4)), (96, 24, (4, 1)), (24, 60, (1, 3)), (12, 24, (1, 1))],
)
def test_grids_follow_the_shape_and_small_images_are_not_cut(height: int, width: int, grid: tuple[int, int]) -> None:
    assert grid_of(height, width, SIZE, SubImages()) == grid


@pytest.mark.parametrize(("height", "width"), [(48, 48), (100, 130), (300, 96), (37, 90)])
def test_crops_and_overview_are_those_of_pil(height: int, width: int) -> None:
    picture = photograph(height, width)
    rows, columns = grid_of(height, width, SIZE, SubImages())

    def canvas(tall: int, wide: int) -> PIL.Image.Image:
        scale = min(tall / height, wide / width)
        inner = (min(wide, round(width * scale)), min(tall, round(height * scale)))
        grey = PIL.Image.new("RGB", (wide, tall), (GREY, GREY, GREY))
        resized = PIL.Image.fromarray(picture).resize(inner, PIL.Image.Resampling.BICUBIC)
        grey.paste(resized, ((wide - inner[0]) // 2, (tall - inner[1]) // 2))
        return grey

    whole = canvas(rows * SIZE, columns * SIZE)
    cells = [(SIZE * column, SIZE * row, SIZE * (column + 1), SIZE * (row + 1)) for row in range(rows) for column in range(columns)]
    expected = np.stack([np.asarray(part) for part in (canvas(SIZE, SIZE), *(whole.crop(cell) for cell in cells))])
    views = views_of(picture, SIZE, SubImages())
    assert views.shape == expected.shape and len(views) == rows * columns + 1 > 2
    difference = np.abs(views.astype(int) - expected.astype(int)).max((1, 2, 3))
    # Where the side divides, pixels are averaged.
    assert difference[1:].max() <= 2 and difference[0] <= (4 if height == width == 2 * SIZE else 2)


def test_mm1s_fine_tuning_at_1344_pixels_is_four_crops_and_an_overview_of_672() -> None:
    """The image itself is not resized, and of a larger or smaller one no proportions change."""
    mm1 = SubImages(at_least=4, at_most=4)
    picture = photograph(1344, 1344)
    views = views_of(picture, 672, mm1)
    assert views.shape == (5, 672, 672, 3)
    whole = np.concatenate([np.concatenate(views[1:3], 1), np.concatenate(views[3:5], 1)])
    assert np.array_equal(whole, picture)
    expected = np.asarray(PIL.Image.fromarray(picture).resize((672, 672), PIL.Image.Resampling.BICUBIC))
    assert np.abs(views[0].astype(int) - expected.astype(int)).max() <= 2
    assert [grid_of(*shape, 672, mm1) for shape in ((336, 336), (2000, 2000), (1344, 1000), (600, 2400), (2400, 600))] == [
        (2, 2),
        (2, 2),
        (2, 2),
        (1, 4),
        (4, 1),
    ]


def test_the_overview_stands_where_it_is_declared() -> None:
    picture = photograph(48, 72)
    first, last, none = (views_of(picture, SIZE, SubImages(at_most=6, overview=place)) for place in ("first", "last", "none"))
    assert len(first) == len(last) == 7 and len(none) == 6
    assert np.array_equal(first[1:], none) and np.array_equal(last[:-1], none) and np.array_equal(first[0], last[-1])
    # Nothing is resized in a grid of the picture's own size: the crops are the picture.
    assert np.array_equal(none[4], picture[24:48, 24:48])


@pytest.mark.parametrize("shape", [(1, 4000), (5000, 3), (1, 1)])
def test_the_strangest_pictures_have_views(shape: tuple[int, int]) -> None:
    views = views_of(photograph(*shape), SIZE, SubImages())
    assert views.shape[1:] == (SIZE, SIZE, 3) and 1 <= len(views) <= 5
    assert fitted(photograph(*shape), SIZE, SIZE).shape == (SIZE, SIZE, 3)


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least 2 crops, not 1"):
        SubImages(at_most=1)
    with pytest.raises(ValidationError, match="at least 5 crops, not 4"):
        SubImages(at_least=5)


# ---------------------------------------------------------------- in a batch
def document(key: str, *segments: tuple[int, ...] | Image) -> TokenisedDocument:
    images = tuple(segment for segment in segments if isinstance(segment, Image))
    return TokenisedDocument(key, "pages", segments, images, 0, "interleaved")


def test_tokens_of_sub_images_follow_one_another_in_reading_order() -> None:
    small, large, wide = image(20, 20), image(48, 48, 1), image(24, 72, 2)
    pipeline = ImagePipeline(SIZE, sub_images=SubImages(overview="last"))
    documents = [document("one", (5,), large, (6, 7), small, (1,)), document("two", wide, (8, 1))]
    batch = collate(documents, image_tokens=2, padding=0, pipeline=pipeline)
    assert batch.document_lengths == [1 + 10 + 2 + 2 + 1, 8 + 2]
    assert batch.tokens.tolist() == [5, *[0] * 10, 6, 7, *[0] * 2, 1, *[0] * 8, 8, 1]
    assert batch.image_positions.tolist() == [*range(1, 11), 13, 14, *range(16, 24)]
    assert batch.targets.tolist() == [6, 7, 1, 8, 1] and batch.tokens[batch.supervised + 1].tolist() == batch.targets.tolist()
    views = [views_of(one.load(), SIZE, SubImages(overview="last")) for one in (large, small, wide)]
    assert [len(own) for own in views] == [5, 1, 4]
    assert torch.equal(batch.images, torch.from_numpy(np.concatenate(views)).permute(0, 3, 1, 2))


def test_an_unreadable_image_goes_with_all_its_crops_and_no_others() -> None:
    def broken() -> np.ndarray:
        raise Unreadable("truncated JPEG", "bad")

    pipeline = ImagePipeline(SIZE, sub_images=SubImages(), threads=2)
    captioned = TokenisedDocument("pair", "pairs", (image(48, 48), (9, 1)), (image(48, 48),), 0, "captioned")
    half = document("page", image(48, 24, 3), (6,), Image("bad", broken), (7, 1))
    both = image(96, 24, 4), Image("bad", broken)
    lost = TokenisedDocument("lost", "pairs", (*both, (9, 1)), both, 0, "captioned")
    batch = collate([lost, half, captioned], 1, 0, pipeline)
    assert batch.documents == ["page", "pair"] and batch.document_lengths == [3 + 3, 5 + 2]
    expected = [views_of(photograph(48, 24, 3), SIZE, SubImages()), views_of(photograph(48, 48), SIZE, SubImages())]
    assert torch.equal(batch.images, torch.from_numpy(np.concatenate(expected)).permute(0, 3, 1, 2))
    assert len(batch.image_positions) == len(batch.images)


def test_features_of_whole_images_do_not_go_with_sub_images(tmp_path: Path) -> None:
    FeatureCache.write(tmp_path, [(["one"], np.zeros((1, 4, 6), np.float32))], 1)
    with pytest.raises(ValueError, match="whole images"):
        ImagePipeline(SIZE, FeatureCache(tmp_path), sub_images=SubImages())
