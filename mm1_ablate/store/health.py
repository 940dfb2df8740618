"""Whether a store can be used: from this machine, and from all nodes of a cluster at once. In: its place. Out: what is wrong, if anything.

A store in a folder is the same folder for all: what one node writes the others read, and a file that one node has locked no other can lock.
So each node is asked to do just that. Where the store is on object storage each node writes there, also on conditions, reads and deletes.
Nothing is left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mm1_ablate.store.files import is_address
from mm1_ablate.store.store import Store

LEAST_DISK = 2e9
"""Bytes that should be free: a study of the miniature needs some 100 MB, Ray's own session files the rest."""


@dataclass(frozen=True)
class HealthCheck:
    """What was found of one thing that a run needs."""

    name: str
    ok: bool
    found: str
    remedy: str = ""
    """What to do about a problem."""


# ---------------------------------------------------------------- from this machine
def check_store(place: Path | str) -> HealthCheck:
    """The store can be written; one on object storage is read, written, also on conditions, and an object of it deleted."""
    if is_address(place):
        try:
            _check_object_storage(str(place))
        except OSError as error:
            return HealthCheck("store", False, str(error), "follow that message, or name a folder with --store DIR or MM1_ABLATE_STORE")
        return HealthCheck("store", True, f"{place}: read, written, also on conditions, and deleted")
    folder = Path(place)
    try:
        with tempfile.NamedTemporaryFile(dir=nearest_folder(folder)):
            pass
    except OSError as error:
        remedy = "name a folder of your own with --store DIR or MM1_ABLATE_STORE"
        return HealthCheck("store", False, f"{folder} cannot be written: {error.strerror}", remedy)
    return HealthCheck("store", True, f"{folder.absolute()}" + ("" if folder.exists() else " (will be made)"))


def check_disk(place: Path | str) -> HealthCheck:
    """There is room where the store's files and Ray's are."""
    folders = {str(nearest_folder(Store(place).root)), os.environ.get("RAY_TMPDIR", tempfile.gettempdir())}
    free = {folder: shutil.disk_usage(folder).free for folder in sorted(folders) if Path(folder).is_dir()}
    found = ", ".join(f"{amount / 1e9:.0f} GB free at {folder}" for folder, amount in free.items())
    remedy = f"free {LEAST_DISK / 1e9:.0f} GB, or set RAY_TMPDIR and --store to another disk"
    return HealthCheck("disk", min(free.values()) >= LEAST_DISK, found, remedy)


def _check_object_storage(address: str) -> None:
    """As `Store.check`, without a replica on this machine."""
    from mm1_ablate.store.bucket.object_store import ObjectStore

    ObjectStore(address).check()


def nearest_folder(path: Path) -> Path:
    """The folder itself, or the first above it that exists."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return path


# ---------------------------------------------------------------- from the nodes of a cluster
@dataclass(frozen=True)
class Probe:
    """What the nodes of a cluster are to do with a store. Made by the driver (`probing`), sent to the nodes."""

    address: str
    """The store's."""
    folder: Path | None
    """In it, with a file that is written and one that is locked; None where the store is on object storage."""

    def problem(self, node: str) -> str | None:
        """Runs on a node: what is wrong with the store there; None if nothing is.

        Args:
            node: the node's id, by which it names a file.
        """
        if self.folder is not None:
            return problem_with(self.folder, node)
        try:
            _check_object_storage(self.address)
        except OSError as error:
            return f"cannot use the store: {error}"
        return None

    def is_seen_from(self, node: str) -> bool:
        """Runs on the driver: whether what a node wrote without a problem is here."""
        return self.folder is None or (self.folder / node).exists()


@contextlib.contextmanager
def probing(place: Path | str) -> Iterator[Probe]:
    """Make a store ready to be used by all nodes, for the length of a block."""
    if is_address(place):
        yield Probe(str(place), None)
        return
    root = Path(place)
    folder = root / "probe" / uuid.uuid4().hex[:12]
    there = root.exists()
    folder.mkdir(parents=True)
    try:
        (folder / "written").write_text(folder.name)
        with open(folder / "locked", "a+b") as locked:
            fcntl.lockf(locked, fcntl.LOCK_EX)
            yield Probe(str(place), folder)
    finally:
        for file in folder.iterdir():
            file.unlink(missing_ok=True)
        for made in (folder, folder.parent, *([] if there else [root])):
            with contextlib.suppress(OSError):
                made.rmdir()


def problem_with(folder: Path, own: str) -> str | None:
    """What is wrong with a driver's probe as it is seen by this process.

    Args:
        own: name of the file to write.
    """
    root = folder.parent.parent
    try:
        if (folder / "written").read_text() != folder.name:
            return f"reads something else in {root}"
    except FileNotFoundError:
        return f"does not see {root}: the store must be on storage that all nodes share, at the same path"
    except OSError as error:
        return f"cannot read {root}: {error.strerror}"
    try:
        beside = folder / f".{own}"
        beside.write_text(own)
        beside.rename(folder / own)
    except OSError as error:
        return f"cannot write {root}: {error.strerror}"
    try:
        with open(folder / "locked", "a+b") as locked:
            fcntl.lockf(locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError as error:
        return f"cannot lock files in {root} ({error.strerror}): the storage must be mounted with POSIX locks"
    return f"does not see locks in {root}: two nodes could train the same trial; mount the storage with locks that all nodes see"
