"""Locks on folders of a file system, that end with their process, however it ends. In: a folder. Out: whether a process works on it.

Where a store is on object storage these locks are those of its replica, and tell processes of one machine from each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

LOCK = "lock"
"""The file in a folder that is locked."""
_held: set[Path] = set()
"""Folders that this process holds: asking for a lock that the process has would lose it."""
_asking = threading.Lock()
"""Nor may two threads ask at once: the one that closes the file first would lose the other's lock."""


class AlreadyRunning(Exception):
    """Another process works on this folder."""


@contextlib.contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a folder until the block or the process ends.

    Args:
        wait: for whoever holds it now.

    Raises:
        AlreadyRunning: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+b") as lock:
        until = time.monotonic() + 1.0
        while True:
            try:
                with _asking:
                    if folder in _held:
                        raise BlockingIOError
                    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _held.add(folder)
                break
            except BlockingIOError:
                # For an instant it may be someone who looks at the status.
                if not wait and time.monotonic() > until:
                    raise AlreadyRunning(f"{folder} is another process's") from None
                time.sleep(0.5 if time.monotonic() > until else 0.02)
        try:
            yield
        finally:
            with _asking:
                _held.discard(folder)
                # Here and not where the file is closed: a thread that asks in between would lose its own lock by that.
                lock.close()


@contextlib.contextmanager
def locked_if_free(folder: Path) -> Iterator[bool]:
    """Hold a folder for a moment, unless another process or another thread of this process works on it: then False."""
    with contextlib.ExitStack() as stack:
        free = not is_held(folder)
        if free:
            try:
                stack.enter_context(locked(folder))
            except AlreadyRunning:
                free = False
        yield free


def is_held(folder: Path) -> bool:
    """Whether a process works on a folder."""
    with _asking:
        if folder in _held:
            return True
        try:
            with open(folder / LOCK, "rb") as lock:
                fcntl.lockf(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        except OSError:
            # A file system without locks: take recent progress for a heartbeat.
            progress = folder / "progress.json"
            return progress.exists() and time.time() - progress.stat().st_mtime < 60
        return False


def is_held_by_this_process(folder: Path) -> bool:
    return folder in _held
