"""Weights of a vision tower of transformers in (CLIP's or SigLIP's, alone or inside the whole model), the same under timm's names out.

timm itself converts what OpenCLIP and the original authors publish, so checkpoints that exist for transformers alone, such as Apple's
VeCLIP (github.com/apple/ml-veclip), would otherwise have to be converted by hand.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

TOLD_BY = "embeddings.patch_embedding.weight"
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
"""Parts of names, theirs and timm's."""


def in_timms_names(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A state dict under timm's names, without heads; one that is no vision tower of transformers as it is."""
    prefix = next((name.removesuffix(TOLD_BY) for name in state if name.endswith(TOLD_BY)), None)
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
