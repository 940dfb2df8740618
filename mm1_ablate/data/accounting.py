"""Data accounting: every document drawn is counted by source, with the reason if it was not used.

Counts go in as documents are drawn, packed and decoded; an account in plain values comes out, for the run's files and for display.
Nothing that is skipped goes unseen, and a source of which too much is unreadable stops the run (`TooMuchBadData`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from math import ceil, inf, sqrt
from typing import Any

from mm1_ablate.data.documents import Unreadable
from mm1_ablate.data.lost_documents import Losses, losses_to_json, share_of

EXAMPLES = 3
"""Examples that are named for each reason: the first ones."""
ENOUGH = 200
"""Documents (or images) among which a share of bad ones means something; of a smaller source, all of them."""
DEVIATIONS = 3
"""Standard deviations by which more must be bad than is allowed, before it is significant."""


class TooMuchBadData(ValueError):
    """More of a source cannot be read than the settings allow.

    Args:
        counts: state of the accounting that says so.
    """

    def __init__(self, message: str, counts: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.counts = dict(counts)


@dataclass(slots=True)
class SourceCounts:
    """What became of one source's documents."""

    drawn: int = 0
    """Documents drawn, in the source's order, used or not."""
    documents: int = 0
    """Documents that went into the mixture."""
    images: int = 0
    """Their images."""
    tokens: int = 0
    """Their nominal tokens."""
    bad_documents: int = 0
    """Documents drawn that could not be used at all."""
    missing_images: int = 0
    """Images that a document should have had; the document itself stayed."""
    loaded_images: int = 0
    """Images requested for batches, readable or not."""
    unreadable_images: int = 0
    """Those of them that could not be decoded."""
    bad: Counter[str] = field(default_factory=Counter)
    """Bad data of any kind, by reason."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Documents that the settings do not keep, by reason."""
    split: int = 0
    """Documents that were cut because no row can hold them."""
    pieces: int = 0
    """What they were cut into."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Documents that no row can hold and that were left out, by reason."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """The first of each reason of `bad`, by name."""

    def add_bad(self, error: Unreadable) -> None:
        """Count one piece of bad data and keep its name, if it is among the first of its reason."""
        self.bad[error.reason] += 1
        examples = self.examples.setdefault(error.reason, [])
        if len(examples) < EXAMPLES and error.what:
            examples.append(error.what)

    def __add__(self, other: SourceCounts) -> SourceCounts:
        both = SourceCounts()
        for name in SourceCounts.__slots__:
            mine, others = getattr(self, name), getattr(other, name)
            if name != "examples":
                setattr(both, name, mine + others)
        for reason in (*self.examples, *other.examples):
            both.examples[reason] = [*self.examples.get(reason, []), *other.examples.get(reason, [])][:EXAMPLES]
        return both

    def bad_share(self, lost: float = 0.0) -> float:
        """The share that is lost: with files that cannot be read, of documents drawn, plus of images that documents name, plus of images
        that batches ask for.

        To first order that is the share of captioned documents lost.

        Args:
            lost: the share of documents that are lost with files.
        """
        return min(1.0, lost + sum(bad / seen for bad, seen in self._stages if seen))

    def is_too_bad(self, limit: float, length: int, lost: float = 0.0) -> bool:
        """Whether more than `limit` of the source is lost: for certain, or beyond chance.

        For certain, if it were so although all that is left of the epoch were good. Beyond chance, if what was seen of the source holds
        more than a source at the limit would, by `DEVIATIONS` (its bad data counted as in a Poisson process).

        Args:
            length: documents of one epoch.
            lost: the share of documents that are lost with files: for certain.
        """
        images: float = length * (self.images + self.missing_images) / max(1, self.documents)
        # How many images an epoch has is known where documents have one each, or after an epoch.
        is_known = images == length or self.drawn >= length
        certain = share = lost
        left = max(0.0, limit - lost)
        fewest = inf
        for place, ((bad, seen), whole) in enumerate(zip(self._stages, (length, images, images), strict=True)):
            if bad:
                whole = whole or seen
                if place == 0 or is_known:
                    certain += bad / (whole * max(1, ceil(round(seen / whole, 6))))
                looked_at = max(seen, min(ENOUGH, whole))
                share += bad / looked_at
                fewest = min(fewest, looked_at)
        return limit < 1 and (certain > limit or share > limit + DEVIATIONS * sqrt(left / fewest))

    @property
    def _stages(self) -> tuple[tuple[int, int], ...]:
        """At each stage at which data is lost: how much, and of how much."""
        named = self.images + self.missing_images
        return (self.bad_documents, self.drawn), (self.missing_images, named), (self.unreadable_images, self.loaded_images)


class Accounting:
    """The accounting of all sources of a mixture.

    Args:
        lengths: documents of one epoch of each source.
        limits: the largest share of bad data of each source; a source that is not named here may be as bad as it likes.
        losses: what of the files of each source cannot be read; part of its share of bad data before anything is drawn.
    """

    def __init__(
        self,
        lengths: Mapping[str, int],
        limits: Mapping[str, float] | None = None,
        losses: Mapping[str, Sequence[Losses]] | None = None,
    ) -> None:
        self.lengths = dict(lengths)
        self.limits = dict(limits or {})
        self.losses = {name: list(found) for name, found in (losses or {}).items() if found}
        self.sources = {name: SourceCounts() for name in sorted(lengths)}

    def __getitem__(self, name: str) -> SourceCounts:
        return self.sources[name]

    def anew(self) -> Accounting:
        """One of the same sources in which nothing is counted yet."""
        return Accounting(self.lengths, self.limits, self.losses)

    def lost_share(self, name: str) -> float:
        """The share of a source's documents that are lost with files. Pictures beside documents are counted when documents miss them."""
        return share_of(one for one in self.losses.get(name, ()) if one.of == "documents")

    def check(self) -> None:
        """Stop if too much is bad, as soon as that is certain or significant.

        Raises:
            TooMuchBadData: naming the source, its share, the reasons and the first examples.
        """
        for name, limit in self.limits.items():
            counts, lost = self.sources[name], self.lost_share(name)
            if counts.is_too_bad(limit, self.lengths[name], lost):
                sentences = [one.in_words() for one in self.losses.get(name, ())] + ([describe_bad(counts)] if counts.bad else [])
                raise TooMuchBadData(
                    f"{counts.bad_share(lost):.1%} of source '{name}' cannot be read (of {counts.drawn:,} documents drawn), more than the "
                    f"{limit:.1%} allowed: {'; '.join(sentences)}. Repair or remove these files, or allow more with "
                    f"data.sources.{name}.max_bad_share (or data.max_bad_share for all sources)",
                    self.state(),
                )

    def __add__(self, other: Accounting) -> Accounting:
        """The counts of both; the examples of this one come first."""
        both = self.anew()
        both.sources = {name: counts + other[name] for name, counts in self.sources.items()}
        return both

    def state(self) -> dict[str, Any]:
        """The counts as plain numbers and names, from which `restore` continues. A copy."""
        return {name: _plain(counts) for name, counts in self.sources.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state` was taken. Sources that it does not name begin anew."""
        self.sources = {name: _of_plain(state.get(name, {})) for name in self.sources}

    def account(self) -> dict[str, dict[str, Any]]:
        """Of each source, in plain values: documents, images, tokens, drawn, epochs, bad (by reason), bad_share, left_out (by reason),
        split, pieces, dropped (by reason), examples (by reason of `bad`), lost (see `Losses.to_json`; only where files cannot be read)."""
        return {name: self._account(name) for name in self.sources}

    def _account(self, name: str) -> dict[str, Any]:
        counts = self.sources[name]
        return {
            "documents": counts.documents,
            "images": counts.images,
            "tokens": counts.tokens,
            "drawn": counts.drawn,
            "epochs": counts.drawn / self.lengths[name] if self.lengths[name] else 0.0,
            "bad": dict(counts.bad.most_common()),
            "bad_share": counts.bad_share(self.lost_share(name)),
            "left_out": dict(counts.left_out.most_common()),
            "split": counts.split,
            "pieces": counts.pieces,
            "dropped": dict(counts.dropped.most_common()),
            "examples": deepcopy(counts.examples),
            **({"lost": losses_to_json(self.losses[name])} if name in self.losses else {}),
        }


def describe_bad(counts: SourceCounts) -> str:
    """The bad data of a source in a few words, the most frequent reasons first."""
    described = []
    for reason, count in counts.bad.most_common():
        examples = counts.examples.get(reason)
        described.append(f"{count:,} {reason}" + (f" (first: {', '.join(examples)})" if examples else ""))
    return "; ".join(described) or "no reason was counted"


def describe_unused(counts: SourceCounts) -> str:
    """Why documents of a source were not used, in a few words."""
    others = [f"{count:,} {reason}" for reason, count in (counts.left_out + counts.dropped).most_common()]
    return "; ".join([*([describe_bad(counts)] if counts.bad else []), *others]) or "no reason was counted"


def _plain(counts: SourceCounts) -> dict[str, Any]:
    """What is not zero, so that the state of clean data stays small."""
    values = {name: getattr(counts, name) for name in SourceCounts.__slots__}
    return {name: deepcopy(dict(value) if isinstance(value, dict) else value) for name, value in values.items() if value}


def _of_plain(values: Mapping[str, Any]) -> SourceCounts:
    counts = SourceCounts()
    for name, value in values.items():
        setattr(counts, name, Counter(value) if isinstance(getattr(counts, name), Counter) else deepcopy(value))
    return counts
