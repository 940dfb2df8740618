"""Ctrl-C and what batch systems send, handled once and reliably. In: a block of work. Out: KeyboardInterrupt where it was interrupted."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

WARNINGS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""What batch systems send some time before they kill a job: to the driver, and often to all its processes."""
RAISE_AGAIN_AFTER = 3.0
"""Seconds after which an interrupt that had no effect is raised again."""


def interrupt_handled() -> None:
    """Raise the interrupt no more: it has been handled, and the clean-up that follows must not be interrupted."""
    if threading.current_thread() is threading.main_thread():
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C, and the warnings of batch systems like it, which by default would end this process alone, or leave work behind.

    An interrupt that arrives in a destructor or a callback of C code is lost there, so it is raised again until `interrupt_handled`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, RAISE_AGAIN_AFTER)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, *WARNINGS, signal.SIGALRM)}
    try:
        yield
    finally:
        interrupt_handled()
        for number, handler in before.items():
            signal.signal(number, handler)
