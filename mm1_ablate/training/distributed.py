"""One trial trained by several processes (`workers`): batches, counts and gradients that make a step the same for any number of them.

Every process has its own rows of a step's global batch. The loss is divided by the supervised tokens of all, times the number of processes,
because both strategies average gradients over them.

* ddp: every process has the whole model; gradients are averaged once a step, after the last micro-batch that gives any.
* fsdp: parameters, gradients and optimiser states are sharded by torch's `fully_shard`, block by block. Gradients are scattered after
  every micro-batch, as keeping them whole until the last one would take the memory that sharding saves. Only the process that leads ever
  has the whole weights, in its node's memory (`weight_distribution`). For evaluation the language model's blocks stay sharded, and
  processes call them equally often (`evaluation.evaluation_mode`).

What one process runs and another does not would leave the other waiting for ever: so all run as many micro-batches, and where one
has images, those without run the encoder and connector on a blank one that nothing is predicted from.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from mm1_ablate.data.accounting import Accounting
from mm1_ablate.data.loader import Batch, BatchLoader
from mm1_ablate.model.multimodal import MultimodalModel, language_model_blocks, transformer_blocks
from mm1_ablate.training.checkpoint import AtomicCheckpointIO, ShardedStrategy
from mm1_ablate.training.workers import Workers


def trainer_options(workers: Workers) -> dict[str, Any]:
    """Options of a Lightning trainer: atomic checkpoints, and how its processes join.

    Each process sees its own GPU alone, so to Lightning it is a node with one device.
    """
    if workers.ranks == 1:
        return {"plugins": [AtomicCheckpointIO()]}
    rank, ranks = str(workers.rank), str(workers.ranks)
    # Lightning's plugin reads these.
    os.environ.update(RANK=rank, WORLD_SIZE=ranks, GROUP_RANK=rank, LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
    return {
        "num_nodes": workers.ranks,
        # Parts that no loss depends on, such as an encoder's last block below its feature layer, have no gradients to wait for.
        "strategy": ShardedStrategy(workers) if workers.shard else DDPStrategy(find_unused_parameters=True, broadcast_buffers=False),
        "plugins": [AtomicCheckpointIO(), TorchElasticEnvironment()],
    }


@dataclass(frozen=True)
class Step:
    """One step of all processes together, and the micro-batches that this one runs in it."""

    micro_batches: list[Batch]
    """On every process as many. May be padded with documents that nothing is predicted from."""
    supervised: int
    """Tokens that are predicted in the global batch."""
    tokens: int
    images: int
    documents: int


def agree_on_step(batch: Sequence[Batch], workers: Workers, micro_batches: int, image_tokens: int) -> Step:
    """Count a step over all processes, and make sure that each runs what the others run.

    Args:
        batch: this process's micro-batches, at least one.
        micro_batches: of the process that has most.
        image_tokens: positions of an image.
    """
    counts: list[float] = [
        sum(len(micro.tokens) for micro in batch),
        sum(len(micro.images) for micro in batch),
        sum(len(micro.document_lengths) for micro in batch),
    ]
    for number in range(micro_batches):
        counts += [len(batch[number].targets), len(batch[number].images)] if number < len(batch) else [0, 0]
    tokens, images, documents, *own = map(int, workers.all_reduce(counts))
    supervised, with_images = own[::2], own[1::2]
    padded = []
    for number, (targets, pictures) in enumerate(zip(supervised, with_images, strict=True)):
        if targets:
            micro = batch[number] if number < len(batch) else _empty(batch[0])
            padded.append(_padded(micro, image_tokens, needs_image=pictures > 0 and not len(micro.images)))
    return Step(padded, sum(supervised), tokens, images, documents)


def _empty(micro: Batch) -> Batch:
    """A micro-batch without documents, on the same device and with the same kind of images."""
    empty: dict[str, Any] = {name: value[:0] for name, value in vars(micro).items() if isinstance(value, Tensor)}
    return replace(micro, document_lengths=[], documents=[], **empty)


def _padded(micro: Batch, image_tokens: int, needs_image: bool) -> Batch:
    """The micro-batch with one more document, blank, if it needs an image or has no document at all."""
    if not needs_image and len(micro.tokens):
        return micro
    length, end, device = image_tokens if needs_image else 1, len(micro.tokens), micro.tokens.device
    places = torch.arange(length, device=device)
    padded = replace(
        micro,
        tokens=torch.cat([micro.tokens, torch.zeros_like(places)]),
        positions=torch.cat([micro.positions, places]),
        document_lengths=[*micro.document_lengths, length],
    )
    if not needs_image:
        return padded
    blank = micro.images.new_zeros((1, *micro.images.shape[1:]))
    return replace(padded, images=blank, image_positions=places + end)


def without_gradient_sync(model: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Keep gradients to this process during the backward passes of a block, but for the last one of a step."""
    if not last and isinstance(model, nn.parallel.DistributedDataParallel):
        return model.no_sync()
    return nullcontext()


def shard_for_training(model: MultimodalModel, mesh: Any) -> None:
    """Shard a model's parameters over a mesh of processes, in place: each block of the language model and of a trained encoder on
    its own, all the rest together. A frozen encoder stays whole: where features are cached some processes run it and others do not."""
    from torch.distributed.fsdp import fully_shard

    frozen = set(model.encoder.parameters()) if model.encoder_is_frozen else set()
    for block in transformer_blocks(model, frozen=False):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params=frozen)


def shard_for_evaluation(model: MultimodalModel, workers: Workers) -> None:
    """Shard the blocks of a model's language model over all processes, in place, and nothing else: what one process calls by itself, such
    as the encoder for the images of its own questions, must not wait for the others."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    language_model = model.language_model
    blocks = language_model_blocks(model)
    if not blocks:
        return
    mesh = init_device_mesh(workers.device.type, (workers.ranks,))
    outside = set(language_model.parameters()) - {parameter for block in blocks for parameter in block.parameters()}
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    # It has no parameters of its own to gather; as the root it lets the next block be gathered while one computes.
    fully_shard(language_model, mesh=mesh, ignored_params=outside)


class DistributedLoader:
    """A loader whose state and account are those of all processes. What it hands out is this process's own.

    `state_dict` and `account` are to be called by all of them at the same time.
    """

    def __init__(self, loader: BatchLoader, workers: Workers) -> None:
        self.loader = loader
        self.workers = workers

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[Batch]]:
        return iter(self.loader)

    def account(self) -> dict[str, dict[str, Any]]:
        """What became of the data of all processes: see `Accounting.account`."""
        return (self.loader.accounting + self._loaded_by_others()).account()

    def state_dict(self) -> dict[str, Any]:
        """State from which any number of processes can resume."""
        state = self.loader.state_dict()
        return {**state, "loaded": (self._counts(state["loaded"]) + self._loaded_by_others()).state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on: what all have loaded so far is counted by the one that leads."""
        self.loader.load_state_dict(state if self.workers.leads else {**state, "loaded": {}})

    def _counts(self, state: dict[str, Any]) -> Accounting:
        counts = self.loader.accounting.anew()
        counts.restore(state)
        return counts

    def _loaded_by_others(self) -> Accounting:
        total = self._counts({})
        for rank, state in enumerate(self.workers.all_gather(self.loader.state_dict()["loaded"])):
            if rank != self.workers.rank:
                total = total + self._counts(state)
        return total
