"""Files that are there whole or not at all: written beside their place, then moved there. In: content and a path. Out: the file."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mm1_ablate.config.passwords import hidden


@contextlib.contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """A place beside a file, which takes its place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        if durable:
            with open(beside, "rb") as written:
                os.fsync(written.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes, durable: bool = True) -> None:
    with replacing(path, durable) as beside:
        beside.write_bytes(content)


def write_json(path: Path, value: Any, durable: bool = True) -> None:
    write_atomically(path, json.dumps(hidden(value), indent=1).encode(), durable)


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def read_json_or_nothing(path: Path) -> dict[str, Any]:
    """An empty record where there is no file."""
    try:
        record: dict[str, Any] = read_json(path)
        return record
    except FileNotFoundError:
        return {}
