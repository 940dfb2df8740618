"""One whole system: data, model, training, evaluation. The unit that is trained and scored.

Defaults are chosen so that leaving a field out is the common choice; a field added later with a default that keeps the old
behaviour leaves old fingerprints alone (`fingerprint.py`). Fields marked `HowItRuns` are not part of a trial's identity.
"""

from __future__ import annotations

import os
from math import isqrt
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, PositiveFloat, PositiveInt, ValidationInfo, field_validator, model_validator

from mm1_ablate.spec.data import AnySource, Data
from mm1_ablate.spec.evaluation import PRESETS, Demonstrations, Group, Protocol, TaskSettings, TextOnly, misnamed
from mm1_ablate.spec.settings import Component, ComponentOf, HowItRuns, Misfit, Settings


# ---------------------------------------------------------------- model
class EncoderPreparation(Settings):
    """Pre-training that an image encoder of declared size goes through before the trials, once per fingerprint."""

    objective: Literal["contrastive", "reconstructive"] = "contrastive"
    """contrastive: CLIP (Radford et al. 2021); reconstructive: the pixels of masked patches predicted from the visible ones
    (SimMIM, Xie et al. 2022). For a random encoder leave the preparation out (`remove: model.image_encoder.preparation`)."""
    steps: PositiveInt = 300
    batch_images: PositiveInt = 128
    learning_rate: PositiveFloat = 1e-3
    source: AnySource
    """Captioned images to learn from; of the encoder's own, so that removing a data type from the mixture leaves it alone."""
    tokenizer: str = "miniature"
    """The tokenizer of the captions that a contrastive objective reads."""


class VisionTransformer(Settings):
    """A timm VisionTransformer of declared size, from scratch."""

    type: Literal["vision_transformer"] = "vision_transformer"
    image_size: PositiveInt
    """Pixels a side. Larger images are resized to it."""
    patch_size: PositiveInt | None = None
    """Pixels a side of a patch. Declare this or `patches_per_side`."""
    patches_per_side: PositiveInt | None = None
    """Patches a side at every resolution (patch size = image size / patches a side)."""
    width: PositiveInt = 96
    depth: PositiveInt = 3
    heads: PositiveInt = 4
    feature_layer: Annotated[int, Field(lt=0)] = -1
    """Which block's output goes to the connector: -1 the last, after the final norm; -2 the one before, as it is."""
    frozen: bool = False
    learning_rate_scale: PositiveFloat = 1.0
    """The encoder's learning rate over that of the rest."""
    preparation: EncoderPreparation | None = None

    @model_validator(mode="after")
    def _patches(self) -> VisionTransformer:
        if (self.patch_size is None) == (self.patches_per_side is None):
            raise ValueError("declare either patch_size or patches_per_side")
        divisor = self.patch_size or self.patches_per_side or 1
        if self.image_size % divisor:
            what = "the patch size" if self.patch_size else "the patches a side"
            raise Misfit("image_size", f"{self.image_size} is not a multiple of {what}, {divisor}")
        if self.width % self.heads:
            raise Misfit("width", f"{self.width} is not a multiple of the {self.heads} heads")
        if -self.feature_layer > self.depth:
            raise Misfit("feature_layer", f"block {self.feature_layer} does not exist, the encoder has only {self.depth} blocks")
        return self

    @property
    def grid_side(self) -> int:
        """Patches a side."""
        return self.patches_per_side or self.image_size // (self.patch_size or 1)


class TimmEncoder(Settings):
    """An encoder of timm's by name, with or without its published weights."""

    type: Literal["timm"] = "timm"
    name: str
    """A timm model name, such as vit_large_patch14_clip_quickgelu_336.openai."""
    image_size: PositiveInt
    """Pixels a side: any multiple of the patch size, as position embeddings are interpolated."""
    patch_size: PositiveInt = 14
    """Pixels a side of a patch, as the name says."""
    weights: str | None = "pretrained"
    """'pretrained' (timm's published weights), a file of weights that timm reads, relative to this file, or nothing (from scratch)."""
    feature_layer: Annotated[int, Field(lt=0)] = -1
    """Which block's output goes to the connector: -1 the last, after the final norm; -2 the one before, as it is. What comes after it is
    not part of the model."""
    frozen: bool = False
    learning_rate_scale: PositiveFloat = 1.0
    preparation: EncoderPreparation | None = None

    @field_validator("weights")
    @classmethod
    def _from_folder(cls, weights: str | None, info: ValidationInfo) -> str | None:
        if weights in (None, "pretrained"):
            return weights
        folder = str((info.context or {}).get("folder") or os.getcwd())
        return os.path.normpath(os.path.join(folder, os.path.expanduser(str(weights))))

    @model_validator(mode="after")
    def _patches(self) -> TimmEncoder:
        if side := self.image_size % self.patch_size:
            lower = self.image_size - side
            nearest = " and ".join(str(size) for size in (lower, lower + self.patch_size) if size)
            message = f"{self.image_size} is not a multiple of the patch size, {self.patch_size}; the nearest are {nearest}"
            raise Misfit("image_size", message)
        return self

    @property
    def weights_file(self) -> str | None:
        """The local file of weights, if that is where they are."""
        return None if self.weights == "pretrained" else self.weights

    @property
    def grid_side(self) -> int:
        """Patches a side."""
        return self.image_size // self.patch_size


ImageEncoder = Annotated[VisionTransformer | TimmEncoder, Field(discriminator="type")]


class Connector(Component):
    """From patch features to image tokens. Each connector is a file in `mm1_ablate/model/connectors/`."""

    image_tokens: PositiveInt = 144
    """Tokens that an image becomes; with sub-images, each of them."""
    frozen: bool = False
    """Not trained."""

    def check_grid(self, side: int) -> None:
        """Raise ValueError, saying what would do, if `image_tokens` cannot be made from a grid of side x side patches."""

    def check_width(self, encoder_width: int) -> None:
        """Raise Misfit at a field that does not go with features of this width. Asked where an encoder's settings say its width."""

    def build(self, encoder_width: int, grid_side: int, language_width: int) -> Any:
        """The torch module: [images, side * side, encoder_width] to [images, image_tokens, language_width]."""
        raise TypeError(f"{type(self).__name__} does not say how it is built")


class SquareTokens(Connector):
    """A connector that pools the grid of patches to a smaller square."""

    @field_validator("image_tokens")
    @classmethod
    def _square(cls, tokens: int) -> int:
        side = isqrt(tokens)
        if side * side != tokens:
            raise ValueError(
                f"{tokens} image tokens are not a square, which pooling a grid needs; the nearest are {side * side} and {(side + 1) ** 2}"
            )
        return tokens

    def check_grid(self, side: int) -> None:
        if self.image_tokens > side * side:
            raise ValueError(
                f"{self.image_tokens} image tokens cannot be pooled from a grid of {side} x {side} patches; at most {side * side}"
            )


class LearnedQueries(Connector):
    """A connector whose learned queries attend to the patches at the encoder's width: any number of image tokens."""

    heads: PositiveInt | None = None
    """Attention heads; nothing: one for each 64 channels, or as many fewer as divide the width."""

    def check_width(self, encoder_width: int) -> None:
        if self.heads is not None and encoder_width % self.heads:
            raise Misfit("heads", f"the encoder's width, {encoder_width}, is not a multiple of {self.heads} heads")

    def heads_at(self, encoder_width: int) -> int:
        """Attention heads at an encoder's width."""
        self.check_width(encoder_width)
        return self.heads or next(count for count in range(max(1, encoder_width // 64), 0, -1) if encoder_width % count == 0)


class TokenPerPatch(Connector):
    """A connector that makes one image token of each patch."""

    def check_grid(self, side: int) -> None:
        if self.image_tokens != side * side:
            raise ValueError(
                f"this connector makes one token of each patch, so a grid of {side} x {side} gives {side * side} image tokens,"
                f" not {self.image_tokens}"
            )


class LanguageModelPreparation(Settings):
    """Text-only pre-training of a language model of declared size, before the trials, once per fingerprint."""

    steps: PositiveInt = 400
    batch_rows: PositiveInt = 8
    row_tokens: PositiveInt = 128
    source: AnySource
    optimizer: AnyOptimizer


class LanguageModel(Settings):
    """A causal language model of transformers, by configuration or by name."""

    name: str | None = None
    """A model name or a local path, with its weights. Declare this or `model_type`."""
    model_type: str | None = None
    """A transformers model type, such as phi, with `configuration`."""
    configuration: dict[str, JsonValue] = {}
    """Fields of the transformers configuration."""
    tokenizer: str = "miniature"
    """'miniature' (the words of the miniature world), or a name or path of a tokenizer that transformers reads."""
    initialisation: Literal["transformers", "fan_in"] = "transformers"
    """fan_in: matrices normal with sd fan_in^-0.5, output projections times (2 x layers)^-0.5, embeddings sd width^-0.5."""
    scale_embeddings: bool = False
    """Multiply token embeddings by sqrt(width) on the way in, as Gemma does."""
    frozen: bool = False
    """Not trained."""
    preparation: LanguageModelPreparation | None = None

    @model_validator(mode="after")
    def _either(self) -> LanguageModel:
        if (self.name is None) == (self.model_type is None):
            raise ValueError("declare either name (weights) or model_type and configuration")
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
    """Crops of an image."""
    at_most: PositiveInt = 4
    """Crops of an image, the overview not counted."""
    overview: Literal["first", "last", "none"] = "first"
    """Where the overview stands among the crops, which follow one another row by row."""

    @model_validator(mode="after")
    def _in_order(self) -> SubImages:
        if self.at_most < max(2, self.at_least):
            raise Misfit("at_most", f"expected at least {max(2, self.at_least)} crops, not {self.at_most}")
        return self

    @property
    def views_at_most(self) -> int:
        """Crops and overview of one image at most."""
        return self.at_most + (self.overview != "none")


class Model(Settings):
    image_encoder: ImageEncoder
    connector: Annotated[Connector, ComponentOf("mm1_ablate.model.connectors")]
    language_model: LanguageModel
    sub_images: SubImages | None = None
    """Large images as several, and how many. Nothing: each image is resized to the encoder's size."""
    preparation_seed: int | None = None
    """The seed of the prepared encoder and language model. Nothing: each trial's own seed, so that their luck is part of
    the error bars. A number: shared by all seeds, which saves time and narrows the error bars."""

    @model_validator(mode="after")
    def _tokens_fit_the_grid(self) -> Model:
        try:
            self.connector.check_grid(self.image_encoder.grid_side)
        except ValueError as error:
            raise Misfit("connector.image_tokens", str(error)) from None
        if isinstance(self.image_encoder, VisionTransformer):
            try:
                self.connector.check_width(self.image_encoder.width)
            except Misfit as error:
                raise Misfit(f"connector.{error.at}", error.message) from None
        return self

    @model_validator(mode="after")
    def _something_is_trained(self) -> Model:
        if self.image_encoder.frozen and self.connector.frozen and self.language_model.frozen:
            raise Misfit("connector.frozen", "with image_encoder and language_model frozen too, nothing is left to train")
        return self

    @property
    def image_tokens_at_most(self) -> int:
        """Tokens that one image takes at most, whatever its size."""
        return self.connector.image_tokens * (self.sub_images.views_at_most if self.sub_images is not None else 1)


Part = Literal["image_encoder", "connector", "language_model"]


def frozen_parts(model: Model) -> list[Part]:
    """The parts of a model that are not trained."""
    frozen: dict[Part, bool] = {
        "image_encoder": model.image_encoder.frozen,
        "connector": model.connector.frozen,
        "language_model": model.language_model.frozen,
    }
    return [part for part, held in frozen.items() if held]


# ---------------------------------------------------------------- training
class AdamW(Settings):
    type: Literal["adamw"] = "adamw"
    learning_rate: PositiveFloat | Literal["mm1"] = "mm1"
    """A peak rate, or 'mm1': exp(-0.4214 ln N - 0.5535), N = language model parameters without embeddings (MM1, section 3.3)."""
    weight_decay: Annotated[float, Field(ge=0)] | Literal["mm1"] = "mm1"
    """'mm1': 0.1 x the peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)


class Muon(Settings):
    """torch.optim.Muon on the matrices of the language model's blocks, AdamW on everything else."""

    type: Literal["muon"] = "muon"
    learning_rate: PositiveFloat = 0.015
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    rest: AdamW = AdamW(learning_rate=3e-3, weight_decay=0.0)


AnyOptimizer = Annotated[AdamW | Muon, Field(discriminator="type")]


Precision = Literal["32-true", "bf16-mixed"]
"""float32 throughout, or matrix products in bfloat16 beside weights in float32."""


class Training(Settings):
    steps: PositiveInt
    batch_rows: PositiveInt = 512
    """Packed rows of one optimiser step, over all workers and micro-batches."""
    optimizer: AnyOptimizer = AdamW()
    warmup_steps: Annotated[int, Field(ge=0)] = 2000
    final_learning_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Where the cosine ends, as a share of the peak."""
    gradient_clip: PositiveFloat | None = 1.0
    precision: Precision = "32-true"
    micro_batch_rows: Annotated[PositiveInt | None, HowItRuns] = None
    """Rows of one forward and backward pass; nothing: all of them."""
    checkpoint_every_steps: Annotated[PositiveInt, HowItRuns] = 100
    activation_checkpointing: Annotated[bool, HowItRuns] = False
    """Compute the activations inside each transformer block again on the way back instead of keeping them: a third more work, a
    fraction of the memory."""
    compile: Annotated[bool, HowItRuns] = False
    """Compile the transformer blocks with torch.compile: minutes at the start, then faster steps on a GPU."""
    loader_threads: Annotated[Annotated[int, Field(ge=0)], HowItRuns] = 1
    """Threads that read, decode and lay out the batches ahead of the training step; 0: none, each batch when it is needed."""

    @model_validator(mode="after")
    def _warmup_ends(self) -> Training:
        if self.warmup_steps >= self.steps:
            raise Misfit("warmup_steps", f"expected fewer than the {self.steps} steps of the training, not {self.warmup_steps}")
        return self


# ---------------------------------------------------------------- evaluation
class HeldOut(Settings):
    """Documents that training does not read, to measure how well they are predicted."""

    source: AnySource
    first: Annotated[int, Field(ge=0)] = 0
    """The first document that is read: of a source that training reads too, one that is beyond what training can reach."""
    documents: PositiveInt = 1000
    """Documents at most."""


class Evaluation(Settings):
    tasks: list[str]
    """Names of records in `mm1_ablate/evaluation/tasks/`, or paths of your own records, relative to this file."""
    shots: list[Annotated[int, Field(ge=0)]] = [0, 4, 8]
    """Demonstrations before an image question. Text tasks are judged without any."""
    items: PositiveInt | None = None
    """Items of each task; nothing: all that the task has."""
    seed: int = 0
    """Chooses items, and demonstrations unless `seeds` does. The same for all arms and training seeds."""
    seeds: list[int] | None = None
    """Evaluation seeds: each draws other demonstrations for the same items, and scores are means over all. Nothing: `seed` alone."""
    split: Literal["report", "development"] = "report"
    """development: other episodes from another image pool, for tuning a recipe."""
    protocol: Protocol = "mm1"
    """openflamingo: the prompts, stop strings, demonstrations and text-only zero-shot of OpenFlamingo (Awadalla et al. 2023), where
    neither this section nor a task's record says otherwise."""
    demonstrations: Demonstrations = "per_task"
    """per_task: one nested set for all queries of a task group (MM1); {sets: k}: k of them; per_query: drawn for each query
    (OpenFlamingo)."""
    zero_shot: TextOnly | None = None
    """What stands before an image question at 0 shots. Nothing: nothing; {text_only: 2}: demonstrations without images (OpenFlamingo)."""
    overrides: dict[str, TaskSettings] = {}
    """By task: items, prompt, separator, stop strings and token limit instead of those of its record."""
    groups: dict[str, Group] = {}
    """Averages over some of the tasks or groups, by name. A group with the name 'average' takes the place of the average over all tasks."""
    losses: dict[str, HeldOut] = {}
    """Held-out documents whose loss per token is `loss/<name>` and whose bits per byte of text are `bits_per_byte/<name>`."""
    precision: Precision = "32-true"
    """In which answers are computed, whatever the training's. bf16-mixed: matrices are kept and multiplied in bfloat16, the head's apart.
    That takes half the memory, a GPU's peak is several times as high in it, and near ties between answers may turn."""
    batch_items: Annotated[PositiveInt, HowItRuns] = 64

    @field_validator("tasks")
    @classmethod
    def _from_folder(cls, tasks: list[str], info: ValidationInfo) -> list[str]:
        folder = str((info.context or {}).get("folder") or os.getcwd())
        own = {task: os.path.normpath(os.path.join(folder, os.path.expanduser(task))) for task in tasks if task.endswith((".yaml", ".yml"))}
        return [own.get(task, task) for task in tasks]

    @field_validator("shots", "tasks", "seeds")
    @classmethod
    def _distinct(cls, values: list[Any] | None) -> list[Any] | None:
        if values is not None and (not values or len(set(values)) != len(values)):
            raise ValueError("expected at least one, and none twice")
        return values

    @model_validator(mode="after")
    def _preset(self) -> Evaluation:
        # Not counted as written, so that altering the protocol alone alters all of it.
        self.__dict__.update({name: value for name, value in PRESETS[self.protocol].items() if name not in self.model_fields_set})
        return self

    @model_validator(mode="after")
    def _named_tasks_are_evaluated(self) -> Evaluation:
        # A record of one's own has its name inside: names are then checked when it is read.
        own_records = any(task.endswith((".yaml", ".yml")) for task in self.tasks)
        if not own_records and (wrong := misnamed(self.groups, self.overrides, self.tasks)):
            raise Misfit(*wrong)
        return self

    @property
    def evaluation_seeds(self) -> tuple[int, ...]:
        """The seeds that draw demonstrations, one after the other."""
        return tuple(self.seeds) if self.seeds is not None else (self.seed,)


# ---------------------------------------------------------------- the whole
def _or_a_file(schema: dict[str, Any]) -> None:
    """In a file, a stage may be the path of another."""
    schema["anyOf"].insert(0, {"type": "string"})


class Experiment(Settings):
    """A whole system that can be trained and scored."""

    experiment: Annotated[str, HowItRuns]
    """Its name, for people."""
    description: Annotated[str, HowItRuns] = ""
    data: Data
    model: Model
    training: Training
    evaluation: Evaluation
    starts_from: Annotated[Experiment | None, Field(json_schema_extra=_or_a_file)] = None
    """An earlier stage: an experiment, or the path of its file relative to this one. The model starts from the weights that it ends with,
    at the same seed; what belongs to places is resampled where the resolution differs. Its own evaluation is not run."""

    @model_validator(mode="after")
    def _fits_the_earlier_stage(self) -> Experiment:
        if self.starts_from is not None:
            check_stages(self.model, self.starts_from.model)
        return self

    @property
    def earlier(self) -> list[Experiment]:
        """The stages before this one, the first of all first."""
        return [] if self.starts_from is None else [*self.starts_from.earlier, self.starts_from]


def check_stages(model: Model, before: Model) -> None:
    """Whether a model can start from the weights of an earlier stage's.

    Raises:
        Misfit: at the field of the later stage that keeps it from it.
    """

    def same(path: str, ours: Any, theirs: Any) -> None:
        if ours != theirs:
            message = f"the earlier stage has {_in_words(theirs)} here, and this one {_in_words(ours)}: its weights do not fit; change both"
            raise Misfit(path, message)

    for part in ("image_encoder", "language_model"):
        if getattr(model, part).preparation is not None:
            message = "the weights come from the earlier stage (starts_from), so nothing is prepared for this one: leave it out here"
            raise Misfit(f"model.{part}.preparation", message)
    for name in ("name", "model_type", "tokenizer", "scale_embeddings", "configuration"):
        same(f"model.language_model.{name}", getattr(model.language_model, name), getattr(before.language_model, name))
    ours, theirs = model.image_encoder, before.image_encoder
    same("model.image_encoder.type", ours.type, theirs.type)
    for name in ("name",) if isinstance(ours, TimmEncoder) else ("width", "depth", "heads"):
        same(f"model.image_encoder.{name}", getattr(ours, name), getattr(theirs, name))
    same("model.connector.type", model.connector.type, before.connector.type)
    free = {"frozen"} if isinstance(model.connector, LearnedQueries) else {"frozen", "image_tokens"}
    for name in type(model.connector).model_fields:
        if name not in free:
            same(f"model.connector.{name}", getattr(model.connector, name), getattr(before.connector, name))


def _in_words(value: Any) -> str:
    return "another value" if isinstance(value, dict) else "nothing" if value is None else f"'{value}'"


LanguageModelPreparation.model_rebuild()
LanguageModel.model_rebuild()
Model.model_rebuild()
Experiment.model_rebuild()
