"""Optimisers, and how a model is trained.

Part of `experiment.py`, whose rules on defaults and identity hold here too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from mm1_ablate.config.settings import HowItRuns, SettingError, Settings

Precision = Literal["32-true", "bf16-mixed"]
"""float32 throughout, or matrix products in bfloat16 beside weights in float32."""


Beta = Annotated[float, Field(ge=0, lt=1)]


class AdamW(Settings):
    """AdamW as in torch.optim. Vectors (biases, norms) are not decayed."""

    type: Literal["adamw"] = "adamw"
    """adamw: AdamW on all parameters."""
    learning_rate: PositiveFloat | Literal["mm1"] = "mm1"
    """A peak rate, or 'mm1': exp(-0.4214 ln N - 0.5535), N = language model parameters without embeddings (MM1, section 3.3)."""
    weight_decay: Annotated[float, Field(ge=0)] | Literal["mm1"] = "mm1"
    """As in torch: each step shrinks every matrix by this x the learning rate. 'mm1': 0.1, so that a step at the peak shrinks it by
    0.1 x the peak learning rate, as in MM1 (section 3.3), whose optimiser (AXLearn) scales weight decay by the schedule alone."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay rates of the running means of the gradient and of its square."""


class Muon(Settings):
    """torch.optim.Muon on the matrices of the language model's blocks, AdamW on the rest: a mixture's stacked experts too."""

    type: Literal["muon"] = "muon"
    """muon: Muon on the matrices of the language model's blocks, AdamW on the rest."""
    learning_rate: PositiveFloat = 0.015
    """Peak learning rate of the matrices."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Nesterov momentum: weight of earlier gradients in their running mean."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Each step shrinks the matrices by this x the learning rate."""
    rest: AdamW = AdamW(learning_rate=3e-3, weight_decay=0.0)
    """Optimiser of all other parameters: embeddings, norms, image encoder, connector."""


AnyOptimizer = Annotated[AdamW | Muon, Field(discriminator="type")]


class Training(Settings):
    """How a trial is trained: linear warm-up, then a cosine of the learning rate."""

    steps: PositiveInt
    """Optimiser steps."""
    batch_rows: PositiveInt = 512
    """Packed rows per optimiser step, over all workers and micro-batches."""
    optimizer: AnyOptimizer = AdamW()
    """Optimiser, with its peak learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 2000
    """Steps over which the learning rate rises linearly to its peak; fewer than `steps`."""
    final_learning_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Learning rate at the end of the cosine, as a share of the peak."""
    gradient_clip: PositiveFloat | None = 1.0
    """Largest norm of the gradient of all trained parameters; a larger one is scaled down to it. None: no clipping."""
    precision: Precision = "32-true"
    """32-true: float32 throughout; bf16-mixed: matrix products in bfloat16 beside weights in float32."""
    micro_batch_rows: Annotated[PositiveInt | None, HowItRuns] = None
    """Rows per forward and backward pass. None: all of them."""
    checkpoint_every_steps: Annotated[PositiveInt, HowItRuns] = 100
    """Steps between checkpoints, from which an interrupted trial goes on."""
    activation_checkpointing: Annotated[bool, HowItRuns] = False
    """Recompute the activations inside each transformer block in the backward pass instead of keeping them: a third more compute,
    a fraction of the memory."""
    compile: Annotated[bool, HowItRuns] = False
    """Compile the transformer blocks with torch.compile: minutes at the start, then faster steps on a GPU."""
    loader_threads: Annotated[Annotated[int, Field(ge=0)], HowItRuns] = 1
    """Threads that read, decode and pack batches ahead of the training step. 0: none; each batch is made when it is needed."""

    @model_validator(mode="after")
    def _warmup_ends(self) -> Training:
        if self.warmup_steps >= self.steps:
            raise SettingError("warmup_steps", f"expected fewer than the {self.steps} steps of the training, not {self.warmup_steps}")
        return self


Stage = Literal["prepare", "train", "evaluate"]


@dataclass(frozen=True, slots=True)
class Progress:
    stage: Stage
    step: int
    """Steps done: optimiser steps when training or preparing, items when evaluating."""
    steps: int
    """Steps in all."""
    loss: float | None = None
    """Latest training loss in nats per predicted token (prepare: the objective's own), if there is one."""
