"""How fast a training goes between two points of its curve. In: when steps begin and end. Out: numbers that cost no step anything."""

from __future__ import annotations

import resource
import sys
import time

import torch


class Pace:
    """Times a training on the clock of this process.

    Waiting is what passes between the end of a step and the beginning of the next, while the loader hands over a batch. On a GPU, which
    works behind the process, waiting is an upper bound of how long it stood still.
    """

    def __init__(self) -> None:
        self.begin(0)

    def begin(self, tokens: int) -> None:
        """An interval begins.

        Args:
            tokens: seen so far.
        """
        self._began = self._left = time.monotonic()
        self._waited, self._tokens = 0.0, tokens

    def step_begins(self) -> None:
        self._waited += time.monotonic() - self._left

    def step_ends(self) -> None:
        self._left = time.monotonic()

    def measured(self, tokens: int) -> dict[str, float]:
        """Tokens per second of all processes, the share of the time that this one waited for data, and the most memory that it has used so
        far, in bytes (on a GPU that of the GPU); then the next interval begins."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        found = {
            "tokens_per_second": round((tokens - self._tokens) / seconds, 1),
            "waiting_for_data": round(min(self._waited / seconds, 1.0), 4),
            "memory": peak_memory(),
        }
        self.begin(tokens)
        return found


def peak_memory() -> int:
    """The most memory that this process has used, in bytes: of its GPU, or else of the machine."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
