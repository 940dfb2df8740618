"""Leases on object storage: who works on a folder that many machines see. In: a path. Out: a lease, or the answer that another has it.

A lease is an object that is written only if there is none, and written again every few seconds, each time only if it is still the one
that was written last. One that has not been written for its time, by the server's clock, has lost its holder and may be taken over,
again on the condition that it is the one that was seen. So of several that try one succeeds, and a holder that was taken for dead
finds another's lease in place of its own, and ends.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mm1_ablate.store.bucket.object_store import ObjectStore
from mm1_ablate.store.files import LeaseLost, StorageError

LEASE = "lease.json"
"""The object in a folder."""
VARIABLE = "MM1_ABLATE_LEASE_SECONDS"
DEFAULT_SECONDS = 60.0


def lease_seconds() -> float:
    """After how long without a heartbeat a holder is taken for dead."""
    return float(os.environ.get(VARIABLE) or DEFAULT_SECONDS)


def _counting() -> float:
    """Seconds by a clock that also counts while the machine is suspended, as others do meanwhile."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass
class Lease:
    """A lease that this process has asked for, and holds once `take` has said so."""

    objects: ObjectStore
    path: str
    replica: str
    """Identity of the replica that its files are in: holders of one replica are told apart by locks there."""
    lost: Callable[[], None] = lambda: None
    """Called by a thread when the lease is another's."""
    holder: str = field(default_factory=lambda: uuid.uuid4().hex)
    seconds: float = field(default_factory=lease_seconds)

    def __post_init__(self) -> None:
        self._tag = ""
        self._beats = 0
        self._alive = 0.0
        self._is_lost = False
        self._ended = threading.Event()
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None

    # ---------------------------------------------------------------- taking
    def take(self) -> bool:
        """Take the lease if it is free, or its holder dead; and from then on give heartbeats.

        To be called with the local lock of the folder, so that a holder of this replica is known to be dead.
        """
        asked = _counting()
        tag = self.objects.create(self.path, self._body()) or self._take_over()
        if not tag:
            return False
        self._tag, self._alive = tag, asked
        self._thread = threading.Thread(target=self._keep_alive, name="lease", daemon=True)
        self._thread.start()
        return True

    def _take_over(self) -> str | None:
        """Take the lease of a holder that is dead; returns its tag, or None if the holder lives or another was first."""
        # The entry first: whoever writes after it makes the condition fail.
        entry = self.objects.entry(self.path)
        if entry is None:
            return self.objects.create(self.path, self._body())
        try:
            there = json.loads(self.objects.read(self.path))
        except FileNotFoundError:
            return self.objects.create(self.path, self._body())
        if there["holder"] == self.holder:
            return entry.tag  # it was created, and the answer lost
        if there["mirror"] == self.replica or self.objects.now() - entry.written > there["seconds"]:
            return self.objects.replace(self.path, self._body(), entry.tag)
        return None

    def _body(self) -> bytes:
        record = {"holder": self.holder, "host": socket.gethostname(), "pid": os.getpid(), "mirror": self.replica}
        return json.dumps(record | {"seconds": self.seconds, "beat": self._beats}).encode()

    # ---------------------------------------------------------------- holding
    def _keep_alive(self) -> None:
        while not self._ended.wait(self.seconds / 6):
            try:
                self._beat()
            except StorageError:
                continue  # while the storage is unavailable nothing is taken over; the lease is checked again before a write
            except LeaseLost:
                self.lost()
                return

    def _beat(self) -> None:
        with self._writing:
            if self._is_lost:
                raise LeaseLost(self.path)
            self._beats += 1
            asked = _counting()  # the answer may take long, and others count from when it was written
            tag = self.objects.replace(self.path, self._body(), self._tag)
            if tag is None:
                # It may have been written, and the answer lost.
                entry = self.objects.entry(self.path)
                if entry is None or self._there().get("holder") != self.holder:
                    self._is_lost = True
                    raise LeaseLost(f"{self.path} was taken over by {self._there().get('host', 'nobody')}")
                tag = entry.tag
            self._tag, self._alive = tag, asked

    def _there(self) -> dict[str, Any]:
        try:
            holder: dict[str, Any] = json.loads(self.objects.read(self.path))
        except FileNotFoundError:
            return {}
        return holder

    def confirm(self, now: bool = False) -> None:
        """To be called before anything is written to the folder.

        Args:
            now: even if it was confirmed a moment ago.

        Raises:
            LeaseLost: it is another's.
            StorageError: that cannot be found out.
        """
        if self._is_lost:
            raise LeaseLost(self.path)
        if now or _counting() - self._alive > self.seconds / 3:
            self._beat()

    def give_back(self) -> None:
        """Let others have it. Does nothing to a lease that is another's."""
        self._ended.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with self._writing:
            if self._there().get("holder") == self.holder:
                self.objects.delete(self.path)
