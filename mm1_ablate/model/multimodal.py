"""Image encoder, connector and language model as one model: batches of packed documents in, next-token logits out."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.model import ModelPart, frozen_parts
from mm1_ablate.data.loader import Batch
from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.model.context_length import context_length_of
from mm1_ablate.model.image_encoder import PatchEncoder, build_image_encoder
from mm1_ablate.model.language_model import build_language_model
from mm1_ablate.model.meta_initialisation import meta_parameters
from mm1_ablate.model.packed_attention import DocumentLayout, packed

IMAGES_AT_ONCE = 512
"""Images that go through a frozen encoder in one call: bounds the memory of a batch with many."""


class MultimodalModel(nn.Module):
    """Attributes: `image_tokens` of an image, or of each view of one; `views_at_most` of an image; `width` of the language model,
    `context_length` in tokens.

    Args:
        frozen: parts that are not trained.
    """

    def __init__(
        self,
        encoder: nn.Module,
        connector: nn.Module,
        language_model: Any,
        image_tokens: int,
        scale_embeddings: bool = False,
        frozen: Collection[ModelPart] = (),
        views_at_most: int = 1,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.connector = connector
        self.language_model = language_model
        self.image_tokens = image_tokens
        self.views_at_most = views_at_most
        self.width: int = language_model.config.hidden_size
        self.context_length: int = context_length_of(language_model.config)
        self.embedding_scale = self.width**0.5 if scale_embeddings else 1.0
        self.frozen = frozenset(frozen)
        for part in self._frozen_modules():
            part.requires_grad_(False)
        if isinstance(encoder, PatchEncoder):
            for parameter in encoder.beyond_features():
                parameter.requires_grad_(False)

    def _frozen_modules(self) -> list[nn.Module]:
        parts: dict[ModelPart, nn.Module] = {
            "image_encoder": self.encoder,
            "connector": self.connector,
            "language_model": self.language_model,
        }
        return [part for name, part in parts.items() if name in self.frozen]

    def train(self, mode: bool = True) -> MultimodalModel:
        """As torch's, but that frozen parts go on as in evaluation: no dropout, no statistics of what they see."""
        super().train(mode)
        for part in self._frozen_modules():
            part.eval()
        return self

    @property
    def encoder_is_frozen(self) -> bool:
        return "image_encoder" in self.frozen

    @property
    def image_tokens_at_most(self) -> int:
        """Tokens of one image with as many views as an image can have."""
        return self.image_tokens * self.views_at_most

    @property
    def device(self) -> torch.device:
        device: torch.device = self.language_model.device
        return device

    def encode_images(self, images: Tensor) -> Tensor:
        """Image tokens [images, image_tokens, width] of images or of views, from uint8 pixels [images, 3, size, size] or from the
        encoder's cached float features [images, patches, encoder width]."""
        if images.dtype == torch.uint8:
            if self.encoder_is_frozen:
                with torch.no_grad():
                    images = torch.cat([self.encoder(part) for part in torch.split(images, IMAGES_AT_ONCE)])
            else:
                images = self.encoder(images)
        tokens: Tensor = self.connector(images)
        return tokens

    def embed(self, tokens: Tensor) -> Tensor:
        """Token embeddings [..., T, width] of tokens [..., T], scaled as declared."""
        embeddings: Tensor = self.language_model.get_input_embeddings()(tokens)
        return embeddings * self.embedding_scale

    def forward(self, batch: Batch) -> Tensor:
        """Logits [S, vocabulary] at the supervised positions of a flat batch, attention inside documents only.

        Raises:
            ValueError: a document is longer than the language model's context.
        """
        if (longest := max(batch.document_lengths, default=0)) > self.context_length:
            raise ValueError(
                f"a document of {longest} tokens is longer than the language model's context of {self.context_length}: lower"
                " data.packing.row_tokens or the image tokens, or use a model with a longer context"
            )
        embeddings = self.embed(batch.tokens)
        if len(batch.images):
            image_embeddings = self.encode_images(batch.images).flatten(0, 1)
            embeddings = embeddings.index_copy(0, batch.image_positions, image_embeddings.to(embeddings.dtype))
        layout = DocumentLayout(batch.document_lengths, embeddings.device)
        with packed(self.language_model, layout) as arguments:
            output = self.language_model(
                inputs_embeds=embeddings[None], position_ids=batch.positions[None], logits_to_keep=batch.supervised, **arguments
            )
        logits: Tensor = output.logits
        return logits[0]


def language_model_blocks(model: MultimodalModel) -> list[nn.Module]:
    """The transformer blocks of the language model, before any of them is sharded."""
    # transformers' models name the classes of their blocks for whoever shards them.
    language_model = model.language_model
    names = set(getattr(language_model, "_no_split_modules", None) or ())
    named = [part for part in language_model.modules() if type(part).__name__ in names]
    # A few do not; theirs is the list with one for each layer.
    lists = (part for part in language_model.modules() if isinstance(part, nn.ModuleList))
    return named or list(next((part for part in lists if len(part) == language_model.config.num_hidden_layers), ()))


def transformer_blocks(model: MultimodalModel, frozen: bool = True) -> list[nn.Module]:
    """The transformer blocks of the language model and the encoder.

    Args:
        frozen: those of a frozen encoder too.
    """
    blocks = language_model_blocks(model)
    if frozen or not model.encoder_is_frozen:
        blocks += list(getattr(getattr(model.encoder, "vision", None), "blocks", ()))
    return blocks


@contextmanager
def random_state(seed: int, part: str) -> Iterator[None]:
    """Torch's random state of one part of one trial: a part's initialisation depends on no other part."""
    digest = hashlib.sha256(f"{part}/{seed}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest[:7], "big"))
        yield


def build(
    experiment: Experiment,
    seed: int,
    encoder_weights: Path | None = None,
    language_model_weights: Path | None = None,
    published: bool = True,
) -> MultimodalModel:
    """The declared model. Parts start from the given weights (state dicts), or from those that are declared by name or path, the others
    from the trial's seed.

    Args:
        published: whether weights by name or path are read; not where all weights come from somewhere else.

    Raises:
        RuntimeError: when weights do not fit the declared part.
    """
    model = _build(experiment, seed, published)
    for part, weights in ((model.encoder, encoder_weights), (model.language_model, language_model_weights)):
        if weights is not None:
            part.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True, mmap=True))
    return model


def build_without_values(experiment: Experiment, seed: int) -> MultimodalModel:
    """The declared model with buffers as `build` makes them, and parameters on the meta device. No weights are read."""
    with meta_parameters():
        return _build(experiment, seed, published=False)


def _build(experiment: Experiment, seed: int, published: bool) -> MultimodalModel:
    settings = experiment.model
    tokenizer = load_tokenizer(settings.language_model.tokenizer)
    with random_state(seed, "image_encoder"):
        encoder = build_image_encoder(settings.image_encoder, published)
    with random_state(seed, "language_model"):
        ids = tokenizer.vocabulary_size, tokenizer.padding, tokenizer.end
        language_model = build_language_model(settings.language_model, *ids, published)
    with random_state(seed, "connector"):
        connector = settings.connector.build(encoder.width, settings.image_encoder.grid_side, language_model.config.hidden_size)
    return MultimodalModel(
        encoder,
        connector,
        language_model,
        image_tokens=settings.connector.image_tokens,
        scale_embeddings=settings.language_model.scale_embeddings,
        frozen=frozen_parts(settings),
        views_at_most=settings.sub_images.views_at_most if settings.sub_images is not None else 1,
    )
