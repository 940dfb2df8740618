"""Which weights and which tokenizer lie at a local path: a path in, a digest out, which is part of a trial's identity in the path's place.

Small files are read whole. Of larger ones the size, both ends, and the beginning of every tensor (of every MiB, where the format does not
say where tensors are): weights that were trained any further differ everywhere, and a digest of 60 GB may take no minutes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from typing import BinaryIO

from mm1_ablate.config.identity.data_digests import FileSeen, look, note_files, once, seeing_files
from mm1_ablate.config.local_path import local, tokenizer_files, weight_files
from mm1_ablate.config.settings import Settings

READ_WHOLE = 64 << 20
"""Bytes of a file up to which all of it is read."""
END, STRIDE, SAMPLE = 1 << 20, 1 << 20, 1 << 12
"""Bytes read of a larger file: at either end, from one sample to the next, and of a sample."""


def local_identity(settings: Settings) -> dict[str, str]:
    """What stands in an identity in place of the local paths of these settings (an encoder's, its preparation's, a language model's)."""
    return {field: digest for field, (digest, _) in local_reads(settings).items()}


Digested = tuple[str, tuple[FileSeen, ...]]
"""A digest, and the files behind it."""


def local_reads(settings: Settings) -> dict[str, Digested]:
    """The digests that stand in place of local paths, by field, each with the files behind it."""
    paths = {field: local(getattr(settings, field, None)) for field in DIGESTED}
    return {field: _digest(*DIGESTED[field], path) for field, path in paths.items() if path is not None}


def _files_of_model(folder: str) -> list[str]:
    return [os.path.join(folder, "config.json"), *weight_files(folder)]


DIGESTED: dict[str, tuple[str, Callable[[str], list[str]]]] = {
    "weights": ("weights", weight_files),
    "name": ("model", _files_of_model),
    "tokenizer": ("tokenizer", tokenizer_files),
}
"""Fields of settings that may hold local paths: what lies there, and its files."""


def weights_digest(path: str) -> str:
    """Of a file of weights, or of those of a folder."""
    return _digest(*DIGESTED["weights"], path)[0]


def tokenizer_digest(path: str) -> str:
    """Of a folder with a tokenizer."""
    return _digest(*DIGESTED["tokenizer"], path)[0]


def _digest(kind: str, files_of: Callable[[str], list[str]], path: str) -> Digested:
    """A digest and the files behind it. If nothing is there, or data is not read, the digest of the path is used."""

    def digest() -> str:
        files = [file for file in files_of(path) if os.path.isfile(file)] if look() != "nowhere" else []
        if not files:
            return "declared " + hashlib.sha256(path.encode()).hexdigest()
        if files == [path]:
            return _digest_of_file(path)
        whole = hashlib.sha256()
        for file in files:
            whole.update(f"{os.path.basename(file)}\0{_digest_of_file(file)}\n".encode())
        return whole.hexdigest()

    def digested() -> Digested:
        with seeing_files() as seen:
            return digest(), tuple(seen)

    return once(f"{kind} {path}", digested)


def _digest_of_file(path: str) -> str:
    digest, status = _digest_and_status(path)
    note_files([FileSeen(path, os.path.basename(path), status.st_size, digest, str(status.st_mtime_ns))])
    return digest


def _digest_and_status(path: str) -> tuple[str, os.stat_result]:
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        size = status.st_size
        found = hashlib.sha256(f"{size}\0".encode())
        if size <= READ_WHOLE:
            found.update(file.read())
            return found.hexdigest(), status
        places = _tensors(file) if path.endswith(".safetensors") else range(0, size, STRIDE)
        for place, count in [(0, END), *((place, SAMPLE) for place in places), (size - END, END)]:
            file.seek(place)
            found.update(file.read(count))
    return found.hexdigest(), status


def _tensors(file: BinaryIO) -> Iterable[int]:
    """Where the tensors of a safetensors file begin: the header is a length of 8 bytes, then as much JSON."""
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    return sorted(8 + length + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__")
