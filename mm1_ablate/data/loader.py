"""An experiment's data in, one flat batch for each training step out.

Sources are mixed (`mixture`), tokenised and packed into rows (`packing`); a step takes the next `batch_rows` rows and lays their
documents end to end. The same (data, seed) gives the same documents in the same steps, whatever the connector, the image size or
the number of micro-batches. `state_dict` is a few numbers; a fresh loader that loads it continues bit for bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mm1_ablate.data.documents import Image
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.mixture import Mixture
from mm1_ablate.data.packing import PackedRows, Row, TokenisedDocument, tokenise
from mm1_ablate.data.tokenizer import Tokenizer
from mm1_ablate.spec.experiment import Data


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
    """uint8 [I, 3, size, size], or float32 [I, patches, width]; I may be 0."""
    documents: list[str]
    """Keys of the documents."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=non_blocking) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def lay_out(documents: Sequence[TokenisedDocument], image_tokens: int, padding: int, pipeline: ImagePipeline) -> Batch:
    """A batch of these documents, every image as `image_tokens` positions."""
    tokens: list[int] = []
    positions: list[int] = []
    lengths: list[int] = []
    supervised: list[int] = []
    targets: list[int] = []
    image_positions: list[int] = []
    images: list[Image] = []
    for document in documents:
        start = len(tokens)
        for segment in document.segments:
            here = len(tokens)
            if isinstance(segment, Image):
                images.append(segment)
                tokens += [padding] * image_tokens
                image_positions += range(here, here + image_tokens)
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
        images=pipeline.load(images),
        documents=[document.key for document in documents],
    )


class BatchLoader:
    """The batches of a training run, step by step.

    Args:
        data: sources, mixture and packing.
        tokenizer: of the language model.
        image_tokens: what the connector makes of an image. Does not change which documents a batch holds.
        image_pipeline: loads the images of a batch.
        seed: of the order of documents.
        steps: batches in all.
        batch_rows: packed rows of one step.
        micro_batch_rows: rows of one micro-batch; nothing: all of them.
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
    ) -> None:
        shares = data.shares()
        sources = {name: data.sources[name].open(seed, name) for name in shares}
        nominal = data.packing.nominal_image_tokens
        mixture = Mixture(shares, sources, data.count, seed, lambda document: tokenise(document, tokenizer, nominal).nominal_length)
        self.rows = PackedRows(mixture, tokenizer, data.packing, seed)
        self.steps = steps
        self.step = 0
        """Steps handed out so far."""
        self._tokenizer = tokenizer
        self._image_tokens = image_tokens
        self._pipeline = image_pipeline
        self._batch_rows = batch_rows
        self._micro_batch_rows = micro_batch_rows or batch_rows

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Batch]]:
        """The micro-batches of each step that is left."""
        while self.step < self.steps:
            rows = [next(self.rows) for _ in range(self._batch_rows)]
            self.step += 1
            yield [self._batch(rows[start : start + self._micro_batch_rows]) for start in range(0, len(rows), self._micro_batch_rows)]

    @property
    def dropped(self) -> Counter[tuple[str, str]]:
        """Documents left out so far, by (reason, source)."""
        return self.rows.dropped

    @property
    def epochs(self) -> dict[str, float]:
        """How often each source has been read so far, the window being packed included."""
        return self.rows.mixture.epochs

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands after the last step that it handed out."""
        return {"step": self.step, "rows": self.rows.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the step at which `state` was taken.

        Raises:
            ValueError: if it was taken with other sources.
        """
        self.step = state["step"]
        self.rows.restore(state["rows"])

    def _batch(self, rows: Sequence[Row]) -> Batch:
        return lay_out([document for row in rows for document in row], self._image_tokens, self._tokenizer.padding, self._pipeline)
