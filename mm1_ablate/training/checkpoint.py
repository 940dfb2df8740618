"""What a checkpoint needs: random states as plain values, and files that are the old ones or the new ones, whatever is killed when."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from mm1_ablate.data.atomic_files import replacing


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


def save_atomically(value: Any, path: Path) -> None:
    """torch.save that leaves the old file or the new one, whatever is killed when."""
    with replacing(path) as beside, beside.open("wb") as file:
        torch.save(value, file)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames: Lightning's own goes through $TMPDIR, which is not atomic across file systems."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save_atomically(checkpoint, Path(path))
