"""What the runs of a study do just now: trials have states of their own, but what comes before, between and after them had none.

In: a study and what its run begins. Out: the runs that a study has or had last, each with what it does and since when. A run gives a
sign of life every few seconds; one that has given none for a while was lost.

    studies/<name>/runs/<host>-<pid>.json
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mm1_ablate.config.passwords import hidden
from mm1_ablate.config.study import Study
from mm1_ablate.store.files import Files
from mm1_ablate.store.layout import Layout
from mm1_ablate.store.records import RunRecord

FOLDER = "runs"
SIGN_EVERY, LOST_AFTER = 20.0, 90.0
"""Seconds between two signs of life, and without one until a run counts as lost."""


@dataclass(frozen=True)
class Run:
    """A run of a study. Times are seconds since the epoch."""

    host: str
    pid: int
    what: str
    """That it does, as people read it: 'preparing 2 encoders and language models'; how it ended."""
    began: float
    since: float
    """When it began what it does."""
    seen: float
    """Its last sign of life."""
    ended: bool = False

    @property
    def is_alive(self) -> bool:
        """Whether it still runs, as far as that can be known from this machine."""
        here = self.host == socket.gethostname()
        return not self.ended and time.time() - self.seen < LOST_AFTER and (not here or _exists(self.pid))


class Activities:
    """What a store has of the runs of its studies."""

    def __init__(self, layout: Layout, files: Files) -> None:
        self._layout, self._files = layout, files

    @contextlib.contextmanager
    def running(self, study: Study, what: str) -> Iterator[Callable[[str], None]]:
        """Say what a run of a study does until the block ends; the block gets what changes it. A store that cannot be written stops no
        run for want of this."""
        now = time.time()
        host = re.sub(r"[^\w.-]+", "-", socket.gethostname())
        path = self._layout.study_folder(study) / FOLDER / f"{host}-{os.getpid()}.json"
        writing, over = threading.Lock(), threading.Event()
        current = Run(socket.gethostname(), os.getpid(), what, now, now, now)

        def write(**changes: Any) -> None:
            nonlocal current
            with writing, contextlib.suppress(OSError):
                current = replace(current, seen=time.time(), **changes)
                self._files.write(path, json.dumps(hidden(asdict(current)), indent=1).encode())

        def signs() -> None:
            while not over.wait(SIGN_EVERY):
                write()

        with contextlib.suppress(OSError):
            self._forget(path)
        write()
        thread = threading.Thread(target=signs, name="sign-of-life", daemon=True)
        thread.start()
        ending = "ended with an error"
        try:
            yield lambda line: write(what=line, since=time.time())
            ending = "ended"
        finally:
            over.set()
            thread.join()
            write(what=ending, since=time.time(), ended=True)

    def runs(self, study: Study | str) -> list[Run]:
        """The runs of a study that are alive, and the last of the others; the latest first."""
        folder = self._layout.study_folder(study) / FOLDER
        self._files.refresh(folder)
        records = [record for path in folder.glob("*.json") if (record := self._files.read_record(path, RunRecord))]
        found = [Run(**{name: record[name] for name in Run.__dataclass_fields__ if name in record}) for record in records]
        found.sort(key=lambda run: -run.seen)
        alive = [run for run in found if run.is_alive]
        return alive or found[:1]

    def _forget(self, own: Path) -> None:
        """Remove what earlier runs of this machine left."""
        for path in own.parent.glob("*.json"):
            record = self._files.read_record(path, RunRecord)
            if record.get("host") == socket.gethostname() and not _exists(record["pid"]):
                path.unlink(missing_ok=True)


def _exists(pid: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
