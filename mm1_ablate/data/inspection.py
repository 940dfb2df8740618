"""What an experiment's data holds, before anything is trained on it.

In: an experiment's data and what its model makes of it. Out: for each source what a seeded sample of its documents shows (texts, images,
how much cannot be read), how often a training would read it, and a few documents as the model will see them after packing. Nothing is
remembered; a sample is drawn anew each time, and the same seed draws the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from mm1_ablate.config.data import Data
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.model import Model
from mm1_ablate.data.accounting import SourceCounts
from mm1_ablate.data.counter_based_random import Draws, key, permuted
from mm1_ablate.data.documents import Document, Image, KnownLoss, LeftOut, Unreadable
from mm1_ablate.data.filters import open_source
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.joining import example
from mm1_ablate.data.loader import load_images
from mm1_ablate.data.lost_documents import Losses, losses_in, share_of
from mm1_ablate.data.packing import TokenisedDocument, open_packed_rows, text_tokens
from mm1_ablate.data.sources import OpenSource
from mm1_ablate.data.sub_images import views_in
from mm1_ablate.data.tokenizer import Tokenizer, load_tokenizer

FEW = 30
"""With fewer documents of a source among the packed rows, epochs are estimated from its share instead."""
IMAGES_LOOKED_AT = 4
"""Images of one sampled document that are decoded: pages with dozens would otherwise be most of the time."""


@dataclass(frozen=True)
class Spread:
    """How numbers of a sample are spread."""

    mean: float
    low: float
    median: float
    high: float
    """5th, 50th and 95th percentile."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Of at least one value."""
        if not values:
            return None
        low, median, high = np.percentile(values, [5, 50, 95])
        return cls(fmean(values), float(low), float(median), float(high))


@dataclass
class SourceContent:
    """What a sample of one source shows."""

    name: str
    data_type: str
    share: float
    """Of the mixture, as its `count` counts."""
    documents: int
    """In one epoch, used or not."""
    sampled: int
    usable: int
    """Of the sample: read, and kept by `keep`."""
    text_tokens: Spread | None
    """Of a usable document, without the end token."""
    images_per_document: Spread | None
    images_looked_at: int
    shorter_side: Spread | None
    """Pixels, of the images looked at, before resizing."""
    sides: dict[str, int]
    """The most frequent sizes (width x height) of the images looked at."""
    image_tokens: float
    """That an image takes in the model, on average of the images looked at: with sub-images it depends on their sizes."""
    bad: SourceCounts
    """Reasons and examples of what cannot be read; of documents and of images."""
    left_out: dict[str, int]
    unmatched: dict[str, int] = field(default_factory=dict)
    """Of a source that joins two: how many of either found no partner, by reason. Of all of it, not of the sample."""
    lost: list[Losses] = field(default_factory=list)
    """What of its files cannot be read. Of all of it, not of the sample."""
    joined: str = ""
    """One of the documents, with an image if any has one, as tokens: how texts and images are joined."""
    epochs: float = 0.0
    """How often the training reads the source, estimated from the rows packed."""
    read_documents: int = 0
    """Documents that the training draws from the source."""

    @property
    def text_tokens_in_all(self) -> float:
        """Of one epoch, estimated from the sample."""
        return self.documents * self.usable / self.sampled * self.text_tokens.mean if self.text_tokens else 0.0

    @property
    def images_in_all(self) -> float:
        """Of one epoch, estimated from the sample."""
        return self.documents * self.usable / self.sampled * self.images_per_document.mean if self.images_per_document else 0.0

    @property
    def bad_share(self) -> float:
        """The share of documents that are lost with files, plus that of the sampled documents, plus the share of images looked at that
        cannot be decoded."""
        return self.bad.bad_share(self.lost_share)

    @property
    def lost_share(self) -> float:
        """The share of documents that are lost with files."""
        return share_of(one for one in self.lost if one.of == "documents")


@dataclass(frozen=True)
class ShownDocument:
    """A document as the model will see it."""

    key: str
    source: str
    parts: tuple[str | np.ndarray, ...]
    """Texts as the tokenizer reads them, and images uint8 [views, size, size, 3], in order. Without sub-images an image has one view."""
    text_tokens: int
    image_tokens: int


@dataclass
class Inspection:
    """All of it."""

    sources: list[SourceContent]
    rows: int
    """Rows of the whole training."""
    rows_packed: int
    """Rows that were packed to see how they fill."""
    fill: float
    rows_that_the_data_makes: int | None
    """All there are, where they end (`max_epochs`) before the training does and among the rows packed; else None."""
    tokens: float
    """Of the whole training: what the model reads, image tokens as the connector makes them."""
    split: dict[str, int] = field(default_factory=dict)
    """Documents of the rows packed that were cut, by source."""
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    """Those left out because no row can hold them, by source and reason."""
    shown: list[ShownDocument] = field(default_factory=list)
    never_read: dict[str, str] = field(default_factory=dict)
    """Sources whose data type has no share in the mixture, and that data type."""


def inspect(
    experiment: Experiment,
    sample: int = 500,
    shown: int = 12,
    rows: int = 256,
    seed: int = 0,
    threads: int = 0,
    report: Callable[[str, int, int], None] = lambda what, done, in_all: None,
) -> Inspection:
    """Look at an experiment's data.

    Args:
        sample: documents looked at of each source, at most.
        shown: documents shown as the model sees them.
        rows: packed rows from which fill and epochs are estimated, at most.
        seed: of the order of the data, as a trial's.
        threads: that decode images.
        report: called with (what is done, how many are done, of how many).

    Raises:
        ValueError, OSError: of a source that is empty or cannot be opened.
    """
    data = experiment.data
    tokenizer = load_tokenizer(experiment.model.language_model.tokenizer)
    pipeline = ImagePipeline.of(experiment.model, threads=threads)
    contents = []
    for name, share in data.shares().items():
        source = data.sources[name]
        opened = open_source(source, seed, name)
        contents.append(_look_at(opened, name, source.data_type, float(share), sample, seed, tokenizer, experiment.model, report))
    return _packed(experiment, contents, shown, rows, seed, tokenizer, pipeline, report)


def _look_at(
    opened: OpenSource,
    name: str,
    data_type: str,
    share: float,
    sample: int,
    seed: int,
    tokenizer: Tokenizer,
    model: Model,
    report: Callable[[str, int, int], None],
) -> SourceContent:
    """A seeded sample of a source's documents."""
    length = len(opened)
    number = min(sample, length)
    counts = SourceCounts()
    left_out: dict[str, int] = {}
    shown: Document | None = None
    texts: list[int] = []
    images: list[int] = []
    sides: list[tuple[int, int]] = []
    for place in range(number):
        report(f"looking at {name}", place + 1, number)
        counts.drawn += 1
        try:
            document: Document = opened[permuted(key("sample", seed, name), place, length)]
        except KnownLoss:
            continue
        except Unreadable as error:
            counts.bad_documents += 1
            counts.add_bad(error)
            continue
        except LeftOut as error:
            left_out[error.reason] = left_out.get(error.reason, 0) + 1
            continue
        counts.documents += 1
        if shown is None or (document.images and not shown.images):
            shown = document
        for damage in document.damage:
            counts.missing_images += 1
            counts.add_bad(damage)
        texts.append(sum(len(tokenizer.ids(part)) for part in document.parts if isinstance(part, str)))
        images.append(len(document.images))
        counts.images += len(document.images)
        for image in document.images[:IMAGES_LOOKED_AT]:
            counts.loaded_images += 1
            try:
                height, width = image.load().shape[:2]
            except Unreadable as error:
                counts.unreadable_images += 1
                counts.add_bad(error)
            else:
                sides.append((width, height))
    frequent: dict[str, int] = {}
    for width, height in sides:
        frequent[f"{width} x {height}"] = frequent.get(f"{width} x {height}", 0) + 1
    return SourceContent(
        name=name,
        data_type=data_type,
        share=share,
        documents=length,
        sampled=number,
        usable=counts.documents,
        text_tokens=Spread.of(texts),
        images_per_document=Spread.of(images),
        images_looked_at=counts.loaded_images,
        shorter_side=Spread.of([min(size) for size in sides]),
        sides=dict(sorted(frequent.items(), key=lambda pair: -pair[1])[:5]),
        image_tokens=_image_tokens(sides, model),
        bad=counts,
        left_out=left_out,
        unmatched=getattr(getattr(opened, "source", opened), "unmatched", {}),  # also where `keep` stands before it
        lost=losses_in(opened),
        joined=example(shown, tokenizer) if shown is not None else "",
    )


def _image_tokens(sides: Sequence[tuple[int, int]], model: Model) -> float:
    """Tokens that images of these sizes (width, height) take on average; of none, as many as an image can take."""
    if model.sub_images is None or not sides:
        return model.image_tokens_at_most
    size, settings = model.image_encoder.image_size, model.sub_images
    return model.connector.image_tokens * fmean(views_in(height, width, size, settings) for width, height in sides)


def _packed(
    experiment: Experiment,
    contents: list[SourceContent],
    shown: int,
    most_rows: int,
    seed: int,
    tokenizer: Tokenizer,
    pipeline: ImagePipeline,
    report: Callable[[str, int, int], None],
) -> Inspection:
    """How rows fill and how often sources are read, from the first rows that a trial of this seed would see."""
    data, connector = experiment.data, experiment.model.connector
    image_tokens = {content.name: content.image_tokens for content in contents}
    in_all = experiment.training.steps * experiment.training.batch_rows
    # Without limits: too much bad data is reported from the sample, and nothing is trained here.
    packed = open_packed_rows(data, tokenizer, seed, limited=False)
    documents: list[TokenisedDocument] = []
    tokens, rows = 0.0, 0
    for row, _ in zip(packed, range(min(most_rows, in_all)), strict=False):
        rows += 1
        report("packing rows", rows, min(most_rows, in_all))
        documents += row
        tokens += sum(text_tokens(document.segments) + len(document.images) * image_tokens[document.source] for document in row)
    account = packed.accounting.account()
    # Windows are drawn whole, so what was drawn is compared with what lies in the rows handed out.
    drawn = {name: 0 for name in account}
    for document in documents:
        drawn[document.source] += document.piece == 1
    for content in contents:
        usable = account[content.name]["documents"]
        asked = drawn[content.name] * (account[content.name]["drawn"] / usable if usable else 0.0)
        if drawn[content.name] < FEW and rows < in_all and not packed.mixture.used_up:
            asked = _asked_by_share(content, data, drawn, documents)
        content.read_documents = round(asked * in_all / max(rows, 1))
        content.epochs = asked * in_all / max(rows, 1) / content.documents
        most = data.sources[content.name].max_epochs
        if most is not None:
            content.epochs = min(content.epochs, most)
    chosen = Draws(key("shown", seed), 0).sample(documents, min(shown, len(documents)))
    return Inspection(
        sources=contents,
        rows=in_all,
        rows_packed=rows,
        fill=packed.fill,
        rows_that_the_data_makes=rows if rows < min(most_rows, in_all) else None,
        tokens=tokens * in_all / max(rows, 1),
        split={name: one["split"] for name, one in account.items() if one["split"]},
        dropped={name: one["dropped"] for name, one in account.items() if one["dropped"]},
        shown=[seen for document in chosen if (seen := _as_seen(document, tokenizer, pipeline, connector.image_tokens)) is not None],
        never_read={name: source.data_type for name, source in data.sources.items() if name not in data.shares()},
    )


def _asked_by_share(content: SourceContent, data: Data, drawn: Mapping[str, int], documents: Sequence[TokenisedDocument]) -> float:
    """Documents that a source is asked for in the packed rows on average, where it is too rare to count them."""
    if not content.usable or not documents:
        return 0.0
    each, whole = 1.0, float(sum(drawn.values()))
    if data.count != "documents":
        counted = 0 if data.count == "text_tokens" else data.packing.nominal_image_tokens
        whole = sum(text_tokens(document.segments) + counted * len(document.images) for document in documents)
        each = content.text_tokens.mean + 1 if content.text_tokens else 1.0
        each += counted * content.images_per_document.mean if content.images_per_document else 0.0
    return content.share * whole / each * content.sampled / content.usable


def _as_seen(document: TokenisedDocument, tokenizer: Tokenizer, pipeline: ImagePipeline, image_tokens: int) -> ShownDocument | None:
    """A packed document with its images as the encoder gets them; None where what cannot be decoded leaves nothing.

    Args:
        image_tokens: of a view.
    """
    readable, pixels, views = load_images([document], pipeline)
    if not readable:
        return None
    pictures = iter(np.split(pixels.permute(0, 2, 3, 1).numpy(), np.cumsum(views)[:-1]))
    parts: list[Any] = [next(pictures) if isinstance(part, Image) else tokenizer.decode(part) for part in readable[0].segments]
    return ShownDocument(document.key, document.source, tuple(parts), text_tokens(readable[0].segments), sum(views) * image_tokens)
