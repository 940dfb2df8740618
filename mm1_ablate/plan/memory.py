"""Memory of one worker while a trial trains and while it is evaluated, by part: estimates, rather too high than too low.

In: an experiment, its profiled parts, the number of workers and the strategy. Out: bytes by part, and how many rows a micro-batch may have
on a given GPU. In training:

* weights, gradients and optimiser states in float32 (AdamW: two for each trained parameter; Muon: one for each matrix of the language
  model's blocks); fsdp shards them over the workers and gathers a block at a time, ddp has a copy of the gradients to send;
* half-precision copies of weights, which mixed precision keeps until the backward pass is through;
* activations as profiled on a micro-batch of the largest rows: all images that the packing allows, or all text. With activation
  checkpointing only the input of each block of a trained part, and the activations of one block;
* logits of supervised positions in float32: themselves, their normalised form or gradient, and in mixed precision a half copy;
* images of all micro-batches of a step, which are on the GPU together: bytes, or float32 features of a frozen encoder where these are
  stored;
* gradients of one block's activations, and the CUDA context.

In evaluation:

* weights in float32; with `evaluation.precision: bf16-mixed` half of it, but for embeddings and the head. fsdp shards the blocks of
  the language model over the workers and gathers a block at a time, beside the one that computes; all else is whole on each worker;
* keys and values of a batch of questions, twice while an answer grows by a token, and of all sets of demonstrations that a batch has
  before it, at every number of shots: these are kept;
* activations of one block for a batch of questions, and of one block of the encoder for the images that go through it together;
* logits, and the attention scores that are computed together.

Questions and demonstrations are assumed to have as many image tokens as an image can have, and TEXT_TOKENS of text.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil

from mm1_ablate.config.evaluation import Sets
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.sweep.declaration import GIB, Strategy
from mm1_ablate.config.training import Muon
from mm1_ablate.model.profile import ModelProfile
from mm1_ablate.plan.flops import is_checkpointed, most_images, reads_features, views_at_most

FLOAT = 4
HALF = 2
CUDA = 0.75 * GIB
"""Bytes of a CUDA context with its libraries."""
FRAGMENTS = 0.05
"""Share of a GPU's memory that the allocator leaves unused between what it holds."""
IMAGES_AT_ONCE = 512
"""As in `model/multimodal.py`: images that go through a frozen encoder in one call."""
TEXT_TOKENS = 64
"""Text of a question or demonstration with its answer: more than those of MM1's image tasks have on average."""
ENCODED_AT_ONCE = 64
"""As in `evaluation/embedding.py`: pictures of one pass through the encoder."""
LOGITS_AT_ONCE = 8192
"""Whose logits there are at a time: as many as held-out documents have in one pass (`evaluation/held_out_loss.py`)."""
SCORES_AT_ONCE, SCORES_AT_ONCE_ON_CORES = 1 << 28, 1 << 20
"""As in `evaluation/shared_attention.py`: attention scores that are computed together, if those of one head are no more."""
PARTS_IN_WORDS = {"contexts": "keys and values", "copies": "copies of weights", "optimizer": "optimiser states"}
"""Display names of fields."""


def in_gib(amount: float) -> str:
    """Bytes as people read them."""
    return f"{amount / GIB:,.3g} GiB" if amount >= 0.5 * GIB else f"{amount / 2**20:,.3g} MiB"


@dataclass(frozen=True)
class MemoryByPart:
    """Bytes of one process at their highest, in fields by part."""

    @property
    def total(self) -> float:
        by_part: dict[str, float] = asdict(self)
        return sum(by_part.values())

    @property
    def largest(self) -> str:
        """The part that takes most."""
        by_part: dict[str, float] = asdict(self)
        return max(by_part, key=lambda name: by_part[name])

    @property
    def largest_in_words(self) -> str:
        """The part that takes most, and how much: 'activations 21 GiB'."""
        return f"{PARTS_IN_WORDS.get(self.largest, self.largest)} {in_gib(getattr(self, self.largest))}"

    def to_json(self) -> dict[str, float | str]:
        return {**asdict(self), "total": self.total, "largest": self.largest}

    def fits(self, capacity: float) -> bool:
        """Whether a GPU of so many bytes holds it beside CUDA's own and fragments."""
        return self.total + CUDA <= capacity * (1 - FRAGMENTS)


@dataclass(frozen=True)
class TrainingMemory(MemoryByPart):
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
class _LargeRow:
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
) -> TrainingMemory:
    """Bytes of each worker.

    Args:
        rows: of a micro-batch; None: as declared.
    """
    rows = rows or micro_batch_rows(experiment, workers)
    found = [_memory_with(experiment, parts, workers, strategy, rows, row) for row in _largest_rows(experiment)]
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


def _largest_rows(experiment: Experiment) -> list[_LargeRow]:
    """The rows that take most: full of images, and full of text, as far as the mixture has them."""
    packing, model = experiment.data.packing, experiment.model
    most = most_images(experiment)
    types = {name for name, weight in experiment.data.mixture.items() if weight}
    found = []
    if types - {"text"}:
        text = packing.row_tokens - most * packing.nominal_image_tokens
        found.append(_LargeRow(most * views_at_most(experiment), text + most * model.image_tokens_at_most, text))
    if "text" in types or not found:
        found.append(_LargeRow(0, packing.row_tokens, packing.row_tokens))
    return found


def _memory_with(
    experiment: Experiment, parts: ModelProfile, workers: int, strategy: Strategy, rows: int, row: _LargeRow
) -> TrainingMemory:
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
    kept_language = tokens * _saved_bytes(language.saved, language.blocks, language.width, 1, checkpointed)
    patches = model.image_encoder.grid_side**2
    one_block = tokens * language.saved / language.blocks
    kept_encoder, passing = 0.0, 0.0
    if model.image_encoder.frozen:
        passing = 0.0 if features else min(images, IMAGES_AT_ONCE) * encoder.saved / encoder.blocks
    else:
        kept_encoder = images * _saved_bytes(encoder.saved, encoder.blocks, encoder.width, patches, checkpointed)
        passing = images * encoder.saved / encoder.blocks
    connecting = images * connector.saved
    pictures = images * ceil(experiment.training.batch_rows / workers / rows)
    size = FLOAT * patches * encoder.width if features else 3 * model.image_encoder.image_size**2
    logits = 2 * FLOAT + (HALF if mixed else 0)
    return TrainingMemory(
        weights=FLOAT * ((everything - frozen_encoder) / sharded + frozen_encoder),
        gradients=FLOAT * trained / sharded,
        optimizer=FLOAT * states / sharded,
        copies=copies,
        activations=kept_language + kept_encoder + connecting,
        logits=rows * row.supervised * language.vocabulary * logits,
        images=pictures * size,
        workspace=max(one_block, passing),
    )


def _saved_bytes(saved: float, blocks: int, width: int, places: int, checkpointed: bool) -> float:
    """Bytes kept of one token or image (of so many places), with checkpointing what goes into each block and one block whole."""
    return blocks * FLOAT * width * places + saved / blocks if checkpointed else saved


# ---------------------------------------------------------------- evaluation
@dataclass(frozen=True)
class EvaluationMemory(MemoryByPart):
    """Bytes of one process at their highest, by part."""

    weights: float
    gathered: float
    """Blocks of a sharded language model."""
    contexts: float
    """Keys and values of questions and demonstrations."""
    activations: float
    logits: float
    """And attention scores."""


def evaluation_memory(
    experiment: Experiment, parts: ModelProfile, workers: int = 1, strategy: Strategy = "ddp", on_gpu: bool = True
) -> EvaluationMemory:
    """Bytes of each worker."""
    evaluation, language, encoder = experiment.evaluation, parts.language_model, parts.image_encoder
    size = HALF if evaluation.precision == "bf16-mixed" else FLOAT
    sharded = workers if strategy == "fsdp" else 1
    blocks = min(language.blocks * language.largest_block, language.parameters)
    whole = FLOAT * (language.parameters - blocks) + size * (encoder.parameters + parts.connector.parameters)

    images = [shots for shots in evaluation.shots if shots]
    each = experiment.model.image_tokens_at_most + TEXT_TOKENS
    batch = min(evaluation.batch_items, evaluation.items or evaluation.batch_items)
    shared = evaluation.demonstrations
    sets = batch if shared == "per_query" else min(batch, shared.sets) if isinstance(shared, Sets) else 1
    # Sets that are several are joined for a batch, which copies those of the largest number of shots.
    before = sets * (sum(images) + (max(images, default=0) if sets > 1 else 0)) * each
    asked = batch * each
    views = ENCODED_AT_ONCE * views_at_most(experiment)
    scores = max(asked * before, min(SCORES_AT_ONCE if on_gpu else SCORES_AT_ONCE_ON_CORES, asked * before * language.width))
    return EvaluationMemory(
        weights=whole + size * blocks / sharded,
        gathered=size * 2 * language.largest_block if sharded > 1 else 0.0,
        contexts=size * language.cache * (before + 2 * asked),
        activations=max(asked * language.saved / language.blocks, views * encoder.saved / encoder.blocks),
        logits=FLOAT * LOGITS_AT_ONCE * language.vocabulary + 2 * FLOAT * scores,
    )
