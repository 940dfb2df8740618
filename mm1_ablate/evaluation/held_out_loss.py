"""How well a model predicts documents that it was not trained on: loss per token and bits per byte, which tell small models apart
earlier than answers do.

In: a model and `evaluation.losses`. Out: for each document the sums that its loss is made of, of which
`scores.loss_items` makes item scores.

The loss is that of training, in nats per predicted token, the end of the document included, images as context. Bits per byte count
text only: no end token, and of a document that begins with text its first token is not predicted and not counted. Documents are cut
as in training (`data.packing`), so that all arms are measured on the same pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas
import torch

from mm1_ablate.config.evaluation import HeldOut
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.data.documents import Document, Image, LeftOut, Unreadable
from mm1_ablate.data.filters import open_source
from mm1_ablate.data.images import ImagePipeline, Views
from mm1_ablate.data.loader import collate
from mm1_ablate.data.packing import TokenisedDocument, pieces, tokenise, why_dropped
from mm1_ablate.data.tokenizer import Tokenizer
from mm1_ablate.evaluation.likelihood import token_log_likelihoods
from mm1_ablate.evaluation.requests import ContextOverflow
from mm1_ablate.evaluation.scores import LOSS_COLUMNS
from mm1_ablate.model.multimodal import MultimodalModel

TOKENS_AT_ONCE = 8192
"""Of one forward pass, unless a single document has more."""


@dataclass(slots=True)
class _Measured:
    """Sums over a document: nats of all predicted tokens, nats and bytes of those that are text."""

    nats: float = 0.0
    tokens: int = 0
    text_nats: float = 0.0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Held:
    """A document to be measured, in pieces, or why it cannot be."""

    place: int
    document: str
    data_type: str
    pieces: tuple[TokenisedDocument, ...] = ()
    problem: str = ""


def _documents(held: HeldOut, name: str) -> Iterator[tuple[int, Document | Unreadable]]:
    """The documents that are kept, with their index."""
    source = open_source(held.source, 0, name)
    found = 0
    for index in range(held.first, len(source)):
        try:
            document: Document | Unreadable = source[index]
        except LeftOut:
            continue
        except Unreadable as error:
            document = error
        yield index, document
        found += 1
        if found == held.documents:
            return
    if not found:
        raise ValueError(f"evaluation.losses.{name}: no documents from number {held.first} on; the source has {len(source)}")


def prepare_documents(model: MultimodalModel, experiment: Experiment, tokenizer: Tokenizer) -> dict[str, list[_Held]]:
    """The held-out documents of each loss, as tokens.

    Raises:
        ContextOverflow: a piece does not fit into the model's context.
        ValueError: there are no documents.
    """
    packing = experiment.data.packing
    found: dict[str, list[_Held]] = {}
    for name, held in experiment.evaluation.losses.items():
        found[name] = []
        for place, document in _documents(held, name):
            if isinstance(document, Unreadable):
                found[name].append(_Held(place, document.what or str(place), held.source.data_type, (), str(document)))
                continue
            tokenised = tokenise(document, tokenizer, packing.nominal_image_tokens)
            problem = why_dropped(tokenised, packing) or ("; ".join(map(str, document.damage)))
            parts = () if problem else tuple(pieces(tokenised, packing))
            found[name].append(_Held(place, document.key, document.data_type, parts, problem))
            longest = max((_length(part, model.image_tokens_at_most) for part in parts), default=0)
            if longest > model.context_length:
                raise ContextOverflow(
                    f"evaluation.losses.{name}: document {document.key} needs {longest} tokens of context, and the language model has"
                    f" {model.context_length}; lower data.packing.row_tokens or the image tokens, or use a longer context"
                )
    return found


def _length(document: TokenisedDocument, image_tokens: int) -> int:
    return sum(len(segment) if isinstance(segment, tuple) else image_tokens for segment in document.segments)


class _Watched:
    """An image pipeline that remembers what it could not read."""

    def __init__(self, pipeline: ImagePipeline) -> None:
        self.pipeline = pipeline
        self.unreadable: dict[str, Unreadable] = {}

    def load_views(self, images: Sequence[Image]) -> Views:
        views = self.pipeline.load_views(images)
        self.unreadable.update((images[place].key, error) for place, error in views.unreadable.items())
        return views


def measure(
    model: MultimodalModel,
    held: dict[str, list[_Held]],
    tokenizer: Tokenizer,
    pipeline: ImagePipeline,
    rank: int = 0,
    ranks: int = 1,
) -> pandas.DataFrame:
    """A row for each held-out document, or for a process's share of them, columns as in `LOSS_COLUMNS`.

    A document with an unreadable image is left out as a whole, with its problem.
    """
    rows = []
    for name, documents in held.items():
        for batch in _batches(documents[rank::ranks], model.image_tokens_at_most):
            watched = _Watched(pipeline)
            measured = _measured(model, batch, tokenizer, watched)
            if watched.unreadable:
                problems = {one.place: _unreadable(one, watched.unreadable) for one in batch}
                batch = [
                    _Held(one.place, one.document, one.data_type, (), problems[one.place]) if problems[one.place] else one for one in batch
                ]
                measured = _measured(model, batch, tokenizer, watched)
            for one, own in zip(batch, measured, strict=True):
                rows.append((name, one.place, one.document, one.data_type, own.nats, own.tokens, own.text_nats, own.bytes, one.problem))
    return pandas.DataFrame(rows, columns=LOSS_COLUMNS)


def _unreadable(one: _Held, unreadable: dict[str, Unreadable]) -> str:
    errors = [unreadable[image.key] for piece in one.pieces for image in piece.images if image.key in unreadable]
    return str(errors[0]) if errors else one.problem


def _batches(documents: Sequence[_Held], image_tokens: int) -> Iterator[list[_Held]]:
    batch: list[_Held] = []
    tokens = 0
    for one in documents:
        length = sum(_length(piece, image_tokens) for piece in one.pieces)
        if batch and tokens + length > TOKENS_AT_ONCE:
            yield batch
            batch, tokens = [], 0
        batch.append(one)
        tokens += length
    if batch:
        yield batch


def _measured(model: MultimodalModel, batch: Sequence[_Held], tokenizer: Tokenizer, pipeline: Any) -> list[_Measured]:
    """The sums of each document; zeros for one without pieces."""
    found = [_Measured() for _ in batch]
    owners = [number for number, one in enumerate(batch) for _ in one.pieces]
    parts = [piece for one in batch for piece in one.pieces]
    if not parts:
        return found
    laid_out = collate(parts, model.image_tokens, tokenizer.padding, pipeline)
    if len(laid_out.documents) < len(parts):
        return found  # some image is unreadable: the caller leaves its document out and asks again
    laid_out = laid_out.to(model.device)
    nats, _ = token_log_likelihoods(model(laid_out), laid_out.targets)
    piece_of = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(laid_out.document_lengths))
    lengths = piece_of[laid_out.supervised.cpu()].bincount(minlength=len(parts)).tolist()
    # The end token closes the document, so it is the last target of its last piece.
    for number, (owner, piece, own) in enumerate(zip(owners, parts, torch.split(nats, lengths), strict=True)):
        closes = number + 1 == len(parts) or owners[number + 1] != owner
        text = own[:-1] if closes else own
        found[owner].nats -= own.sum().item()
        found[owner].tokens += len(own)
        found[owner].text_nats -= text.sum().item()
        found[owner].bytes += _predicted_bytes(piece, closes, tokenizer)
    return found


def _predicted_bytes(piece: TokenisedDocument, closes: bool, tokenizer: Tokenizer) -> int:
    """UTF-8 bytes of the text that is predicted."""
    texts = [list(segment) for segment in piece.segments if isinstance(segment, tuple)]
    if texts and closes:
        texts[-1] = texts[-1][:-1]
    if texts and isinstance(piece.segments[0], tuple):
        texts[0] = texts[0][1:]
    return sum(len(tokenizer.decode(text).encode()) for text in texts if text)
