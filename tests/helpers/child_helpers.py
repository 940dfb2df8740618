"""Jobs in children of a test, and waiting for what such children write and for their end."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from mm1_ablate.run import child_process


def job(function: str, log: Path, cpus: float = 1, **arguments: object) -> child_process.Job:
    """A call of a function, as `module:function`, with a share of this machine; modules of tests are found by their name."""
    threads, environment = child_process.share_of_machine(cpus, 0)
    return child_process.Job(function, arguments, str(log), threads, environment, import_paths=tuple(sys.path))


def wait_for_pids(path: Path, seconds: float = 300) -> list[int]:
    """The numbers in a file, as soon as something is written there."""
    until = time.monotonic() + seconds
    while not (path.exists() and path.read_text()) and time.monotonic() < until:
        time.sleep(0.02)
    return [int(word) for word in path.read_text().split()]


def gone_within(pids: list[int], seconds: float) -> bool:
    """Whether all these processes end in that time."""
    until = time.monotonic() + seconds
    while any(child_process.is_alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(child_process.is_alive(pid) for pid in pids)
