"""Sources and their shares in, one sequence of documents out: exact at every prefix, resumable from a few integers.

Which source comes next follows from the counts so far alone. By documents it is the quota method (Balinski and Young, The quota
method of apportionment, 1975): of the sources that the next document would not put above their share, the one whose document is
due first; every realised count is then within one document of its share at every prefix, however many sources there are. By
tokens, where a document's length is known only once it is drawn, it is the source that lies furthest behind.

Inside a source the order is a seeded permutation of each epoch, a function of (seed, name of the source, epoch) only: arms that
differ in their mixture read each source in the same order. A document that cannot be used (bad data, not kept by the settings, too
long for any row) is counted, and the next one in that order takes its place, so shares are exact over the documents handed out.

A source that has been read `max_epochs` times leaves when its next document would be due. The others then share its part in their
own ratio: from there on counting begins anew among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from math import lcm
from typing import Any, Literal

from mm1_ablate.data.accounting import Accounting, describe_unused
from mm1_ablate.data.counter_based_random import key, permuted
from mm1_ablate.data.documents import Document, KnownLoss, LeftOut, Unreadable
from mm1_ablate.data.sources import OpenSource

MOST_UNUSABLE = 100_000
"""Documents of a large source that may be unusable in a row; of a small one, as many as hold a whole epoch."""


class Mixture:
    """An iterator of documents; endless, unless every source has a `max_epochs`.

    Args:
        shares: share of each source in the mixture; positive.
        sources: the sources by name.
        count: what the shares count: documents, or whatever `measure` measures.
        seed: orders the documents inside each source.
        measure: tokens of a document; needed when they are counted.
        max_epochs: how often a source is read at most; a source that is not named: as often as need be.
        refuse: says why a document cannot be used, where it cannot; it is then counted as dropped.
        accounting: counts what happens to every document.

    Raises:
        ValueError: if a source is empty, or nothing is left to draw from; while drawing, if a source has no usable document.
        TooMuchBadData: while drawing, if more of a source is bad than the accounting allows.
    """

    def __init__(
        self,
        shares: Mapping[str, Fraction],
        sources: Mapping[str, OpenSource],
        count: Literal["documents", "tokens", "text_tokens"] = "documents",
        seed: int = 0,
        measure: Callable[[Document], int] | None = None,
        max_epochs: Mapping[str, float | None] | None = None,
        refuse: Callable[[Document], str | None] | None = None,
        accounting: Accounting | None = None,
    ) -> None:
        if not shares:
            raise ValueError("a mixture needs at least one source with a positive share")
        if count != "documents" and measure is None:
            raise ValueError("a mixture by tokens needs a measure of documents")
        self._sources = {name: sources[name] for name in shares}
        self._lengths = {name: len(source) for name, source in self._sources.items()}
        if empty := [name for name, length in self._lengths.items() if length == 0]:
            raise ValueError(f"source '{empty[0]}' has no documents")
        # Integers instead of fractions: exact, and fast.
        whole = lcm(*(share.denominator for share in shares.values()))
        # By name, so that ties fall alike whatever order sources are declared in: the order is not part of a trial's identity.
        self._all_weights = {name: int(share * whole) for name, share in sorted(shares.items())}
        self._count = count
        self._seed = seed
        self._measure = measure if count != "documents" else None
        self._last_place = self._last_places(max_epochs or {})
        self._refuse = refuse
        self.accounting = accounting or Accounting(self._lengths)
        self._places = dict.fromkeys(shares, 0)
        self._drawn = dict.fromkeys(shares, 0)
        self._position = 0
        self._begin(self._all_weights)

    def __iter__(self) -> Iterator[Document]:
        return self

    def __next__(self) -> Document:
        while self._weights:
            name = self._furthest_behind() if self._measure else self._due()
            document = self._next_usable(name)
            if document is None:
                self._begin({other: weight for other, weight in self._weights.items() if other != name})
                continue
            self._drawn[name] += 1
            self._position += 1
            self._counted[name] += 1
            self._total += 1
            if self._measure:
                length = self._measure(document)
                self._tokens[name] += length
                self._total_tokens += length
            return document
        raise StopIteration

    @property
    def position(self) -> int:
        """Documents handed out so far."""
        return self._position

    @property
    def drawn(self) -> dict[str, int]:
        """Documents handed out so far from each source."""
        return dict(self._drawn)

    @property
    def epochs(self) -> dict[str, float]:
        """How often each source has been read so far."""
        return {name: place / self._lengths[name] for name, place in self._places.items()}

    @property
    def used_up(self) -> list[str]:
        """Sources that have left, having been read as often as they may be."""
        return [name for name in self._all_weights if name not in self._weights]

    def state(self) -> dict[str, Any]:
        """Plain numbers from which `restore` continues exactly."""
        return {
            "places": dict(self._places),
            "drawn": dict(self._drawn),
            "counted": dict(self._counted),
            "tokens": dict(self._tokens),
            "tally": self.accounting.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken.

        Raises:
            ValueError: if it was taken from a mixture of other sources.
        """
        if state["drawn"].keys() != self._drawn.keys():
            raise ValueError(f"the state is of sources {sorted(state['drawn'])}, this mixture has {sorted(self._drawn)}")
        self._places, self._drawn = dict(state["places"]), dict(state["drawn"])
        self._position = sum(self._drawn.values())
        self._begin({name: weight for name, weight in self._all_weights.items() if name in state["counted"]})
        self._counted, self._tokens = dict(state["counted"]), dict(state["tokens"])
        self._total, self._total_tokens = sum(self._counted.values()), sum(self._tokens.values())
        self.accounting.restore(state["tally"])

    def _begin(self, weights: dict[str, int]) -> None:
        """Count anew among these sources."""
        self._weights = weights
        self._whole = sum(weights.values())
        # Between two documents of a source, in units in which all are integers.
        self._interval = {name: lcm(*weights.values()) // weight for name, weight in weights.items()}
        self._counted = dict.fromkeys(weights, 0)
        self._tokens = dict.fromkeys(weights, 0)
        self._total = self._total_tokens = 0

    def _due(self) -> str:
        """The quota method's next source."""
        after = self._total + 1
        within = (name for name, weight in self._weights.items() if self._counted[name] * self._whole < weight * after)
        return min(within, key=lambda name: (self._counted[name] + 1) * self._interval[name])

    def _furthest_behind(self) -> str:
        """The source with the largest deficit in tokens."""
        return max(self._weights, key=lambda name: self._weights[name] * self._total_tokens - self._tokens[name] * self._whole)

    def _next_usable(self, name: str) -> Document | None:
        """The next document in a source's order that can be used, or None if the source is used up."""
        counts, unusable, last = self.accounting[name], 0, self._last_place[name]
        # So many places in a row hold a whole epoch, wherever they begin.
        most_unusable = min(2 * self._lengths[name] - 1, MOST_UNUSABLE)
        while last is None or self._places[name] < last:
            if unusable == most_unusable:
                raise ValueError(f"none of the next {unusable:,} documents of source '{name}' can be used: {describe_unused(counts)}")
            index = self._index(name, self._places[name])
            self._places[name] += 1
            counts.drawn += 1
            document = self._usable(name, index)
            if document is not None:
                counts.documents += 1
                counts.images += len(document.images)
                return document
            unusable += 1
        if not self._drawn[name]:
            raise ValueError(f"none of the {unusable:,} documents of source '{name}' can be used: {describe_unused(counts)}")
        return None

    def _usable(self, name: str, index: int) -> Document | None:
        """A document, or None if it cannot be used, which is then counted."""
        counts = self.accounting[name]
        try:
            document = self._sources[name][index]
        except KnownLoss:
            return None
        except Unreadable as error:
            counts.bad_documents += 1
            counts.add_bad(error)
            self.accounting.check()
            return None
        except LeftOut as error:
            counts.left_out[error.reason] += 1
            return None
        for damage in document.damage:
            counts.missing_images += 1
            counts.add_bad(damage)
        if document.damage:
            self.accounting.check()
        if self._refuse and (reason := self._refuse(document)):
            counts.dropped[reason] += 1
            return None
        return document

    def _index(self, name: str, place: int) -> int:
        """Index in the source of what stands at a place of its order."""
        length = self._lengths[name]
        epoch, index = divmod(place, length)
        return permuted(key("order", self._seed, name, epoch), index, length)

    def _last_places(self, max_epochs: Mapping[str, float | None]) -> dict[str, int | None]:
        """The places of each source's order that may be read; None: all there are."""
        last: dict[str, int | None] = {}
        for name, length in self._lengths.items():
            epochs = max_epochs.get(name)
            last[name] = None if epochs is None else int(Fraction(str(epochs)) * length)
            if last[name] == 0:
                raise ValueError(
                    f"{epochs} epochs of source '{name}' with its {length:,} documents are less than one document; raise its max_epochs"
                )
        return last
