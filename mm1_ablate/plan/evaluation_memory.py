"""Memory of one process while a trial is evaluated, by part: an estimate, and rather too much than too little.

In: an experiment, the profile of its model, and over how many processes it is spread how. Out: bytes by part. What is reckoned with:

* weights in float32; with `evaluation.precision: bf16-mixed` half of it, but for embeddings and the head. fsdp shares out the blocks of
  the language model over the workers and gathers a block at a time, beside the one that computes; all else is whole on each worker;
* keys and values of a batch of questions, twice while an answer grows by a token, and of all sets of demonstrations that a batch has
  before it, at every number of shots: these are kept;
* activations of one block for a batch of questions, and of one block of the encoder for the images that go through it together;
* logits, and the attention scores that are computed together.

Questions and demonstrations are taken to have as many image tokens as an image can have, and TEXT_TOKENS of text.
"""

from __future__ import annotations

from dataclasses import dataclass

from mm1_ablate.config.evaluation import Sets
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.sweep.declaration import Strategy
from mm1_ablate.model.profile import ModelProfile
from mm1_ablate.plan.memory import FLOAT, HALF, Amounts
from mm1_ablate.plan.row_statistics import views_at_most

TEXT_TOKENS = 64
"""Text of a question or demonstration with its answer: more than those of MM1's image tasks have on average."""
IMAGES_AT_ONCE = 64
"""As `evaluation/embedding.py` has it: pictures of one pass through the encoder."""
POSITIONS_AT_ONCE = 8192
"""Whose logits there are at a time: as many as held-out documents have in one pass (`evaluation/held_out_loss.py`)."""
SCORES_AT_ONCE, SCORES_AT_ONCE_ON_CORES = 1 << 28, 1 << 20
"""As `evaluation/shared_attention.py` has it: attention scores that are computed together, if those of one head are no more."""


@dataclass(frozen=True)
class EvaluationMemory(Amounts):
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
    views = IMAGES_AT_ONCE * views_at_most(experiment)
    scores = max(asked * before, min(SCORES_AT_ONCE if on_gpu else SCORES_AT_ONCE_ON_CORES, asked * before * language.width))
    return EvaluationMemory(
        weights=whole + size * blocks / sharded,
        gathered=size * 2 * language.largest_block if sharded > 1 else 0.0,
        contexts=size * language.cache * (before + 2 * asked),
        activations=max(asked * language.saved / language.blocks, views * encoder.saved / encoder.blocks),
        logits=FLOAT * POSITIONS_AT_ONCE * language.vocabulary + 2 * FLOAT * scores,
    )
