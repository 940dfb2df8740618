"""Prompts to input embeddings. Each image is encoded once for all shots and tasks of a trial, as far as memory allows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mm1_ablate.evaluation.prompts import TokenisedPrompt

if TYPE_CHECKING:
    from mm1_ablate.data.documents import Image
    from mm1_ablate.data.images import ImagePipeline
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
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def _image_tokens(self, images: Sequence[Image]) -> list[Tensor]:
        """[n, D] of each image."""
        needed = {image.key: image for image in images}
        missing = [image for key, image in needed.items() if key not in self._kept]
        found = {key: self._kept[key] for key in needed if key in self._kept}
        for start in range(0, len(missing), self.batch_images):
            batch = missing[start : start + self.batch_images]
            tokens = self.model.encode_images(self.pipeline.load(batch).to(self.device))
            self.encoded += len(batch)
            # A copy of each: else one kept image would hold its whole batch in memory.
            found.update((image.key, own.clone()) for image, own in zip(batch, tokens, strict=True))
        for key in needed:
            self._kept[key] = found[key]
            self._kept.move_to_end(key)
        while self._kept and len(self._kept) * found[next(iter(needed))].nbytes > self.kept_bytes:
            self._kept.popitem(last=False)
        return [found[image.key] for image in images]

    def __call__(self, prompts: Sequence[TokenisedPrompt]) -> tuple[Tensor, Tensor]:
        """Embeddings [B, T, D] padded on the right, and which of them are valid, bool [B, T]."""
        count = self.model.image_tokens
        rows: list[list[int]] = []
        images: list[Image] = []
        places: list[tuple[int, int]] = []
        for number, prompt in enumerate(prompts):
            row: list[int] = []
            for segment in prompt.segments:
                if isinstance(segment, tuple):
                    row += segment
                else:
                    images.append(segment)
                    places += [(number, len(row) + offset) for offset in range(count)]
                    row += [self.padding] * count
            rows.append(row)
        embeddings, valid = self.tokens(rows)
        if images:
            row_index, column = torch.tensor(places, device=self.device).unbind(1)
            tokens = torch.cat(self._image_tokens(images))
            embeddings = embeddings.index_put((row_index, column), tokens.to(embeddings.dtype))
        return embeddings, valid

    def tokens(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Embeddings [B, T, D] of rows of token ids padded on the right, and which of them are valid, bool [B, T]."""
        longest = max(len(row) for row in rows)
        ids = torch.tensor([[*row, *[self.padding] * (longest - len(row))] for row in rows], device=self.device)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        return self.model.embed(ids), torch.arange(longest, device=self.device) < lengths[:, None]
