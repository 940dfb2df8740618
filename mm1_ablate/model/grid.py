"""Patches as a sequence and as a grid."""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor


def to_grid(patches: Tensor) -> Tensor:
    """[images, side * side, width] to [images, width, side, side]."""
    side = isqrt(patches.shape[1])
    return torch.unflatten(patches.transpose(1, 2), 2, (side, side))


def to_tokens(grid: Tensor) -> Tensor:
    """[images, width, side, side] to [images, side * side, width]."""
    return grid.flatten(2).transpose(1, 2)
