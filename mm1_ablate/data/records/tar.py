"""Tars in, samples by number out: the entries of a tar whose names agree up to the first dot of the file name are one sample.

An index of where each entry's bytes begin is made once for each tar and kept in the cache; a sample is then read from where it
lies, in any order. The indices of all tars are laid end to end in arrays that are memory-mapped, so opening many million samples
takes no memory, and processes share one copy. A compressed tar allows no random access and is unpacked into the cache once.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from mm1_ablate.data.cache import Report, check_space, is_made, made
from mm1_ablate.data.documents import KnownLoss, Unreadable
from mm1_ablate.data.files import DataFile, digest_file, of_each
from mm1_ablate.data.losses import FileRead, Losses, Lost, losses_of
from mm1_ablate.data.records.heads import GZIP, compression_of, ends_of, what_it_is
from mm1_ablate.data.records.tar_headers import BLOCK, DamagedTar, entries

Read = Callable[[int, int], bytes]
"""(offset, length) to the bytes there."""
VERSION = "3"
"""Changes when an index is made otherwise, so that those in a cache are made anew."""
UNPACKED = "unpacked tars"
LONGEST_PADDING = 2 << 20
"""Bytes of zeros at the end of a tar at most: what tar fills the last of its largest records with, and some."""
EXAMPLES = 3
"""Entries that are named for each reason in a tar."""
SHARE_OF_INDEX = 200
"""Bytes of a tar for one of its index: a sample takes some 100 bytes there, and an image and its headers 20,000 here."""
DESCRIBED = ("extensions", "bad", "tar")
ARRAYS = {
    "first_member": np.int64,  # [samples + 1]: the members of sample i are first_member[i] to first_member[i + 1]
    "key_end": np.int64,  # [samples]
    "keys": np.uint8,  # [characters]: all keys in UTF-8, end to end
    "offset": np.int64,  # [members]
    "size": np.int64,  # [members]
    "extension": np.uint32,  # [members]: place in the list of extensions; names full of dots make one of each
}


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
    """The samples of many tars: tar after tar, each in its own order. To be had from `open_tars`.

    Args:
        folder: a complete index.
        files: the tars that it is of; plain ones.
        digests: 12 hexadecimal digits for each.
        packed: the same files as they were found, compressed or not.
    """

    def __init__(self, folder: Path, files: Sequence[DataFile], digests: Sequence[str], packed: Sequence[DataFile]) -> None:
        described = json.loads((folder / "index.json").read_text())
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
    """A view of a memory-mapped array: it hands out an integer several times faster than the array does. Nothing cannot be mapped."""
    return memoryview(np.load(path, mmap_mode="r") if path.stat().st_size > 128 else np.load(path))


# ---------------------------------------------------------------- opening
def open_tars(files: Sequence[DataFile], report: Report | None = None) -> TarSamples:
    """The samples of these tars, in their order. What the cache does not have yet is indexed (and unpacked) first.

    Args:
        report: told how many bytes of the tars are done.

    Raises:
        NotEnoughSpace: compressed tars do not fit into the cache.
    """
    packed, digests = files, of_each(files, digest_file)
    files = _all_unpacked(files, digests, report)
    identities, whole = _identities(files, digests)

    def build(folder: Path, report: Report) -> None:
        shards = []
        done, in_all = 0, sum(file.size for file in files)
        with ThreadPoolExecutor(8) as pool:
            index = pool.map(_indexed, files, identities)
            for file, shard in zip(files, index, strict=True):
                shards.append(shard)
                done += file.size
                report("indexing tars", done, in_all)
        _join(folder, shards, [file.name for file in files])

    folder = made("tars", whole, sum(file.size for file in files) // SHARE_OF_INDEX, build, report)
    return TarSamples(folder, files, [digest[:12] for digest in digests], packed)


def indexed_tars(files: Sequence[DataFile]) -> TarSamples | None:
    """The same, where the cache has all of it; otherwise nothing."""
    digests = of_each(files, digest_file)
    if not all(is_made(UNPACKED, digest) for file, digest in zip(files, digests, strict=True) if is_compressed(file)):
        return None
    _, whole = _identities(_all_unpacked(files, digests, None), digests)
    return open_tars(files) if is_made("tars", whole) else None


def _identities(files: Sequence[DataFile], digests: Sequence[str]) -> tuple[list[str], str]:
    """Of the index of each tar, and of all of them together."""
    # The stamp as well: the digest does not see what changes in the middle of a tar, where an old index would read nonsense.
    identities = [f"{VERSION} {digest} {file.stamp}" for file, digest in zip(files, digests, strict=True)]
    named = "\n".join(f"{identity} {file.name}" for identity, file in zip(identities, files, strict=True))
    return identities, sha256(named.encode()).hexdigest()


def is_compressed(file: DataFile) -> bool:
    """Whether a tar is compressed with gzip: its first bytes say so, whatever it is called."""
    return compression_of(ends_of(file)[0]) == GZIP


def _all_unpacked(files: Sequence[DataFile], digests: Sequence[str], report: Report | None) -> list[DataFile]:
    """The files, with plain copies in place of those that are compressed. Nothing is begun if the disk cannot take all of it."""
    compressed = of_each(files, is_compressed)
    sizes = {
        place: _unpacked_size(file)
        for place, (file, digest) in enumerate(zip(files, digests, strict=True))
        if compressed[place] and not is_made(UNPACKED, digest)
    }
    if sizes:
        check_space(UNPACKED, sum(sizes.values()))
    return [_unpacked(file, digests[place], sizes.get(place, 0), report) if compressed[place] else file for place, file in enumerate(files)]


def _unpacked_size(file: DataFile) -> int:
    """An estimate: gzip says the size at its end, of which it keeps 32 bits; images shrink little."""
    said = int.from_bytes(file.read(max(0, file.size - 4), 4), "little")
    while said < file.size * 0.9:
        said += 1 << 32
    return said


def _unpacked(file: DataFile, digest: str, size: int, report: Report | None) -> DataFile:
    """A plain copy of a compressed tar. What breaks off in the middle is unpacked up to there."""

    def build(folder: Path, report: Report) -> None:
        with file.open() as packed, (folder / "unpacked.tar").open("wb") as target:
            try:
                with gzip.GzipFile(fileobj=packed) as content:
                    while block := content.read1(1 << 20):
                        target.write(block)
                        report(f"unpacking {file.name}", min(packed.tell(), file.size), file.size)
            except (EOFError, zlib.error, gzip.BadGzipFile):
                pass  # the index finds where it breaks off, and counts it

    path = made(UNPACKED, digest, size, build, report) / "unpacked.tar"
    status = path.stat()
    return replace(file, address=str(path), size=status.st_size, stamp=str(status.st_mtime_ns))


# ---------------------------------------------------------------- indexing
def _indexed(file: DataFile, identity: str) -> dict[str, Any]:
    """The index of one tar: arrays by name, extensions, and what is bad; without the name of the tar, which may change."""

    def build(folder: Path, report: Report) -> None:
        index = _index(file)
        np.savez(folder / "arrays.npz", **{name: np.asarray(index[name], dtype) for name, dtype in ARRAYS.items()})  # type: ignore[arg-type]
        (folder / "index.json").write_text(json.dumps({name: index[name] for name in DESCRIBED}))

    folder = made("tar", identity, file.size // SHARE_OF_INDEX, build)
    with np.load(folder / "arrays.npz") as arrays:
        return {**arrays, **json.loads((folder / "index.json").read_text())}


def first_samples(file: DataFile, count: int) -> dict[str, dict[str, bytes]]:
    """The first samples of a tar, without indexing the rest: the bytes of each one's members by key and extension.

    Raises:
        DamagedTar: the file is no tar, or breaks off this early.
    """
    found: dict[str, dict[str, bytes]] = {}
    with closing(file.open()) as packed, gzip.GzipFile(fileobj=packed) if is_compressed(file) else nullcontext(packed) as stream:

        def read(offset: int, length: int) -> bytes:
            stream.seek(offset)
            return stream.read(length)

        try:
            for entry in entries(read, sys.maxsize):
                split = _SAMPLE.fullmatch(entry.name)
                if split is None or _refused(entry.name, entry.kind):
                    continue
                if split["key"] not in found and len(found) == count:
                    break
                found.setdefault(split["key"], {})[split["extension"].lower()] = read(entry.offset, entry.size)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise DamagedTar("a compressed tar that cannot be unpacked") from None
    return found


def _index(file: DataFile) -> dict[str, Any]:
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    bad: list[tuple[str, str]] = []
    again: Counter[tuple[str, str]] = Counter()  # members that came before, by key and extension
    refused: dict[str, list[str]] = {}  # names of entries that are not read, by reason
    damage, end = "", 0
    with nullcontext() if file.is_local else closing(file.open()) as stream:

        def read(offset: int, length: int) -> bytes:
            if stream is None:
                return file.read(offset, length)
            # Forward only, so it is one pass over the file, in large blocks, rather than a request for each header.
            stream.seek(offset)
            return stream.read(length)

        try:
            for entry in entries(read, file.size):
                end = entry.offset + (entry.size if entry.kind == b"0" else 0)
                if entry.kind == b"5":
                    continue
                if reason := _refused(entry.name, entry.kind):
                    bad.append((reason, f"/{entry.name}"))
                    refused.setdefault(reason, []).append(entry.name)
                    continue
                split = _SAMPLE.fullmatch(entry.name)
                if split is None:
                    continue
                extension, members = split["extension"].lower(), samples.setdefault(split["key"], {})
                if extension in members:
                    bad.append((TWICE, f"/{entry.name}"))
                    refused.setdefault(TWICE, []).append(entry.name)
                    again[split["key"], extension] += 1
                    continue
                members[extension] = (entry.offset, entry.size)
            damage = _rest(read, -(-end // BLOCK) * BLOCK, file.size)
        except DamagedTar as error:
            _drop_incomplete(samples, file.size)
            end = max((offset + size for offset, size in [*samples.values()][-1].values()), default=0) if samples else 0
            damage = error.reason
            bad.append((damage, f" after {next(reversed(samples))}" if samples else ""))
    extensions = sorted({extension for members in samples.values() for extension in members})
    number = {extension: place for place, extension in enumerate(extensions)}
    keys = [key.encode() for key in samples]
    flat = [(*place, number[extension]) for members in samples.values() for extension, place in members.items()]
    offset, size, extension_number = zip(*flat, strict=True) if flat else ((), (), ())
    entries_lost = [[reason, names[:EXAMPLES], len(names), _samples_in(reason, names, samples, again)] for reason, names in refused.items()]
    return {
        "first_member": list(accumulate((len(members) for members in samples.values()), initial=0)),
        "key_end": list(accumulate(len(key) for key in keys)),
        "keys": np.frombuffer(b"".join(keys), np.uint8),
        "offset": offset,
        "size": size,
        "extension": extension_number,
        "extensions": extensions,
        "bad": bad,
        "tar": {"samples": len(samples), "read": end if damage else file.size, "damage": damage, "entries": entries_lost},
    }


def _rest(read: Read, place: int, size: int) -> str:
    """What is wrong with what follows the last entry of a tar: it should be zeros, and not many. Empty if all is well."""
    if size - place > LONGEST_PADDING:
        damage = "zeros where its end should be, as a download leaves that has not come to its end"
    else:
        damage = ""
    while place < size:
        block = read(place, 1 << 20)
        if not block:
            return damage
        if any(block):
            return "bytes after its end, as of tars that were laid end to end, which are not read"
        place += len(block)
    return damage


def _samples_in(reason: str, names: Sequence[str], samples: Mapping[str, Any], again: Mapping[tuple[str, str], int]) -> int:
    """Samples that are lost with entries that are not read. One whose other members are there is counted when its turn comes."""
    if reason == TWICE:
        most: dict[str, int] = {}
        for (key, _), times in again.items():
            most[key] = max(most.get(key, 0), times)
        return sum(most.values())
    keys = {split["key"] for name in names if (split := _SAMPLE.fullmatch(name))}
    return len(keys - samples.keys())


def _losses(tars: Sequence[Mapping[str, Any]], plain: Sequence[DataFile], packed: Sequence[DataFile]) -> list[Losses]:
    files, lost = [], []
    for tar, unpacked, file in zip(tars, plain, packed, strict=True):
        head, _ = ends_of(file) if tar["damage"] else (b"", b"")
        named = what_it_is(head, file.size) if tar["damage"] and not tar["samples"] and not is_compressed(file) else ""
        damage = f"not a tar, but {named}" if named else tar["damage"]
        # Of a compressed tar that breaks off nobody knows how far it was read; images shrink little.
        read = min(tar["read"], file.size) if tar["damage"] or unpacked is file else file.size
        files.append(FileRead(file.name, file.size, tar["samples"], read, damage))
        for reason, names, count, samples in tar["entries"]:
            more = f" and {count - len(names):,} more" if count > len(names) else ""
            lost.append(Lost(f"{file.name}: {', '.join(names)}{more}", reason, 0, samples, "entries"))
    return losses_of(files, lost)


def _drop_incomplete(samples: dict[str, dict[str, tuple[int, int]]], size: int) -> None:
    """Of a tar of that size that breaks off, the sample in which it does: bytes are missing, or members that the one before has."""
    if samples:
        *_, before, (key, last) = [("", {}), *samples.items()]
        if last.keys() < before[1].keys() or any(offset + length > size for offset, length in last.values()):
            del samples[key]


TWICE = "member twice in a tar"
_SAMPLE = re.compile(r"(?:\./)?(?P<key>(?:.*/)?[^./][^./]*)\.(?P<extension>[^/]*)", re.DOTALL)
"""As webdataset splits names; those without a dot, or that begin with one, belong to no sample."""


def _refused(name: str, kind: bytes) -> str:
    """Why an entry is not read; empty if it is."""
    if kind in b"12":
        return "link in a tar"
    if kind != b"0":
        return "special file in a tar"
    if name.startswith("/") or ".." in name.split("/"):
        return "tar entry that points outside"
    return ""


def _join(folder: Path, shards: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """Lay the indices of several tars end to end."""
    extensions = sorted({extension for shard in shards for extension in shard["extensions"]})
    number = {extension: place for place, extension in enumerate(extensions)}
    counts = [len(shard["key_end"]) for shard in shards]
    lengths = {name: sum(len(shard[name]) for shard in shards) for name in ARRAYS} | {"first_member": sum(counts) + 1}
    targets = {name: np.empty(length, ARRAYS[name]) for name, length in lengths.items()}
    targets["first_member"][0] = 0
    places = dict.fromkeys(ARRAYS, 0)
    for shard in shards:
        members, characters = places["offset"], places["keys"]
        moved = {
            "first_member": shard["first_member"][1:] + members,
            "key_end": shard["key_end"] + characters,
            "keys": shard["keys"],
            "offset": shard["offset"],
            "size": shard["size"],
            "extension": np.array([number[extension] for extension in shard["extensions"]], np.uint32)[shard["extension"]],
        }
        for name, values in moved.items():
            begin = places[name] + (name == "first_member")
            targets[name][begin : begin + len(values)] = values
            places[name] += len(values)
    targets["file"] = np.repeat(np.arange(len(shards), dtype=np.int32), counts)
    for name, array in targets.items():
        np.save(folder / f"{name}.npy", array)
    bad = [(reason, f"{name}{where}") for shard, name in zip(shards, names, strict=True) for reason, where in shard["bad"]]
    tars = [shard["tar"] for shard in shards]
    (folder / "index.json").write_text(json.dumps({"files": list(names), "extensions": extensions, "bad": bad, "tars": tars}))
