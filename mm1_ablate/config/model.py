"""The model: image encoder, connector and language model, and how a large image is cut.

Part of `experiment.py`, whose rules on defaults and identity hold here too.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, PositiveInt, model_validator

from mm1_ablate.config.connector import Connector
from mm1_ablate.config.data import AnySource
from mm1_ablate.config.image_encoder import ImageEncoder, VisionTransformer
from mm1_ablate.config.local_path import PathOrName
from mm1_ablate.config.settings import ComponentOf, SettingError, Settings
from mm1_ablate.config.training import AnyOptimizer

SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "max_position_embeddings",
)
"""Fields of a transformers configuration that are numbers above 0, as most types of model call them."""


class LanguageModelPreparation(Settings):
    """Text-only pre-training of a language model of declared size, before the trials, once per fingerprint."""

    steps: PositiveInt = 400
    """Optimiser steps: warm-up over the first 6 %, then a cosine to zero."""
    batch_rows: PositiveInt = 8
    """Packed rows in a step."""
    row_tokens: Annotated[int, Field(ge=2)] = 128
    """Length of a packed row, in tokens."""
    source: AnySource
    """Text that the model is prepared on: a source as under `data.sources`, of data type text. Separate from the mixture."""
    optimizer: AnyOptimizer
    """Optimiser of the preparation, with its learning rate."""

    @model_validator(mode="after")
    def _text_alone(self) -> LanguageModelPreparation:
        if self.source.data_type != "text":
            raise SettingError(
                "source.data_type", f"a language model is prepared on text alone; expected text, not {self.source.data_type}"
            )
        return self


class LanguageModel(Settings):
    """A causal language model of transformers, by configuration or by name."""

    name: PathOrName | None = None
    """A model with its weights: a name, or the path of its folder relative to this file. Declare this or `model_type`."""
    model_type: str | None = None
    """A transformers model type, such as phi, with `configuration`."""
    configuration: dict[str, JsonValue] = {}
    """Fields of the transformers configuration, with `model_type`."""
    tokenizer: PathOrName = "miniature"
    """'miniature' (the words of the miniature world), or one that transformers reads: a name, or the path of its folder relative to this
    file. Default for a model given by name: its own."""
    initialisation: Literal["transformers", "fan_in"] = "transformers"
    """fan_in: matrices normal with sd fan_in^-0.5, output projections times (2 x layers)^-0.5, embeddings sd width^-0.5."""
    scale_embeddings: bool = False
    """Multiply token embeddings by sqrt(width). Only with `model_type`, for models that do not do so themselves (Gemma does)."""
    frozen: bool = False
    """Not trained."""
    preparation: LanguageModelPreparation | None = None
    """Pre-training on text before the trials. None: the model starts from its own weights, or from random ones."""

    @model_validator(mode="after")
    def _either(self) -> LanguageModel:
        if (self.name is None) == (self.model_type is None):
            raise ValueError("declare either name (weights) or model_type and configuration")
        if self.name is not None:
            of_model_type = ("configuration", "initialisation", "scale_embeddings")
            said = [field for field in of_model_type if getattr(self, field) != type(self).model_fields[field].default]
            if said:
                left_out = "it" if len(said) == 1 else " and ".join(said)
                raise SettingError(said[0], f"needs model_type: a model given by name has its own; leave {left_out} out")
            if "tokenizer" not in self.model_fields_set:
                self._derive(tokenizer=self.name)
        return self

    @model_validator(mode="after")
    def _sizes(self) -> LanguageModel:
        # Of what every type of model has; types have rules of their own, which transformers knows.
        for name in SIZES:
            value = self.configuration.get(name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise SettingError(f"configuration.{name}", f"expected a whole number above 0, not {value!r}")
        heads, shared = (self.configuration.get(name) for name in ("num_attention_heads", "num_key_value_heads"))
        if isinstance(heads, int) and isinstance(shared, int) and heads % shared:
            message = f"{heads} attention heads cannot share {shared} key-value heads equally; expected a divisor of {heads}"
            raise SettingError("configuration.num_key_value_heads", message)
        return self


class SubImages(Settings):
    """A large image as several: crops of the encoder's size, each encoded on its own, and an overview of the whole (AnyRes of LLaVA-NeXT,
    Liu et al. 2024; MM1.5, Zhang et al. 2024).

    The crops are the cells of a grid. Of all grids of so many cells the one is taken that keeps most of the image's pixels and wastes
    the fewest of its own; the image is fitted into it whole, with grey around it. An image that one crop shows best is that crop alone.
    An image then takes (crops + overview) x `connector.image_tokens` tokens, as its size says. Packing goes on counting
    `packing.nominal_image_tokens` for each image, so that arms with and without sub-images see the same rows; raise that number in all
    arms to leave room. Features of a frozen encoder are not kept."""

    at_least: PositiveInt = 1
    """Minimum number of crops per image."""
    at_most: PositiveInt = 4
    """Maximum number of crops per image, without the overview."""
    overview: Literal["first", "last", "none"] = "first"
    """Position of the overview relative to the crops, which are in row-major order."""

    @model_validator(mode="after")
    def _in_order(self) -> SubImages:
        if self.at_most < max(2, self.at_least):
            raise SettingError("at_most", f"expected at least {max(2, self.at_least)} crops, not {self.at_most}")
        return self

    @property
    def views_at_most(self) -> int:
        """Crops and overview of one image at most."""
        return self.at_most + (self.overview != "none")


class Model(Settings):
    """What is trained: an image encoder, a connector and a language model."""

    image_encoder: ImageEncoder
    """From the pixels of an image to features of its patches."""
    connector: Annotated[Connector, ComponentOf("mm1_ablate.model.connectors")]
    """From the features of patches to image tokens, which stand among the tokens of the text."""
    language_model: LanguageModel
    """A causal language model, which reads image tokens and text."""
    sub_images: SubImages | None = None
    """Cut large images into crops. None: each image is resized to the encoder's size."""
    preparation_seed: int | None = None
    """The seed of the prepared encoder and language model. None: each trial's own seed, so that error bars
    include the variation between preparations. A number: shared by all seeds; saves time, but error bars then leave it out."""

    @model_validator(mode="after")
    def _tokens_fit_the_grid(self) -> Model:
        try:
            self.connector.check_grid(self.image_encoder.grid_side)
        except ValueError as error:
            raise SettingError("connector.image_tokens", str(error)) from None
        if isinstance(self.image_encoder, VisionTransformer):
            try:
                self.connector.check_width(self.image_encoder.width)
            except SettingError as error:
                raise SettingError(f"connector.{error.at}", error.message) from None
        return self

    @model_validator(mode="after")
    def _something_is_trained(self) -> Model:
        if self.image_encoder.frozen and self.connector.frozen and self.language_model.frozen:
            raise SettingError("connector.frozen", "with image_encoder and language_model frozen too, nothing is left to train")
        return self

    @property
    def image_tokens_at_most(self) -> int:
        """Tokens that one image takes at most, whatever its size."""
        return self.connector.image_tokens * (self.sub_images.views_at_most if self.sub_images is not None else 1)


ModelPart = Literal["image_encoder", "connector", "language_model"]


def frozen_parts(model: Model) -> list[ModelPart]:
    """The parts of a model that are not trained."""
    frozen: dict[ModelPart, bool] = {
        "image_encoder": model.image_encoder.frozen,
        "connector": model.connector.frozen,
        "language_model": model.language_model.frozen,
    }
    return [part for part, held in frozen.items() if held]
