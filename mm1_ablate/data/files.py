"""Patterns of file names in, files that can be read from any place out: local folders and whatever fsspec reaches (S3, GCS, HTTP, ...).

A pattern may hold braces ({00000..00123}, {a,b}), globs (*, ?, **), ${VARIABLE}s of the environment and ~. `digest_files` says what
files hold without reading all of it: part of a trial's identity, the same after a folder is moved.
"""

from __future__ import annotations

import contextlib
import glob
import os
import posixpath
import re
import resource
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from math import inf, prod
from typing import Annotated, Any, BinaryIO, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema

from mm1_ablate.config.identity.data_digests import FileSeen, note_files
from mm1_ablate.config.passwords import identity_of_address, remember, with_password, without_passwords
from mm1_ablate.config.settings import HowItRuns
from mm1_ablate.data.atomic_files import write_atomically
from mm1_ablate.data.cache import cache_folder

Value = TypeVar("Value")
MOST_NAMES = 1_000_000
"""Names that the braces of a pattern may stand for."""
DEEPEST_BRACES = 10
_INNERMOST = re.compile(r"\{([^{}]*)\}")
_COUNTED = re.compile("\0([0-9]+)\0")
_RANGE = re.compile(r"(-?[0-9]{1,18})\.\.(-?[0-9]{1,18})(?:\.\.(-?[0-9]{1,18}))?")
_RANGE_OF_ANY_LENGTH = re.compile(r"-?[0-9]+\.\.-?[0-9]+(?:\.\.-?[0-9]+)?")
ENDS = 64 * 1024
"""Bytes of the beginning and of the end of a file that its digest covers."""


# ---------------------------------------------------------------- what a user declares
def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str | os.PathLike) else value


def _from_folder(patterns: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    folder = (info.context or {}).get("folder") or os.getcwd()
    return tuple(_absolute(pattern, str(folder)) for pattern in patterns)


def _absolute(pattern: str, folder: str) -> str:
    if _is_remote(pattern) or pattern.startswith("${"):  # what a variable holds is known only where the files are read
        return remember(pattern)
    return os.path.join(os.path.abspath(folder), os.path.expanduser(pattern))


Files = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(_as_tuple),
    AfterValidator(_from_folder),
    Field(min_length=1),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
    HowItRuns,
]
"""A field of patterns, written as one string or a list. Relative ones start at the folder that pydantic's validation context names
(`context={"folder": ...}`), else at the current one. Where files are is not what a trial is: their contents are."""


# ---------------------------------------------------------------- files
class NoFiles(ValueError):
    """A pattern that no file matches. The message says which, and where the path stops existing."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file, wherever it is."""

    address: str
    """An absolute local path, or an fsspec address, without passwords: it is opened `with_password`."""
    name: str
    """Its path from the deepest folder that all files found with it share: the same after a move."""
    size: int
    """Bytes."""
    stamp: str = ""
    """Changes when the file does (time of modification, etag), as far as the file system says; empty where it does not."""

    @property
    def is_local(self) -> bool:
        return not _is_remote(self.address)

    def open(self) -> BinaryIO:
        """The whole file, from its beginning. To be closed by the caller."""
        if self.is_local:
            return open(self.address, "rb")
        filesystem, path = _filesystem(self.address)
        opened: BinaryIO = filesystem.open(path, "rb")
        return opened

    def read(self, offset: int, length: int) -> bytes:
        """Some bytes of the middle; fewer where the file ends. Any number of threads and forked processes may read at once.

        Raises:
            OSError: the file cannot be read.
        """
        if self.is_local:
            descriptor = _descriptor(self.address, self.stamp)  # held while it is read, or another thread's reading may close it
            return os.pread(descriptor.number, length, offset)
        if length <= 0:
            return b""
        filesystem, path = _filesystem(self.address)
        content: bytes = filesystem.cat_file(path, start=offset, end=min(offset + length, self.size))
        return content


class _Descriptor:
    """An open file that closes when its last reader lets go of it."""

    __slots__ = ("number",)

    def __init__(self, path: str) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


# Half of what the system lets a process open: a shuffle over many shards goes back to each of them again and again.
@lru_cache(maxsize=min(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2, 16384))
def _descriptor(path: str, stamp: str) -> _Descriptor:
    return _Descriptor(path)


def _is_remote(address: str) -> bool:
    return "://" in address or "::" in address


def _filesystem(address: str) -> tuple[Any, str]:
    """fsspec's file system of an address, and the path in it. fsspec keeps the file systems, for each process its own."""
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(with_password(address))
    return filesystem, str(path)


# ---------------------------------------------------------------- finding
def find_files(patterns: Iterable[str]) -> list[DataFile]:
    """The files that patterns match, each once, in the order of their names.

    Raises:
        NoFiles: a pattern, or a name that its braces stand for, matches none.
    """
    found: dict[str, tuple[int, str]] = {}
    for pattern in patterns:
        named = _with_variables(pattern.removeprefix("file://"))
        if _is_remote(named):
            found.update(_find_remote(without_passwords(pattern), _without_braces(with_password(named))))
        else:
            found.update(_find_local(pattern, [os.path.abspath(name) for name in _without_braces(named)]))
    names = _names(found)
    files = [DataFile(address, names[address], size, stamp) for address, (size, stamp) in found.items()]
    return sorted(files, key=lambda file: file.name)


def _with_variables(pattern: str) -> str:
    def value(match: re.Match[str]) -> str:
        try:
            return os.environ[match[1]]
        except KeyError:
            raise NoFiles(f"'{pattern}' names {match[0]}, but the environment has no variable {match[1]}; export it first") from None

    return os.path.expanduser(re.sub(r"\$\{(\w+)\}", value, pattern))


def _without_braces(pattern: str) -> list[str]:
    from braceexpand import braceexpand

    if _names_meant(pattern) > MOST_NAMES:
        raise NoFiles(f"'{pattern[:200]}' stands for more than {MOST_NAMES:,} names; give several patterns, or use * and ?")
    try:
        return list(braceexpand(pattern))
    except ValueError:
        raise NoFiles(f"'{pattern}' has a brace without its partner") from None


def _names_meant(pattern: str) -> float:
    """How many names the braces of a pattern stand for, counted without making them; infinity for more than anybody means."""
    counts: list[float] = []

    def together(text: str) -> float:
        return prod(counts[int(place)] for place in _COUNTED.findall(text))

    def count(group: re.Match[str]) -> str:
        if (bounds := _RANGE.fullmatch(group[1])) is not None:
            first, last, step = (int(number) if number else 1 for number in bounds.groups())
            counts.append(abs(last - first) // max(1, abs(step)) + 1)
        elif _RANGE_OF_ANY_LENGTH.fullmatch(group[1]):
            counts.append(inf)
        else:
            counts.append(sum(map(together, group[1].split(","))) if "," in group[1] else together(group[1]))
        return f"\0{len(counts) - 1}\0"

    left = re.sub(r"\\.", "", pattern.replace("\0", ""))
    for _ in range(DEEPEST_BRACES):
        left, found = _INNERMOST.subn(count, left)
        if not found:
            return together(left)
    return inf


def _find_local(pattern: str, paths: list[str]) -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    for path in paths:
        # A name that exists is taken as it is, though it may look like a glob.
        matches = [path] if os.path.exists(path) or not glob.has_magic(path) else glob.glob(path, recursive=True)
        files = {match: os.stat(match) for match in matches if os.path.isfile(match)}
        if not files:
            raise NoFiles(_nothing(pattern, path, os.path.isdir(path), os.path.exists))
        found.update((match, (status.st_size, str(status.st_mtime_ns))) for match, status in files.items())
    return found


def _find_remote(pattern: str, addresses: list[str]) -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    listings: dict[str, dict[str, dict[str, Any]]] = {}
    folders: dict[str, int] = defaultdict(int)
    for address in addresses:
        folders[posixpath.dirname(address)] += 1
    fresh: set[int] = set()
    for address in addresses:
        try:
            filesystem, path = _filesystem(address)
            folder = posixpath.dirname(path)
            if id(filesystem) not in fresh:
                filesystem.invalidate_cache()  # it keeps listings, and what was there may have changed since
                fresh.add(id(filesystem))
            if glob.has_magic(path):
                matches = filesystem.glob(path, detail=True)
            elif folders[posixpath.dirname(address)] > 4 and "http" not in str(filesystem.protocol):
                # One listing instead of a question for each of a thousand shards.
                if folder not in listings:
                    listings[folder] = {entry["name"]: entry for entry in filesystem.ls(folder, detail=True)}
                matches = {path: listings[folder][path]} if path in listings[folder] else {}
            else:
                matches = {path: filesystem.info(path)}
        except FileNotFoundError:
            matches = {}
        except ImportError as error:
            raise NoFiles(f"'{pattern}' cannot be read: {error}. For s3:// that is: pip install 'mm1-ablate[s3]'") from None
        except Exception as error:  # each file system has its own kinds: no permission, no such bucket, no network
            raise NoFiles(f"'{pattern}' cannot be looked up: {type(error).__name__}: {without_passwords(str(error))}") from error
        files = {name: info for name, info in matches.items() if info["type"] == "file"}
        if not files:
            raise NoFiles(_nothing(pattern, remember(address), bool(matches), _remote_exists))
        for name, info in files.items():
            if info.get("size") is None:
                told = f"'{remember(address)}': its server does not report the file's size"
                raise NoFiles(f"{told}, so parts of it cannot be read; copy it to a disk")
            found[remember(_address(filesystem, address, path, name))] = (int(info["size"]), _stamp(info))
    return found


def _remote_exists(address: str) -> bool:
    filesystem, path = _filesystem(address)
    try:
        return bool(filesystem.exists(path))
    except Exception:  # as above; this only makes a message better
        return False


def _address(filesystem: Any, address: str, path: str, found: str) -> str:
    """The address of a path that was found, written as the pattern was (with fsspec's chained prefixes)."""
    return address.replace(path, found, 1) if path in address else filesystem.unstrip_protocol(found)


def _stamp(info: dict[str, Any]) -> str:
    for key in ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "mtime"):
        if info.get(key):
            return str(info[key])
    return ""


def _nothing(pattern: str, path: str, is_folder: bool, exists: Any) -> str:
    """What to say of a pattern without files."""
    which = f"'{pattern}'" if path in pattern else f"'{path}' (of '{pattern}')"
    if is_folder:
        return f"{which} is a folder, not files; write which of its files, such as '{path.rstrip('/')}/*.tar' or /*.parquet"
    folder = posixpath.dirname(path)
    while posixpath.dirname(folder) not in ("", folder):
        if not glob.has_magic(folder) and exists(folder):
            return f"no file matches {which}; the nearest folder that exists is {folder}"
        folder = posixpath.dirname(folder)
    return f"no file matches {which}, and no folder above it exists"


def _names(addresses: Iterable[str]) -> dict[str, str]:
    """Each file's path from the deepest folder that all files of its file system share."""
    groups: dict[str, list[str]] = defaultdict(list)
    named = {address: identity_of_address(with_password(address)) for address in addresses}
    for address in named:
        groups[address.partition("://")[0] if "://" in address else ""].append(address)
    names = {}
    for kind, group in groups.items():
        common = posixpath.commonpath([posixpath.dirname(named[address]) for address in group])
        for address in group:
            # commonpath makes one slash of the two in s3://.
            name = posixpath.relpath(posixpath.normpath(named[address]), common)
            names[address] = name if len(groups) == 1 else f"{kind or 'file'}://{name}"
    return names


# ---------------------------------------------------------------- contents
def digest_files(files: Sequence[DataFile]) -> str:
    """sha256 (hexadecimal) of what files are called and hold: names, sizes, and the first and last 64 KiB of each.

    What a file holds is remembered in the cache by its address, size and stamp, so that only files that changed are read again.
    """
    digests = map_files(files, digest_file)
    note_files(FileSeen(file.address, file.name, file.size, digest, file.stamp) for file, digest in zip(files, digests, strict=True))
    whole = sha256()
    for file, digest in sorted(zip(files, digests, strict=True), key=lambda pair: pair[0].name):
        whole.update(f"{file.name}\0{file.size}\0{digest}\n".encode())
    return whole.hexdigest()


def digest_file(file: DataFile) -> str:
    """sha256 (hexadecimal) of a file's size and its first and last 64 KiB, whatever it is called."""

    def digest() -> str:
        contents = sha256(f"{file.size}\0".encode())
        contents.update(file.read(0, ENDS))
        if file.size > ENDS:
            start = max(ENDS, file.size - ENDS)
            contents.update(file.read(start, file.size - start))
        return contents.hexdigest()

    return cached_text("digests", file, digest)


def cached_text(kind: str, file: DataFile, make: Callable[[], str]) -> str:
    """What `make` says of a file, asked once for each of its stamps and kept in the cache: for what costs a request or more.

    Args:
        kind: the folder of the cache that all of its kind share.
        make: returns some text, never an empty one.
    """
    if not file.stamp:
        return make()
    identity = sha256(f"{identity_of_address(with_password(file.address))}\0{file.size}\0{file.stamp}".encode()).hexdigest()
    path = cache_folder() / kind / identity[:2] / identity[2:32]
    with contextlib.suppress(OSError):
        if found := path.read_text(encoding="utf-8"):
            return found
    made = make()
    with contextlib.suppress(OSError):  # a cache that cannot be written to costs time, no more
        write_atomically(path, made.encode(), durable=False)
    return made


def map_files(files: Sequence[DataFile], look: Callable[[DataFile], Value]) -> list[Value]:
    """What a function says of each file, several at a time: where files are far away, each look is a request or two."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(look, files))
