"""An experiment's data in, one flat batch for each training step out.

Sources are mixed (`mixture`), tokenised and packed into rows (`packing`); a step takes the next `batch_rows` rows and lays their
documents end to end. The same (data, seed) gives the same documents in the same steps, whatever the connector, the image size, the
threads that work ahead, or how a step is dealt out to ranks and micro-batches. `state_dict` is a few numbers; a fresh loader that
loads it continues bit for bit, on as many ranks and threads as you like.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mm1_ablate.config.data import Data
from mm1_ablate.data.accounting import Accounting, TooMuchBadData
from mm1_ablate.data.documents import Image
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.joining import Segment
from mm1_ablate.data.packing import PackedRow, TokenisedDocument, open_packed_rows
from mm1_ablate.data.tokenizer import Tokenizer

NEED_THEIR_IMAGES = ("captioned", "synthetic_captioned")
"""Data types whose documents say nothing without their images. Of the others the text stays."""


class DataUsedUp(ValueError):
    """Every source has been read as often as its `max_epochs` allows, before the training's last step."""


@dataclass
class Batch:
    """Documents laid end to end, without padding."""

    tokens: Tensor
    """int64 [T]; image positions hold the tokenizer's padding."""
    positions: Tensor
    """int64 [T]; from 0 in every document."""
    document_lengths: list[int]
    """Sum: T."""
    supervised: Tensor
    """int64 [S]: positions whose next token, in the same document, is text (the end token included)."""
    targets: Tensor
    """int64 [S]: those next tokens."""
    image_positions: Tensor
    """int64 [I * image tokens]: where image tokens go, image by image."""
    images: Tensor
    """uint8 [I, 3, size, size], or float32 [I, patches, width]; I may be 0. Sub-images are images of their own here, side by side."""
    documents: list[str]
    """Keys of the documents."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=non_blocking) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def collate(
    documents: Sequence[TokenisedDocument], image_tokens: int, padding: int, pipeline: ImagePipeline, accounting: Accounting | None = None
) -> Batch:
    """A batch of these documents, every image as `image_tokens` positions for each of its views (one, without sub-images).

    What cannot be decoded is left out, and counted in the accounting if there is one: a captioned document with its image, an image alone
    of an interleaved one.
    """
    documents, images, counts = load_images(documents, pipeline, accounting)
    views = iter(counts)
    tokens: list[int] = []
    positions: list[int] = []
    lengths: list[int] = []
    supervised: list[int] = []
    targets: list[int] = []
    image_positions: list[int] = []
    for document in documents:
        start = len(tokens)
        for segment in document.segments:
            here = len(tokens)
            if isinstance(segment, Image):
                own = image_tokens * next(views)
                tokens += [padding] * own
                image_positions += range(here, here + own)
            else:
                tokens += segment
                # Nothing in a document comes before its first token, so nothing predicts it.
                first = 1 if here == start else 0
                supervised += range(here + first - 1, here + len(segment) - 1)
                targets += segment[first:]
        lengths.append(len(tokens) - start)
        positions += range(lengths[-1])
    return Batch(
        tokens=torch.tensor(tokens, dtype=torch.int64),
        positions=torch.tensor(positions, dtype=torch.int64),
        document_lengths=lengths,
        supervised=torch.tensor(supervised, dtype=torch.int64),
        targets=torch.tensor(targets, dtype=torch.int64),
        image_positions=torch.tensor(image_positions, dtype=torch.int64),
        images=images,
        documents=[document.key for document in documents],
    )


def load_images(
    documents: Sequence[TokenisedDocument], pipeline: ImagePipeline, accounting: Accounting | None = None
) -> tuple[Sequence[TokenisedDocument], Tensor, list[int]]:
    """The documents without what cannot be decoded, the views [I, ...] of their images in order, and how many views each image has."""
    images, views, unreadable = pipeline.load_views([image for document in documents for image in document.images])
    readable: list[TokenisedDocument] = []
    rows: list[int] = []
    place = row = 0
    for document in documents:
        count = len(document.images)
        lost = {other - place for other in range(place, place + count) if other in unreadable}
        if accounting is not None and count:
            accounting[document.source].loaded_images += count
            accounting[document.source].unreadable_images += len(lost)
            for other in sorted(lost):
                accounting[document.source].add_bad(unreadable[place + other])
        if rest := without_images(document, lost):
            readable.append(rest)
            rows += range(row, row + count - len(lost))
        place, row = place + count, row + count - len(lost)
    if not unreadable:
        return documents, images, views
    starts = list(accumulate(views, initial=0))
    kept = [view for row in rows for view in range(starts[row], starts[row + 1])]
    return readable, images[kept], [views[row] for row in rows]


def without_images(document: TokenisedDocument, lost: set[int]) -> TokenisedDocument | None:
    """A document without some of its images, by place among them; None if no text is left to learn from."""
    if not lost:
        return document
    if document.data_type in NEED_THEIR_IMAGES:
        return None
    segments: list[Segment] = []
    images: list[Image] = []
    place = 0
    for segment in document.segments:
        if not isinstance(segment, Image):
            segments.append(segment)
            continue
        if place not in lost:
            segments.append(segment)
            images.append(segment)
        place += 1
    return replace(document, segments=tuple(segments), images=tuple(images)) if segments else None


class _Position(NamedTuple):
    """Where a loader stands after a step."""

    step: int
    rows: dict[str, Any]
    """State of the rows."""
    counts: dict[str, Any]
    """State of the accounting of documents."""


class _Prefetcher:
    """Two stages of work, done in order by the caller (no threads) or ahead of the caller; the first stage one at a time.

    With one thread it does both stages; with more, one draws and the others lay out, several steps at once.
    """

    def __init__(self, threads: int) -> None:
        self.depth = threads + 1
        """Pieces of work that wait to be taken, at most."""
        self._drawing = ThreadPoolExecutor(1, "mm1-ablate-draw") if threads else None
        self._collating = self._drawing if threads < 2 else ThreadPoolExecutor(threads - 1, "mm1-ablate-collate")
        self._asked: deque[Callable[[], Any]] = deque()

    def __len__(self) -> int:
        return len(self._asked)

    def ask(self, draw: Callable[[], Any], collate: Callable[[Any], Any]) -> None:
        if self._drawing is None or self._collating is None:
            self._asked.append(lambda: collate(draw()))
            return
        drawn = self._drawing.submit(draw)
        self._asked.append(self._collating.submit(lambda: collate(drawn.result())).result)

    def take(self) -> Any:
        """What was asked for first. Raises what the work raised."""
        return self._asked.popleft()()

    def close(self) -> None:
        """Drop what has not begun, and wait for what has."""
        self._asked.clear()
        for pool in (self._drawing, self._collating):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)


class BatchLoader:
    """The batches of a training run, step by step.

    Args:
        data: sources, mixture and packing.
        tokenizer: of the language model.
        image_tokens: what the connector makes of an image, or of each of its views. Does not change which documents a batch holds.
        image_pipeline: loads the images of a batch.
        seed: of the order of documents.
        steps: batches in all.
        batch_rows: packed rows of one step, of all ranks together.
        micro_batch_rows: rows of one micro-batch; None: all of them.
        rank, ranks: which of how many processes this is; each has its own rows of every step.
        threads: that prepare steps ahead of the caller; 0: each step is prepared when it is asked for.

    Raises:
        ValueError: if a source is empty, or there are fewer rows than ranks. While iterating: DataUsedUp; TooMuchBadData, when more of a
            source cannot be read than the settings allow; ValueError, when no document of a source can be used.
    """

    def __init__(
        self,
        data: Data,
        tokenizer: Tokenizer,
        image_tokens: int,
        image_pipeline: ImagePipeline,
        seed: int,
        steps: int,
        batch_rows: int,
        micro_batch_rows: int | None = None,
        rank: int = 0,
        ranks: int = 1,
        threads: int = 0,
    ) -> None:
        if not 0 <= rank < ranks <= batch_rows:
            raise ValueError(f"rank {rank} of {ranks} has no rows of the {batch_rows} of a step; use at most {batch_rows} ranks")
        self.rows = open_packed_rows(data, tokenizer, seed)
        self.steps = steps
        self.waiting_seconds = 0.0
        """How long the caller has waited for batches."""
        self._tokenizer = tokenizer
        self._image_tokens = image_tokens
        self._pipeline = image_pipeline
        self._batch_rows = batch_rows
        self._micro_batch_rows = micro_batch_rows or batch_rows
        self._rank, self._ranks = rank, ranks
        self._threads = threads
        self._at = _Position(0, self.rows.state(), self.rows.counts)
        self._loaded = self._no_counts()
        self._work: _Prefetcher | None = None

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Batch]]:
        """The micro-batches of each step that is left. Another iterator, or another state, ends the one before."""
        self._stop()
        work = self._work = _Prefetcher(self._threads)
        asked = self.step
        try:
            while self.step < self.steps and work is self._work:
                began = perf_counter()
                while asked < self.steps and len(work) < work.depth:
                    asked += 1
                    work.ask(lambda step=asked: self._draw(step), self._collate)  # type: ignore[misc]
                try:
                    place, batches, loaded = work.take()
                except TooMuchBadData as error:
                    # So that the account says what the error says. The state is where the last step ended all the same.
                    self._at = self._at._replace(counts=error.counts)
                    raise
                self._at, self._loaded = place, self._loaded + loaded
                if any("bad" in counts for counts in place.counts.values()) or any(
                    accounting.bad for accounting in loaded.sources.values()
                ):
                    self.accounting.check()
                if self.step == self.steps:
                    # Whoever knows how many steps there are does not ask for another one.
                    work.close()
                self.waiting_seconds += perf_counter() - began
                yield batches
        finally:
            work.close()

    @property
    def step(self) -> int:
        """Steps handed out so far."""
        return self._at.step

    @property
    def accounting(self) -> Accounting:
        """What became of every document up to the last step handed out, the window that it was packed in included; of images, what
        this rank decoded."""
        drawn = self._no_counts()
        drawn.restore(self._at.counts)
        return drawn + self._loaded

    def account(self) -> dict[str, dict[str, Any]]:
        """The accounting in plain values, by source: see `Accounting.account`."""
        return self.accounting.account()

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands after the last step that it handed out: the same on every rank, but for what could not be decoded."""
        return {"step": self.step, "rows": self._at.rows, "loaded": self._loaded.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the step at which `state` was taken.

        Raises:
            ValueError: if it was taken with other sources.
        """
        self._stop()
        self.rows.restore(state["rows"])
        self._at = _Position(state["step"], state["rows"], self.rows.counts)
        self._loaded = self._no_counts()
        self._loaded.restore(state["loaded"])

    def _stop(self) -> None:
        """End the iterator before, and take back what it drew ahead."""
        if self._work is not None:
            self._work.close()
            self._work = None
            self.rows.restore(self._at.rows)

    def _draw(self, step: int) -> tuple[_Position, list[PackedRow]]:
        """This rank's rows of a step. Every rank draws all, which costs no decoding, and so knows where the others stand."""
        rows = [row for _, row in zip(range(self._batch_rows), self.rows, strict=False)]
        if len(rows) < self._batch_rows:
            names = ", ".join(self.rows.mixture.used_up)
            raise DataUsedUp(
                f"the data is used up at step {step} of {self.steps}: raise max_epochs of data.sources ({names}), or train for fewer steps"
            )
        return _Position(step, self.rows.state(), self.rows.counts), rows[self._rank :: self._ranks]

    def _collate(self, drawn: tuple[_Position, list[PackedRow]]) -> tuple[_Position, list[Batch], Accounting]:
        place, rows = drawn
        accounting = self._no_counts()
        parts = [rows[start : start + self._micro_batch_rows] for start in range(0, len(rows), self._micro_batch_rows)]
        return place, [self._batch(part, accounting) for part in parts], accounting

    def _batch(self, rows: Sequence[PackedRow], accounting: Accounting) -> Batch:
        documents = [document for row in rows for document in row]
        return collate(documents, self._image_tokens, self._tokenizer.padding, self._pipeline, accounting)

    def _no_counts(self) -> Accounting:
        return self.rows.accounting.anew()
