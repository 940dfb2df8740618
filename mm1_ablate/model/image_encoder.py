"""A timm image encoder of declared size and resolution, as patch features."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from mm1_ablate.spec.experiment import TimmEncoder, VisionTransformer


class PatchEncoder(nn.Module):
    """uint8 pixels [images, 3, size, size] to patch features [images, side * side, width].

    Normalisation happens here, on the device: a quarter of the transfer of floats.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, vision: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], feature_layer: int) -> None:
        super().__init__()
        self.vision = vision
        self.feature_layer = feature_layer
        self.width: int = vision.num_features  # type: ignore[assignment]
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        normalised = (pixels - self.mean) / self.std
        layer = len(self.vision.blocks) + self.feature_layer  # type: ignore[arg-type]
        (features,) = self.vision.forward_intermediates(  # type: ignore[operator]
            normalised, indices=[layer], norm=self.feature_layer == -1, output_fmt="NLC", intermediates_only=True
        )
        return features


def build_image_encoder(settings: VisionTransformer | TimmEncoder) -> PatchEncoder:
    """The declared encoder, with weights where timm or a local file has them, otherwise from torch's current random state."""
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
    local = settings.weights not in (None, "pretrained")
    if local and not Path(str(settings.weights)).exists():
        raise FileNotFoundError(f"model.image_encoder.weights: there is no file {settings.weights}")
    named = timm.create_model(
        settings.name,
        pretrained=settings.weights == "pretrained",
        checkpoint_path=str(settings.weights) if local else "",
        img_size=settings.image_size,
        num_classes=0,
    )
    data = resolve_model_data_config(named)
    return PatchEncoder(named, data["mean"], data["std"], settings.feature_layer)
