"""How far one stage of a trial has come: reported by training, evaluation and preparation, shown in the live table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
