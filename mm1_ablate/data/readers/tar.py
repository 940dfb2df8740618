"""Tars in, samples by number out: the entries of a tar whose names agree up to the first dot of the file name are one sample.

An index of where each entry's bytes begin is made once for each tar and kept in the cache; a sample is then read from where it
lies, in any order. The indices of all tars are laid end to end in arrays that are memory-mapped, so opening many million samples
takes no memory, and processes share one copy. A compressed tar allows no random access and is unpacked into the cache once.
"""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from mm1_ablate.data.cache import ProgressCallback, build_once, check_space, is_built
from mm1_ablate.data.documents import KnownLoss, Unreadable
from mm1_ablate.data.files import DataFile, digest_file, map_files
from mm1_ablate.data.lost_documents import FileRead, Losses, Lost, losses_of
from mm1_ablate.data.readers.compression import most_unpacked
from mm1_ablate.data.readers.file_signatures import GZIP, compression_by, describe_format, head_and_tail
from mm1_ablate.data.readers.tar_headers import DamagedTar, tar_entries
from mm1_ablate.data.readers.tar_index import ARRAYS, SAMPLE, SHARE_OF_INDEX, Read, indexed, join, refused_for

VERSION = "4"
"""Changes when an index is made otherwise, so that those in a cache are made anew."""
UNPACKED = "unpacked tars"
LARGEST_LOOKED_AT = 256 << 20
"""Bytes of one entry that are read in the check before a run."""


@dataclass(frozen=True, slots=True)
class TarSample:
    """What belongs together in a tar."""

    key: str
    """The name of its entries up to the first dot of the file name."""
    file: str
    """Name of the tar."""
    digest: str
    """Of the tar, 12 hexadecimal digits: with the key it identifies the sample wherever the tar lies."""
    members: Mapping[str, Callable[[], bytes]]
    """The bytes of its entries by extension (in lower case, without the first dot), read when they are asked for."""


class TarSamples:
    """The samples of many tars: tar after tar, each in its own order. Made by `open_tars`.

    Args:
        folder: a complete index.
        files: the tars that it is of; plain ones.
        digests: 12 hexadecimal digits for each.
        packed: the same files as they were found, compressed or not.
    """

    def __init__(self, folder: Path, files: Sequence[DataFile], digests: Sequence[str], packed: Sequence[DataFile]) -> None:
        described = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self._files: list[tuple[DataFile, str, Read | None]] = [
            (file, digest, partial(_read, file) if file.is_local else None) for file, digest in zip(files, digests, strict=True)
        ]
        self._extensions: list[str] = described["extensions"]
        self.bad: list[Unreadable] = [KnownLoss(reason, what) for reason, what in described["bad"]]
        """What was found bad while indexing: tars that break off, entries that are links or point outside. The rest stays."""
        self.losses = _losses(described["tars"], files, packed)
        """About how much is lost with that."""
        arrays = {name: _mapped(folder / f"{name}.npy") for name in (*ARRAYS, "file")}
        self._file, self._first = arrays["file"], arrays["first_member"]
        self._key_end, self._keys = arrays["key_end"], arrays["keys"]
        self._offset, self._size, self._extension = arrays["offset"], arrays["size"], arrays["extension"]

    def __len__(self) -> int:
        return len(self._file)

    def __getitem__(self, index: int) -> TarSample:
        if not 0 <= index < len(self._file):
            raise IndexError(index)
        file, digest, read = self._files[self._file[index]]
        first, end = self._first[index], self._first[index + 1]
        if read is None:
            read = self._together(file, first, end)
        offset, size, extension, extensions = self._offset, self._size, self._extension, self._extensions
        members = {extensions[extension[place]]: partial(read, offset[place], size[place]) for place in range(first, end)}
        return TarSample(self.key(index), file.name, digest, members)

    def key(self, index: int) -> str:
        """The key of a sample, without the rest of it."""
        begin = self._key_end[index - 1] if index else 0
        return str(self._keys[begin : self._key_end[index]], "utf-8")

    def _together(self, file: DataFile, first: int, end: int) -> Read:
        """Where each read is a request over a network, one for all members if they lie side by side."""
        begin, stop = self._offset[first], self._offset[end - 1] + self._size[end - 1]
        if stop - begin > sum(self._size[first:end]) + 4096 * (end - first):
            return partial(_read, file)
        return _Once(partial(_read, file), begin, stop - begin)


class _Once:
    """A stretch of a file that is read at the first request for a part of it."""

    __slots__ = ("_begin", "_bytes", "_length", "_lock", "_read")

    def __init__(self, read: Read, begin: int, length: int) -> None:
        self._read, self._begin, self._length = read, begin, length
        self._bytes: bytes | None = None
        self._lock = Lock()

    def __call__(self, offset: int, length: int) -> bytes:
        with self._lock:
            if self._bytes is None:
                self._bytes = self._read(self._begin, self._length)
        return self._bytes[offset - self._begin : offset - self._begin + length]


def _read(file: DataFile, offset: int, length: int) -> bytes:
    data = file.read(offset, length)
    if len(data) < length:
        raise Unreadable("truncated tar", file.name)
    return data


def _mapped(path: Path) -> Any:
    """A view of a memory-mapped array: it hands out an integer several times faster than the array does. An empty one cannot be mapped."""
    return memoryview(np.load(path, mmap_mode="r") if path.stat().st_size > 128 else np.load(path))


# ---------------------------------------------------------------- opening
def open_tars(files: Sequence[DataFile], report: ProgressCallback | None = None) -> TarSamples:
    """The samples of these tars, in their order. What the cache does not have yet is indexed (and unpacked) first.

    Args:
        report: called with the progress, in bytes of the tars.

    Raises:
        NotEnoughSpace: compressed tars do not fit into the cache.
    """
    packed, digests = files, map_files(files, digest_file)
    files = _all_unpacked(files, digests, report)
    identities, whole = _identities(files, digests)

    def build(folder: Path, report: ProgressCallback) -> None:
        shards = []
        done, in_all = 0, sum(file.size for file in files)
        with ThreadPoolExecutor(8) as pool:
            indices = pool.map(indexed, files, identities)
            for file, shard in zip(files, indices, strict=True):
                shards.append(shard)
                done += file.size
                report("indexing tars", done, in_all)
        join(folder, shards, [file.name for file in files])

    folder = build_once("tars", whole, sum(file.size for file in files) // SHARE_OF_INDEX, build, report)
    return TarSamples(folder, files, [digest[:12] for digest in digests], packed)


def indexed_tars(files: Sequence[DataFile]) -> TarSamples | None:
    """The same, where the cache has all of it; otherwise None."""
    digests = map_files(files, digest_file)
    if not all(is_built(UNPACKED, digest) for file, digest in zip(files, digests, strict=True) if is_compressed(file)):
        return None
    _, whole = _identities(_all_unpacked(files, digests, None), digests)
    return open_tars(files) if is_built("tars", whole) else None


def _identities(files: Sequence[DataFile], digests: Sequence[str]) -> tuple[list[str], str]:
    """Of the index of each tar, and of all of them together."""
    # The stamp as well: the digest does not see what changes in the middle of a tar, where an old index would read nonsense.
    identities = [f"{VERSION} {digest} {file.stamp}" for file, digest in zip(files, digests, strict=True)]
    named = "\n".join(f"{identity} {file.name}" for identity, file in zip(identities, files, strict=True))
    return identities, sha256(named.encode()).hexdigest()


def is_compressed(file: DataFile) -> bool:
    """Whether a tar is compressed with gzip: its first bytes say so, whatever it is called."""
    return compression_by(head_and_tail(file)[0]) == GZIP


def _all_unpacked(files: Sequence[DataFile], digests: Sequence[str], report: ProgressCallback | None) -> list[DataFile]:
    """The files, with plain copies in place of those that are compressed. Nothing is begun if the disk cannot take all of it."""
    compressed = map_files(files, is_compressed)
    sizes = {
        place: _unpacked_size(file)
        for place, (file, digest) in enumerate(zip(files, digests, strict=True))
        if compressed[place] and not is_built(UNPACKED, digest)
    }
    if sizes:
        check_space(UNPACKED, sum(sizes.values()))
    return [_unpacked(file, digests[place], sizes.get(place, 0), report) if compressed[place] else file for place, file in enumerate(files)]


def _unpacked_size(file: DataFile) -> int:
    """An estimate: gzip says the size at its end, of which it keeps 32 bits; images shrink little."""
    size = int.from_bytes(file.read(max(0, file.size - 4), 4), "little")
    while size < file.size * 0.9:
        size += 1 << 32
    return size


def _unpacked(file: DataFile, digest: str, size: int, report: ProgressCallback | None) -> DataFile:
    """A plain copy of a compressed tar. What breaks off in the middle is unpacked up to there."""

    def build(folder: Path, report: ProgressCallback) -> None:
        with file.open() as packed, (folder / "unpacked.tar").open("wb") as target:
            try:
                with gzip.GzipFile(fileobj=packed) as content:
                    most = most_unpacked(file)
                    while (block := content.read1(1 << 20)) and target.tell() < most:
                        target.write(block)
                        report(f"unpacking {file.name}", min(packed.tell(), file.size), file.size)
            except (EOFError, zlib.error, gzip.BadGzipFile):
                pass  # the index finds where it breaks off, and counts it

    path = build_once(UNPACKED, digest, size, build, report) / "unpacked.tar"
    status = path.stat()
    return replace(file, address=str(path), size=status.st_size, stamp=str(status.st_mtime_ns))


def _losses(tars: Sequence[Mapping[str, Any]], plain: Sequence[DataFile], packed: Sequence[DataFile]) -> list[Losses]:
    files, lost = [], []
    for tar, unpacked, file in zip(tars, plain, packed, strict=True):
        head, _ = head_and_tail(file) if tar["damage"] else (b"", b"")
        named = describe_format(head, file.size) if tar["damage"] and not tar["samples"] and not is_compressed(file) else ""
        damage = f"not a tar, but {named}" if named else tar["damage"]
        # How far a truncated compressed tar was read is unknown; images shrink little.
        read = min(tar["read"], file.size) if tar["damage"] or unpacked is file else file.size
        files.append(FileRead(file.name, file.size, tar["samples"], read, damage))
        for reason, names, count, samples in tar["entries"]:
            more = f" and {count - len(names):,} more" if count > len(names) else ""
            lost.append(Lost(f"{file.name}: {', '.join(names)}{more}", reason, 0, samples, "entries"))
    return losses_of(files, lost)


def first_samples(file: DataFile, count: int) -> dict[str, dict[str, bytes]]:
    """The first samples of a tar, without indexing the rest: the bytes of each one's members by key and extension.

    Raises:
        DamagedTar: the file is not a tar, or is truncated this early.
    """
    found: dict[str, dict[str, bytes]] = {}
    with closing(file.open()) as packed, gzip.GzipFile(fileobj=packed) if is_compressed(file) else nullcontext(packed) as stream:

        def read(offset: int, length: int) -> bytes:
            if length > LARGEST_LOOKED_AT:
                raise DamagedTar(f"an entry of {length:,} bytes")
            stream.seek(offset)
            return stream.read(length)

        try:
            for entry in tar_entries(read, sys.maxsize if stream is not packed else file.size):
                split = SAMPLE.fullmatch(entry.name)
                if split is None or refused_for(entry.name, entry.kind):
                    continue
                if split["key"] not in found and len(found) == count:
                    break
                found.setdefault(split["key"], {})[split["extension"].lower()] = read(entry.offset, entry.size)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise DamagedTar("a compressed tar that cannot be unpacked") from None
    return found
