"""Which folder of a cache is this machine's own. In: the folder that it would have. Out: that one, or one beside it if another machine of
the same name has it: copies of one image have the same name and the same /etc/machine-id, and may share a cache.

A folder belongs to the machine whose file is in it, named by what its kernel drew at random when it was started, and touched every minute.
A machine that is started again is another by that. So that it finds what it had, a folder without a heartbeat for some
minutes goes to the next one who wants it: its file gets another name, which of several that try it one can do.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

BOOT = Path("/proc/sys/kernel/random/boot_id")
CLAIM = ".machine"
TOUCHED = 60.0
"""Seconds between two heartbeats of a process that uses the folder."""
GONE = 600.0
"""Seconds without one after which no process of that machine does."""
_touched: set[Path] = set()


def folder_of_this_machine(wanted: Path, boot: str | None = None) -> Path:
    """A folder that is this machine's alone, the same one for all its processes.

    Args:
        boot: what tells this machine from others; None: what its kernel says.
    """
    us = boot or (BOOT.read_text(encoding="utf-8").strip() if BOOT.exists() else f"{uuid.getnode():x}")
    had = itertools.takewhile(lambda folder: (folder / CLAIM).exists(), _candidates(wanted))
    own = next((folder for folder in had if (folder / CLAIM / us).exists()), None)
    own = own or next(folder for folder in _candidates(wanted) if _claim(folder, us))
    os.utime(file := own / CLAIM / us)
    if file not in _touched:
        _touched.add(file)
        threading.Thread(target=_touch, args=(file,), name="machine", daemon=True).start()
    return own


def _candidates(wanted: Path) -> Iterator[Path]:
    yield wanted
    for number in itertools.count(2):
        yield wanted.with_name(f"{wanted.name}-{number}")


def _claim(folder: Path, us: str) -> bool:
    new = folder / f"{CLAIM}-{uuid.uuid4().hex}"
    try:
        new.mkdir(parents=True)
        (new / us).touch()
        now = (new / us).stat().st_mtime  # by the clock that dates the others' files
        os.rename(new, folder / CLAIM)
        return True
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
    for had in (folder / CLAIM).iterdir():
        if had.name == us:
            return True
        with contextlib.suppress(FileNotFoundError):  # another was first
            if now - had.stat().st_mtime > GONE:
                os.utime(had)  # before it is ours, or it would be taken away again
                os.rename(had, had.with_name(us))
                return True
    return False


def _touch(file: Path) -> None:
    while True:
        time.sleep(TOUCHED)
        with contextlib.suppress(OSError):
            os.utime(file)
