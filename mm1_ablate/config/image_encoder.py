"""Image encoders: of declared size, or of timm's by name, and what either goes through before the trials.

Part of `experiment.py`, whose rules on defaults and identity hold here too.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator, model_validator

from mm1_ablate.config.data import AnySource
from mm1_ablate.config.local_path import PathOrName, beside, local
from mm1_ablate.config.settings import SettingError, Settings


class EncoderPreparation(Settings):
    """Pre-training that an image encoder of declared size goes through before the trials, once per fingerprint."""

    objective: Literal["contrastive", "reconstructive"] = "contrastive"
    """contrastive: CLIP (Radford et al. 2021); reconstructive: the pixels of masked patches predicted from the visible ones
    (SimMIM, Xie et al. 2022). For a random encoder leave the preparation out (`remove: model.image_encoder.preparation`)."""
    steps: PositiveInt = 300
    """Optimiser steps of AdamW: warm-up over the first 6 %, then a cosine to zero."""
    batch_images: PositiveInt = 128
    """Images in a step."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate of AdamW."""
    source: AnySource
    """Captioned images that the encoder is prepared on. Separate from the mixture, so removing a data type there does not affect it."""
    tokenizer: PathOrName = "miniature"
    """The tokenizer of the captions that a contrastive objective reads, by name, or by the path of its folder relative to this file."""

    @model_validator(mode="after")
    def _has_images(self) -> EncoderPreparation:
        if self.source.data_type == "text":
            raise SettingError("source.data_type", "an image encoder is prepared on images with captions; expected captioned, not text")
        return self


class VisionTransformer(Settings):
    """A timm VisionTransformer of declared size, from scratch."""

    type: Literal["vision_transformer"] = "vision_transformer"
    """vision_transformer: an encoder of the size that is declared here."""
    image_size: PositiveInt
    """Side length of an image in pixels. Larger images are resized to it."""
    patch_size: PositiveInt | None = None
    """Side length of a patch in pixels. Declare this or `patches_per_side`."""
    patches_per_side: PositiveInt | None = None
    """Patches per side at every resolution (patch size = image size / patches per side)."""
    width: PositiveInt = 96
    """Width of a patch's features, in channels; a multiple of `heads`."""
    depth: PositiveInt = 3
    """Number of transformer blocks."""
    heads: PositiveInt = 4
    """Attention heads of each block."""
    feature_layer: Annotated[int, Field(lt=0)] = -1
    """The block whose output goes to the connector: -1 the last, after the final norm; -2 the one before, without a norm."""
    frozen: bool = False
    """Not trained."""
    learning_rate_scale: PositiveFloat = 1.0
    """Learning rate of the encoder relative to that of the rest."""
    preparation: EncoderPreparation | None = None
    """Pre-training of the encoder before the trials. None: it starts from random weights."""

    @model_validator(mode="after")
    def _patches(self) -> VisionTransformer:
        if (self.patch_size is None) == (self.patches_per_side is None):
            raise ValueError("declare either patch_size or patches_per_side")
        divisor = self.patch_size or self.patches_per_side or 1
        if self.image_size % divisor:
            what = "the patch size" if self.patch_size else "the patches per side"
            raise SettingError("image_size", f"{self.image_size} is not a multiple of {what}, {divisor}")
        if self.width % self.heads:
            raise SettingError("width", f"{self.width} is not a multiple of the {self.heads} heads")
        if -self.feature_layer > self.depth:
            raise SettingError("feature_layer", f"block {self.feature_layer} does not exist, the encoder has only {self.depth} blocks")
        return self

    @property
    def grid_side(self) -> int:
        """Patches a side."""
        return self.patches_per_side or self.image_size // (self.patch_size or 1)


class TimmEncoder(Settings):
    """An encoder of timm's by name, with or without its published weights."""

    type: Literal["timm"] = "timm"
    """timm: an encoder of the timm library, by its name."""
    name: str
    """A timm model name, such as vit_large_patch14_clip_quickgelu_336.openai."""
    image_size: PositiveInt
    """Side length of an image in pixels: any multiple of the patch size, as position embeddings are interpolated."""
    patch_size: PositiveInt = 14
    """Side length of a patch in pixels, as in the name."""
    weights: str | None = "pretrained"
    """'pretrained' (timm's published weights), None (from scratch), or the path, relative to this file, of weights: a file of timm,
    OpenCLIP or the original authors, or a folder as timm, OpenCLIP or transformers (CLIP, SigLIP) write it."""
    feature_layer: Annotated[int, Field(lt=0)] = -1
    """The block whose output goes to the connector: -1 the last, after the final norm; -2 the one before, without a norm. Later blocks
    are not part of the model."""
    frozen: bool = False
    """Not trained."""
    learning_rate_scale: PositiveFloat = 1.0
    """Learning rate of the encoder relative to that of the rest."""
    preparation: EncoderPreparation | None = None
    """Pre-training of the encoder before the trials. None: it starts from `weights`."""

    @field_validator("weights")
    @classmethod
    def _from_folder(cls, weights: str | None, info: ValidationInfo) -> str | None:
        if weights in (None, "pretrained"):
            return weights
        return beside(str(weights), info)

    @model_validator(mode="after")
    def _patches(self) -> TimmEncoder:
        if side := self.image_size % self.patch_size:
            lower = self.image_size - side
            nearest = " and ".join(str(size) for size in (lower, lower + self.patch_size) if size)
            message = f"{self.image_size} is not a multiple of the patch size, {self.patch_size}; the nearest are {nearest}"
            raise SettingError("image_size", message)
        return self

    @property
    def local_weights(self) -> str | None:
        """The file or folder of weights, if that is where they are."""
        return local(self.weights)

    @property
    def grid_side(self) -> int:
        """Patches a side."""
        return self.image_size // self.patch_size


ImageEncoder = Annotated[VisionTransformer | TimmEncoder, Field(discriminator="type")]
