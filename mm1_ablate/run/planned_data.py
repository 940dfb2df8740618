"""Whether what a worker reads is what its run was planned with.

In: the record of a trial, an evaluation or a preparation, and what is to be looked at. Out: nothing, lines in the log on what is no reason
to stop, or `DataChanged` with the files that were added, are gone or have changed. Looking costs a listing and a look at what was written
since: digests are remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mm1_ablate.config.identity.reads import Contents, DataChanged, look_now, require_same
from mm1_ablate.store.store import Store


class PlannedData:
    """What a run was planned to read.

    Args:
        folder: whose record says so.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self._planned = store.planned_reads(folder)

    def check(self, reads: Callable[[], dict[str, Contents]]) -> None:
        """Before and right after something is opened: it must be what was planned.

        Raises:
            DataChanged: it is not.
        """
        if self._planned:
            try:
                found = look_now(reads)
            except Exception as error:  # whatever keeps a source of anybody's from being looked at
                raise DataChanged(f"what the run was planned with cannot be read any more: {error}") from error
            self._compare(found, only_opened=False)

    def check_what_was_opened(self, reads: Callable[[], dict[str, Contents]]) -> None:
        """After it was read: no file that was open may hold something else by now. Others may have come and gone.

        Raises:
            DataChanged: one does.
        """
        if self._planned:
            try:
                found = look_now(reads)
            except Exception as error:  # it was there when it was needed
                print(f"what was read is not there any more: {error}", flush=True)
            else:
                self._compare(found, only_opened=True)

    def _compare(self, found: dict[str, Contents], only_opened: bool) -> None:
        for line in require_same(self._planned, found, only_opened):
            print(line, flush=True)
