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


class DamagedFile(ValueError):
    """A file does not hold what was written to it."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(path, why)
        self.path, self.why = path, why

    def __str__(self) -> str:
        return f"{self.path} is damaged: {self.why}"


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        DamagedFile: it is cut, or no JSON.
    """
    return parse_json(path, path.read_bytes())


def parse_json(path: Path, content: bytes) -> Any:
    """The value that a file's content stands for.

    Raises:
        DamagedFile: there is none.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        told = "it is empty" if not content.strip() else "it holds NUL bytes" if b"\0" in content else f"this is not JSON ({error})"
        raise DamagedFile(path, told) from None


def read_json_or_nothing(path: Path) -> dict[str, Any]:
    """An empty record where there is no file."""
    try:
        record: dict[str, Any] = read_json(path)
        return record
    except FileNotFoundError:
        return {}


def read_json_lines(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The objects of a file of JSON lines, and why there are not as many as lines; empty where the last line alone is none, which may be
    being written."""
    content = path.read_bytes() if path.exists() else b""
    lines = content.split(b"\n")
    objects, unreadable = [], 0
    for place, line in enumerate(lines, 1):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            objects.append(found)
        else:
            unreadable += place < len(lines)
    return objects, f"{unreadable} of its lines cannot be read" if unreadable else ""
