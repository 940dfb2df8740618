"""Ctrl-C and SIGTERM, heard once and for certain. In: a block of work. Out: KeyboardInterrupt where it was interrupted."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

INSIST_AFTER = 3.0
"""Seconds after which an interrupt that came to nothing is raised again."""


def calm_down() -> None:
    """The interrupt has been heard: what is cleaned up now is left in peace."""
    if threading.current_thread() is threading.main_thread():
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C, and SIGTERM like it: so a batch system's warning leaves nothing behind.

    An interrupt that happens to land in a destructor or a callback of C code is swallowed there, so it is raised again until `calm_down`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, INSIST_AFTER)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    try:
        yield
    finally:
        calm_down()
        for number, handler in before.items():
            signal.signal(number, handler)
