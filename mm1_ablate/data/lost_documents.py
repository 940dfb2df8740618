"""Files that cannot be read, wholly or from some place on, and about how many documents are lost with them.

In: of each file of a source what was read of it and what is wrong with it. Out: `Losses`, known before a document is drawn: when a plan
is made as far as sizes, first and last bytes and footers tell, and in full once indices are there.

How many documents a damaged file should have had: what its format says (parquet's footer), else as many as a file of its size would hold
and at least as many as the median file of the source. What it did give is taken off; at least one document is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from statistics import median
from typing import Any, Literal

from mm1_ablate.config.data import Data, Source
from mm1_ablate.config.errors import Diagnostic
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import Place, diagnostics_about, identity_of, look, once, sources_of

NAMED = 3
"""Files that are named: the first ones."""


@dataclass(frozen=True, slots=True)
class FileRead:
    """What was read of a file."""

    name: str
    size: int
    documents: float
    """How many it gave, or is estimated to hold."""
    read: int
    """Bytes of it that hold them."""
    damage: str = ""
    """What is wrong with it, in a few words."""
    known: int | None = None
    """Documents that it should have given, where the file itself says so."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A file, or several entries of one, that cannot be read."""

    what: str
    """Its name."""
    reason: str
    bytes: int
    documents: int
    is_what: Literal["file", "part", "entries"] = "file"
    """A whole file; a part of one, from some place on; or entries of one that can be read besides."""


@dataclass(frozen=True)
class Losses:
    """What of some files is lost. Nothing, where `lost` is empty."""

    lost: tuple[Lost, ...]
    files: int
    """In all."""
    size: int
    """Bytes of them."""
    there: float
    """Documents that can be read."""
    field: str = "files"
    """Of the source's settings: which names the files."""
    of: Literal["documents", "pictures"] = "documents"
    """Pictures that lie beside documents: their loss is counted as well when a document misses them."""

    @property
    def documents(self) -> int:
        """About how many are lost."""
        return sum(lost.documents for lost in self.lost)

    @property
    def bytes(self) -> int:
        """How many are lost."""
        return sum(lost.bytes for lost in self.lost)

    @property
    def share(self) -> float:
        """Of all documents."""
        return self.documents / (self.documents + self.there) if self.documents else 0.0

    def in_words(self) -> str:
        """'10 of 20 files cannot be read; lost are ...': how much, and the first names and reasons."""
        from rich.filesize import decimal

        numbers = Counter(lost.is_what for lost in self.lost)
        of = f"of {self.files:,} file{'s' if self.files != 1 else ''}"
        sentences = [f"{numbers['file']:,} {of} cannot be read"] if numbers["file"] else []
        sentences += [f"{numbers['part']:,} {of} can be read only in part"] if numbers["part"] else []
        sentences += [f"entries {of} are not read"] if numbers["entries"] else []
        documents, in_all = self.documents, round(self.documents + self.there)
        amount = f"{decimal(self.bytes)} of {decimal(self.size)}, about {documents:,} of {in_all:,} {self.of} ({self.share:.1%})"
        rest = len(self.lost) - NAMED
        named = "; ".join(f"{lost.what}: {lost.reason}" for lost in self.lost[:NAMED]) + (f"; and {rest:,} more" if rest > 0 else "")
        return f"{' and '.join(sentences)}; lost are {amount}. {'The first: ' if rest > 0 else ''}{named}"

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the account of a trial and for JSON."""
        first = [f"{lost.what}: {lost.reason}" for lost in self.lost[:NAMED]]
        files = sum(lost.is_what != "entries" for lost in self.lost)
        amounts = {"files": files, "of_files": self.files, "bytes": self.bytes, self.of: self.documents, "share": self.share}
        return {"of": self.of, **amounts, "first": first, "in_words": self.in_words()}

    def scaled(self, factor: float, field: str | None = None) -> Losses:
        """The same where each document of the files is so many of another source's."""
        lost = tuple(replace(one, documents=ceil(one.documents * factor)) for one in self.lost)
        return replace(self, lost=lost, there=self.there * factor, field=field or self.field)


def losses_of(files: Sequence[FileRead], entries: Iterable[Lost] = (), field: str = "files") -> list[Losses]:
    """What is lost of files: one `Losses`, or none if all is well.

    Args:
        entries: what is lost of files that can be read besides.
    """
    whole = [file for file in files if not file.damage and file.documents]
    given = [file for file in files if file.documents]
    bytes_of_one = sum(file.read for file in given) / sum(file.documents for file in given) if given else 0.0
    usual = median(file.documents for file in whole) if whole else 0.0
    lost = [_lost(file, bytes_of_one, usual) for file in files if file.damage]
    lost += entries
    there = sum(file.documents for file in files)
    return [Losses(tuple(lost), len(files), sum(file.size for file in files), there, field)] if lost else []


def _lost(file: FileRead, bytes_of_one: float, usual: float) -> Lost:
    rest = max(0, file.size - file.read)
    should = file.documents + (rest / bytes_of_one if bytes_of_one else 0.0)
    expected = max(should, usual) if file.known is None else file.known
    documents = max(1, round(expected - file.documents))
    # Of a file that breaks off, the bytes that are missing are nowhere.
    return Lost(file.name, file.damage, rest, documents, "part" if file.documents else "file")


def share_of(losses: Iterable[Losses]) -> float:
    """The share of a source that is lost; to first order the sum of what is lost in each place."""
    return min(1.0, sum(one.share for one in losses))


# ---------------------------------------------------------------- when a plan is made
def limited_sources(experiment: Experiment) -> Iterator[tuple[Place, Source, float]]:
    """All sources that are read, by their place, with the share of each that may be unreadable."""
    for place, source in sources_of(experiment):
        stage, below = experiment, place
        while below[0] == "starts_from" and stage.starts_from is not None:
            stage, below = stage.starts_from, below[1:]
        of_the_whole = stage.data.max_bad_share if below[0] == "data" else Data.model_fields["max_bad_share"].default
        yield place, source, of_the_whole if source.max_bad_share is None else source.max_bad_share


def lost_files(experiment: Experiment) -> list[Diagnostic]:
    """Of sources whose files cannot all be read: an error where more is lost than the settings allow, else a warning."""
    if look() != "check":
        return []
    found = []
    for place, source, limit in limited_sources(experiment):
        if all(diagnostic.warning for diagnostic in diagnostics_about(source)):
            losses = once(f"losses {identity_of(source)}", source.losses)
            found += what_to_say(losses, place, limit)
    return found


def what_to_say(losses: Sequence[Losses], place: Place, limit: float) -> list[Diagnostic]:
    """Errors and warnings about a source's losses, by place in the experiment."""
    too_much = share_of(losses) > limit
    found = []
    for one in sorted(losses, key=lambda one: -one.share):
        path = (*place, *one.field.split("."))
        allowed = f"{limit:.1%} may be lost (max_bad_share)"
        if too_much:
            name = ".".join(map(str, (*place, "max_bad_share")))
            hint = f"repair or remove these files, or allow more with {name}"
            found.append(Diagnostic(path, f"{one.in_words()}. At most {allowed}", hint))
        else:
            found.append(Diagnostic(path, f"{one.in_words()}. They are left out: {allowed}", "repair or remove these files", warning=True))
    return found


def losses_in(opened: Any) -> list[Losses]:
    """What an open source knows to be lost; sources of a user's own may say nothing of it."""
    return list(getattr(opened, "losses", ()))


def losses_to_json(losses: Iterable[Losses]) -> list[Mapping[str, Any]]:
    return [one.to_json() for one in losses]
