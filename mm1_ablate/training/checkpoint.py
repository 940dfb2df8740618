"""Checkpoints of a training: files that are the old ones or the new ones, whatever is killed when, and from which it resumes exactly.

`last.ckpt` holds the step, the counts, the random states and the loader's state. Of sharded training it holds, in place of the weights, the
name of a folder of shards beside it, which torch.distributed.checkpoint has written before: a run that is killed while it saves leaves the
checkpoint before it whole. Any number of processes, also one, can resume from it. Where workers are on machines that share no folder, each
machine has its own workers' shards; they are given to all before they are named.
"""

from __future__ import annotations

import io
import pickle
import random
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from mm1_ablate.data.atomic_files import replacing
from mm1_ablate.training.workers import Workers

INDEX_MODULES = (
    "torch",
    "torch.serialization",
    "torch.distributed.checkpoint.metadata",
    "torch.distributed.checkpoint.filesystem",
    "torch.distributed.checkpoint._extension",
    "collections",
    "pathlib",
)
"""Where the index of shards may take its classes from."""
SHARDS = "shards"
"""Where a checkpoint names its folder of shards."""


# ---------------------------------------------------------------- random states
def random_state_dict() -> dict[str, Any]:
    """The random states of torch, numpy and Python, as plain values and tensors."""
    _, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    numpy_state = [torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(cached)]
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "numpy": numpy_state, "python": [version, list(internal), gauss]}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Undo `random_state_dict`."""
    torch.set_rng_state(state["torch"])
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


# ---------------------------------------------------------------- files
def save_atomically(value: Any, path: Path) -> None:
    """torch.save that leaves the old file or the new one, whatever is killed when."""
    with replacing(path) as beside, beside.open("wb") as file:
        torch.save(value, file)


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint, then its shards: a reader finds none meanwhile, not one whose shards are gone."""
    path.unlink(missing_ok=True)
    remove_shards(path)


def remove_shards(path: Path, but: str | None = None) -> None:
    """Remove the folders of shards beside a checkpoint, except the one that it names."""
    for folder in path.parent.glob(f"{path.name}.*"):
        if folder.name != but:
            shutil.rmtree(folder, ignore_errors=True)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames: Lightning's own goes through $TMPDIR, which is not atomic across file systems."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save_atomically(checkpoint, Path(path))


# ---------------------------------------------------------------- of sharded training
class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for modules that `fully_shard` has sharded, with checkpoints that are there whole or not at all."""

    def __init__(self, workers: Workers) -> None:
        super().__init__()
        self._workers = workers

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        path, workers = Path(filepath), self._workers
        # Of this save alone: what a killed one has left, on whatever machine, is never taken for a part of it.
        folder = path.with_name(workers.broadcast(f"{path.name}.{checkpoint['mm1_ablate']['step']}-{uuid.uuid4().hex[:8]}"))
        state = {"state_dict": checkpoint.pop("state_dict")}
        state |= {f"optimizer_{number}": one for number, one in enumerate(checkpoint.pop("optimizer_states"))}
        try:
            state_dict_saver.save(state, checkpoint_id=folder)
        except BaseException:
            if workers.leads_here:  # what there is of it may fill the disk
                shutil.rmtree(folder, ignore_errors=True)
            raise
        workers.share_files(*sorted(folder.glob(f"__{workers.rank}_*")))
        self.barrier()
        if workers.leads:
            save_atomically({**checkpoint, SHARDS: folder.name}, path)
        if workers.leads_here:
            remove_shards(path, but=folder.name)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        path = Path(checkpoint_path)
        # One that is whole is not read but where a worker takes its part of it.
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        assert self.model is not None
        if SHARDS in checkpoint:
            _load_shards(path.with_name(checkpoint[SHARDS]), self.model, self.optimizers)
        else:
            set_model_state_dict(self.model, checkpoint.pop("state_dict"), options=StateDictOptions(full_state_dict=True))
            for optimizer, state in zip(self.optimizers, checkpoint.pop("optimizer_states"), strict=True):
                optimizer.load_state_dict(_distributed(state, optimizer))
        return checkpoint


class _IndexUnpickler(pickle.Unpickler):
    """Makes of the index of shards what torch puts into it: records of its own, sizes and types of tensors, and nothing that runs."""

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name) if module in INDEX_MODULES and "." not in name else None
        own = isinstance(found, type) and found.__module__.split(".")[0] in ("torch", "pathlib", "collections")
        if own or isinstance(found, torch.dtype | torch.layout) or (module, name) == ("torch.serialization", "_get_layout"):
            return found
        raise pickle.UnpicklingError(f"the index of a sharded checkpoint names {module}.{name}, which has no place there")


class _ReadsNoCode(FileSystemReader):
    """Shards that whoever may write in a store has put there: their index is a pickle, which could name any program."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with self.fs.create_stream(self._get_metadata_path(kwargs.get("rank")), "rb") as file:
            metadata: Metadata = _IndexUnpickler(file).load()
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _LoadsNoCode(DefaultLoadPlanner):
    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        torch.load(value, weights_only=True)  # raises for what torch itself would load here
        value.seek(0)
        super().load_bytes(read_item, value)


def _load_shards(folder: Path, module: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Load a module, sharded or whole, and its optimisers from shards that any number of processes have written."""
    state: dict[str, Any] = {"state_dict": get_model_state_dict(module)}
    state |= {f"optimizer_{number}": get_optimizer_state_dict(module, one) for number, one in enumerate(optimizers)}
    state_dict_loader.load(state, storage_reader=_ReadsNoCode(folder), planner=_LoadsNoCode())
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
    """Put whole weights instead of shards, for processes that do not shard. A checkpoint that is whole stays as it is.

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


def shards_of(checkpoint: Path | BinaryIO) -> str | None:
    """The name of the folder of shards that a checkpoint names; None where it is whole."""
    # With mmap, hardly anything of a large one is read.
    read: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=isinstance(checkpoint, Path))
    return read.get(SHARDS)


def step_of(shards: str) -> int:
    """The step at which a folder of shards of this name was written."""
    return int(shards.rpartition(".")[2].partition("-")[0])


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The whole weights of a sharded model, on the CPU of the process that leads; the others, which call this too, get an empty dict."""
    return dict(get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)))  # type: ignore[arg-type]
