"""The entries of one tar in, its index out: where the members of each sample lie, and what of the tar is bad.

What is kept of one tar does not know what the tar is called, so it holds after a file was renamed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from mm1_ablate.data.cache import ProgressCallback, build_once
from mm1_ablate.data.files import DataFile
from mm1_ablate.data.readers.tar_headers import BLOCK, DamagedTar, tar_entries

Read = Callable[[int, int], bytes]
"""(offset, length) to the bytes there."""
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


def indexed(file: DataFile, identity: str) -> dict[str, Any]:
    """The index of one tar: arrays by name, extensions, and what is bad; without the name of the tar, which may change."""

    def build(folder: Path, report: ProgressCallback) -> None:
        index = index_of(file)
        np.savez(folder / "arrays.npz", **{name: np.asarray(index[name], dtype) for name, dtype in ARRAYS.items()})  # type: ignore[arg-type]
        (folder / "index.json").write_text(json.dumps({name: index[name] for name in DESCRIBED}))

    folder = build_once("tar", identity, file.size // SHARE_OF_INDEX, build)
    with np.load(folder / "arrays.npz") as arrays:
        return {**arrays, **json.loads((folder / "index.json").read_text())}


def index_of(file: DataFile) -> dict[str, Any]:
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    bad: list[tuple[str, str]] = []
    again: Counter[tuple[str, str]] = Counter()  # members that came before, by key and extension
    refused: dict[str, list[str]] = {}  # names of entries that are not read, by reason
    damage, end = "", 0
    stretch_key, stretch, repeated = "", dict[str, str](), False  # of entries of one key side by side: what they added, by extension

    def once_more(name: str, key: str, extension: str) -> None:
        bad.append((TWICE, f"/{name}"))
        refused.setdefault(TWICE, []).append(name)
        again[key, extension] += 1

    with nullcontext() if file.is_local else closing(file.open()) as stream:

        def read(offset: int, length: int) -> bytes:
            if stream is None:
                return file.read(offset, length)
            # Forward only, so it is one pass over the file, in large blocks, rather than a request for each header.
            stream.seek(offset)
            return stream.read(length)

        try:
            for entry in tar_entries(read, file.size):
                end = entry.offset + (entry.size if entry.kind == b"0" else 0)
                if entry.kind == b"5":
                    continue
                if reason := refused_for(entry.name, entry.kind):
                    bad.append((reason, f"/{entry.name}"))
                    refused.setdefault(reason, []).append(entry.name)
                    continue
                split = SAMPLE.fullmatch(entry.name)
                if split is None:
                    continue
                key, extension = split["key"], split["extension"].lower()
                members = samples.setdefault(key, {})
                if key != stretch_key:
                    stretch_key, stretch, repeated = key, {}, False
                if extension in members and not repeated:
                    # Another sample of that name. Nothing of it is taken, or its caption would stand beside the picture of the first.
                    repeated = True
                    for earlier in stretch if len(stretch) < len(members) else ():
                        del members[earlier]
                        once_more(stretch[earlier], key, earlier)
                if repeated:
                    once_more(entry.name, key, extension)
                    continue
                members[extension] = (entry.offset, entry.size)
                stretch[extension] = entry.name
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
        damage = "zeros where its end should be, as an unfinished download leaves"
    else:
        damage = ""
    while place < size:
        block = read(place, 1 << 20)
        if not block:
            return damage
        if any(block):
            return "bytes after its end that are not read, as in concatenated tars"
        place += len(block)
    return damage


def _samples_in(reason: str, names: Sequence[str], samples: Mapping[str, Any], again: Mapping[tuple[str, str], int]) -> int:
    """Samples that are lost with entries that are not read. One whose other members are there is counted when its turn comes."""
    if reason == TWICE:
        most: dict[str, int] = {}
        for (key, _), times in again.items():
            most[key] = max(most.get(key, 0), times)
        return sum(most.values())
    keys = {split["key"] for name in names if (split := SAMPLE.fullmatch(name))}
    return len(keys - samples.keys())


def _drop_incomplete(samples: dict[str, dict[str, tuple[int, int]]], size: int) -> None:
    """Of a tar of that size that breaks off, the sample in which it does: bytes are missing, or members that the one before has."""
    if samples:
        *_, before, (key, last) = [("", {}), *samples.items()]
        if last.keys() < before[1].keys() or any(offset + length > size for offset, length in last.values()):
            del samples[key]


TWICE = "member twice in a tar"
SAMPLE = re.compile(r"(?:\./)?(?P<key>(?:.*/)?[^./][^./]*)\.(?P<extension>[^/]*)", re.DOTALL)
"""As webdataset splits names; those without a dot, or that begin with one, belong to no sample."""


def refused_for(name: str, kind: bytes) -> str:
    """Why an entry is not read; empty if it is."""
    if kind in b"12":
        return "link in a tar"
    if kind != b"0":
        return "special file in a tar"
    if name.startswith("/") or ".." in name.split("/"):
        return "tar entry that points outside"
    return ""


def join(folder: Path, shards: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
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
