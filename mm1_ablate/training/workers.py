"""The processes of one trial: which of them this is, and what they tell each other. One process alone needs no group.

In: a rank, how many there are and a strategy, with MASTER_ADDR and MASTER_PORT in the environment. Out: sums, broadcasts and barriers over
all of them, on the CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed

from mm1_ablate.config.sweep.declaration import Strategy

T = TypeVar("T")

TIMEOUT = timedelta(hours=6)
"""How long one process waits for another. The parent process notices one that has ended, so this limits slow ones only."""


def _all_files_are_shared(*files: Path) -> None:
    """Nothing to bring."""


@dataclass(frozen=True)
class Workers:
    """The processes of one trial, as seen by one of them. A single process needs no group, and all of this does nothing."""

    rank: int = 0
    ranks: int = 1
    strategy: Strategy = "ddp"
    first_here: int = 0
    """Rank of the first that sees the same files as this one: of the one that leads, unless machines share no folder."""
    share_files: Callable[..., None] = _all_files_are_shared
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
        # What is counted and gathered is on the CPU, so that no process waits for a GPU.
        backend, device = ("cpu:gloo,cuda:nccl", self.device) if self.device.type == "cuda" else ("gloo", None)
        distributed.init_process_group(backend, rank=self.rank, world_size=self.ranks, timeout=TIMEOUT, device_id=device)
        yield
        # Not where an exception goes through: the others would fail of losing this one before it can say what happened to it.
        distributed.destroy_process_group()

    def all_reduce(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over all processes, in float64."""
        if self.ranks == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(sums)
        return sums.tolist()

    def broadcast(self, value: T) -> T:
        """The value of the one that leads: what two processes see of a shared file system may differ for a moment."""
        if self.ranks == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def all_gather(self, value: T) -> list[T]:
        """The values of all, by rank."""
        if self.ranks == 1:
            return [value]
        values: list[Any] = [None] * self.ranks
        distributed.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        self.all_reduce([0])
