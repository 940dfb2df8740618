"""What a holder does to a trial's folder, uploaded while it is done. In: a held folder. Out: the same in the bucket.

Whatever is killed when, what is in the bucket is of one piece. What says that something is there (a checkpoint of its shards, a model
that the training has ended, a summary of its items, a status that all is done) is read before what it speaks of, and written after it.
What is gone here is removed last; so are shards that no checkpoint names any more, for which the bucket is asked: workers on other
machines upload theirs themselves, before the first worker writes the checkpoint that names them.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from mm1_ablate.store.bucket.leases import LEASE, Lease
from mm1_ablate.store.bucket.replica import Replica, Synced
from mm1_ablate.store.files import LeaseLost, StorageError
from mm1_ablate.store.locks import LOCK

EVERY = 5.0
"""Seconds between two rounds: how old progress may be for others."""
LOOK = 0.5
"""Seconds between two looks at whether there is a new checkpoint, which does not wait for the next round."""
SMALL = 8_000_000
"""Bytes of a file that is read into memory instead of being linked while it is uploaded."""
RETRY_SECONDS = 600.0
"""Seconds for which an upload that is waited for is tried again while the storage is away."""
CHECKPOINT = "last.ckpt"


def rank(path: str) -> int:
    """When a file is uploaded, by its path in the folder: what says of others that they are there comes after them."""
    name = path.rpartition("/")[2]
    if path == "status.json":
        return 2
    names = path in (CHECKPOINT, "model.pt") or name == "scores.json" or (path.startswith("predictions/") and name.endswith(".json"))
    return 1 if names else 0


@dataclass
class Pinned:
    """A file as it was at one moment."""

    path: str
    """In the folder."""
    status: os.stat_result
    content: bytes | None
    link: Path | None
    """Of a large file: another name of it, that it keeps when it is replaced."""


class FolderUpload:
    """Uploads a held folder every few seconds, and when its block ends."""

    def __init__(self, replica: Replica, folder: Path, lease: Lease, every: float | None = None) -> None:
        self.replica, self.folder, self.lease = replica, folder, lease
        self.every = EVERY if every is None else every
        self.is_complete = False
        """Whether all that the block did is in the bucket."""
        self._start = replica.path_of(folder) + "/"
        # Of a holder that was killed while it uploaded: they would keep every checkpoint that was under way on this disk.
        shutil.rmtree(replica.pins_of(folder), ignore_errors=True)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="upload", daemon=True)

    def __enter__(self) -> FolderUpload:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        retry_while_away(self.round)
        checkpoint = self.folder / CHECKPOINT
        retry_while_away(lambda: self._remove_shards(checkpoint if checkpoint.exists() else None))
        self.is_complete = True

    def _repeat(self) -> None:
        due, seen = time.monotonic(), 0
        while not self._ended.wait(min(LOOK, self.every)):
            checkpoint = self._checkpoint()
            if time.monotonic() < due and checkpoint in (0, seen):
                continue
            due, seen = time.monotonic() + self.every, checkpoint
            try:
                self.round()
            except LeaseLost:
                return
            except Exception as error:  # training continues after any error; the last round reports one that persists
                print(f"{error}; trying again", file=sys.stderr, flush=True)

    # ---------------------------------------------------------------- one round
    def round(self) -> None:
        """Bring the bucket up to the folder.

        Raises:
            LeaseLost: the folder is another machine's now.
            StorageError: the storage is away; the next round does what this one has not.
        """
        here = set(self._files())
        gone = [path for path in self._synced() if path not in here and not path.startswith(f"{CHECKPOINT}.")]
        pinned: list[Pinned] = []
        try:
            for which in (2, 1, 0):
                known = self._synced()
                for path in sorted(path for path in self._files() if rank(path) == which):
                    pinned += self._pin(path, known.get(path))
            whole = self._of_one_piece(pinned)
            for one in sorted(whole, key=lambda one: rank(one.path)):
                self.lease.confirm()
                self._upload(one)
                if one.path == CHECKPOINT:
                    self._remove_shards(one.link or io.BytesIO(one.content or b""))
        finally:
            for one in pinned:
                if one.link is not None:
                    one.link.unlink(missing_ok=True)
        for path in gone:
            if not (self.folder / path).exists():
                self.lease.confirm()
                self.replica.remove(self._start + path)
        if CHECKPOINT in gone:
            self._remove_shards(None)

    def _remove_shards(self, checkpoint: Path | io.BytesIO | None) -> None:
        """Remove shards that the bucket's checkpoint does not name, but for those of later steps, which other machines may be uploading.

        Args:
            checkpoint: what is in the bucket; None if it is not here.
        """
        found = [path.removeprefix(self._start) for path in self.replica.objects.list(self._start.rstrip("/"))]
        shards = [path for path in found if path.startswith(f"{CHECKPOINT}.")]
        if not shards or (checkpoint is None and CHECKPOINT in found):
            return
        from mm1_ablate.training.checkpoint import shards_of, step_of

        named = shards_of(checkpoint) if checkpoint else None
        for path in shards:
            folder = path.partition("/")[0]
            if named is None or (folder != named and step_of(folder) <= step_of(named)):
                self.lease.confirm()
                self.replica.remove(self._start + path)

    def _synced(self) -> dict[str, Synced]:
        """Files of the folder that are in the bucket, and have been here since it was taken over."""
        return {path.removeprefix(self._start): known for path, known in self.replica.synced.below(self._start).items()}

    def _files(self) -> list[str]:
        """Paths of what is to be uploaded: no locks, nothing that is being written, no shards that no checkpoint names yet."""
        found, named = [], self._checkpoint()
        for entry in _walk(self.folder):
            path = os.path.relpath(entry.path, self.folder)
            if path.startswith(f"{CHECKPOINT}."):
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat().st_mtime_ns <= named:
                        found.append(path)
            elif not entry.name.startswith(".") and not entry.name.endswith(".partial") and path not in (LOCK, LEASE):
                found.append(path)
        return found

    def _checkpoint(self) -> int:
        """When the checkpoint was written, in nanoseconds since the epoch; 0 where there is none."""
        try:
            return os.stat(self.folder / CHECKPOINT).st_mtime_ns
        except FileNotFoundError:
            return 0

    def _pin(self, path: str, before: Synced | None) -> list[Pinned]:
        file = self.folder / path
        try:
            status = file.stat()
            if before is not None and before.is_of(status):
                return []
            if status.st_size <= SMALL:
                return [Pinned(path, status, file.read_bytes(), None)]
            link = self.replica.pins_of(self.folder) / uuid.uuid4().hex
            link.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, link)
                status = link.stat()
            except FileNotFoundError:
                return []
            except OSError:  # a file system without links
                shutil.copy2(file, link)
            return [Pinned(path, status, None, link)]
        except FileNotFoundError:
            return []

    def _of_one_piece(self, pinned: list[Pinned]) -> list[Pinned]:
        """Without a checkpoint that was replaced while its shards were pinned: some of them may be missing."""
        checkpoint = next((one for one in pinned if one.path == CHECKPOINT), None)
        if checkpoint is not None and self._checkpoint() != checkpoint.status.st_mtime_ns:
            return [one for one in pinned if not one.path.startswith(CHECKPOINT)]
        return pinned

    def _upload(self, one: Pinned) -> None:
        path, objects = self._start + one.path, self.replica.objects
        if one.content is not None:
            before = self.replica.synced.of(path)
            tag = objects.replace(path, one.content, before.tag) if before else objects.create(path, one.content)
            if tag is None:  # what is there is not ours: it is of whoever has the lease now, or a record that others may write too
                self.lease.confirm(now=True)
                tag = objects.write(path, one.content)
        else:
            assert one.link is not None
            tag = objects.upload(one.link, path)
        self.replica.note_synced(path, tag, one.status)


def retry_while_away(work: Callable[[], None]) -> None:
    """Try something again and again while the storage is away, for some minutes."""
    until = time.monotonic() + RETRY_SECONDS
    while True:
        try:
            return work()
        except StorageError as away:
            if time.monotonic() > until:
                raise
            print(f"{away}; trying again", file=sys.stderr, flush=True)
            time.sleep(2)


def _walk(folder: Path) -> list[os.DirEntry[str]]:
    found: list[os.DirEntry[str]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    found += _walk(Path(entry.path))
                else:
                    found.append(entry)
    except FileNotFoundError:
        pass
    return found
