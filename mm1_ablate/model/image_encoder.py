"""A timm image encoder of declared size and resolution, as patch features."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from mm1_ablate.model.resample import resampled
from mm1_ablate.model.shapes_only import shapes_only
from mm1_ablate.spec.experiment import TimmEncoder, VisionTransformer
from mm1_ablate.spec.settings import Misfit


class PatchEncoder(nn.Module):
    """uint8 pixels [images, 3, size, size] to patch features [images, side * side, width], without class tokens and registers.

    Normalisation happens here, on the device: a quarter of the transfer of floats.

    Args:
        feature_layer: whose output is given, counted from the end: -1 the last block's, after the final norm; -2 the one before's.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, vision: Any, mean: tuple[float, ...], std: tuple[float, ...], feature_layer: int) -> None:
        super().__init__()
        self.vision: Any = vision
        self.feature_layer = feature_layer
        self.layer = len(vision.blocks) + feature_layer
        """The block, counted from 0."""
        self.width: int = vision.num_features
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        normalised = (pixels - self.mean) / self.std
        (features,) = self.vision.forward_intermediates(
            normalised,
            indices=[self.layer],
            norm=self.feature_layer == -1,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        return features

    def is_beyond_features(self, name: str) -> bool:
        """Whether a parameter of `vision` comes after the features, so that it never gets a gradient through them."""
        first, _, rest = name.partition(".")
        if first == "blocks":
            return int(rest.partition(".")[0]) > self.layer
        return first in BEHIND or (first == "norm" and self.feature_layer != -1)

    def beyond_features(self) -> Iterator[nn.Parameter]:
        """All of these parameters."""
        return (parameter for name, parameter in self.vision.named_parameters() if self.is_beyond_features(name))


def build_image_encoder(settings: VisionTransformer | TimmEncoder, weights: bool = True) -> PatchEncoder:
    """The declared encoder, with weights where timm or a local file has them, otherwise from torch's current random state.

    Args:
        weights: whether to read weights; without, only the architecture is made.

    Raises:
        Misfit: timm has no such encoder, or not of this patch size; or the file of weights is missing, or of another encoder.
    """
    if isinstance(settings, VisionTransformer):
        vision = timm.models.VisionTransformer(
            img_size=settings.image_size,
            patch_size=settings.image_size // settings.grid_side,
            embed_dim=settings.width,
            depth=settings.depth,
            num_heads=settings.heads,
            num_classes=0,
            class_token=False,
            global_pool="avg",
            fc_norm=False,
        )
        return PatchEncoder(vision, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), settings.feature_layer)
    named = _named(settings, pretrained=weights and settings.weights == "pretrained")
    data = resolve_model_data_config(named)
    encoder = PatchEncoder(named, data["mean"], data["std"], settings.feature_layer)
    if weights and settings.weights_file is not None:
        load_local(encoder, settings.weights_file)
    # What comes after the features would take memory and never be trained: later blocks, pooling, heads.
    named.prune_intermediate_layers(indices=[encoder.layer], prune_norm=settings.feature_layer != -1, prune_head=True)
    return encoder


def _named(settings: TimmEncoder, pretrained: bool) -> Any:
    """An encoder of timm's, whole, at the declared size: a stack of blocks over a grid of patches."""
    name = settings.name
    # Names of other places (hf-hub:, local-dir:) are timm's to judge.
    if ":" not in name and not timm.is_model(name.partition(".")[0]):
        near = get_close_matches(name, timm.list_models(), n=1, cutoff=0.5)
        raise Misfit("name", f"timm {timm.__version__} has no model '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""))
    try:
        vision: Any = timm.create_model(name, pretrained=pretrained, img_size=settings.image_size, num_classes=0)
    except (RuntimeError, TypeError, AssertionError) as error:  # an unknown tag; an architecture that takes no image size
        raise Misfit("name", f"timm cannot make '{name}' for images of {settings.image_size} pixels: {error}") from error
    patch = getattr(getattr(vision, "patch_embed", None), "patch_size", None)
    if not patch or not all(hasattr(vision, part) for part in ("blocks", "forward_intermediates", "prune_intermediate_layers")):
        raise Misfit("name", f"'{name}' is no stack of blocks over one grid of patches, such as timm's ViT, AIMv2, SigLIP and EVA")
    if tuple(patch) != (settings.patch_size, settings.patch_size):
        raise Misfit("patch_size", f"'{name}' has patches of {patch[0]} pixels a side, not {settings.patch_size}")
    if -settings.feature_layer > len(vision.blocks):
        raise Misfit("feature_layer", f"block {settings.feature_layer} does not exist, '{name}' has only {len(vision.blocks)} blocks")
    return vision


def check_named(settings: TimmEncoder) -> None:
    """Whether timm has the declared encoder, of this patch size and with such a layer; and whether the file of its weights is there.

    No weights are read, and none are made.

    Raises:
        Misfit: at the field that is wrong.
    """
    if settings.weights_file is not None:
        _check_file(settings.weights_file)
    with shapes_only():
        _named(settings, pretrained=False)


def _check_file(file: str) -> None:
    if not Path(file).is_file():
        folder = next(parent for parent in Path(file).parents if parent.is_dir())
        raise Misfit("weights", f"there is no file {file}; the nearest folder that exists is {folder}")


def load_local(encoder: PatchEncoder, file: str) -> None:
    """Read a file of weights into an encoder of timm's, whatever resolution they were trained at, with or without a head.

    Formats that timm knows of this architecture (OpenCLIP, original CLIP, DINOv2, AIMv2) are converted.

    Raises:
        Misfit: the file is missing or is of another encoder.
    """
    _check_file(file)
    vision = encoder.vision
    state: Any = timm.models.load_state_dict(file)
    convert = getattr(sys.modules[type(vision).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        state = convert(state, vision)
    try:
        missing, unexpected = vision.load_state_dict(resampled(state, vision), strict=False)
    except RuntimeError as error:
        raise Misfit("weights", f"{file} is of another encoder: {str(error).splitlines()[-1].strip()}") from error
    lacking = [name for name in missing if not encoder.is_beyond_features(name)]
    unknown = [name for name in unexpected if not encoder.is_beyond_features(name)]
    if lacking or unknown:
        what = [f"lacks {len(lacking)} parameters such as {lacking[0]}"] if lacking else []
        what += [f"has {len(unknown)} that the encoder has not, such as {unknown[0]}"] if unknown else []
        raise Misfit("weights", f"{file} is of another encoder: it {' and '.join(what)}")


BEHIND = ("head", "head_drop", "fc_norm", "attn_pool")
"""How timm names what stands behind the last block and its norm."""
