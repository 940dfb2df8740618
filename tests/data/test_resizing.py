"""Pictures of another size, pixel by pixel: what is averaged, what is cut off, and what stays as it is."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image as pil

from mm1_ablate.config.model import SubImages
from mm1_ablate.data.resizing import resize, resize_to
from mm1_ablate.data.sub_images import fitted, grid_of, views_in, views_of


def grey(rows: list[list[int]]) -> np.ndarray:
    """A picture of these levels of grey."""
    return np.repeat(np.array(rows, np.uint8)[:, :, None], 3, axis=2)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), np.uint8)


def levels(picture: np.ndarray) -> list[list[int]]:
    assert (picture == picture[..., :1]).all()
    return [[int(value) for value in row] for row in picture[..., 0]]


def test_means_of_drawn_squares_are_rounded_half_up() -> None:
    picture = grey([[0, 1, 7, 8], [0, 1, 8, 8], [255, 255, 0, 0], [255, 255, 0, 1]])
    assert levels(resize(picture[None], 2)[0]) == levels(resize_to(picture, 2, 2)) == [[1, 8], [255, 0]]
    nine = grey([[1, 2, 3], [4, 5, 6], [7, 8, 13]])  # 49 / 9 = 5.44
    assert levels(resize(nine[None], 1)[0]) == levels(resize_to(nine, 1, 1)) == [[5]]


@pytest.mark.parametrize(("side", "size", "averaged"), [(64, 32, True), (64, 48, False), (66, 33, False), (6, 3, True)])
def test_only_small_squares_that_divide_are_averaged(side: int, size: int, averaged: bool) -> None:
    picture = noise(side, side)
    factor = side // size
    means = picture[: size * factor, : size * factor].reshape(size, factor, size, factor, 3).mean((1, 3))
    for smaller in (resize(picture[None], size)[0], resize_to(picture, size, size)):
        assert (np.abs(smaller - means).max() <= 0.5) == averaged


def test_a_picture_that_is_no_square_is_not_averaged_in_its_grid() -> None:
    assert np.abs(resize_to(noise(6, 6), 3, 2).astype(int) - np.asarray(pil.fromarray(noise(6, 6)).resize((2, 3), 3))).max() <= 2
    assert np.abs(resize_to(noise(6, 8), 3, 3).astype(int) - np.asarray(pil.fromarray(noise(6, 8)).resize((3, 3), 3))).max() <= 2


def test_a_picture_of_the_asked_size_is_handed_on_and_another_is_a_new_one_that_can_be_written_to() -> None:
    picture = noise(7, 9)
    assert resize_to(picture, 7, 9) is picture
    assert resize_to(picture, 9, 7).shape == (9, 7, 3) and resize_to(picture, 9, 7).flags.writeable


@pytest.mark.parametrize(("width", "left"), [(4, 0), (5, 0), (6, 1), (7, 2), (9, 2), (10, 3), (16, 6), (20, 8)])
def test_the_middle_is_cut_out_as_torchvision_cuts_it(width: int, left: int) -> None:
    """Of a picture whose shorter side fits, pixels stay as they are; a half is rounded to the even side."""
    picture = noise(4, width)
    assert np.array_equal(resize(picture[None], 4)[0], picture[:, left : left + 4])
    upright = picture.swapaxes(0, 1)
    assert np.array_equal(resize(upright[None], 4)[0], upright[left : left + 4])


def test_the_longer_side_is_rounded_down_as_torchvision_rounds_it() -> None:
    picture = noise(30, 53)  # 20 high: 35.33 wide, of which columns 8 to 28 are seen
    expected = np.asarray(pil.fromarray(picture).resize((35, 20), pil.Resampling.BICUBIC))[:, 8:28]
    assert np.abs(resize(picture[None], 20)[0].astype(int) - expected).max() <= 2


def test_pictures_that_cannot_be_written_to_are_resized_without_a_warning() -> None:
    """As PIL hands them out. torch would warn of each."""
    picture = noise(30, 40)
    picture.flags.writeable = False
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            smaller = resize(picture[None], 12)
            stretched = resize_to(picture, 12, 12)
    finally:
        torch.set_warn_always(always)
    assert smaller.flags.writeable and stretched.flags.writeable


# ---------------------------------------------------------------- sub-images
def test_a_fitted_picture_stands_in_the_middle_of_grey() -> None:
    picture = grey([[200] * 4] * 2)
    around = [127] * 4
    assert levels(fitted(picture, 5, 4)) == [around, [200] * 4, [200] * 4, around, around]
    assert levels(fitted(picture, 2, 7)) == [[127, 200, 200, 200, 200, 127, 127]] * 2
    assert levels(fitted(grey([[9] * 100]), 4, 4)) == [around, [9] * 4, around, around]


def test_views_are_counted_as_they_are_made() -> None:
    for overview in ("first", "last", "none"):
        declared = SubImages(overview=overview)
        for height, width in ((20, 24), (48, 48), (30, 96), (24, 60), (1, 500)):
            assert views_in(height, width, 24, declared) == len(views_of(noise(height, width), 24, declared))
    assert [views_in(24, 72, 24, SubImages(overview=overview)) for overview in ("first", "last", "none")] == [4, 4, 3]
    assert views_in(24, 24, 24, SubImages()) == 1


@pytest.mark.parametrize(
    ("height", "width", "at_least", "at_most", "grid"),
    [
        (48, 24, 1, 2, (2, 1)),  # all of its pixels are kept, and none wasted
        (24, 24, 2, 4, (1, 2)),  # of two that show it alike, the first by rows
        (48, 72, 1, 6, (2, 3)),
        (72, 48, 1, 6, (3, 2)),
        (48, 72, 1, 5, (2, 2)),
        (10, 240, 1, 9, (1, 9)),
    ],
)
def test_the_grid_keeps_most_and_wastes_least(height: int, width: int, at_least: int, at_most: int, grid: tuple[int, int]) -> None:
    assert grid_of(height, width, 24, SubImages(at_least=at_least, at_most=at_most)) == grid
