"""On what a trial was trained. In: the process that does it. Out: `machine.json` in the trial's folder: versions, machine, device."""

from __future__ import annotations

import os
import platform
import socket
from importlib import metadata
from pathlib import Path
from typing import Any

from mm1_ablate.data.atomic_files import write_json

MACHINE = "machine.json"
PACKAGES = ("mm1-ablate", "torch", "lightning", "transformers", "timm", "tokenizers", "torchvision", "numpy", "pandas", "pillow", "pyarrow")
"""That shape what comes out."""


def write_machine(folder: Path) -> None:
    """Record on what a trial is being trained; of one that is resumed elsewhere that is where it is now."""
    write_json(folder / MACHINE, machine(), durable=False)


def machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "host": socket.gethostname(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "device": _device(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
