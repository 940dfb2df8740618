"""A copy on this machine of a store on object storage. In: its address. Out: a folder in the cache, and which files in it are current.

The bucket is the truth, and the replica forgets whatever is not there:

* `refresh` lists the bucket and downloads small records that changed, so that statuses, plans and tables are read from local files;
* `download` gets what else is needed: weights, checkpoints, features, item scores. `has` says whether it is there at all;
* `write` changes a record in the bucket, then here;
* `start_from_the_bucket` makes a folder what it is in the bucket, before a process works on it.

What was downloaded or uploaded is remembered with the tag that it has in the bucket and the time of modification that it has here, so that
nothing is downloaded twice, and what a killed process left here without uploading it is told apart and removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from mm1_ablate.data.cache import cache_folder
from mm1_ablate.store.bucket.leases import LEASE, lease_seconds
from mm1_ablate.store.bucket.object_store import ObjectStore, StoredObject, why_no_path
from mm1_ablate.store.bucket.replica_folder import folder_of_this_machine
from mm1_ablate.store.disk_full import is_disk_full
from mm1_ablate.store.files import StorageError
from mm1_ablate.store.locks import LOCK, is_held, locked_if_free

SHARE_OF_TIME = 0.1
"""Of the time, listings of a large store take so much at most."""
ATTEMPTS = 5
"""How often a file is downloaded that another process of this machine removes again."""
ABANDONED = 3600.0
"""Seconds without a write to a file that is being downloaded, after which its process is taken for dead."""
LATER = ("features", "last.ckpt", "report")
"""Beginnings of names of folders in a trial's, preparation's or study's, whose files are downloaded only when they are asked for."""
HEAVY = ("model.pt", "weights.pt", "last.ckpt", "features")
"""Beginnings of names of what is large: of a folder that is taken over these are downloaded only when they are asked for."""
HELPING = "{}"
"""In a folder's note: no lease of this machine's."""
RECORDS = ("trial.json", "preparation.json", "evaluation.json", "task-", "files.jsonl")
"""What is to be done: written by whoever starts a run, also while another works on the folder."""


class Synced(NamedTuple):
    """A file that is here as it is in the bucket."""

    tag: str
    size: int
    modified: int
    """Nanoseconds since the epoch, here."""
    inode: int

    def is_of(self, status: os.stat_result) -> bool:
        return (self.size, self.modified, self.inode) == (status.st_size, status.st_mtime_ns, status.st_ino)


class SyncedFiles:
    """Which files of a replica are as they are in the bucket, by their paths: with the tag there, and what tells a file from a later one
    here. Any number of processes of a machine may use it at once."""

    def __init__(self, database: Path) -> None:
        self._database = database

    @contextlib.contextmanager
    def _table(self) -> Iterator[sqlite3.Connection]:
        self._database.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(self._database, timeout=60)) as database, database:
            columns = "path TEXT PRIMARY KEY, tag TEXT, size INTEGER, modified INTEGER, inode INTEGER"
            database.execute(f"CREATE TABLE IF NOT EXISTS known ({columns})")
            yield database

    def below(self, beginning: str = "") -> dict[str, Synced]:
        """Those whose paths begin so."""
        with self._table() as table:
            rows = table.execute("SELECT * FROM known WHERE path >= ? AND path < ?", (beginning, f"{beginning}\U0010ffff")).fetchall()
        return {path: Synced(*rest) for path, *rest in rows}

    def of(self, path: str) -> Synced | None:
        with self._table() as table:
            rows = table.execute("SELECT tag, size, modified, inode FROM known WHERE path = ?", (path,)).fetchall()
        return Synced(*rows[0]) if rows else None

    def add(self, path: str, tag: str, status: os.stat_result) -> None:
        """A file that had this status is what has this tag in the bucket."""
        row = path, tag, status.st_size, status.st_mtime_ns, status.st_ino
        with self._table() as table:
            table.execute("INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?, ?)", row)

    def forget(self, path: str) -> None:
        """A file is not here any more."""
        with self._table() as table:
            table.execute("DELETE FROM known WHERE path = ?", (path,))


class Replica:
    """A replica of a store on this machine. Nothing is asked of the storage before it is needed."""

    def __init__(self, address: str) -> None:
        self.objects = ObjectStore(address)
        # Machines that share a cache must not share a replica: its locks need not reach so far.
        digest = hashlib.sha256(self.objects.address.encode()).hexdigest()[:12]
        self.root = folder_of_this_machine(cache_folder() / "stores" / f"{socket.gethostname()}-{digest}")
        self.own = self.root / ".mirror"  # a name that caches have
        """What the replica keeps for itself."""
        self.synced = SyncedFiles(self.own / "known.db")
        self.entries: dict[str, StoredObject] = {}
        """What is in the bucket, when it was last looked at."""
        self._seen: set[str] = set()
        """What that covers: beginnings of paths."""
        self._changing = threading.RLock()
        self._entering = threading.Lock()
        """Held while `entries` change: a holder's upload adds to them while others look."""
        self._looked, self._took = 0.0, 0.0

    def path_of(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix()

    def file_of(self, path: str) -> Path:
        """Where a path of the store is on this machine.

        Raises:
            StorageError: not in the replica. Keys are looked at when they are listed; this holds whatever gave the path, and where somebody
                has put a symbolic link.
        """
        file = self.root / path
        if why := why_no_path(path):
            raise StorageError(f"{path!r} is no path in the store {self.objects.address}: {why}")
        if not file.parent.resolve().is_relative_to(self._resolved):
            raise StorageError(f"{file} leads out of {self.root}, by a symbolic link: nothing is written there; remove the link")
        return file

    @cached_property
    def _resolved(self) -> Path:
        return self.root.resolve()

    def address_of(self, file: Path) -> str:
        """Where people find a file."""
        return f"{self.objects.address}/{self.path_of(file)}".rstrip("/.")

    @cached_property
    def identity(self) -> str:
        """Of this replica, among all of the store."""
        path = self.own / "id"
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(uuid.uuid4().hex)
        new.write_text(new.name, encoding="utf-8")
        with contextlib.suppress(FileExistsError):
            os.link(new, path)
        new.unlink()
        return path.read_text(encoding="utf-8")

    # ---------------------------------------------------------------- looking
    def refresh(self, *folders: Path, at_most_every: float = 0.0) -> None:
        """See what is in the bucket, all of it or some folders, and have small records here as they are there.

        Args:
            at_most_every: seconds; nothing is done if it has been looked at since. Whoever looks again and again is not told that the
                storage is away for a while: what was seen last stays.
        """
        with self._changing:
            if at_most_every and time.monotonic() - self._looked < max(at_most_every, self._took / SHARE_OF_TIME):
                return
            began = time.monotonic()
            try:
                for below in [f"{self.path_of(folder)}/" if folder != self.root else "" for folder in folders or (self.root,)]:
                    self._refresh(below)
            except StorageError:
                if not at_most_every or "" not in self._seen:
                    raise
            if not folders:
                self._looked, self._took = time.monotonic(), time.monotonic() - began

    def _refresh(self, below: str) -> None:
        self.release_dead(below)
        # First what is known: what another process uploads meanwhile is not gone because it is not in the listing.
        known = self.synced.below(below)
        found = self.objects.list(below.rstrip("/"))
        self._see(below, found)
        changed = {path: entry for path, entry in found.items() if _is_record(path) and not self._is_here(path, known.get(path), entry)}
        contents = self.objects.read_several(changed)
        gone = [path for path in known if path not in found and not path.endswith(LEASE)]
        for folder in dict.fromkeys(self.folder_of(path) for path in (*contents, *gone)):
            if folder is not None:
                self.file_of(self.path_of(folder / LEASE))  # before a lock is put there
            # Whoever works on it here knows better, but for helpers: the holder on another machine writes their records.
            with locked_if_free(folder) if folder is not None else contextlib.nullcontext(True) as free:
                if free or _is_helped(folder):
                    for path in (path for path in contents if self.folder_of(path) == folder):
                        self._put(path, contents[path], changed[path].tag)
                    for path in (path for path in gone if self.folder_of(path) == folder):
                        self.file_of(path).unlink(missing_ok=True)
                        self.synced.forget(path)

    def _see(self, below: str, found: Mapping[str, StoredObject]) -> None:
        with self._entering:
            self.entries = {path: entry for path, entry in self.entries.items() if not path.startswith(below)} | dict(found)
            self._seen.add(below)

    def look(self, folder: Path) -> None:
        """See what is in the bucket if that has never been done."""
        if not self._has_seen(f"{self.path_of(folder)}/"):
            self.refresh()

    def has(self, file: Path) -> bool:
        """Whether a file is in the store: here, or in the bucket when it was last looked at."""
        if file.exists():
            return True
        path = self.path_of(file)
        if not self._has_seen(path):
            self.refresh(self.folder_of(path) or self.root)
        return path in self.entries

    def _has_seen(self, path: str) -> bool:
        return any(path.startswith(below) for below in tuple(self._seen))

    def is_held(self, folder: Path) -> bool:
        """Whether a process of any machine works on a folder."""
        written = self.heartbeat(folder)
        return is_held(folder) or (written is not None and self.objects.now() - written < lease_seconds())

    def heartbeat(self, folder: Path) -> float | None:
        """When the holder of a folder's lease last wrote it, by the server's clock; None where there is no lease."""
        entry = self.entries.get(f"{self.path_of(folder)}/{LEASE}")
        return entry.written if entry else None

    def folder_of(self, path: str) -> Path | None:
        """The folder with a lock that a path is in; None outside of trials and preparations."""
        kind, _, rest = path.partition("/")
        return self.root / kind / rest.partition("/")[0] if kind in ("trials", "prepared") and "/" in rest else None

    # ---------------------------------------------------------------- downloading
    def download(self, *files: Path) -> None:
        """Have files here as they are in the bucket. What is not there is left out."""
        found = {path: self.entries.get(path) if self._has_seen(path) else self.objects.entry(path) for path in map(self.path_of, files)}
        self._download({path: entry for path, entry in found.items() if entry is not None})

    def download_folder(self, folder: Path, *beginnings: str) -> None:
        """Have the files of a folder here; or those whose path in it begins with one of these."""
        start = self.path_of(folder) + "/"
        found = self.objects.list(start.rstrip("/"))
        self._download({path: entry for path, entry in found.items() if not beginnings or path.removeprefix(start).startswith(beginnings)})

    def _download(self, entries: Mapping[str, StoredObject]) -> None:
        # The other way round, so that shards are here before the checkpoint that names them, as when they were written.
        for path, entry in sorted(entries.items(), reverse=True):
            if path.endswith(f"/{LEASE}") or self._is_here(path, self.synced.of(path), entry):
                continue
            from filelock import FileLock

            # Of several processes that need the same weights one downloads them.
            named = self.own / "fetching" / hashlib.sha256(path.encode()).hexdigest()[:16]
            named.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(named):
                if not self._is_here(path, self.synced.of(path), entry):
                    with self._beside(path) as beside:
                        try:
                            self.objects.download(path, beside)
                        except FileNotFoundError:
                            continue  # its holder has removed it since it was listed
                        self._place(path, beside, entry.tag)

    # ---------------------------------------------------------------- writing
    def write(self, file: Path, content: bytes) -> None:
        """Write a record in the bucket, then here. Files of a folder that this process holds are uploaded with the others instead."""
        with self._changing:
            self._put(self.path_of(file), content, self.objects.write(self.path_of(file), content))

    def download_for(self, folder: Path, file: Path) -> Path:
        """Another trial's file, downloaded, under a name of this folder's own: it stays when that trial's holder removes it."""
        lent = self.lent_to(folder) / file.name
        lent.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(ATTEMPTS):
            self.download(file)
            with self._beside(self.path_of(file)) as beside, contextlib.suppress(FileNotFoundError):
                try:
                    os.link(file, beside)
                except PermissionError:  # a file system without links
                    shutil.copy2(file, beside)
                os.replace(beside, lent)
                return lent
        raise FileNotFoundError(f"{self.address_of(file)} is not in the store")

    def lent_to(self, folder: Path) -> Path:
        """Where files of other folders are that are needed to work on one."""
        return self.own / "lent" / folder.name

    def pins_of(self, folder: Path) -> Path:
        """Where a holder keeps other names of large files while it uploads them."""
        return self.own / "pinned" / f"{folder.parent.name}-{folder.name}"

    def read_json(self, file: Path) -> dict[str, Any]:
        """A record as it is in the bucket; empty where there is none, or it is damaged."""
        try:
            record = json.loads(self.objects.read(self.path_of(file)))
        except (FileNotFoundError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def upload(self, *files: Path) -> None:
        """Have files in the bucket as they are here; not for those that a holder uploads."""
        for file in files:
            path, status = self.path_of(file), file.stat()
            if (before := self.synced.of(path)) is None or not before.is_of(status):
                self.note_synced(path, self.objects.upload(file, path), status)

    def _put(self, path: str, content: bytes, tag: str) -> None:
        with self._beside(path) as beside:
            beside.write_bytes(content)
            self._place(path, beside, tag)

    @contextlib.contextmanager
    def _beside(self, path: str) -> Iterator[Path]:
        beside = self.own / "new" / uuid.uuid4().hex
        beside.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
        finally:
            beside.unlink(missing_ok=True)

    def _place(self, path: str, beside: Path, tag: str) -> None:
        status, file = beside.stat(), self.file_of(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        os.replace(beside, file)
        # If somebody replaces the file meanwhile, its time of modification is another than the one that is remembered.
        self.note_synced(path, tag, status)

    # ---------------------------------------------------------------- a folder that is worked on
    def start_from_the_bucket(self, folder: Path) -> None:
        """Make a folder that this process has locked what it is in the bucket, but for large files, which are downloaded when asked for."""
        self._remove_abandoned()
        start = self.path_of(folder) + "/"
        found = self.objects.list(start.rstrip("/"))
        self._wipe(folder, found)
        if f"{start}model.pt" in found:
            # It was trained to the end, and stopped before it had removed its checkpoint.
            for path in sorted(path for path in found if path.removeprefix(start).startswith("last.ckpt")):
                self.objects.delete(path)
                found.pop(path)
        with self._changing:
            self._see(start, found)
        self._download({path: entry for path, entry in found.items() if not path.removeprefix(start).startswith((*HEAVY, "log"))})

    def _remove_abandoned(self) -> None:
        """Remove halves of files that killed processes were downloading."""
        for half in (self.own / "new").glob("*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - half.stat().st_mtime > ABANDONED:
                    half.unlink()

    def _wipe(self, folder: Path, found: Mapping[str, StoredObject]) -> None:
        """Remove what is here of a folder's work and not in the bucket: a process was killed before it had uploaded it."""
        known = self.synced.below(self.path_of(folder) + "/")
        for file in [file for file in folder.rglob("*") if file.is_file()]:
            path, name = self.path_of(file), file.name
            own = name in (LOCK, LEASE) or name.startswith("log")
            if own or name.lstrip(".").startswith(RECORDS) or self._is_here(path, known.get(path), found.get(path)):
                continue
            file.unlink(missing_ok=True)
        # What is remembered is here: what is not here any more would be taken for something that the holder has removed.
        for path in known:
            if not (self.root / path).exists():
                self.synced.forget(path)

    def remove_heavy(self, folder: Path) -> None:
        """Remove models and checkpoints of a trial, which are in the bucket: those of all trials would fill the disk."""
        if folder.parent.name == "trials":
            start = self.path_of(folder) + "/"
            shutil.rmtree(self.lent_to(folder), ignore_errors=True)
            for file in [file for file in folder.rglob("*") if file.is_file()]:
                if (path := self.path_of(file)).removeprefix(start).startswith(HEAVY):
                    self.synced.forget(path)
                    file.unlink(missing_ok=True)

    def release_dead(self, below: str = "") -> None:
        """Free folders whose holder was a process of this machine that is gone, without waiting for its lease to run out."""
        pattern = f"{below}{LEASE}" if below.count("/") > 1 else f"*/*/{LEASE}"
        for note in [note for note in self.root.glob(pattern) if not is_held(note.parent)]:
            self._release(note.parent)

    def _release(self, folder: Path) -> None:
        """Free a folder if it was held by a process of this machine that is gone."""
        note = folder / LEASE
        with locked_if_free(folder) as free, contextlib.suppress(FileNotFoundError, StorageError):
            if free:
                holder = None
                with contextlib.suppress(ValueError, AttributeError):  # of a machine that lost its power
                    holder = json.loads(note.read_text(encoding="utf-8")).get("holder")
                path = self.path_of(note)
                there = self.read_json(note).get("holder")
                if there and there == holder:
                    self.objects.delete(path)
                if there in (None, holder):
                    with self._entering:
                        self.entries.pop(path, None)
                self._wipe(folder, self.objects.list(self.path_of(folder)))
                shutil.rmtree(self.pins_of(folder), ignore_errors=True)
                note.unlink()

    # ---------------------------------------------------------------- what is here
    def _is_here(self, path: str, known: Synced | None, entry: StoredObject | None) -> bool:
        """Whether a file is here as it is in the bucket."""
        if known is None or entry is None or known.tag != entry.tag:
            return False
        try:
            return known.is_of(os.stat(self.root / path))
        except FileNotFoundError:
            return False

    def note_synced(self, path: str, tag: str, status: os.stat_result) -> None:
        """Remember that a file here, when it had this status, was what is in the bucket."""
        try:
            self.synced.add(path, tag, status)
        except sqlite3.Error as error:
            # What is not remembered is transferred once more; on a full disk that is better than not to upload what is left.
            if not is_disk_full(error):
                raise
        with self._entering:
            self.entries[path] = StoredObject(status.st_size, tag, time.time())

    def remove(self, path: str) -> None:
        """Remove from the bucket what is gone here."""
        self.objects.delete(path)
        self.synced.forget(path)
        with self._entering:
            self.entries.pop(path, None)


def _is_helped(folder: Path | None) -> bool:
    """Whether whoever works on a folder here has its holder on another machine."""
    with contextlib.suppress(FileNotFoundError):
        return folder is not None and (folder / LEASE).read_text(encoding="utf-8") == HELPING
    return False


def _is_record(path: str) -> bool:
    """Whether a file is small and everybody's: a record of what is to be done or how it stands."""
    *folders, name = path.split("/")
    if name == LEASE or any(folder.startswith(LATER) for folder in folders[2:]):
        return False
    return name.endswith((".json", ".yaml")) or name == "error.txt"
