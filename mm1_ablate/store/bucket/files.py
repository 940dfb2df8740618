"""The files of a store on object storage. In: its address. Out: what every store's files are (`store/files.py`), on several machines that
share no file.

What is read and written lies in a replica on this machine (`replica.py`). Whoever works on a folder holds a lease on it (`leases.py`),
starts from what is in the bucket, and has what it changes uploaded meanwhile (`upload.py`).
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mm1_ablate.data.atomic_files import write_atomically
from mm1_ablate.store.bucket.leases import LEASE, Lease, lease_seconds
from mm1_ablate.store.bucket.replica import HELPING, Replica
from mm1_ablate.store.bucket.upload import FolderUpload, retry_while_away
from mm1_ablate.store.files import Files, StorageError
from mm1_ablate.store.locks import AlreadyRunning, is_held_by_this_process, locked


class BucketFiles(Files):
    """The files of a store on object storage. Nothing is asked of the storage before it is needed."""

    def __init__(self, address: str) -> None:
        self.replica = Replica(address)
        self.root = self.replica.root
        self.address = self.replica.objects.address

    @property
    def home(self) -> str:
        return self.replica.identity

    @property
    def lease_seconds(self) -> float:
        return lease_seconds()

    def check(self) -> None:
        self.replica.objects.check()

    def where(self, path: Path) -> str:
        return self.replica.address_of(path)

    # ---------------------------------------------------------------- reading
    def refresh(self, *folders: Path, at_most_every: float = 0.0) -> None:
        self.replica.refresh(*folders, at_most_every=at_most_every)

    def look(self, folder: Path) -> None:
        self.replica.look(folder)

    def has(self, file: Path) -> bool:
        return self.replica.has(file)

    def size(self, folder: Path) -> int:
        self.replica.look(folder)
        beginning = f"{self.replica.path_of(folder)}/"
        return sum(entry.size for path, entry in self.replica.entries.copy().items() if path.startswith(beginning))

    def download(self, *files: Path) -> None:
        self.replica.download(*files)

    def download_folder(self, folder: Path, *beginnings: str) -> None:
        self.replica.download_folder(folder, *beginnings)

    def download_checkpoint(self, checkpoint: Path) -> None:
        self.download(checkpoint)
        if checkpoint.exists():
            from mm1_ablate.training.checkpoint import shards_of

            if shards := shards_of(checkpoint):
                self.download_folder(checkpoint.with_name(shards))

    def download_for(self, folder: Path, file: Path) -> Path:
        return self.replica.download_for(folder, file)

    def read_latest(self, file: Path) -> dict[str, Any]:
        self.refresh(file.parent)
        # Of a folder that is held here nothing is downloaded, and a worker on another machine has told the bucket only.
        return self.replica.read_json(file)

    # ---------------------------------------------------------------- writing
    def write(self, file: Path, content: bytes) -> None:
        folder = self.replica.folder_of(self.replica.path_of(file))
        if folder is not None and is_held_by_this_process(folder):
            write_atomically(file, content)
        else:
            self.replica.write(file, content)

    def upload(self, *files: Path, wait: bool = False) -> None:
        if wait:
            retry_while_away(lambda: self.replica.upload(*files))
        else:
            self.replica.upload(*files)

    def refuse_links(self, path: Path) -> None:
        """A replica is nobody else's; where its keys lead is looked at when they are read (`Replica.file_of`)."""

    # ---------------------------------------------------------------- who works on a folder
    @contextlib.contextmanager
    def hold(self, folder: Path, wait: bool, lost: Callable[[], None]) -> Iterator[None]:
        """Hold the lock and the lease of a folder, with the folder made what it is in the bucket, for the length of a block; what the
        block does to the folder's files is uploaded, all of it when the block ends."""
        with locked(folder, wait):
            lease = Lease(self.replica.objects, f"{self.replica.path_of(folder)}/{LEASE}", self.replica.identity, lost)
            while not lease.take():
                if not wait:
                    raise AlreadyRunning(f"{self.where(folder)} is another machine's")
                time.sleep(min(2.0, lease.seconds / 6))
            note = folder / LEASE
            note.write_text(json.dumps({"holder": lease.holder}), encoding="utf-8")
            uploading = FolderUpload(self.replica, folder, lease)
            try:
                self.replica.start_from_the_bucket(folder)
                with uploading:
                    yield
                self.replica.remove_heavy(folder)
            finally:
                try:
                    lease.give_back()
                    # Of what could not be uploaded the note stays: with it `release_dead` takes that for a dead holder's, which it is.
                    if uploading.is_complete:
                        note.unlink(missing_ok=True)
                except StorageError as away:
                    # The work is done and uploaded, or has an error of its own; whoever looks next frees the lease by the note.
                    print(f"{away}; its lease is given back later", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def help(self, folder: Path) -> Iterator[None]:
        """Work for the length of a block on a folder with a holder on another machine. What is done to it here is uploaded file by file
        (`upload`), or forgotten."""
        with locked(folder, wait=True):
            note = folder / LEASE
            note.write_text(HELPING, encoding="utf-8")  # if this process is killed, `release_dead` removes what it leaves
            self.replica.start_from_the_bucket(folder)
            yield
            self.replica.remove_heavy(folder)
            note.unlink()

    def is_held(self, folder: Path) -> bool:
        return self.replica.is_held(folder)

    def heartbeat(self, folder: Path) -> float | None:
        return self.replica.heartbeat(folder)

    def release_dead(self) -> None:
        self.replica.release_dead()
