"""A disk that is full stops a run, once: it is not a failure of a trial, and an immediate retry would not help.

In: an error, and the folder of the store that was worked on. Out: whether that error means it, and a sentence that says where, how full
and what to do. A child in which it happens ends with an exit code of its own and records nothing: its work counts as interrupted, and is
continued.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
from pathlib import Path

from mm1_ablate.data.cache import cache_folder

FULL = 76
"""Exit code of a child that a full disk has stopped."""
WORDS = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "database or disk is full", "] . unexpected pos ")
"""Of the system, of SQLite, and of torch, whose writer does not say why it could not write."""
FULL_BELOW = 1_000_000
"""Bytes that are free: a disk with less is the one that is full."""


class DiskFull(Exception):
    """A disk is full; the message is the sentence."""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or its cause, is a full disk or an exceeded quota."""
    one: BaseException | None = error
    while one is not None:
        # As text: torch.distributed.checkpoint keeps no more than that of what happened to its workers.
        if isinstance(one, DiskFull) or any(word in str(one) for word in WORDS):
            return True
        one = one.__cause__ or one.__context__
    return False


def full_disk_message(root: Path) -> str:
    """Which disk of this machine is full, by how much, and what to do.

    Args:
        root: the folder of the store.
    """
    from rich.filesize import decimal

    free = {place: shutil.disk_usage(place).free for place in (root, cache_folder(), Path(tempfile.gettempdir())) if place.is_dir()}
    # What did not fit may have been removed again: then it was something large, of the store's.
    place = next((place for place in free if free[place] < FULL_BELOW), root)
    larger = " or set MM1_ABLATE_CACHE to a folder on a larger disk" if place.is_relative_to(cache_folder()) else ""
    left = f"{decimal(free.get(place, 0))} free on that disk; a quota may leave less"
    return f"{socket.gethostname()} has no space left in {place} ({left}): free some there{larger}, then run the same command again"
