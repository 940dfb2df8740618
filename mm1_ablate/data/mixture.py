"""Sources and their shares in, one endless sequence of documents out: exact at every prefix, resumable from a few integers.

Which source comes next follows from the counts so far alone. By documents it is the quota method (Balinski and Young, The quota
method of apportionment, 1975): of the sources that the next document would not put above their share, the one whose document is
due first; every realised count is then within one document of its share at every prefix, however many sources there are. By
tokens, where a document's length is known only once it is drawn, it is the source that lies furthest behind.

Inside a source the order is a seeded permutation of each epoch, a function of (seed, name of the source, epoch) only: arms that
differ in their mixture read each source in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from math import lcm
from typing import Any, Literal

from mm1_ablate.data.documents import Document
from mm1_ablate.data.randomness import key, permuted
from mm1_ablate.data.sources import OpenSource


class Mixture:
    """An endless iterator of documents.

    Args:
        shares: share of each source in the mixture; positive.
        sources: the sources by name.
        count: what the shares count.
        seed: orders the documents inside each source.
        measure: nominal tokens of a document; needed when tokens are counted.

    Raises:
        ValueError: if a source is empty, or nothing is left to draw from.
    """

    def __init__(
        self,
        shares: Mapping[str, Fraction],
        sources: Mapping[str, OpenSource],
        count: Literal["documents", "tokens"] = "documents",
        seed: int = 0,
        measure: Callable[[Document], int] | None = None,
    ) -> None:
        if not shares:
            raise ValueError("a mixture needs at least one source with a positive share")
        if count == "tokens" and measure is None:
            raise ValueError("a mixture by tokens needs a measure of documents")
        self._sources = {name: sources[name] for name in shares}
        self._lengths = {name: len(source) for name, source in self._sources.items()}
        if empty := [name for name, length in self._lengths.items() if length == 0]:
            raise ValueError(f"source '{empty[0]}' has no documents")
        # Integers instead of fractions: exact, and fast.
        whole = lcm(*(share.denominator for share in shares.values()))
        # By name, so that ties fall alike whatever order sources are declared in: the order is not part of a trial's identity.
        self._weights = {name: int(share * whole) for name, share in sorted(shares.items())}
        self._whole = sum(self._weights.values())
        self._count = count
        self._seed = seed
        self._measure = measure
        self._drawn = dict.fromkeys(shares, 0)
        self._tokens = dict.fromkeys(shares, 0)
        self._position = 0
        self._total = 0

    def __iter__(self) -> Iterator[Document]:
        return self

    def __next__(self) -> Document:
        name = self._due() if self._count == "documents" else self._furthest_behind()
        document = self._sources[name][self._place(name, self._drawn[name])]
        self._drawn[name] += 1
        self._position += 1
        if self._count == "tokens":
            assert self._measure is not None
            length = self._measure(document)
            self._tokens[name] += length
            self._total += length
        return document

    @property
    def position(self) -> int:
        """Documents drawn so far."""
        return self._position

    @property
    def drawn(self) -> dict[str, int]:
        """Documents drawn so far from each source."""
        return dict(self._drawn)

    @property
    def epochs(self) -> dict[str, float]:
        """How often each source has been read so far."""
        return {name: drawn / self._lengths[name] for name, drawn in self._drawn.items()}

    def state(self) -> dict[str, Any]:
        """A few integers from which `restore` continues exactly."""
        return {"drawn": dict(self._drawn), "tokens": dict(self._tokens)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken.

        Raises:
            ValueError: if it was taken from a mixture of other sources.
        """
        if state["drawn"].keys() != self._drawn.keys():
            raise ValueError(f"the state is of sources {sorted(state['drawn'])}, this mixture has {sorted(self._drawn)}")
        self._drawn, self._tokens = dict(state["drawn"]), dict(state["tokens"])
        self._position, self._total = sum(self._drawn.values()), sum(self._tokens.values())

    def _due(self) -> str:
        """The quota method's next source."""
        after = self._position + 1
        within = (name for name, weight in self._weights.items() if self._drawn[name] * self._whole < weight * after)
        return min(within, key=lambda name: Fraction(self._drawn[name] + 1, self._weights[name]))

    def _furthest_behind(self) -> str:
        """The source with the largest deficit in tokens."""
        return max(self._weights, key=lambda name: self._weights[name] * self._total - self._tokens[name] * self._whole)

    def _place(self, name: str, drawn: int) -> int:
        """Index in the source of its document number `drawn`."""
        length = self._lengths[name]
        epoch, index = divmod(drawn, length)
        return permuted(key("order", self._seed, name, epoch), index, length)
