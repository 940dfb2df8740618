"""The files of a store, in a folder or on object storage. In: local paths. Out: files that may be read, and word of who works on them.

Both kinds give local paths. Where a store is a folder that all share, they are its own: nothing is downloaded, and locks say who works on
what. Where it is on object storage (`bucket/files.py`) they are those of a replica on this machine: what reads a file first sees to it that
it is here, what writes one does so by `write`, and a lease does for a lock.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_ablate.data.atomic_files import DamagedFile, read_json, write_atomically
from mm1_ablate.store.locks import is_held, locked
from mm1_ablate.store.records import StatusRecord, checked, problem_of_table

if TYPE_CHECKING:
    import pandas


class StorageError(OSError):
    """Object storage cannot be used; the message says why and what to do."""


class LeaseLost(Exception):
    """Another has taken a folder over, because this process gave no heartbeat in time."""


def is_address(place: object) -> bool:
    """Whether a place is an address of object storage, not a folder."""
    return "://" in str(place)


@dataclass(frozen=True)
class Damage:
    """What is wrong with a file, and which state of it that is about."""

    why: str
    state: tuple[int, int, int]

    @staticmethod
    def state_of(file: Path) -> tuple[int, int, int]:
        """Another one once the file has been written again; zeros where it is gone."""
        try:
            status = file.stat()
        except OSError:
            return 0, 0, 0
        return status.st_mtime_ns, status.st_size, status.st_ino


def refuse_links(root: Path, folder: Path, inside: bool = False) -> None:
    """Refuse to write through symbolic links below a store's root, which whoever shares the store may have put there. The root may be one.

    Args:
        inside: look at all that the folder holds too.

    Raises:
        StorageError: naming the link.
    """
    parts = folder.relative_to(root).parts
    links = [path for end in range(1, len(parts) + 1) if (path := root.joinpath(*parts[:end])).is_symlink()]
    if inside and not links:
        links = [
            path for above, folders, files in os.walk(folder) for name in (*folders, *files) if (path := Path(above, name)).is_symlink()
        ]
    if links:
        told = f"{links[0]} is a symbolic link to {os.readlink(links[0])}, and nothing is written through links in a store"
        raise StorageError(f"{told}: remove it, or put in its place what it leads to")


class Files(ABC):
    """The files of a store."""

    root: Path
    """The folder with all of them on this machine."""
    address: str
    """By which other processes and machines open the same store."""

    @property
    @abstractmethod
    def home(self) -> str:
        """The same for all processes that see the same files."""

    @property
    @abstractmethod
    def lease_seconds(self) -> float:
        """After how long without a heartbeat a holder counts as dead; 0 where locks end with their process."""

    @abstractmethod
    def check(self) -> None:
        """Use the storage as a run does.

        Raises:
            StorageError: it cannot be used so.
        """

    @abstractmethod
    def where(self, path: Path) -> str:
        """A path as people find it from any machine."""

    # ------------------------------------------------------------ reading
    @abstractmethod
    def refresh(self, *folders: Path, at_most_every: float = 0.0) -> None:
        """See what other machines have done, to all of the store or to some folders.

        Args:
            at_most_every: seconds; nothing is done if that has been seen since.
        """

    @abstractmethod
    def look(self, folder: Path) -> None:
        """See what other machines have done to a folder if that has never been looked at."""

    @abstractmethod
    def has(self, file: Path) -> bool:
        """Whether a file is in the store, on this machine or not."""

    @abstractmethod
    def size(self, folder: Path) -> int:
        """Bytes of all files of a folder of the store, on this machine or not."""

    @abstractmethod
    def download(self, *files: Path) -> None:
        """Have files here that are not read by everybody, if they are in the store."""

    @abstractmethod
    def download_folder(self, folder: Path, *beginnings: str) -> None:
        """Have all files of a folder here, or those whose path in it begins with one of these."""

    @abstractmethod
    def download_checkpoint(self, checkpoint: Path) -> None:
        """Have a checkpoint here, if it is in the store, with the shards that it names."""

    @abstractmethod
    def download_for(self, folder: Path, file: Path) -> Path:
        """Have a file of another folder here for as long as a folder is worked on; returns where it is."""

    @abstractmethod
    def read_latest(self, file: Path) -> dict[str, Any]:
        """The record of a status as all machines see it, also in a folder that is held here; empty where there is none."""

    # ------------------------------------------------------------ damaged files
    @cached_property
    def _damaged(self) -> dict[Path, Damage]:
        return {}

    @property
    def damaged(self) -> dict[Path, str]:
        """Files that were found damaged by whoever read them, and have not been written since: why."""
        found = dict(self._damaged)
        return {file: damage.why for file, damage in found.items() if damage.state == Damage.state_of(file)}

    def note_damage(self, file: Path, why: str) -> None:
        """Remember that a file is damaged."""
        self._damaged[file] = Damage(why, Damage.state_of(file))

    def read_record(self, file: Path, shape: Any, nothing: Any = None) -> Any:
        """What a JSON file on this machine holds, if it has a shape (see `records.checked`). Where there is none, or it is damaged (which
        is remembered): `nothing`, or an empty record."""
        try:
            value = checked(file, read_json(file), shape)
        except FileNotFoundError:
            return {} if nothing is None else nothing
        except DamagedFile as error:
            self.note_damage(file, error.why)
            return {} if nothing is None else nothing
        self._damaged.pop(file, None)
        return value

    def has_table(self, file: Path, whole: bool = False) -> bool:
        """Whether a parquet file is in the store, and not damaged as far as is seen.

        Args:
            whole: read all of it, from object storage too; otherwise what is on this machine is looked at from both ends.
        """
        if not self.has(file):
            return False
        known = self._damaged.get(file)
        if known is not None and known.state == Damage.state_of(file):
            return False
        if whole:
            self.download(file)
        try:
            problem = problem_of_table(file, whole)
        except FileNotFoundError:
            return not whole
        if problem is not None:
            self.note_damage(file, problem)
        return problem is None

    def read_table(self, file: Path) -> pandas.DataFrame:
        """A parquet file.

        Raises:
            DamagedFile: it cannot be read.
        """
        import pandas

        self.download(file)
        try:
            return pandas.read_parquet(file)
        except FileNotFoundError:
            raise
        except Exception as error:  # whatever pyarrow makes of bytes at random
            self.note_damage(file, problem_of_table(file) or (str(error).strip().splitlines() or [type(error).__name__])[0][:200])
            raise DamagedFile(file, self._damaged[file].why) from error

    # ------------------------------------------------------------ writing
    @abstractmethod
    def write(self, file: Path, content: bytes) -> None:
        """Write a small file: the old one or the new one, whatever is killed when. In a held folder it is uploaded with the others."""

    @abstractmethod
    def upload(self, *files: Path, wait: bool = False) -> None:
        """Upload what was written outside of folders that are held here, such as a report.

        Args:
            wait: while the storage is away, for some minutes.
        """

    @abstractmethod
    def refuse_links(self, path: Path) -> None:
        """Before something is written to a path without `write` or `hold`: see `refuse_links`."""

    # ------------------------------------------------------------ who works on a folder
    @abstractmethod
    def hold(self, folder: Path, wait: bool, lost: Callable[[], None]) -> AbstractContextManager[None]:
        """See `Store.hold`."""

    @abstractmethod
    def help(self, folder: Path) -> AbstractContextManager[None]:
        """See `Store.help`."""

    @abstractmethod
    def is_held(self, folder: Path) -> bool:
        """Whether a process, of any machine that shares the store, works on a folder."""

    @abstractmethod
    def heartbeat(self, folder: Path) -> float | None:
        """When the holder of a folder gave its last heartbeat, in seconds since the epoch; None where locks tell who holds it."""

    @abstractmethod
    def release_dead(self) -> None:
        """Free what dead processes of this machine held, so that other machines need not wait until their leases have run out."""


class LocalFiles(Files):
    """The files of a store in a local (or shared) folder."""

    home = ""
    lease_seconds = 0.0

    def __init__(self, folder: Path) -> None:
        self.root = folder.absolute()
        self.address = str(self.root)

    def check(self) -> None:
        pass

    def where(self, path: Path) -> str:
        return str(path)

    def refresh(self, *folders: Path, at_most_every: float = 0.0) -> None:
        pass

    def look(self, folder: Path) -> None:
        pass

    def has(self, file: Path) -> bool:
        return file.exists()

    def size(self, folder: Path) -> int:
        return sum(Path(above, name).lstat().st_size for above, _, names in os.walk(folder) for name in names)

    def download(self, *files: Path) -> None:
        pass

    def download_folder(self, folder: Path, *beginnings: str) -> None:
        pass

    def download_checkpoint(self, checkpoint: Path) -> None:
        pass

    def download_for(self, folder: Path, file: Path) -> Path:
        return file

    def read_latest(self, file: Path) -> dict[str, Any]:
        record: dict[str, Any] = self.read_record(file, StatusRecord)
        return record

    def write(self, file: Path, content: bytes) -> None:
        refuse_links(self.root, file.parent)
        write_atomically(file, content)

    def upload(self, *files: Path, wait: bool = False) -> None:
        pass

    def refuse_links(self, path: Path) -> None:
        refuse_links(self.root, path, inside=True)

    def hold(self, folder: Path, wait: bool, lost: Callable[[], None]) -> AbstractContextManager[None]:
        refuse_links(self.root, folder, inside=True)
        return locked(folder, wait)

    def help(self, folder: Path) -> AbstractContextManager[None]:
        raise AssertionError("what is in a folder all workers share")

    def is_held(self, folder: Path) -> bool:
        return is_held(folder)

    def heartbeat(self, folder: Path) -> float | None:
        return None

    def release_dead(self) -> None:
        pass
