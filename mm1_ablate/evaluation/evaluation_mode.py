"""A model as it is evaluated: without dropout and gradients, in a precision, and where it is sharded in step with the other workers.

In: a model. Out: blocks of code in which it can be called, and a model whose large matrices take half the memory.

Precision: float32, or bfloat16 as `bf16-mixed` training computes, which rounds matrices to bfloat16 in every product; matrices that are
kept so give the same outputs. The head is not rounded: of two answers that are nearly as likely, bfloat16 logits would find neither the
likelier.

Lockstep: a sharded block (torch's `fully_shard`) is gathered from all workers whenever one of them computes it, so all have to call the
model equally often. Before each call of the language model every worker says that it has work. One that has none of its own, because its
questions are answered or it had none, joins with calls on a single token whose outcome is ignored, until no worker has any left. All
workers enter and leave the block, and only then do anything else together. A worker that fails leaves at once, and whoever started the
workers ends the others, who wait for it in their next call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.conv import _ConvNd

from mm1_ablate.config.training import Precision
from mm1_ablate.model.multimodal import MultimodalModel


@contextmanager
def evaluating(model: MultimodalModel, precision: Precision = "32-true") -> Iterator[None]:
    """Dropout off and no gradients; the model is left as it was. Workers that share a sharded model all enter and leave this."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), autocast_in(model, precision), in_lockstep(model):
            yield
    finally:
        model.train(training)


# ---------------------------------------------------------------- precision
@contextmanager
def autocast_in(model: MultimodalModel, precision: Precision) -> Iterator[None]:
    """Forward passes in a precision, the head's in float32."""
    if precision == "32-true":
        yield
        return
    device, head = model.device.type, model.language_model.get_output_embeddings()
    plainly = head.forward

    def exactly(hidden: Tensor) -> Tensor:
        with torch.autocast(device, enabled=False):
            logits: Tensor = plainly(hidden.float())
            return logits

    head.forward = exactly
    try:
        # Without autocast's cache of rounded weights, which would keep all of a sharded model.
        with torch.autocast(device, torch.bfloat16, cache_enabled=False):
            yield
    finally:
        del head.forward


def cast_weights(model: MultimodalModel, precision: Precision) -> None:
    """Keep the weights of a model, with values or without, as a precision needs them: no longer to be trained. Buffers, norms, embeddings
    and the head stay in float32."""
    if precision == "32-true":
        return
    head: Any = model.language_model.get_output_embeddings()
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.Linear | _ConvNd) and module is not head:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(torch.bfloat16)


# ---------------------------------------------------------------- lockstep
@contextmanager
def in_lockstep(model: MultimodalModel) -> Iterator[None]:
    """Call a model's language model as often as all other workers do. Does nothing for a model that is whole."""
    if not is_sharded(model.language_model):
        yield
        return

    def announce(*_: Any) -> None:
        _anybody(works=True)

    # Before the hooks by which blocks are gathered.
    hook = model.language_model.register_forward_pre_hook(announce, prepend=True)
    try:
        yield
    finally:
        hook.remove()
    # Not reached where an exception goes through.
    while _anybody(works=False):
        _join_in(model)


def is_sharded(language_model: Any) -> bool:
    """Whether calling it takes all workers."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(language_model, FSDPModule)


def _anybody(works: bool) -> bool:
    """Whether any worker is about to call the language model. On the CPU, so that no GPU is waited for."""
    workers = torch.tensor([int(works)])
    distributed.all_reduce(workers)
    return bool(workers)


def _join_in(model: MultimodalModel) -> None:
    """Compute all blocks on one token."""
    language_model: Any = model.language_model
    embeddings = torch.zeros(1, 1, model.width, device=model.device)
    positions = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    language_model(inputs_embeds=embeddings, position_ids=positions, use_cache=False, logits_to_keep=1)
