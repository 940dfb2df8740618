"""Workers that share one sharded language model and ask it different questions.

A sharded block is gathered from all workers whenever one of them computes it, so all have to call the model equally often. Before
each call of the language model every worker says that it has work. One that has none of its own, because its questions are answered or
it had none, joins with calls on a single token whose outcome is ignored, until no worker has any left.

In: a model whose language model is sharded as torch's `fully_shard` does it. Out: a block of code inside which it can be called at will;
all workers enter and leave the block, and only then do anything else together. Models that are whole are called as ever. A worker that
fails leaves at once, and whoever started the workers ends the others, who wait for it in their next call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed

from mm1_ablate.model.multimodal import MultimodalModel


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
