"""A timm image encoder of declared size and resolution, as patch features."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from difflib import get_close_matches
from typing import Any

import timm
import torch
from safetensors import safe_open
from timm.data.config import resolve_model_data_config
from timm.layers.helpers import to_2tuple
from torch import Tensor, nn

from mm1_ablate.config.identity.model_digests import local_identity
from mm1_ablate.config.image_encoder import TimmEncoder, VisionTransformer
from mm1_ablate.config.local_path import WEIGHTS, missing, weight_files
from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.hub import hub_if_reachable
from mm1_ablate.model.meta_initialisation import meta_initialisation, meta_module
from mm1_ablate.model.weight_compatibility import check_weight_compatibility
from mm1_ablate.model.weight_conversion import resample_positions, to_timm_names


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
        self.normalisation = (mean, std)
        """Of values from 0 to 1; the buffers, which may be without values, are of 0 to 255."""
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        normalised = (pixels - self.mean) / self.std
        features: Tensor
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
        SettingError: timm has no such encoder, or not of this patch size; or local weights are missing, or of another encoder.
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
    data: dict[str, Any] = resolve_model_data_config(named)  # type: ignore[no-untyped-call]
    encoder = PatchEncoder(named, data["mean"], data["std"], settings.feature_layer)
    if weights and settings.local_weights is not None:
        load_local(encoder, settings.local_weights)
    # What comes after the features would take memory and never be trained: later blocks, pooling, heads.
    named.prune_intermediate_layers(indices=[encoder.layer], prune_norm=settings.feature_layer != -1, prune_head=True)
    return encoder


def shape_of_encoder(settings: VisionTransformer | TimmEncoder, to_change: bool = False) -> PatchEncoder:
    """The declared encoder without values.

    Args:
        to_change: whether the caller changes it.

    Raises:
        SettingError: as `build_image_encoder`.
    """
    key = f"{settings.model_dump_json(exclude={'preparation', 'frozen', 'learning_rate_scale', 'weights'})} {local_identity(settings)}"
    return meta_module(key, lambda: build_image_encoder(settings, weights=False), to_change)


def _named(settings: TimmEncoder, pretrained: bool) -> Any:
    """An encoder of timm's, whole, at the declared size: a stack of blocks over a grid of patches."""
    name = settings.name
    # Names of other places (hf-hub:, local-dir:) are timm's to judge.
    if ":" not in name and not timm.is_model(name.partition(".")[0]):
        near = get_close_matches(name, timm.list_models(), n=1, cutoff=0.5)
        raise SettingError("name", f"timm {timm.__version__} has no model '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""))
    try:
        # An architecture of timm's own needs no hub.
        with hub_if_reachable(name) if pretrained or ":" in name else nullcontext():
            vision: Any = timm.create_model(name, pretrained=pretrained, img_size=settings.image_size, num_classes=0)
    except (RuntimeError, TypeError, AssertionError) as error:  # an unknown tag; an architecture that takes no image size
        raise SettingError("name", f"timm cannot make '{name}' for images of {settings.image_size} pixels: {error}") from error
    patch = to_2tuple(getattr(getattr(vision, "patch_embed", None), "patch_size", None) or 0)
    if not any(patch) or not all(hasattr(vision, part) for part in ("blocks", "forward_intermediates", "prune_intermediate_layers")):
        raise SettingError("name", f"'{name}' is not a stack of blocks over one grid of patches, such as timm's ViT, AIMv2, SigLIP and EVA")
    if tuple(patch) != (settings.patch_size, settings.patch_size):
        raise SettingError("patch_size", f"'{name}' has patches of {patch[0]} pixels, not {settings.patch_size}")
    if -settings.feature_layer > len(vision.blocks):
        raise SettingError("feature_layer", f"block {settings.feature_layer} does not exist, '{name}' has only {len(vision.blocks)} blocks")
    return vision


def check_named(settings: TimmEncoder) -> None:
    """Whether timm has the declared encoder, of this patch size, with such a layer, and whether it gives a grid of patches; and whether
    local weights are there, and are this encoder's.

    No weights are read, and none are made.

    Raises:
        SettingError: at the field that is wrong.
    """
    if settings.local_weights is not None:
        _files_of(settings.local_weights)
    encoder = shape_of_encoder(settings)
    with meta_initialisation():
        pixels = torch.zeros(1, 3, settings.image_size, settings.image_size, dtype=torch.uint8)
    grid = (1, settings.grid_side**2, encoder.width)
    try:
        found = tuple(encoder(pixels).shape)
    except Exception as error:  # whatever an architecture does that is none of those that `forward` is for
        raise SettingError("name", f"'{settings.name}' returns no grid of patches: {error}") from error
    if found != grid:
        raise SettingError("name", f"'{settings.name}' gives features of the shape {found[1:]}, not a grid of patches, {grid[1:]}")
    if settings.local_weights is not None:
        load_local(encoder, settings.local_weights, values=False)


def _files_of(path: str) -> list[str]:
    if wrong := missing(path):
        raise SettingError("weights", wrong)
    files = weight_files(path)
    if not files:
        raise SettingError("weights", f"there are no weights in the folder {path}; expected one of {', '.join(WEIGHTS)}")
    return files


def _read(file: str, values: bool) -> dict[str, Tensor]:
    """A state dict; without values, of tensors on the meta device."""
    if values:
        return timm.models.load_state_dict(file, weights_only=True)
    if not file.endswith(".safetensors"):
        return timm.models.load_state_dict(file, device="meta", weights_only=True)
    with safe_open(file, "pt") as weights:
        return {name: torch.empty(weights.get_slice(name).get_shape(), device="meta") for name in weights.keys()}  # noqa: SIM118


def load_local(encoder: PatchEncoder, path: str, values: bool = True) -> None:
    """Read a file or folder of weights into an encoder of timm's, whatever resolution they were trained at, with or without a head.

    Formats of this architecture that timm knows (OpenCLIP, original CLIP, DINOv2, AIMv2) are converted, and transformers' CLIP and SigLIP.

    Args:
        values: whether to read them; without, only their names and shapes are looked at. For an encoder on the meta device.

    Raises:
        SettingError: they are missing, cannot be read, are of another encoder, or were trained with another normalisation of images.
    """
    vision = encoder.vision
    state: Any = {}
    for file in _files_of(path):
        try:
            state |= _read(file, values)
        except Exception as error:  # of torch, pickle, zip or safetensors, for files that are none of theirs or were cut off
            raise SettingError("weights", f"{file} cannot be read as weights: {str(error).splitlines()[0]}") from error
    state = to_timm_names(state)
    convert = getattr(sys.modules[type(vision).__module__], "checkpoint_filter_fn", None)
    try:
        if convert is not None:
            state = convert(state, vision)
        missing_names, unexpected = vision.load_state_dict(resample_positions(state, vision), strict=False)
    except (RuntimeError, ValueError) as error:
        raise SettingError("weights", f"{path} belongs to another encoder: {str(error).splitlines()[-1].strip()}") from error
    lacking = [name for name in missing_names if not encoder.is_beyond_features(name)]
    unknown = [name for name in unexpected if not encoder.is_beyond_features(name)]
    if lacking or unknown:
        what = [f"lacks {len(lacking)} parameters such as {lacking[0]}"] if lacking else []
        what += [f"has {len(unknown)} that the encoder lacks, such as {unknown[0]}"] if unknown else []
        raise SettingError("weights", f"{path} belongs to another encoder: it {' and '.join(what)}")
    check_weight_compatibility(vision, encoder.normalisation, path)


BEHIND = ("head", "head_drop", "head_dist", "fc_norm", "attn_pool")
"""How timm names what stands behind the last block and its norm."""
