"""Weights made at one resolution in, weights for a model of another resolution out.

What belongs to places is interpolated to the new grid, bicubic and antialiased, as timm does for published weights: an encoder's absolute
position embeddings, its patch kernels where the patch size differs (Beyer et al. 2023), and connectors' `positions`. Relative and rotary
embeddings hold for any size as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt, prod
from typing import Any

from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor, nn

GRID_POSITIONS = "positions"
"""The parameter [side * side, width] of a connector that stands for the places of a grid. Connectors of one's own that name it so
are resampled too."""


def resampled(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state dict with everything that belongs to places at the size that a model (or a part of one) has.

    Raises:
        ValueError: a position embedding that is not of a square grid.
    """
    wanted = model.state_dict()
    return {name: _fitted(name, value, wanted[name], model) if name in wanted else value for name, value in state.items()}


def misfit(there: Mapping[str, tuple[int, ...]], here: Mapping[str, tuple[int, ...]]) -> str:
    """What of a state dict does not fit a model, by the shapes of both; nothing where it is one of that model."""
    misfits = [f"{name} is there only" for name in there if name not in here]
    misfits += [f"{name} is not there" for name in here if name not in there]
    both = [name for name in here if name in there and there[name] != here[name]]
    misfits += [f"{name} has the shape {list(there[name])} there and {list(here[name])} here" for name in both]
    return "" if not misfits else misfits[0] if len(misfits) == 1 else f"{misfits[0]}, and {len(misfits) - 1} more"


def _fitted(name: str, value: Tensor, wanted: Tensor, model: nn.Module) -> Tensor:
    if value.shape == wanted.shape:
        return value
    path, _, last = name.rpartition(".")
    if last == "pos_embed" and value.ndim == 3:
        vision: Any = model.get_submodule(path)
        # Class tokens and registers may have positions of their own, which are of no place.
        return _resampled_positions(name, value, wanted.shape[1], wanted.shape[1] - prod(vision.patch_embed.grid_size))
    if last == GRID_POSITIONS and value.ndim == 2:
        return _resampled_positions(name, value[None], wanted.shape[0], 0)[0]
    if name.endswith("patch_embed.proj.weight") and value.ndim == 4:
        return resample_patch_embed(value, list(wanted.shape[-2:]))
    return value  # load_state_dict says what does not fit


def _resampled_positions(name: str, positions: Tensor, places: int, prefix: int) -> Tensor:
    """[1, prefix + old places, width] to [1, places, width], prefix tokens as they are."""
    sides = [isqrt(count - prefix) for count in (positions.shape[1], places)]
    for side, count in zip(sides, (positions.shape[1], places), strict=True):
        if side * side != count - prefix:
            raise ValueError(f"{name}: {count} positions, {prefix} of them of no place, are not a square grid")
    old, new = ([side, side] for side in sides)
    return resample_abs_pos_embed(positions, new_size=new, old_size=old, num_prefix_tokens=prefix)
