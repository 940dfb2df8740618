"""Data that was drawn and then skipped or cut: unreadable, not kept, cut, too long.

In: the account of each trial's data (see `data.accounting.Accounting.account`). Out: one line for each source and reason. Trials read
the same data in the same order, so counts of several trials are not summed: those of the trial with the largest are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

LOST, UNREADABLE, NOT_KEPT = "lost with files", "unreadable", "not kept"
TOO_LONG, CUT = "left out by the packing", "cut by the packing"


@dataclass(frozen=True)
class DataLoss:
    """What became of some documents, or images, of a source."""

    source: str
    kind: str
    """lost with files: files that cannot be read, of all of the source, whether or not the trial came to them; unreadable: bad data among
    the documents drawn; not kept: `keep` of the source leaves it out; left out by the packing; cut by the packing: used in pieces."""
    reason: str
    count: int
    """In the trial with the largest count."""
    drawn: int
    """Documents of the source that this trial drew."""
    trials: int
    """Trials that met it."""
    examples: tuple[str, ...] = ()
    """The first of them, by name."""

    def in_words(self) -> str:
        if self.kind == LOST:
            return f"{self.source}: {self.reason}"
        examples = f" (first: {', '.join(self.examples)})" if self.examples else ""
        return f"{self.source}: {self.count:,} {self.reason}, in {self.drawn:,} documents drawn{examples}"

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "examples": list(self.examples)}


def data_losses(accounts: Iterable[Mapping[str, Mapping[str, Any]]]) -> tuple[DataLoss, ...]:
    """By source and reason, what was skipped or cut; bad data first, the most frequent first.

    Args:
        accounts: of each trial, by source.
    """
    found: dict[tuple[str, str, str], list[DataLoss]] = {}
    for account in accounts:
        for source, counts in account.items():
            for loss in _losses(source, counts):
                found.setdefault((source, loss.kind, loss.reason), []).append(loss)
    kinds = [LOST, UNREADABLE, NOT_KEPT, TOO_LONG, CUT]
    worst = [max(losses, key=lambda loss: loss.count) for losses in found.values()]
    told = [DataLoss(**{**vars(loss), "trials": len(found[loss.source, loss.kind, loss.reason])}) for loss in worst]
    return tuple(sorted(told, key=lambda loss: (kinds.index(loss.kind), loss.source, -loss.count, loss.reason)))


def _losses(source: str, counts: Mapping[str, Any]) -> Iterator[DataLoss]:
    drawn = int(counts.get("drawn", counts.get("documents", 0)))
    examples = counts.get("examples", {})
    for lost in counts.get("lost", ()):
        yield DataLoss(source, LOST, lost["in_words"], int(lost[lost["of"]]), drawn, 1, tuple(lost["first"]))
    for kind, key in ((UNREADABLE, "bad"), (NOT_KEPT, "left_out"), (TOO_LONG, "dropped")):
        for reason, count in counts.get(key, {}).items():
            named = tuple(map(str, examples.get(reason, ()))) if kind == UNREADABLE else ()
            yield DataLoss(source, kind, reason, int(count), drawn, 1, named)
    if counts.get("split"):
        yield DataLoss(source, CUT, f"in {counts['pieces']:,} pieces", int(counts["split"]), drawn, 1)
