"""Pictures in, pictures of another size out, the same on every machine.

Antialiased bicubic in torch's integer arithmetic, at about a third of the time of decoding and resizing: within one level of 255 of PIL's,
and so of timm's, but for one value in tens of thousands, which is two off. Little squares that were drawn pixel by pixel are averaged over
areas instead, where the size divides their side.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import interpolate

LONGEST = 4
"""Times the shorter side that the longer one may be before its ends are cut off ahead of resizing: only the middle square is seen, and a
banner of 10000 x 3 pixels would be drawn 746666 pixels wide to be 224 high."""
DRAWN = 64
"""Pixels a side up to which a square is taken to be drawn pixel by pixel, as those of the miniature world are, and not a photograph."""


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8 [N, height, width, 3] to uint8 [N, size, size, 3]: the shorter side is fitted, and the middle cut out."""
    height, width = pixels.shape[1:3]
    if height == width == size:
        return pixels
    if height == width <= DRAWN and height % size == 0:
        return _averaged(pixels, height // size)
    return np.stack([_middle_square(picture, size) for picture in pixels])


def resize_to(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [any height, any width, 3] to uint8 [height, width, 3], stretched if need be."""
    before = picture.shape[:2]
    if before == (height, width):
        return picture
    if before[0] == before[1] <= DRAWN and height == width and before[0] % height == 0:
        averaged: np.ndarray = _averaged(picture[None], before[0] // height)[0]
        return averaged
    return _bicubic(picture, height, width)


def _averaged(pixels: np.ndarray, factor: int) -> np.ndarray:
    """The mean of each square of `factor` pixels a side, rounded."""
    # Adding strides is ten times as quick as numpy's sum over short axes.
    rows = np.zeros(pixels[:, ::factor].shape, np.uint32)
    for offset in range(factor):
        rows += pixels[:, offset::factor]
    squares = np.zeros(rows[:, :, ::factor].shape, np.uint32)
    for offset in range(factor):
        squares += rows[:, :, offset::factor]
    squares += factor * factor // 2
    squares //= factor * factor
    return squares.astype(np.uint8)


def _middle_square(picture: np.ndarray, size: int) -> np.ndarray:
    """uint8 [height, width, 3] to uint8 [size, size, 3]."""
    picture = picture[_middle(picture.shape[0], LONGEST * picture.shape[1]), _middle(picture.shape[1], LONGEST * picture.shape[0])]
    height, width = picture.shape[:2]
    shorter = min(height, width)
    # Rounded as torchvision's Resize and CenterCrop do, so that no picture is half a pixel off.
    fitted = (size * height // shorter, size * width // shorter)
    top, left = (round((side - size) / 2) for side in fitted)
    return _bicubic(picture, *fitted)[top : top + size, left : left + size]


def _bicubic(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [any height, any width, 3] to uint8 [height, width, 3]."""
    # Torch's integer kernel takes the channels last, as they lie in the picture.
    image = torch.from_numpy(np.require(picture, requirements=["C", "W"])).permute(2, 0, 1)[None]
    resized = interpolate(image, size=(height, width), mode="bicubic", antialias=True, align_corners=False)
    return resized[0].permute(1, 2, 0).numpy()


def _middle(side: int, most: int) -> slice:
    """The middle `most` of a side, or one fewer, so that it stays the middle."""
    cut = max(0, side - most + 1) // 2
    return slice(cut, side - cut)
