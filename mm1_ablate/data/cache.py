"""A folder for what is made once and used often: indices of tars, unpacked copies, converted tables.

What is made depends on contents alone, so a folder in the cache is never out of date; deleting it costs only the time to make it
again. The cache is `~/.cache/mm1-ablate`, or what the environment variable MM1_ABLATE_CACHE says.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from mm1_ablate.data.atomic_files import write_json
from mm1_ablate.version import __version__

if TYPE_CHECKING:
    import numpy as np


ProgressCallback = Callable[[str, int, int], None]
"""How far something is: called with (what is done, bytes done, bytes in all)."""


BytesAdded = Callable[[int], None]
"""How far something is: called with the bytes that were done since the last call."""


class NotEnoughSpace(OSError):
    """What is to be made does not fit on the disk of the cache."""

    def __init__(self, what: str, folder: Path, needed: int) -> None:
        from rich.filesize import decimal

        free = shutil.disk_usage(folder).free
        super().__init__(
            errno.ENOSPC,
            f"{what} needs about {decimal(needed)} in {folder}, where {decimal(free)} are free; "
            "free some space, or set MM1_ABLATE_CACHE to a folder on a larger disk",
        )
        self.needed = needed
        self.free = free

    def __str__(self) -> str:
        return str(self.strerror)


def cache_folder() -> Path:
    """The folder that everything here is in. It need not exist yet."""
    named = os.environ.get("MM1_ABLATE_CACHE")
    # Where nobody knows a home, as for some users of containers, `~` stays as it is.
    return Path(named).expanduser().absolute() if named else Path("/", os.path.expanduser("~")) / ".cache" / "mm1-ablate"


def build_once(
    kind: str, identity: str, estimated_bytes: int, build: Callable[[Path, ProgressCallback], None], report: ProgressCallback | None = None
) -> Path:
    """The folder with what `build` makes; made at the first call, by one process, and complete whenever it exists.

    Args:
        kind: what it is, in a word: the folder that all of its kind share.
        identity: what it is made from, such as a digest of a file, and how: another identity is another folder.
        estimated_bytes: what will be written, at most.
        build: called with an empty folder to write to, and `report`.
        report: called with the progress.

    Raises:
        NotEnoughSpace: before anything is written if the estimate does not fit, or when the disk fills up.
    """
    folder = _folder(kind, identity)
    if folder.exists():
        return folder
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    # A lock belongs to the process that holds it: one that is killed leaves a partial folder, never a lock.
    with FileLock(folder.with_suffix(".lock")):
        if folder.exists():
            return folder
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        check_space(kind, estimated_bytes)
        partial.mkdir()
        try:
            build(partial, report or _silent)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            if error.errno == errno.ENOSPC and not isinstance(error, NotEnoughSpace):
                raise NotEnoughSpace(f"{kind} of these files", folder.parent, estimated_bytes) from error
            raise
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        os.replace(partial, folder)
    return folder


def is_built(kind: str, identity: str) -> bool:
    """Whether `build_once` would return at once."""
    return _folder(kind, identity).exists()


def check_space(kind: str, estimated_bytes: int) -> None:
    """Whether the disk takes what several calls of `build_once` are going to write.

    Raises:
        NotEnoughSpace: it does not.
    """
    folder = cache_folder() / kind
    folder.mkdir(parents=True, exist_ok=True)
    if estimated_bytes > shutil.disk_usage(folder).free:
        raise NotEnoughSpace(f"{kind} of these files", folder, estimated_bytes)


def _folder(kind: str, identity: str) -> Path:
    # What another version of this package made may be laid out otherwise.
    return cache_folder() / kind / sha256(f"{__version__} {identity}".encode()).hexdigest()[:12]


def _silent(what: str, done: int, in_all: int) -> None:
    """For callers that show no progress."""


# ---------------------------------------------------------------- one from each of many files
class BytesDone:
    """How many bytes of many files are done; several threads may add to it."""

    def __init__(self, what: str, in_all: int, report: ProgressCallback | None) -> None:
        self._what, self._in_all, self._report = what, in_all, report
        self._done = 0
        self._lock = Lock()

    def add(self, count: int) -> None:
        """So many bytes more."""
        if self._report is not None and count:
            with self._lock:
                self._done += count
                self._report(self._what, min(self._done, self._in_all), self._in_all)


@dataclass(frozen=True, slots=True)
class Conversion:
    """What is to be made once from one file."""

    identity: str
    size: int
    """Bytes of the file."""
    estimate: Callable[[], int]
    """Bytes that it will take in the cache."""
    build: Callable[[Path, BytesAdded], None]
    """Called with an empty folder, and a function to call with the number of bytes read."""


def build_all(kind: str, what: str, conversions: Sequence[Conversion], report: ProgressCallback | None) -> list[Path]:
    """The folders that conversions make, a few at a time. None begins if the disk cannot take all of them.

    Args:
        kind: the folder that all of them share.
        what: is done, for the report.

    Raises:
        NotEnoughSpace: what is not there yet does not fit.
    """
    missing = [conversion for conversion in conversions if not is_built(kind, conversion.identity)]
    estimates = {conversion.identity: conversion.estimate() for conversion in missing}
    check_space(kind, sum(estimates.values()))
    done = BytesDone(what, sum(conversion.size for conversion in missing), report)

    def make(conversion: Conversion) -> Path:
        estimate = estimates.get(conversion.identity, 0)
        return build_once(kind, conversion.identity, estimate, lambda folder, _: conversion.build(folder, done.add))

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(make, conversions))


def memory_mapped(path: Path) -> np.ndarray:
    """An array of a .npy file that all processes share. A plain one, which is quicker to search than numpy's memmap."""
    import numpy as np

    array = np.load(path, mmap_mode="r") if path.stat().st_size > 128 else np.load(path)  # an empty array cannot be mapped
    return np.asarray(array)


# ---------------------------------------------------------------- answers of checks
# Making a part of a model without values takes torch, timm or transformers (seconds to import), and large tasks take a while to be read and
# tokenised. So what plans and checks before a run found out is kept in `checks.json` of the cache, for the versions that it was found with:
# plain values of JSON, each under a fingerprint of all that it depends on.
RULES = 4
"""Version of the rules of checks: increased when a check looks at more, as results from before may no longer hold."""


def known(key: str) -> Any:
    """The answer under a fingerprint; None where there is none."""
    return _answers().get(key)


def remember(key: str, answer: Any) -> None:
    """Keep an answer. A cache that cannot be written costs time, no more."""
    answers = _answers()
    answers[key] = answer
    with contextlib.suppress(OSError):
        write_json(cache_folder() / "checks.json", {"versions": _versions(), "answers": answers}, durable=False)
        _read.cache_clear()


def remembered(key: str, find: Callable[[], Any]) -> Any:
    """The answer under a fingerprint, found now where there is none; tuples are lists in it, as in JSON. What `find` raises is not kept."""
    answers = _answers()
    if key in answers:
        return answers[key]
    answer = json.loads(json.dumps(find()))
    remember(key, answer)
    return answer


def _answers() -> dict[str, Any]:
    path = cache_folder() / "checks.json"
    try:
        found = path.stat()
        state = (found.st_ino, found.st_mtime_ns, found.st_size)
    except OSError:
        state = None
    return _read(path, state, RULES)


@lru_cache(maxsize=4)
def _read(path: Path, state: tuple[int, int, int] | None, rules: int) -> dict[str, Any]:
    """Answers in a file that is in that state. Where it cannot be written, this process keeps its answers here."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        answers: dict[str, Any] = dict(content["answers"]) if content["versions"] == _versions() else {}
    except (OSError, ValueError, LookupError, TypeError):  # there is none, or it is damaged
        return {}
    return answers


def _versions() -> list[str]:
    return [*_package_versions(), str(RULES)]


@cache
def _package_versions() -> tuple[str, ...]:
    return version("timm"), version("transformers"), __version__
