"""One trial trained by several processes: which of them this is, what they tell each other, how Lightning joins them.

In: a rank, how many there are and a strategy, with MASTER_ADDR and MASTER_PORT in the environment. Out: batches, counts and gradients
that make a step the same for any number of processes. Every process has its own rows of a step's global batch. The loss is divided by
the supervised tokens of all, times the number of processes, because both strategies average gradients over them.

* ddp: every process has the whole model; gradients are averaged once a step, after the last micro-batch that gives any.
* fsdp: parameters, gradients and optimiser states are sharded by torch's `fully_shard`, block by block. Gradients are scattered after
  every micro-batch, as keeping them whole until the last one would take the memory that sharding saves. Only the process that leads ever
  has the whole weights, in its node's memory (`spreading`). For evaluation the language model's blocks stay sharded, and processes call
  them in step (`evaluation.sharded_lockstep`).

What one process runs and another does not would leave the other waiting for ever: so all run as many micro-batches, and where one
has images, those without run the encoder and connector on a blank one that nothing is predicted from.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from mm1_ablate.config.sweep.declaration import Strategy
from mm1_ablate.data.accounting import Accounting

if TYPE_CHECKING:
    from mm1_ablate.data.loader import Batch, BatchLoader
    from mm1_ablate.model.multimodal import MultimodalModel

T = TypeVar("T")

PATIENCE = timedelta(hours=6)
"""How long one process waits for another. Who ends is noticed by whoever started them, so this is for slow ones only."""


def _nothing(*files: Path) -> None:
    """All see all files."""


@dataclass(frozen=True)
class Workers:
    """The processes of one trial, as seen by one of them. A single process needs no group, and all of this does nothing."""

    rank: int = 0
    ranks: int = 1
    strategy: Strategy = "ddp"
    first_here: int = 0
    """Rank of the first that sees the same files as this one: of the one that leads, unless machines share no folder."""
    give: Callable[..., None] = _nothing
    """Brings files (of `Path`) that those who see other files will need to where they find them, and returns when they are there."""

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    @property
    def leads_here(self) -> bool:
        """Whether this is the one that sees to the files that it and maybe others see."""
        return self.rank == self.first_here

    @property
    def shard(self) -> bool:
        return self.ranks > 1 and self.strategy == "fsdp"

    @property
    def device(self) -> torch.device:
        """Where this process computes: each sees one GPU at most."""
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Join the others for the length of a block. Waits for all of them."""
        if self.ranks == 1:
            yield
            return
        # What is counted and gathered is on the CPU, so that nobody waits for a GPU to learn it.
        backend, device = ("cpu:gloo,cuda:nccl", self.device) if self.device.type == "cuda" else ("gloo", None)
        distributed.init_process_group(backend, rank=self.rank, world_size=self.ranks, timeout=PATIENCE, device_id=device)
        yield
        # Not where an exception goes through: the others would fail of losing this one before it can say what happened to it.
        distributed.destroy_process_group()

    def total(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over all processes, in float64."""
        if self.ranks == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(sums)
        return sums.tolist()

    def agreed(self, value: T) -> T:
        """The value of the one that leads: what two processes see of a shared file system may differ for a moment."""
        if self.ranks == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def gathered(self, value: T) -> list[T]:
        """The values of all, by rank."""
        if self.ranks == 1:
            return [value]
        values: list[Any] = [None] * self.ranks
        distributed.all_gather_object(values, value)
        return values

    def wait_for_all(self) -> None:
        self.total([0])

    def options(self) -> dict[str, Any]:
        """Options of a Lightning trainer. Each process sees its own GPU alone, so to Lightning it is a node with one device."""
        if self.ranks == 1:
            return {}
        from lightning.pytorch.strategies import DDPStrategy

        from mm1_ablate.training.sharding import ShardedStrategy

        # Parts that no loss depends on, such as an encoder's last block below its feature layer, have no gradients to wait for.
        data_parallel = DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)
        return {"num_nodes": self.ranks, "strategy": ShardedStrategy(self) if self.shard else data_parallel}

    def environment(self) -> list[Any]:
        """Lightning plugins."""
        if self.ranks == 1:
            return []
        from lightning.fabric.plugins.environments import TorchElasticEnvironment

        # Lightning reads these; each process is a node of one to it.
        os.environ.update(RANK=str(self.rank), WORLD_SIZE=str(self.ranks), GROUP_RANK=str(self.rank), LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
        return [TorchElasticEnvironment()]


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


def agree(batch: Sequence[Batch], workers: Workers, micro_batches: int, image_tokens: int) -> Step:
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
    tokens, images, documents, *own = map(int, workers.total(counts))
    supervised, with_images = own[::2], own[1::2]
    padded = []
    for number, (targets, pictures) in enumerate(zip(supervised, with_images, strict=True)):
        if targets:
            micro = batch[number] if number < len(batch) else _none_of(batch[0])
            padded.append(_padded(micro, image_tokens, needs_image=pictures > 0 and not len(micro.images)))
    return Step(padded, sum(supervised), tokens, images, documents)


def _none_of(micro: Batch) -> Batch:
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


def without_sharing(model: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Keep gradients to this process during the backward passes of a block, but for the last one of a step."""
    if not last and isinstance(model, nn.parallel.DistributedDataParallel):
        return model.no_sync()
    return nullcontext()


def shard(model: MultimodalModel, mesh: Any) -> None:
    """Shard a model's parameters over a mesh of processes, in place: each block of the language model and of a trained encoder on
    its own, all the rest together. A frozen encoder stays whole: where features are cached some processes run it and others do not."""
    from torch.distributed.fsdp import fully_shard

    frozen = set(model.encoder.parameters()) if model.encoder_is_frozen else set()
    for block in blocks_of(model, frozen=False):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params=frozen)


def shard_for_evaluation(model: MultimodalModel, workers: Workers) -> None:
    """Shard the blocks of a model's language model over all processes, in place, and nothing else: what one process calls by itself, such
    as the encoder for the images of its own questions, must not wait for the others."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    language_model = model.language_model
    blocks = language_blocks(model)
    if not blocks:
        return
    mesh = init_device_mesh(workers.device.type, (workers.ranks,))
    outside = set(language_model.parameters()) - {parameter for block in blocks for parameter in block.parameters()}
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    # It has no parameters of its own to gather; as the root it lets the next block be gathered while one computes.
    fully_shard(language_model, mesh=mesh, ignored_params=outside)


def language_blocks(model: MultimodalModel) -> list[nn.Module]:
    """The transformer blocks of the language model, before any of them is sharded."""
    # transformers' models name the classes of their blocks for whoever shards them.
    language_model = model.language_model
    names = set(getattr(language_model, "_no_split_modules", None) or ())
    named = [part for part in language_model.modules() if type(part).__name__ in names]
    # A few do not; theirs is the list with one for each layer.
    lists = (part for part in language_model.modules() if isinstance(part, nn.ModuleList))
    return named or list(next((part for part in lists if len(part) == language_model.config.num_hidden_layers), ()))


def blocks_of(model: MultimodalModel, frozen: bool = True) -> list[nn.Module]:
    """The transformer blocks of the language model and the encoder.

    Args:
        frozen: those of a frozen encoder too.
    """
    blocks = language_blocks(model)
    if frozen or not model.encoder_is_frozen:
        blocks += list(getattr(getattr(model.encoder, "vision", None), "blocks", ()))
    return blocks


class SharedLoader:
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
        """From where any number of processes can go on."""
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
        for rank, state in enumerate(self.workers.gathered(self.loader.state_dict()["loaded"])):
            if rank != self.workers.rank:
                total = total + self._counts(state)
        return total
