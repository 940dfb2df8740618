"""Public weights and tokenizers that lie on this machine: paths in files in, absolute paths out; and which files are read there.

A path is relative to the file that it is written in. What is a name, such as EleutherAI/pythia-1.4b, stays as it is.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

TOLD_BY = ("config.json", "tokenizer_config.json", "tokenizer.json")
"""Files of which one at least is in every folder that transformers reads."""
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
"""How folders name their weights, in the order in which they are looked for: transformers, timm and OpenCLIP; an index names shards."""
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".npz", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")


def real(path: Path) -> Path:
    """The path without links; as it is where links lead in a circle or names are longer than any, for which `Path.resolve` raises."""
    return Path(os.path.realpath(path))


def beside(path: str, info: ValidationInfo) -> str:
    """The absolute path of what is written in a file, whose folder is in pydantic's validation context; else from the current one."""
    folder = str((info.context or {}).get("folder") or os.getcwd())
    return os.path.normpath(os.path.join(folder, os.path.expanduser(path)))


def _path_or_name(value: str, info: ValidationInfo) -> str:
    path = beside(value, info)
    if value.startswith(("/", "./", "../", "~")) or value in (".", ".."):
        return path
    return path if any(os.path.isfile(os.path.join(path, name)) for name in TOLD_BY) else value


PathOrName = Annotated[str, AfterValidator(_path_or_name)]
"""A name that transformers knows, or the path of a folder: what begins with `/`, `~`, `./` or `../`, or names a folder of transformers that
lies beside the file."""


def local(value: str | None) -> str | None:
    """A setting's path, if it is one and not a name."""
    return value if value is not None and os.path.isabs(value) else None


def missing(path: str) -> str | None:
    """What is wrong with a path, in words; None if something is there."""
    if os.path.exists(path):
        return None
    folder = next(parent for parent in Path(path).parents if os.path.isdir(parent))
    return f"there is no file or folder {path}; the nearest folder that exists is {folder}"


def weight_files(path: str) -> list[str]:
    """The files of weights that a path stands for: itself, or those in a folder; none if there are none."""
    if not os.path.isdir(path):
        return [path] if os.path.isfile(path) else []
    for name in WEIGHTS:
        found = os.path.join(path, name)
        if os.path.isfile(found):
            return _shards(found) if name.endswith(".index.json") else [found]
    return []


def _shards(index: str) -> list[str]:
    with open(index, "rb") as file:
        names = sorted(set(json.load(file)["weight_map"].values()))
    return [os.path.join(os.path.dirname(index), name) for name in names]


def tokenizer_files(folder: str) -> list[str]:
    """The files of a folder that a tokenizer may be made of: all but weights, hidden files and documentation."""
    if not os.path.isdir(folder):
        return [folder] if os.path.isfile(folder) else []
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    return [os.path.join(folder, name) for name in names if not name.startswith(".") and not name.endswith((".md", *WEIGHT_SUFFIXES))]
