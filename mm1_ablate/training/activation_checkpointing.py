"""How transformer blocks are run in training: with activations recomputed in the backward pass, compiled, or plain.

In: a model and `training.activation_checkpointing`, `training.compile`. Out: the same model, run that way for the length of a block of
code; the results are the same but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from mm1_ablate.config.training import Training
from mm1_ablate.model.multimodal import MultimodalModel, transformer_blocks
from mm1_ablate.model.packed_attention import NAME, packed_attention


@contextmanager
def checkpointed_and_compiled(model: MultimodalModel, training: Training) -> Iterator[None]:
    """Run a model's blocks as the settings say; afterwards, for evaluation, plainly again."""
    with ExitStack() as stack:
        if training.activation_checkpointing:
            stack.enter_context(_checkpointed(model))
        if training.compile:
            stack.enter_context(_compiled(model))
        yield


@contextmanager
def _checkpointed(model: MultimodalModel) -> Iterator[None]:
    vision, language_model = getattr(model.encoder, "vision", None), model.language_model
    if model.encoder_is_frozen or not hasattr(vision, "set_grad_checkpointing"):
        vision = None  # a frozen encoder keeps no activations anyway
    # The names that transformers 5 began with are deprecated in later ones of it.
    enable = getattr(language_model, "activation_checkpointing_enable", language_model.gradient_checkpointing_enable)
    disable = getattr(language_model, "activation_checkpointing_disable", language_model.gradient_checkpointing_disable)
    enable({"use_reentrant": False})
    # Only blocks in training compute anew, and those of a frozen model are not; what is inside them goes on as in evaluation.
    frozen = [block for block in language_model.modules() if isinstance(block, GradientCheckpointingLayer) and not block.training]
    for block in frozen:
        block.training = True
    if vision is not None:
        vision.set_grad_checkpointing(True)
    try:
        yield
    finally:
        disable()
        for block in frozen:
            block.training = False
        if vision is not None:
            vision.set_grad_checkpointing(False)


@contextmanager
def _compiled(model: MultimodalModel) -> Iterator[None]:
    blocks = transformer_blocks(model)
    # It depends on how many documents are in a row and how long they are: nothing to compile anew in every step.
    AttentionInterface.register(NAME, torch.compiler.disable(packed_attention))  # type: ignore[no-untyped-call]
    for block in blocks:
        # Rows differ in length from step to step.
        block.compile(dynamic=True)
    try:
        yield
    finally:
        AttentionInterface.register(NAME, packed_attention)
        for block in blocks:
            block._compiled_call_impl = None
