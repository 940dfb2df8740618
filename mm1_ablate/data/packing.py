"""Documents in, packed rows out: whole documents, side by side, in rows of a nominal length.

Every image counts the same nominal number of tokens, whatever the connector makes of it, so that arms with other image token
counts get identical documents in identical rows. Rows are filled best-fit-decreasing inside a window of documents (Johnson et al.
1974), then shuffled, because rows of one window would otherwise come sorted by length. A document that cannot fit in any row is
left out and counted.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mm1_ablate.data.documents import Document, Image
from mm1_ablate.data.mixture import Mixture
from mm1_ablate.data.randomness import Draws, key
from mm1_ablate.data.tokenizer import Tokenizer
from mm1_ablate.spec.experiment import Packing

Segment = tuple[int, ...] | Image


@dataclass(frozen=True, slots=True)
class TokenisedDocument:
    """A document as token ids and images in reading order, closed by the end token."""

    key: str
    source: str
    segments: tuple[Segment, ...]
    images: tuple[Image, ...]
    nominal_length: int
    """Tokens with the end token, every image counted nominally."""


Row = tuple[TokenisedDocument, ...]


def tokenise(document: Document, tokenizer: Tokenizer, nominal_image_tokens: int) -> TokenisedDocument:
    """Token ids of a document's texts; the end token belongs to the last of them."""
    segments: list[Segment] = [part if isinstance(part, Image) else tokenizer.ids(part) for part in document.parts]
    if segments and isinstance(segments[-1], tuple):
        segments[-1] = (*segments[-1], tokenizer.end)
    else:
        segments.append((tokenizer.end,))
    images = document.images
    length = sum(len(segment) for segment in segments if isinstance(segment, tuple)) + len(images) * nominal_image_tokens
    return TokenisedDocument(document.key, document.source, tuple(segments), images, length)


def pack(documents: Sequence[TokenisedDocument], row_tokens: int, max_images: int | None) -> list[Row]:
    """Best-fit-decreasing: longest documents first, each into the fullest row that takes it. Every document must fit in a row."""
    rows: list[list[TokenisedDocument]] = []
    images: list[int] = []
    space: list[tuple[int, int]] = []  # (tokens left, row), sorted
    for document in sorted(documents, key=lambda document: -document.nominal_length):
        length, pictures = document.nominal_length, len(document.images)
        place = bisect_left(space, (length, -1))
        while place < len(space) and max_images is not None and images[space[place][1]] + pictures > max_images:
            place += 1
        if place < len(space):
            left, row = space.pop(place)
        else:
            left, row = row_tokens, len(rows)
            rows.append([])
            images.append(0)
        rows[row].append(document)
        images[row] += pictures
        insort(space, (left - length, row))
    return [tuple(row) for row in rows]


class PackedRows:
    """An endless iterator of rows, window by window of a mixture.

    Its state is the mixture's at the start of the window and the number of rows used since: the window is packed again on restore.
    """

    def __init__(self, mixture: Mixture, tokenizer: Tokenizer, packing: Packing, seed: int) -> None:
        self.mixture = mixture
        self.dropped: Counter[tuple[str, str]] = Counter()
        """Documents left out so far, by (reason, source)."""
        self._tokenizer = tokenizer
        self._packing = packing
        self._seed = seed
        self._rows: list[Row] = []
        self._used = 0
        self._remember()

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        empty_windows = 0
        while self._used == len(self._rows):
            self._next_window()
            empty_windows += not self._rows
            if empty_windows == 100:
                raise ValueError(f"no document fits in a row of {self._packing.row_tokens} tokens: {self._reasons()}")
        self._used += 1
        return self._rows[self._used - 1]

    def state(self) -> dict[str, Any]:
        """What `restore` needs to continue after the last row handed out. Plain numbers and names."""
        return {"window": self._start, "rows_used": self._used, "dropped": self._dropped_before}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.mixture.restore(state["window"])
        self.dropped = Counter({(reason, source): count for reason, source, count in state["dropped"]})
        self._rows, self._used = [], 0
        self._remember()
        if state["rows_used"]:
            self._next_window()
            self._used = state["rows_used"]

    def _remember(self) -> None:
        self._start = self.mixture.state()
        self._dropped_before = [(reason, source, count) for (reason, source), count in sorted(self.dropped.items())]

    def _next_window(self) -> None:
        self._remember()
        position = self.mixture.position
        fitting = []
        for _ in range(self._packing.buffer_documents):
            document = tokenise(next(self.mixture), self._tokenizer, self._packing.nominal_image_tokens)
            if reason := self._does_not_fit(document):
                self.dropped[reason, document.source] += 1
            else:
                fitting.append(document)
        rows = pack(fitting, self._packing.row_tokens, self._packing.max_images)
        self._rows = Draws(key("rows", self._seed), position).sample(rows, len(rows))
        self._used = 0

    def _does_not_fit(self, document: TokenisedDocument) -> str:
        if document.nominal_length > self._packing.row_tokens:
            return "longer than a row"
        if self._packing.max_images is not None and len(document.images) > self._packing.max_images:
            return "too many images"
        return ""

    def _reasons(self) -> str:
        return ", ".join(f"{count} of source '{source}' {reason}" for (reason, source), count in sorted(self.dropped.items()))
