"""Checkpoints of sharded training: a folder of shards that any number of processes, also one, can go on from.

`last.ckpt` holds the step, the counts and the loader's state as ever, and in place of the weights the name of a folder beside it,
which torch.distributed.checkpoint has written before: a run that is killed while it saves leaves the checkpoint before it whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed import checkpoint as shards
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from mm1_ablate.training.checkpoint import save_atomically

SHARDS = "shards"
"""Where a checkpoint names its folder of shards."""


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for modules that `fully_shard` has sharded, with checkpoints that are there whole or not at all."""

    @property
    def _leads(self) -> bool:
        return self.global_rank == 0

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        path = Path(filepath)
        folder = path.with_name(f"{path.name}.{checkpoint['mm1_ablate']['step']}")
        if self._leads:
            shutil.rmtree(folder, ignore_errors=True)
        self.barrier()
        state = {"state_dict": checkpoint.pop("state_dict")}
        state |= {f"optimizer_{number}": one for number, one in enumerate(checkpoint.pop("optimizer_states"))}
        try:
            shards.save(state, checkpoint_id=folder)
        except BaseException:
            if self._leads:  # what there is of it may fill the disk
                shutil.rmtree(folder, ignore_errors=True)
            raise
        if self._leads:
            save_atomically({**checkpoint, SHARDS: folder.name}, path)
            remove_shards(path, but=folder.name)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        path = Path(checkpoint_path)
        # One that is whole is not read but where a worker takes its part of it.
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        assert self.model is not None
        if SHARDS in checkpoint:
            _load_shards(path.with_name(checkpoint[SHARDS]), self.model, self.optimizers)
        else:
            set_model_state_dict(self.model, checkpoint.pop("state_dict"), options=StateDictOptions(full_state_dict=True))
            for optimizer, state in zip(self.optimizers, checkpoint.pop("optimizer_states"), strict=True):
                optimizer.load_state_dict(_distributed(state, optimizer))
        return checkpoint


def _load_shards(folder: Path, module: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Load a module, sharded or whole, and its optimisers from shards that any number of processes have written."""
    state: dict[str, Any] = {"state_dict": get_model_state_dict(module)}
    state |= {f"optimizer_{number}": get_optimizer_state_dict(module, one) for number, one in enumerate(optimizers)}
    shards.load(state, checkpoint_id=folder)
    set_model_state_dict(module, state["state_dict"])
    for number, one in enumerate(optimizers):
        set_optimizer_state_dict(module, one, optim_state_dict=state[f"optimizer_{number}"])


def _distributed(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """An optimiser's state of whole tensors, sharded as its parameters are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def sharded(parameter: Tensor, value: Any) -> Any:
        if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape:
            return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
        return value

    own = {
        number: {name: sharded(parameters[number], value) for name, value in values.items()} for number, values in state["state"].items()
    }
    return {**state, "state": own}


def make_whole(path: Path, module: Any) -> None:
    """Put whole weights in the place of shards, for processes that do not shard. Does nothing to a checkpoint that is whole.

    Args:
        module: the Lightning module, not trained yet; loses its weights to those of the checkpoint.
    """
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    if SHARDS not in checkpoint:
        return
    optimizers = module.configure_optimizers()
    _load_shards(path.with_name(checkpoint.pop(SHARDS)), module, optimizers)
    whole = {"state_dict": module.state_dict(), "optimizer_states": [optimizer.state_dict() for optimizer in optimizers]}
    save_atomically({**checkpoint, **whole}, path)
    remove_shards(path)


def remove_shards(path: Path, but: str | None = None) -> None:
    """Remove the folders of shards beside a checkpoint, except the one that it names."""
    for folder in path.parent.glob(f"{path.name}.*"):
        if folder.name != but:
            shutil.rmtree(folder, ignore_errors=True)


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The whole weights of a sharded model, on the CPU of the process that leads; the others, which all call this too, get nothing."""
    return dict(get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)))  # type: ignore[arg-type]
