"""A picture in, the views out that an image encoder of fixed size sees of it: crops from a grid, and an overview of the whole.

The grid is chosen as LLaVA-NeXT does (AnyRes, Liu et al. 2024): of all grids of allowed size the one that keeps most of the picture's
pixels, then the one with the fewest cells' pixels to waste. Of equals, such as grids of four for a picture smaller than a cell, the one
that shows it largest (LLaVA-NeXT: the first), then the first by rows and columns. The picture is fitted into the whole grid with its
proportions kept and grey around it, and cut along the grid's lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from mm1_ablate.config.model import SubImages
from mm1_ablate.data.resizing import resize_to

GREY = 127
"""Of what lies around a fitted picture: next to nothing after an encoder's normalisation."""


@lru_cache(1 << 16)
def grid_of(height: int, width: int, size: int, settings: SubImages) -> tuple[int, int]:
    """Rows and columns of the grid that a picture of height x width pixels is cut into, for an encoder of `size` pixels a side."""

    def preference(grid: tuple[int, int]) -> tuple[int, int, int]:
        rows, columns = (side * size for side in grid)
        scale = min(columns / width, rows / height)
        shown = int(width * scale) * int(height * scale)
        kept = min(shown, width * height)
        return kept, kept - rows * columns, shown

    # max() takes the first of equals.
    return max(_grids(settings), key=preference)


def _grids(settings: SubImages) -> Iterator[tuple[int, int]]:
    for rows in range(1, settings.at_most + 1):
        for columns in range(1, settings.at_most // rows + 1):
            if rows * columns >= settings.at_least:
                yield rows, columns


def views_in(height: int, width: int, size: int, settings: SubImages) -> int:
    """How many views a picture of height x width pixels is made into."""
    rows, columns = grid_of(height, width, size, settings)
    return rows * columns + (rows * columns > 1 and settings.overview != "none")


def views_of(picture: np.ndarray, size: int, settings: SubImages) -> np.ndarray:
    """uint8 [height, width, 3] to uint8 [views, size, size, 3]: crops row by row, the overview before or after them as declared."""
    height, width = picture.shape[:2]
    rows, columns = grid_of(height, width, size, settings)
    cells = fitted(picture, rows * size, columns * size).reshape(rows, size, columns, size, 3)
    crops = cells.swapaxes(1, 2).reshape(rows * columns, size, size, 3)
    if rows * columns == 1 or settings.overview == "none":
        return crops
    overview = fitted(picture, size, size)[None]
    return np.concatenate([overview, crops] if settings.overview == "first" else [crops, overview])


def fitted(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [any height, any width, 3] to uint8 [height, width, 3]: as large as fits in its own proportions, in the middle of grey."""
    scale = min(height / picture.shape[0], width / picture.shape[1])
    inner_height, inner_width = (
        min(most, max(1, round(side * scale))) for side, most in zip(picture.shape[:2], (height, width), strict=True)
    )
    inner = resize_to(picture, inner_height, inner_width)
    if inner.shape[:2] == (height, width):
        return inner
    canvas = np.full((height, width, 3), GREY, np.uint8)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    canvas[top : top + inner_height, left : left + inner_width] = inner
    return canvas
