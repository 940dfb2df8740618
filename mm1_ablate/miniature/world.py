"""What is in the pictures: six independent attributes, and pools of scenes that are pure functions of (world seed, split, index)."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np

from mm1_ablate.data.counter_based_random import below, hashed, key

Split = Literal["training", "report", "development"]

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink"),
    "shape": ("circle", "square", "triangle", "cross"),
    "size": ("small", "large"),
    "wall": ("plain", "striped", "dotted", "checked"),
    "side": ("left", "right", "top", "bottom"),
    "grain": ("rows", "columns", "mesh", "smooth"),
}
"""Attribute to its values, in words."""
NAMES = tuple(ATTRIBUTES)
POOL_SIZES: dict[str, int] = {"training": 20_000, "report": 2_000, "development": 2_000}

Scene = tuple[str, ...]
"""The six values of one picture, in words, in the order of `NAMES`."""


def pool_key(world_seed: int, split: str) -> int:
    """Key of everything random about the pictures of a split."""
    if split not in POOL_SIZES:
        raise ValueError(f"no split '{split}' in the miniature world (there are: {', '.join(POOL_SIZES)})")
    return key("miniature images", world_seed, split)


def attributes(world_seed: int, split: str, indices: np.ndarray) -> np.ndarray:
    """int64 [N, 6]: which value each attribute of each picture has."""
    pool = pool_key(world_seed, split)
    return np.stack([below(hashed(pool, indices, field), len(values)) for field, values in enumerate(ATTRIBUTES.values())], axis=1)


@lru_cache(maxsize=8)
def scenes(world_seed: int, split: str) -> tuple[Scene, ...]:
    """All scenes of a pool, in words."""
    values = tuple(ATTRIBUTES.values())
    table = attributes(world_seed, split, np.arange(POOL_SIZES[split])).tolist()
    return tuple(tuple(words[place] for words, place in zip(values, row, strict=True)) for row in table)
