"""Memory of one GPU while a trial trains, by part: an estimate, and rather too much than too little.

In: an experiment, the profile of its model, and over how many processes it is spread how. Out: bytes by part, and how many rows a
micro-batch may have on a GPU that is named. What is reckoned with:

* weights, gradients and optimiser states in float32 (AdamW: two for each trained parameter; Muon: one for each matrix of the language
  model's blocks); fsdp shares them out over the workers and gathers a block at a time, ddp has a copy of the gradients to send;
* half-precision copies of weights, which mixed precision keeps until the backward pass is through;
* activations as profiled on a micro-batch of the rows that take most: all images that the packing allows, or all text. With
  activation checkpointing only what goes into each block of a trained part, and one block's own;
* logits of supervised positions in float32: themselves, their normalised form or gradient, and in mixed precision a half copy;
* images of all micro-batches of a step, which are on the GPU together: bytes, or float32 features where a frozen encoder's are kept;
* one block's gradients of activations, and what CUDA takes for itself.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from math import ceil

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.gpus import GIB
from mm1_ablate.config.sweep.declaration import Strategy
from mm1_ablate.config.training import Muon
from mm1_ablate.model.profile import ModelProfile
from mm1_ablate.plan.flops import is_checkpointed, reads_features
from mm1_ablate.plan.row_statistics import views_at_most

FLOAT = 4
HALF = 2
CUDA = 0.75 * GIB
"""Bytes of a CUDA context with its libraries."""
FRAGMENTS = 0.05
"""Share of a GPU's memory that the allocator leaves unused between what it holds."""
IMAGES_AT_ONCE = 512
"""As `model/multimodal.py` has it: images that go through a frozen encoder in one call."""


@dataclass(frozen=True)
class Amounts:
    """Bytes of one process at their highest, in fields by part."""

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def largest(self) -> str:
        """The part that takes most."""
        return max(fields(self), key=lambda field: getattr(self, field.name)).name

    def to_json(self) -> dict[str, float | str]:
        return {**asdict(self), "total": self.total, "largest": self.largest}

    def fits(self, capacity: float) -> bool:
        """Whether a GPU of so many bytes holds it beside CUDA's own and fragments."""
        return self.total + CUDA <= capacity * (1 - FRAGMENTS)


@dataclass(frozen=True)
class Memory(Amounts):
    """While it is trained."""

    weights: float
    gradients: float
    optimizer: float
    """States of the optimiser."""
    copies: float
    """Of weights: in half precision, and gathered blocks of a sharded model."""
    activations: float
    logits: float
    images: float
    workspace: float
    """Gradients of activations, and a frozen encoder's passing activations."""


@dataclass(frozen=True)
class _Row:
    """A packed row that takes much."""

    views: float
    tokens: float
    supervised: float


def micro_batch_rows(experiment: Experiment, workers: int = 1) -> int:
    """Rows of one forward and backward pass of one process."""
    own = ceil(experiment.training.batch_rows / workers)
    return min(experiment.training.micro_batch_rows or own, own)


def training_memory(
    experiment: Experiment, parts: ModelProfile, workers: int = 1, strategy: Strategy = "ddp", rows: int | None = None
) -> Memory:
    """Bytes of each worker.

    Args:
        rows: of a micro-batch; nothing: as declared.
    """
    rows = rows or micro_batch_rows(experiment, workers)
    found = [_with_row(experiment, parts, workers, strategy, rows, row) for row in _rows(experiment)]
    return max(found, key=lambda memory: memory.total)


def fitting_rows(experiment: Experiment, parts: ModelProfile, capacity: float, workers: int = 1, strategy: Strategy = "ddp") -> int:
    """The most rows of a micro-batch that a GPU of so many bytes holds; 0 where not even one fits."""
    fitting, too_many = 0, ceil(experiment.training.batch_rows / workers) + 1
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        if training_memory(experiment, parts, workers, strategy, middle).fits(capacity):
            fitting = middle
        else:
            too_many = middle
    return fitting


def _rows(experiment: Experiment) -> list[_Row]:
    """The rows that take most: full of images, and full of text, as far as the mixture has them."""
    packing, model = experiment.data.packing, experiment.model
    most = packing.row_tokens // packing.nominal_image_tokens
    most = min(most, packing.max_images if packing.max_images is not None else most)
    types = {name for name, weight in experiment.data.mixture.items() if weight}
    found = []
    if types - {"text"}:
        text = packing.row_tokens - most * packing.nominal_image_tokens
        found.append(_Row(most * views_at_most(experiment), text + most * model.image_tokens_at_most, text))
    if "text" in types or not found:
        found.append(_Row(0, packing.row_tokens, packing.row_tokens))
    return found


def _with_row(experiment: Experiment, parts: ModelProfile, workers: int, strategy: Strategy, rows: int, row: _Row) -> Memory:
    model, checkpointed, features = experiment.model, is_checkpointed(experiment), reads_features(experiment)
    mixed = experiment.training.precision == "bf16-mixed"
    sharded = workers if strategy == "fsdp" else 1
    settings = (model.image_encoder, model.connector, model.language_model)
    each = (parts.image_encoder, parts.connector, parts.language_model)
    trained = sum(part.parameters for part, setting in zip(each, settings, strict=True) if not setting.frozen)
    frozen_encoder = parts.image_encoder.parameters if model.image_encoder.frozen else 0
    everything = sum(part.parameters for part in each)
    encoder, connector, language = each

    states = 2 * trained
    if isinstance(experiment.training.optimizer, Muon) and not model.language_model.frozen:
        states -= language.matrices
    copies = 0.0
    if mixed:
        # Computed again, a block makes its copies again and lets them go.
        copies += sum(
            part.largest_block / max(part.parameters, 1) * part.copies if checkpointed and part is not connector else part.copies
            for part in each
            if not (features and part is encoder)
        )
    if sharded > 1:
        # A sharded model gathers one block beside the one that it works on; what is in no block stays gathered.
        outside = language.parameters - language.blocks * language.largest_block + connector.parameters
        copies += FLOAT * (2 * max(language.largest_block, 0 if model.image_encoder.frozen else encoder.largest_block) + max(0, outside))
    elif workers > 1:
        copies += FLOAT * trained

    images, tokens = rows * row.views, rows * row.tokens
    kept_language = tokens * _kept(language.saved, language.blocks, language.width, 1, checkpointed)
    patches = model.image_encoder.grid_side**2
    one_block = tokens * language.saved / language.blocks
    kept_encoder, passing = 0.0, 0.0
    if model.image_encoder.frozen:
        passing = 0.0 if features else min(images, IMAGES_AT_ONCE) * encoder.saved / encoder.blocks
    else:
        kept_encoder = images * _kept(encoder.saved, encoder.blocks, encoder.width, patches, checkpointed)
        passing = images * encoder.saved / encoder.blocks
    connecting = images * connector.saved
    pictures = images * ceil(experiment.training.batch_rows / workers / rows)
    size = FLOAT * patches * encoder.width if features else 3 * model.image_encoder.image_size**2
    logits = 2 * FLOAT + (HALF if mixed else 0)
    return Memory(
        weights=FLOAT * ((everything - frozen_encoder) / sharded + frozen_encoder),
        gradients=FLOAT * trained / sharded,
        optimizer=FLOAT * states / sharded,
        copies=copies,
        activations=kept_language + kept_encoder + connecting,
        logits=rows * row.supervised * language.vocabulary * logits,
        images=pictures * size,
        workspace=max(one_block, passing),
    )


def _kept(saved: float, blocks: int, width: int, places: int, checkpointed: bool) -> float:
    """Bytes kept of one token or image (of so many places), with checkpointing what goes into each block and one block whole."""
    return blocks * FLOAT * width * places + saved / blocks if checkpointed else saved
