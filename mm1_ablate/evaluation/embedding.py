"""Prompts to input embeddings. Each image is encoded once for all shots and tasks of a trial, as far as memory allows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from mm1_ablate.data.documents import Image, Unreadable
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.evaluation.prompts import TokenisedPrompt
from mm1_ablate.model.multimodal import MultimodalModel

KEPT_BYTES = 1 << 30


class PromptEmbedder:
    """Embeds prompts with a model, and keeps the image tokens of the pictures used last.

    Args:
        batch_images: pictures of one pass through the image encoder.
        kept_bytes: how much memory kept image tokens may take.
    """

    def __init__(
        self, model: MultimodalModel, pipeline: ImagePipeline, padding: int, batch_images: int = 64, kept_bytes: int = KEPT_BYTES
    ) -> None:
        self.model = model
        self.pipeline = pipeline
        self.padding = padding
        self.batch_images = batch_images
        self.kept_bytes = kept_bytes
        self.device = next(model.parameters()).device
        self.encoded = 0
        """Images that went through the encoder."""
        self.unreadable: dict[str, Unreadable] = {}
        """Why images cannot be read, by key."""
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0
        self._lengths: dict[str, int] = {}

    def encode(self, images: Sequence[Image]) -> None:
        """Encode images that are not kept yet; those that cannot be read are remembered in `unreadable`."""
        self._encoded([image for image in images if image.key not in self.unreadable])

    def _encoded(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """Image tokens [n, D] by key of the images that are readable."""
        needed = {image.key: image for image in images}
        missing = [image for key, image in needed.items() if key not in self._kept]
        found = {key: self._kept[key] for key in needed if key in self._kept}
        for start in range(0, len(missing), self.batch_images):
            batch = missing[start : start + self.batch_images]
            loaded, views, unreadable = self.pipeline.load_views(batch)
            self.unreadable.update((batch[place].key, error) for place, error in unreadable.items())
            readable = [image for place, image in enumerate(batch) if place not in unreadable]
            if not readable:
                continue
            # Sub-images follow one another, so an image's tokens are those of its views end to end.
            encoded = self.model.encode_images(loaded.to(self.device)).flatten(0, 1)
            by_image = torch.split(encoded, [self.model.image_tokens * own for own in views])
            self.encoded += len(readable)
            # A copy of each: else one kept image would hold its whole batch in memory.
            found.update((image.key, own.clone()) for image, own in zip(readable, by_image, strict=True))
        for key, tokens in found.items():
            if key not in self._kept:
                self._bytes += tokens.nbytes
            self._kept[key] = tokens
            self._kept.move_to_end(key)
            self._lengths[key] = len(tokens)
        while self._bytes > self.kept_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes
        return found

    def tokens_of(self, image: Image) -> int:
        """How many tokens an image takes: of one that was looked at what it took, of others the most that it can take."""
        return self._lengths.get(image.key, self.model.image_tokens_at_most)

    def _image_tokens(self, images: Sequence[Image]) -> list[Tensor]:
        """[n, D] of each image.

        Raises:
            Unreadable: one of them is.
        """
        found = self._encoded(images)
        for image in images:
            if image.key not in found:
                raise self.unreadable[image.key]
        return [found[image.key] for image in images]

    def __call__(self, prompts: Sequence[TokenisedPrompt]) -> tuple[Tensor, Tensor]:
        """Embeddings [B, T, D] padded on the right, and which of them are valid, bool [B, T]."""
        images = [image for prompt in prompts for image in prompt.images]
        tokens = self._image_tokens(images)
        counts = iter(map(len, tokens))
        rows: list[list[int]] = []
        places: list[tuple[int, int]] = []
        for number, prompt in enumerate(prompts):
            row: list[int] = []
            for segment in prompt.segments:
                if isinstance(segment, tuple):
                    row += segment
                else:
                    count = next(counts)
                    places += [(number, len(row) + offset) for offset in range(count)]
                    row += [self.padding] * count
            rows.append(row)
        embeddings, valid = self.tokens(rows)
        if images:
            row_index, column = torch.tensor(places, device=self.device).unbind(1)
            embeddings = embeddings.index_put((row_index, column), torch.cat(tokens).to(embeddings.dtype))
        return embeddings, valid

    def tokens(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Embeddings [B, T, D] of rows of token ids padded on the right, and which of them are valid, bool [B, T]."""
        longest = max(len(row) for row in rows)
        ids = torch.tensor([[*row, *[self.padding] * (longest - len(row))] for row in rows], device=self.device)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        return self.model.embed(ids), torch.arange(longest, device=self.device) < lengths[:, None]
