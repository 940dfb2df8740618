"""A source of captioned images in, batches for the preparation of an image encoder out: pixels and captions, in a seeded order.

What cannot be used is skipped and counted: in its place comes another document drawn at random, and the rest of the order stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from mm1_ablate.config.data import Data
from mm1_ablate.config.image_encoder import EncoderPreparation
from mm1_ablate.data.accounting import Accounting, TooMuchBadData, describe_bad, describe_unused
from mm1_ablate.data.counter_based_random import key, permuted
from mm1_ablate.data.documents import Image, KnownLoss, LeftOut, Unreadable
from mm1_ablate.data.filters import open_source
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.lost_documents import losses_in
from mm1_ablate.data.tokenizer import Tokenizer

NAME = "preparation"
"""What the source is called in the account."""


class ImageTextBatches(IterableDataset[tuple[Tensor, Tensor, Tensor]]):
    """Batches (pixels [images, 3, size, size] uint8, caption tokens, start of each caption).

    Iterating raises TooMuchBadData if a larger share of the documents is unreadable than their source allows, and ValueError if there
    is none that can be used.
    """

    def __init__(self, settings: EncoderPreparation, tokenizer: Tokenizer, pipeline: ImagePipeline, seed: int) -> None:
        self.source = open_source(settings.source, seed, NAME)
        self.settings, self.tokenizer, self.pipeline, self.seed = settings, tokenizer, pipeline, seed
        self.order = np.random.default_rng([seed, 20210103])
        self.accounting = Accounting({NAME: len(self.source)}, losses={NAME: losses_in(self.source)})
        """What became of the documents."""
        self._unusable: dict[int, Unreadable | LeftOut] = {}
        limit = settings.source.max_bad_share
        self._max_bad_share = Data.model_fields["max_bad_share"].default if limit is None else limit

    def __len__(self) -> int:
        return self.settings.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        self._check()
        for step in range(self.settings.steps):
            pixels, texts = self._batch(step)
            captions = [self.tokenizer.encode(text) for text in texts]
            lengths = torch.tensor([0, *(len(caption) for caption in captions[:-1])])
            yield pixels, torch.tensor([token for caption in captions for token in caption]), lengths.cumsum(0)

    def _batch(self, step: int) -> tuple[Tensor, list[str]]:
        length, count = len(self.source), self.settings.batch_images
        indices = self.order.choice(length, count, replace=length < count).tolist()
        place = key("other captioned images", self.seed, step)
        others = (permuted(place, index, length) for index in range(length))
        documents = self._documents(chain(indices, (index for index in others if index not in indices)))
        parts: list[Tensor] = []
        texts: list[str] = []
        while missing := count - len(texts):
            drawn = list(islice(documents, missing))
            if not drawn:
                break
            loaded, unreadable = self.pipeline.load_readable([image for _, image, _ in drawn])
            for number, (index, _, text) in enumerate(drawn):
                if number in unreadable:
                    self._set_aside(index, unreadable[number])
                else:
                    texts.append(text)
            self.accounting[NAME].documents += len(loaded)
            self.accounting[NAME].images += len(loaded)
            parts.append(loaded)
            self._check()
        if not texts:
            raise ValueError(
                f"none of the {length:,} documents can be used to prepare an image encoder: {describe_unused(self.accounting[NAME])}. "
                "See model.image_encoder.preparation.source"
            )
        # Fewer documents than a batch has: some come twice.
        again = [number % len(texts) for number in range(count)]
        return torch.cat(parts)[again], [texts[number] for number in again]

    def _documents(self, indices: Iterable[int]) -> Iterator[tuple[int, Image, str]]:
        """Index, first image and text of each document that can be used, as far as is known before its image is decoded."""
        counts = self.accounting[NAME]
        for index in indices:
            counts.drawn += 1
            if index in self._unusable:
                self._set_aside(index, self._unusable[index])
                continue
            try:
                document = self.source[index]
                if not document.images:
                    raise LeftOut("document without an image")
            except (Unreadable, LeftOut) as error:
                self._set_aside(index, error)
                continue
            yield index, document.images[0], document.text

    def _set_aside(self, index: int, error: Unreadable | LeftOut) -> None:
        self._unusable[index] = error.with_traceback(None)  # whose frames would hold the image file
        counts = self.accounting[NAME]
        if isinstance(error, LeftOut):
            counts.left_out[error.reason] += 1
        elif not isinstance(error, KnownLoss):
            counts.bad_documents += 1
            counts.add_bad(error)

    def _check(self) -> None:
        counts, lost = self.accounting[NAME], self.accounting.lost_share(NAME)
        if counts.is_too_bad(self._max_bad_share, len(self.source), lost):
            told = [one.in_words() for one in self.accounting.losses.get(NAME, ())] + ([describe_bad(counts)] if counts.bad else [])
            raise TooMuchBadData(
                f"{counts.bad_share(lost):.1%} of the documents that prepare an image encoder cannot be read, more than the "
                f"{self._max_bad_share:.1%} allowed: {'; '.join(told)}. Repair or remove these files, or allow more with "
                "model.image_encoder.preparation.source.max_bad_share",
                self.accounting.state(),
            )
