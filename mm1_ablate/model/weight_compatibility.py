"""A timm encoder and a folder of local weights in; an error out where what the folder says of them contradicts the encoder.

Heads, epsilons, activations and the normalisation of images leave no trace in the names and shapes of weights, so weights with others than
the encoder's would be read and give other features.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from math import isclose
from typing import Any

import timm
import torch
from timm.layers import QuickGELU
from timm.models import get_pretrained_cfg

from mm1_ablate.config.local_path import weight_files
from mm1_ablate.config.settings import SettingError

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and deviation of the three channels, of values from 0 to 1."""


def check_weight_compatibility(vision: Any, normalisation: Normalisation, path: str) -> None:
    """Whether an encoder is what a folder says its weights were trained with; a lone file, and a folder without a configuration, pass.

    Args:
        vision: timm's, on any device.
        normalisation: what its images are normalised with.

    Raises:
        SettingError: at the name, for a contradiction; at the weights, if what the folder says cannot be read.
    """
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    if path != folder and path not in weight_files(folder):
        return
    theirs, block = _recorded_in(folder), vision.blocks[0]
    quick = isinstance(block.mlp.act, QuickGELU) if hasattr(block.mlp, "act") else None
    heads, epsilon = getattr(getattr(block, "attn", None), "num_heads", None), getattr(getattr(block, "norm1", None), "eps", None)
    compared: tuple[tuple[Any, Any, Callable[[Any], str]], ...] = (
        (quick, theirs["quick_gelu"], lambda quick: "QuickGELU" if quick else "GELU"),
        (heads, theirs["heads"], lambda heads: f"{heads} heads"),
        (epsilon, theirs["epsilon"], lambda epsilon: f"norms of epsilon {epsilon:g}"),
    )
    for ours, recorded, unlike in compared:
        if None not in (ours, recorded) and not isclose(ours, recorded, rel_tol=1e-3):
            raise SettingError(
                "name",
                f"is an encoder with {unlike(ours)}, and the weights in {folder} were trained with {unlike(recorded)}; "
                "name the encoder that they belong to",
            )
    recorded = theirs["normalisation"]
    if recorded is not None and not _alike(normalisation, recorded):
        architecture = (getattr(vision, "pretrained_cfg", None) or {}).get("architecture")
        tags = timm.list_models(f"{architecture}.*", pretrained=True) if architecture else []
        right = next((tag for tag in tags if _alike(_pair(vars(get_pretrained_cfg(tag))), recorded)), None)
        raise SettingError(
            "name",
            f"normalises images with {_described(normalisation)}, and the weights in {folder} were trained with {_described(recorded)}; "
            + (f"name an encoder with those, such as {right}" if right else f"timm has no {architecture or 'such encoder'} with those"),
        )


def _recorded_in(folder: str) -> dict[str, Any]:
    """What transformers', OpenCLIP's and timm's files say, in this order; None for what they do not."""
    processor = _read(folder, "preprocessor_config.json") or _read(folder, "processor_config.json").get("image_processor") or {}
    open_clip, own = _read(folder, "open_clip_config.json"), _read(folder, "config.json")
    model, preprocessing = open_clip.get("model_cfg") or {}, open_clip.get("preprocess_cfg") or {}
    tower = model.get("vision_cfg") or {}
    published = own.get("pretrained_cfg") or own  # earlier versions of timm wrote it flat
    if processor.get("do_normalize") is False:
        processor = {"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    config = _of_transformers(folder) if "model_type" in own else None
    activation = getattr(config, "hidden_act", None)
    of_openclip = "width" in tower and "timm_model_name" not in tower
    return {
        "normalisation": _first(_pair(processor, "image_mean", "image_std"), _pair(preprocessing), _pair(published)),
        "heads": _first(
            getattr(config, "num_attention_heads", None),
            tower["width"] // tower.get("head_width", 64) if of_openclip else None,  # 64 is OpenCLIP's default
            (own.get("model_args") or {}).get("num_heads"),
        ),
        "epsilon": getattr(config, "layer_norm_eps", None),
        "quick_gelu": _first(None if activation is None else activation == "quick_gelu", model.get("quick_gelu") if of_openclip else None),
    }


def _of_transformers(folder: str) -> Any:
    """The configuration of the vision tower, with transformers' defaults."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError):  # of a kind that transformers does not know
        return None
    except Exception as error:  # its checks of fields raise types of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        raise SettingError("weights", f"{os.path.join(folder, 'config.json')} cannot be read: {reason}") from error
    return getattr(config, "vision_config", config)


def _read(folder: str, name: str) -> dict[str, Any]:
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, "rb") as file:
            return dict(json.load(file))
    except (OSError, ValueError, TypeError) as error:
        raise SettingError("weights", f"{path} cannot be read: {error}") from error


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _pair(recorded: dict[str, Any], mean: str = "mean", std: str = "std") -> Normalisation | None:
    """One number stands for all three channels."""
    values = [recorded.get(mean), recorded.get(std)]
    if None in values:
        return None
    means, stds = (tuple(value) if isinstance(value, list | tuple) else (value,) * 3 for value in values)
    return means, stds


def _alike(one: Normalisation | None, other: Normalisation | None) -> bool:
    return None not in (one, other) and torch.allclose(
        torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64), rtol=0, atol=1e-3
    )


def _described(normalisation: Normalisation) -> str:
    mean, std = (", ".join(f"{value:g}" for value in values) for values in normalisation)
    return f"the mean {mean} and the deviation {std}"
