"""Documents in, packed rows out: documents side by side, whole where a row can hold them, in rows of a nominal length.

Every image counts the same nominal number of tokens, whatever the connector makes of it, so that arms with other image token
counts get identical documents in identical rows. Rows are filled inside a window of documents, best-fit-decreasing (Johnson et al.
1974) or with an eye on the cap on images, then shuffled, because rows of one window would otherwise come sorted by length.

A document that no row can hold is cut into pieces or left out, as declared. A cut goes between images or inside a text, and loses
nothing; but a piece is a document of its own to the model, so its first token has no context and is not predicted. An image that no
row can hold cannot be cut: its document is left out. All of this is counted.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mm1_ablate.config.data import Data, Packing
from mm1_ablate.data.accounting import Accounting
from mm1_ablate.data.counter_based_random import Draws, key
from mm1_ablate.data.documents import Document, Image
from mm1_ablate.data.joining import Segment, segments
from mm1_ablate.data.lost_documents import losses_in
from mm1_ablate.data.mixture import Mixture
from mm1_ablate.data.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TokenisedDocument:
    """A document, or a piece of one, as token ids and images in reading order; the end token closes the document."""

    key: str
    """The document's; of a later piece with its number: "page/7#2"."""
    source: str
    segments: tuple[Segment, ...]
    images: tuple[Image, ...]
    nominal_length: int
    """Tokens with the end token, every image counted nominally."""
    data_type: str = ""
    """As the source declares it."""
    piece: int = 1
    """Which piece of a document this is; 1 also where it is whole."""


PackedRow = tuple[TokenisedDocument, ...]


def tokenise(document: Document, tokenizer: Tokenizer, nominal_image_tokens: int) -> TokenisedDocument:
    """Token ids of a document's texts (see `joining.py`); the end token belongs to the last of them."""
    found = list(segments(document.parts, tokenizer))
    if found and isinstance(found[-1], tuple):
        found[-1] = (*found[-1], tokenizer.end)
    else:
        found.append((tokenizer.end,))
    length = text_tokens(found) + len(document.images) * nominal_image_tokens
    return TokenisedDocument(document.key, document.source, tuple(found), document.images, length, document.data_type)


def why_dropped(document: TokenisedDocument, packing: Packing) -> str | None:
    """Why no row can hold a document, in pieces if it may be cut; None if it can."""
    may_cut = packing.long_documents == "split"
    if document.images and packing.nominal_image_tokens > packing.row_tokens:
        return "an image longer than a row"
    if document.nominal_length > packing.row_tokens and not may_cut:
        return "longer than a row"
    if packing.max_images is not None and len(document.images) > packing.max_images and not may_cut:
        return "too many images"
    return None


def pieces(document: TokenisedDocument, packing: Packing) -> list[TokenisedDocument]:
    """A document in as few pieces as rows can hold: itself, where that is one.

    Each piece but the last is as full as it can be, except that images at its end go to the next one, where the text is that follows
    them. `why_dropped` must know no reason against the document.
    """
    row_tokens, most_images = packing.row_tokens, packing.max_images or len(document.images)
    if document.nominal_length <= row_tokens and len(document.images) <= most_images:
        return [document]
    cut: list[list[Segment]] = []
    current: list[Segment] = []
    space, images = row_tokens, 0
    for segment in document.segments:
        done = 0
        while True:
            if isinstance(segment, Image):
                if packing.nominal_image_tokens <= space and images < most_images:
                    current.append(segment)
                    space, images = space - packing.nominal_image_tokens, images + 1
                    break
            else:
                if part := segment[done : done + space]:
                    current.append(part)
                done, space = done + len(part), space - len(part)
                if done == len(segment):
                    break
            cut.append(current)
            current = _images_at_the_end(current)
            space, images = row_tokens - len(current) * packing.nominal_image_tokens, len(current)
    cut.append(current)
    return [_piece(document, segments, place, packing.nominal_image_tokens) for place, segments in enumerate(cut, 1)]


def _images_at_the_end(segments: list[Segment]) -> list[Segment]:
    """Take the images off the end of a piece, unless it is all images."""
    texts = [place for place, segment in enumerate(segments) if not isinstance(segment, Image)]
    if not texts:
        return []
    taken = segments[texts[-1] + 1 :]
    del segments[texts[-1] + 1 :]
    return taken


def _piece(document: TokenisedDocument, segments: list[Segment], place: int, nominal_image_tokens: int) -> TokenisedDocument:
    images = tuple(segment for segment in segments if isinstance(segment, Image))
    length = text_tokens(segments) + len(images) * nominal_image_tokens
    name = document.key if place == 1 else f"{document.key}#{place}"
    return TokenisedDocument(name, document.source, tuple(segments), images, length, document.data_type, place)


def text_tokens(segments: Iterable[Segment]) -> int:
    """Tokens of the texts among segments."""
    return sum(len(segment) for segment in segments if isinstance(segment, tuple))


def pack(documents: Sequence[TokenisedDocument], row_tokens: int, max_images: int | None) -> list[PackedRow]:
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


def pack_balanced(documents: Sequence[TokenisedDocument], row_tokens: int, max_images: int | None) -> list[PackedRow]:
    """Row by row: the longest document, then always the one after which the space that is left, in tokens and in images, comes nearest
    to the ratio of what is left to pack. Best-fit-decreasing where that takes no more rows.

    Best-fit-decreasing puts what is long together and leaves rows of captions alone, which reach the cap on images half full.
    """
    rows = pack(documents, row_tokens, max_images)
    if max_images is None:
        return rows
    documents = sorted(documents, key=lambda document: -document.nominal_length)
    tokens = np.array([document.nominal_length for document in documents], np.int64)
    images = np.array([len(document.images) for document in documents], np.int64)
    left = np.ones(len(documents), bool)
    balanced: list[PackedRow] = []
    while left.any():
        row: list[TokenisedDocument] = []
        space, room = row_tokens, max_images
        while (fits := np.flatnonzero(left & (tokens <= space) & (images <= room))).size:
            # Integers, so that the same documents give the same rows on every machine.
            imbalance = np.abs((space - tokens[fits]) * images[left].sum() - (room - images[fits]) * tokens[left].sum())
            chosen = int(fits[imbalance.argmin()]) if row else int(fits[0])
            row.append(documents[chosen])
            left[chosen] = False
            space, room = space - int(tokens[chosen]), room - int(images[chosen])
        balanced.append(tuple(row))
    return balanced if len(balanced) < len(rows) else rows


PACKERS = {"best_fit": pack, "balanced": pack_balanced}


class PackedRows:
    """An iterator of rows, window by window of a mixture, which ends where the mixture ends.

    Its state is the mixture's at the start of the window and the number of rows used since: the window is packed again on restore.

    Args:
        mixture: of documents that rows can hold, in pieces if need be (`open_packed_rows` makes it so).
        tokenizer: of the language model.
        packing: what a row is.
        seed: of the order of the rows of a window.
    """

    def __init__(self, mixture: Mixture, tokenizer: Tokenizer, packing: Packing, seed: int) -> None:
        self.mixture = mixture
        self._tokenizer = tokenizer
        self._packing = packing
        self._seed = seed
        self._rows: list[PackedRow] = []
        self._used = 0
        self._rows_given = self._tokens_given = 0
        self._start = mixture.state()
        self.counts = self._start["tally"]
        """State of the accounting after the window that the last row was of."""

    def __iter__(self) -> Iterator[PackedRow]:
        return self

    def __next__(self) -> PackedRow:
        if self._used == len(self._rows):
            self._next_window()
        row = self._rows[self._used]
        self._used += 1
        self._rows_given += 1
        self._tokens_given += sum(document.nominal_length for document in row)
        return row

    @property
    def accounting(self) -> Accounting:
        """What became of every document so far, the window being packed included."""
        return self.mixture.accounting

    @property
    def fill(self) -> float:
        """The share of the rows handed out so far that documents fill, in nominal tokens; nothing handed out: 0."""
        return self._tokens_given / (self._rows_given * self._packing.row_tokens) if self._rows_given else 0.0

    def state(self) -> dict[str, Any]:
        """What `restore` needs to continue after the last row handed out. Plain numbers and names."""
        return {"window": self._start, "rows_used": self._used, "rows": self._rows_given, "tokens": self._tokens_given}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.mixture.restore(state["window"])
        self._start = self.mixture.state()
        self.counts = self._start["tally"]
        self._rows, self._used = [], 0
        if state["rows_used"]:
            self._next_window()
            self._used = state["rows_used"]
        self._rows_given, self._tokens_given = state["rows"], state["tokens"]

    def _next_window(self) -> None:
        start, position = self.mixture.state(), self.mixture.position
        fitting: list[TokenisedDocument] = []
        for _, document in zip(range(self._packing.buffer_documents), self.mixture, strict=False):
            tokenised = tokenise(document, self._tokenizer, self._packing.nominal_image_tokens)
            parts = pieces(tokenised, self._packing)
            counts = self.accounting[document.source]
            counts.tokens += tokenised.nominal_length
            if len(parts) > 1:
                counts.split += 1
                counts.pieces += len(parts)
            fitting += parts
        if not fitting:
            raise StopIteration
        rows = PACKERS[self._packing.policy](fitting, self._packing.row_tokens, self._packing.max_images)
        self._rows = Draws(key("rows", self._seed), position).sample(rows, len(rows))
        self._used = 0
        self._start, self.counts = start, self.accounting.state()


def open_packed_rows(data: Data, tokenizer: Tokenizer, seed: int, limited: bool = True) -> PackedRows:
    """The rows that an experiment's data gives with a seed: its sources opened, mixed and packed as declared.

    Args:
        limited: stop where more of a source cannot be read than the settings allow.

    Raises:
        ValueError: if a source is empty.
        TooMuchBadData: if more of a source is lost with files that cannot be read than the settings allow.
        OSError: if the files of a source cannot be opened.
    """
    from mm1_ablate.data.filters import open_source

    shares, packing = data.shares(), data.packing
    opened = {name: open_source(data.sources[name], seed, name) for name in shares}
    lengths = {name: len(source) for name, source in opened.items()}
    accounting = Accounting(lengths, data_limits(data) if limited else {}, {name: losses_in(source) for name, source in opened.items()})
    accounting.check()

    def tokenised(document: Document) -> TokenisedDocument:
        # Asked for up to three times of each document; the tokenizer remembers its texts.
        return tokenise(document, tokenizer, packing.nominal_image_tokens)

    def measure(document: Document) -> int:
        images = len(document.images) if data.count == "text_tokens" else 0
        return tokenised(document).nominal_length - images * packing.nominal_image_tokens

    # Where documents may be cut, only an image can be too long, and that the packing alone says.
    refuses = packing.long_documents == "drop" or packing.nominal_image_tokens > packing.row_tokens
    mixture = Mixture(
        shares,
        opened,
        data.count,
        seed,
        measure,
        max_epochs={name: data.sources[name].max_epochs for name in shares},
        refuse=(lambda document: why_dropped(tokenised(document), packing)) if refuses else None,
        accounting=accounting,
    )
    return PackedRows(mixture, tokenizer, packing, seed)


def data_limits(data: Data) -> dict[str, float]:
    """The share of bad data that each source of the mixture may have."""
    own = {name: data.sources[name].max_bad_share for name in data.shares()}
    return {name: data.max_bad_share if limit is None else limit for name, limit in own.items()}
