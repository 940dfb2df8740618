"""State dicts of other models in, state dicts for the models of this package out.

Names: vision towers of transformers (CLIP's or SigLIP's, alone or inside the whole model) get timm's names. timm itself converts what
OpenCLIP and the original authors publish, so checkpoints that exist for transformers alone, such as Apple's VeCLIP
(github.com/apple/ml-veclip), would otherwise have to be converted by hand.

Resolution: what belongs to places is interpolated to the new grid, bicubic and antialiased, as timm does for published weights: an
encoder's absolute position embeddings, its patch kernels where the patch size differs (Beyer et al. 2023), and connectors' `positions`.
Relative and rotary embeddings hold for any size as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt, prod
from typing import Any

import torch
from timm.layers.patch_embed import resample_patch_embed
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

PATCH_EMBEDDING = "embeddings.patch_embedding.weight"
"""The weight by which a vision tower of transformers is recognised."""
NAMES = {
    "embeddings.class_embedding": "cls_token",
    "embeddings.position_embedding.weight": "pos_embed",
    "embeddings.patch_embedding.": "patch_embed.proj.",
    "pre_layrnorm.": "norm_pre.",  # so it is spelt
    "post_layernorm.": "norm.",
    "encoder.layers.": "blocks.",
    ".layer_norm": ".norm",
    ".self_attn.out_proj.": ".attn.proj.",
}
"""Parts of names, of transformers and of timm."""
GRID_POSITIONS = "positions"
"""The parameter [side * side, width] of a connector that stands for the places of a grid. Connectors of a user that name it so
are resampled too."""


# ---------------------------------------------------------------- names
def to_timm_names(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A state dict under timm's names, without heads; one that is not a vision tower of transformers is returned unchanged."""
    prefix = next((name.removesuffix(PATCH_EMBEDDING) for name in state if name.endswith(PATCH_EMBEDDING)), None)
    if prefix is None:
        return state
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        tower = name.removeprefix(prefix)
        if not name.startswith(prefix) or not tower.startswith(("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.")):
            continue  # of the text tower, a projection or a pooling head
        for theirs, ours in NAMES.items():
            tower = tower.replace(theirs, ours)
        renamed[tower] = value.reshape(1, -1, value.shape[-1]) if tower in ("cls_token", "pos_embed") else value
    renamed.pop("embeddings.position_ids", None)
    for name in [name for name in renamed if ".self_attn.q_proj." in name]:
        parts = [renamed.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        renamed[name.replace(".self_attn.q_proj.", ".attn.qkv.")] = torch.cat(parts)
    return renamed


# ---------------------------------------------------------------- resolution
def resample_positions(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state dict with everything that belongs to places at the size that a model (or a part of one) has.

    Raises:
        ValueError: a position embedding that is not of a square grid.
    """
    wanted = model.state_dict()
    return {name: _resampled(name, value, wanted[name], model) if name in wanted else value for name, value in state.items()}


def state_dict_mismatch(there: Mapping[str, tuple[int, ...]], here: Mapping[str, tuple[int, ...]]) -> str:
    """What of a state dict does not fit a model, by the shapes of both; empty where it is one of that model."""
    misfits = [f"{name} is there only" for name in there if name not in here]
    misfits += [f"{name} is not there" for name in here if name not in there]
    both = [name for name in here if name in there and there[name] != here[name]]
    misfits += [f"{name} has the shape {list(there[name])} there and {list(here[name])} here" for name in both]
    return "" if not misfits else misfits[0] if len(misfits) == 1 else f"{misfits[0]}, and {len(misfits) - 1} more"


def _resampled(name: str, value: Tensor, wanted: Tensor, model: nn.Module) -> Tensor:
    if value.shape == wanted.shape:
        return value
    path, _, last = name.rpartition(".")
    if last == "pos_embed" and value.ndim == 3:
        vision: Any = model.get_submodule(path)
        # Class tokens and registers may have positions of their own, which are of no place.
        return _on_another_grid(name, value, wanted.shape[1], wanted.shape[1] - prod(vision.patch_embed.grid_size))
    if last == GRID_POSITIONS and value.ndim == 2:
        return _on_another_grid(name, value[None], wanted.shape[0], 0)[0]
    if name.endswith("patch_embed.proj.weight") and value.ndim == 4:
        kernels: Tensor = resample_patch_embed(value, list(wanted.shape[-2:]))
        return kernels
    return value  # load_state_dict says what does not fit


def _on_another_grid(name: str, positions: Tensor, places: int, prefix: int) -> Tensor:
    """[1, prefix + old places, width] to [1, places, width], prefix tokens as they are."""
    sides = [isqrt(count - prefix) for count in (positions.shape[1], places)]
    for side, count in zip(sides, (positions.shape[1], places), strict=True):
        if side * side != count - prefix:
            raise ValueError(f"{name}: {count} positions, {prefix} of them of prefix tokens, are not a square grid")
    old, new = ([side, side] for side in sides)
    resampled: Tensor = resample_abs_pos_embed(positions, new_size=new, old_size=old, num_prefix_tokens=prefix)
    return resampled
