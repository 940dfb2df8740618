"""Which weights and which tokenizer lie at a local path: a path in, a digest out, which is part of a trial's identity in the path's place.

Small files are read whole. Of larger ones the size, both ends, and the beginning of every tensor (of every MiB, where the format does not
say where tensors are): weights that were trained any further differ everywhere, and a digest of 60 GB may take no minutes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from typing import Any, BinaryIO

from mm1_ablate.config.identity.data_digests import look, once
from mm1_ablate.config.local_path import local, tokenizer_files, weight_files
from mm1_ablate.config.settings import Settings

READ_WHOLE = 64 << 20
"""Bytes of a file up to which all of it is read."""
END, STRIDE, SAMPLE = 1 << 20, 1 << 20, 1 << 12
"""Bytes read of a larger file: at either end, from one sample to the next, and of a sample."""


def local_identity(settings: Settings) -> dict[str, str]:
    """What stands in an identity in place of the local paths of these settings (an encoder's, its preparation's, a language model's)."""
    digests = {"weights": weights_digest, "name": model_digest, "tokenizer": tokenizer_digest}
    paths = {field: local(getattr(settings, field, None)) for field in digests}
    return {field: digests[field](path) for field, path in paths.items() if path is not None}


def weights_digest(path: str) -> str:
    """Of a file of weights, or of those of a folder."""
    return _digest("weights", path, weight_files)


def model_digest(path: str) -> str:
    """Of a folder of transformers with a model: its configuration and its weights."""
    return _digest("model", path, lambda folder: [os.path.join(folder, "config.json"), *weight_files(folder)])


def tokenizer_digest(path: str) -> str:
    """Of a folder with a tokenizer."""
    return _digest("tokenizer", path, tokenizer_files)


def _digest(kind: str, path: str, files_of: Any) -> str:
    """If nothing is there, or data is not read, the digest of the path is used."""

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

    return once(f"{kind} {path}", digest)


def _digest_of_file(path: str) -> str:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        found = hashlib.sha256(f"{size}\0".encode())
        if size <= READ_WHOLE:
            found.update(file.read())
            return found.hexdigest()
        places = _tensors(file) if path.endswith(".safetensors") else range(0, size, STRIDE)
        for place, count in [(0, END), *((place, SAMPLE) for place in places), (size - END, END)]:
            file.seek(place)
            found.update(file.read(count))
    return found.hexdigest()


def _tensors(file: BinaryIO) -> Iterable[int]:
    """Where the tensors of a safetensors file begin: the header is a length of 8 bytes, then as much JSON."""
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    return sorted(8 + length + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__")
