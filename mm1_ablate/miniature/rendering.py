"""Scenes in, pixels out: uint8 [N, 48, 48, 3], many at once, each picture a pure function of (world seed, split, index).

A coloured shape hangs on a textured wall; the grain of a plate in the bottom right corner is the finest detail that pixels can show,
and none of it is left at half the resolution. Position, radius, colour, wall and brightness jitter a little; noise lies over all.
"""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np

from mm1_ablate.data.counter_based_random import hashed, key
from mm1_ablate.data.documents import Image
from mm1_ablate.miniature.world import ATTRIBUTES, POOL_SIZES, attributes, pool_key

SIDE = 48
BLOCK = 256
COLOURS = np.array(
    [(214, 46, 42), (52, 160, 62), (48, 84, 208), (232, 206, 48), (136, 58, 178), (236, 134, 36), (60, 200, 210), (240, 140, 190)],
    np.float32,
)
CENTRES = np.array([(13, 22), (34, 22), (24, 13), (21, 34)], np.float32)
"""x and y of left, right, top, bottom."""
RADII = np.array([8.0, 12.5], np.float32)
PLATE = slice(36, 48)
"""Rows and columns of the plate: whole squares of 4 pixels, so that averaging by 2 or 4 mixes nothing else into it."""
PLATE_GREY, GRAIN_CONTRAST = 128, 72
NOISE = 1 << 20


def _grains() -> np.ndarray:
    """float32 [4, 2, 2, 12, 12] in -1 .. 1: rows, columns, mesh, smooth, with a period of 2 pixels, by the phase of y and x.

    The mean of every square of 2 pixels is 0 for each, so that at half the resolution all are the same grey.
    """
    y, x = np.mgrid[0:12, 0:12]
    phases = [[(y + down, x + right) for right in (0, 1)] for down in (0, 1)]
    grains = [
        [[1 - 2 * (y % 2) for y, _ in line] for line in phases],
        [[1 - 2 * (x % 2) for _, x in line] for line in phases],
        [[1 - 2 * ((y + x) % 2) for y, x in line] for line in phases],
        [[np.zeros_like(y) for y, _ in line] for line in phases],
    ]
    return np.array(grains, np.float32)


def _walls() -> np.ndarray:
    """float32 [4, 56, 56] in -1 .. 1: plain, striped, dotted, checked, with a period of 8 pixels."""
    y, x = np.mgrid[0:56, 0:56]
    striped = np.where(x % 8 < 4, 1, -1)
    dotted = np.where((x % 8 - 3.5) ** 2 + (y % 8 - 3.5) ** 2 < 7, 1, -0.6)
    checked = np.where((x % 8 < 4) ^ (y % 8 < 4), 1, -1)
    return np.stack([np.zeros((56, 56)), striped, dotted, checked]).astype(np.float32)


GRAINS, WALLS = _grains(), _walls()


@lru_cache(maxsize=2)
def _noise(world_seed: int) -> np.ndarray:
    """A bank of noise, of which each picture takes a stretch: cheap, and the same in whatever batch a picture is rendered."""
    draws = hashed(key("miniature noise", world_seed), np.arange(NOISE + SIDE * SIDE * 3), 0)
    # The sum of eight bytes is close enough to a normal distribution.
    total = draws.view(np.uint8).reshape(-1, 8).sum(1, dtype=np.float32)
    noise: np.ndarray = ((total - 1020.0) * (6.0 / 209.0)).astype(np.float32)
    return noise


def _inside(shape: int, dx: np.ndarray, dy: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Distance to the edge in pixels, positive inside. dx [N, 1, 48], dy [N, 48, 1], radius [N, 1, 1] give [N, 48, 48]."""
    across, along = np.abs(dx), np.abs(dy)
    distance: np.ndarray
    if shape == 0:
        distance = radius - np.sqrt(dx * dx + dy * dy)
    elif shape == 1:
        distance = 0.88 * radius - np.maximum(across, along)
    elif shape == 2:
        distance = np.minimum(0.8 * radius - dy, 0.56 * (dy + radius) - across)
    else:
        distance = np.minimum(radius - np.maximum(across, along), 0.34 * radius - np.minimum(across, along))
    return distance


def render(world_seed: int, split: str, indices: np.ndarray) -> np.ndarray:
    """Pictures of a pool by index: uint8 [N, 48, 48, 3]."""
    indices = np.asarray(indices, np.int64)
    colour, shape, size, wall, side, grain = attributes(world_seed, split, indices).T
    pool = pool_key(world_seed, split)

    def jitter(field: int, reach: float) -> np.ndarray:
        return ((hashed(pool, indices, field) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - 1) * np.float32(reach)

    count = len(indices)
    grid = np.arange(SIDE, dtype=np.float32)
    phases = (hashed(pool, indices, 10) & np.uint64(63)).astype(np.int64)
    steps = np.arange(SIDE)
    pattern = WALLS[wall[:, None, None], (phases[:, None] // 8 + steps)[:, :, None], (phases[:, None] % 8 + steps)[:, None, :]]
    grey = (118 + jitter(11, 22))[:, None, None] + pattern * (26 + jitter(12, 5))[:, None, None]

    radius = (RADII[size] * (1 + jitter(13, 0.05)))[:, None, None]
    dx = grid[None, None, :] - (CENTRES[side, 0] + jitter(14, 1))[:, None, None]
    dy = grid[None, :, None] - (CENTRES[side, 1] + jitter(15, 1))[:, None, None]
    mask = np.empty((count, SIDE, SIDE), np.float32)
    for place in range(len(ATTRIBUTES["shape"])):
        chosen = np.flatnonzero(shape == place)
        if len(chosen):
            mask[chosen] = _inside(place, dx[chosen], dy[chosen], radius[chosen])
    np.clip(mask + 0.5, 0, 1, out=mask)

    paint = COLOURS[colour] + np.stack([jitter(16 + channel, 12) for channel in range(3)], axis=1)
    start = (hashed(pool, indices, 20) % np.uint64(NOISE)).astype(np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(_noise(world_seed), SIDE * SIDE * 3)
    pixels = windows[start].reshape(count, SIDE, SIDE, 3)
    phase = (hashed(pool, indices, 21) & np.uint64(3)).astype(np.int64)
    # Whole numbers, so that rounding is the same for all grains and their means are equal to the last digit.
    plates = np.rint(pixels[:, PLATE, PLATE]) + (PLATE_GREY + GRAIN_CONTRAST * GRAINS[grain, phase // 2, phase % 2])[..., None]
    pixels += (grey * (1 - mask))[..., None]
    pixels += mask[..., None] * paint[:, None, None, :]
    pixels[:, PLATE, PLATE] = plates
    np.clip(pixels, 0, 255, out=pixels)
    return pixels.astype(np.uint8)


@lru_cache(maxsize=96)
def _block(world_seed: int, split: str, number: int) -> np.ndarray:
    """Pictures are rendered by the block, because one at a time costs five times as much. All pools together are 94 blocks."""
    block = render(world_seed, split, np.arange(number * BLOCK, min((number + 1) * BLOCK, POOL_SIZES[split])))
    block.flags.writeable = False
    return block


def _load(world_seed: int, split: str, index: int) -> np.ndarray:
    picture: np.ndarray = _block(world_seed, split, index // BLOCK)[index % BLOCK]
    return picture


def image(world_seed: int, split: str, index: int) -> Image:
    """One picture of a pool, rendered when it is loaded."""
    return Image(f"miniature-{world_seed}/{split}/{index}", partial(_load, world_seed, split, index))


@lru_cache(maxsize=8)
def image_pool(split: str, world_seed: int = 0) -> tuple[Image, ...]:
    """All pictures of a split. Splits share none."""
    pool_key(world_seed, split)
    return tuple(image(world_seed, split, index) for index in range(POOL_SIZES[split]))
