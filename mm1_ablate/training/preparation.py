"""What trials start from, made once per fingerprint: an image encoder (contrastive or reconstructive) and a text-only
language model. In: a `Preparation`; out: `weights.pt` in its folder, and an encoder's features of its images, for trials that freeze it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import lightning.pytorch as lightning
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, normalize

from mm1_ablate.config.data import Data, Packing, Source
from mm1_ablate.config.image_encoder import EncoderPreparation, TimmEncoder, VisionTransformer
from mm1_ablate.config.model import LanguageModel
from mm1_ablate.config.preparation import Preparation
from mm1_ablate.config.training import Progress, Training
from mm1_ablate.data.documents import Image, LeftOut, Unreadable
from mm1_ablate.data.filters import open_source
from mm1_ablate.data.images import FeatureCache, ImagePipeline
from mm1_ablate.data.loader import BatchLoader
from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.model.image_encoder import PatchEncoder, build_image_encoder
from mm1_ablate.model.language_model import build_language_model
from mm1_ablate.model.multimodal import MultimodalModel, random_state
from mm1_ablate.training.checkpoint import save_atomically
from mm1_ablate.training.fit import lightning_trainer, train
from mm1_ablate.training.image_text_batches import NAME, ImageTextBatches
from mm1_ablate.training.optimisation import learning_rate_share

FEATURES_OF_DOCUMENTS, FEATURE_BYTES = 50_000, 2_000_000_000
"""Features are kept for the images of a source with so many documents at most, and in so many bytes."""


def prepare(preparation: Preparation, folder: Path, report: Callable[[Progress], None]) -> None:
    """Make a prepared part in its folder; the same preparation gives the same weights on the same machine."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(preparation.settings, LanguageModel):
        _prepare_language_model(preparation.settings, preparation.seed, folder, report)
    else:
        _prepare_encoder(preparation.settings, preparation.seed, folder, report)


# ---------------------------------------------------------------- image encoder
class ContrastiveObjective(nn.Module):
    """CLIP's loss (Radford et al. 2021) between images and a bag of their captions' words."""

    def __init__(self, encoder: PatchEncoder, vocabulary_size: int) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.width
        self.words = nn.EmbeddingBag(vocabulary_size, width)
        self.text_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.image_head = nn.Linear(width, width)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())

    def forward(self, pixels: Tensor, tokens: Tensor, starts: Tensor) -> Tensor:
        image = normalize(self.image_head(self.encoder(pixels).mean(1)), dim=-1)
        text = normalize(self.text_head(self.words(tokens, starts)), dim=-1)
        logits = self.log_scale.exp().clamp(max=100) * image @ text.T
        labels = torch.arange(len(logits), device=logits.device)
        return (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2


class ReconstructiveObjective(nn.Module):
    """Pixels of masked patches, predicted from the visible ones by one linear layer (SimMIM, Xie et al. 2022)."""

    masked_share = 0.6

    def __init__(self, encoder: PatchEncoder, vocabulary_size: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.patch_size: int = encoder.vision.patch_embed.patch_size[0]
        self.mask_token = nn.Parameter(torch.zeros(encoder.width))
        self.head = nn.Linear(encoder.width, 3 * self.patch_size**2)

    def forward(self, pixels: Tensor, tokens: Tensor, starts: Tensor) -> Tensor:
        vision = self.encoder.vision
        images = (pixels - self.encoder.mean) / self.encoder.std
        patches = vision.patch_embed(images)  # some encoders of timm's leave them in their grid
        masked = torch.rand(patches.shape[:-1], device=patches.device) < self.masked_share
        hidden = vision._pos_embed(torch.where(masked[..., None], self.mask_token, patches))
        masked = masked.flatten(1)
        hidden = vision.norm(vision.blocks(vision.norm_pre(hidden)))[:, -masked.shape[1] :]
        size = self.patch_size
        target = images.unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        return mse_loss(self.head(hidden)[masked], target[masked])


class EncoderTraining(lightning.LightningModule):
    """AdamW with a short warm-up and a cosine to zero over an objective."""

    def __init__(self, objective: nn.Module, settings: EncoderPreparation, report: Callable[[Progress], None]) -> None:
        super().__init__()
        self.objective, self.settings, self.report = objective, settings, report

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(self.objective.parameters(), lr=self.settings.learning_rate, weight_decay=0.05, fused=True)
        steps, warmup = self.settings.steps, max(1, self.settings.steps * 6 // 100)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, steps, warmup, 0.0))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = self.objective(*batch)
        if (batch_idx + 1) % 20 == 0 or batch_idx + 1 == self.settings.steps:
            self.report(Progress(stage="prepare", step=batch_idx + 1, steps=self.settings.steps, loss=float(loss.detach())))
        return loss


def _prepare_encoder(settings: VisionTransformer | TimmEncoder, seed: int, folder: Path, report: Callable[[Progress], None]) -> None:
    preparation = settings.preparation
    assert preparation is not None
    tokenizer = load_tokenizer(preparation.tokenizer)
    pipeline = ImagePipeline.of(settings)
    objectives = {"contrastive": ContrastiveObjective, "reconstructive": ReconstructiveObjective}
    with random_state(seed, "image_encoder"):
        encoder = build_image_encoder(settings)
        objective = objectives[preparation.objective](encoder, tokenizer.vocabulary_size)
        data = ImageTextBatches(preparation, tokenizer, pipeline, seed)
        lightning_trainer(gradient_clip_val=1.0).fit(EncoderTraining(objective, preparation, report), data)
    (folder / "data.json").write_text(json.dumps(data.accounting.account(), indent=2) + "\n")
    # Whether a trial freezes the encoder is not part of the artifact, so the features are there for whichever does.
    write_features(encoder.eval(), preparation.source, seed, pipeline, folder / f"features{settings.feature_layer}")
    save_atomically(encoder.state_dict(), folder / "weights.pt")


def write_features(encoder: PatchEncoder, source: Source, seed: int, pipeline: ImagePipeline, folder: Path, batch: int = 256) -> None:
    """Keep an encoder's features of a source's images, if they are few: a trial that freezes it need not encode them again."""
    documents = open_source(source, seed, NAME)
    if len(documents) > FEATURES_OF_DOCUMENTS:
        return
    images: dict[str, Image] = {}
    for index in range(len(documents)):
        # What cannot be used was counted in training, and is counted again wherever it is drawn.
        with suppress(Unreadable, LeftOut):
            images.update((image.key, image) for image in documents[index].images)
    ordered = list(images.values())
    with torch.no_grad():
        values = encoder(torch.zeros((1, 3, pipeline.image_size, pipeline.image_size), dtype=torch.uint8)).numel()
    if not ordered or 4 * values * len(ordered) > FEATURE_BYTES:
        return

    # Lightning leaves a trained module on the CPU.
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder.to(device)

    def features() -> Iterator[tuple[list[str], np.ndarray]]:
        for start in range(0, len(ordered), batch):
            several = ordered[start : start + batch]
            pixels, unreadable = pipeline.load_readable(several)
            if len(pixels):
                with torch.no_grad():
                    patches = encoder(pixels.to(device)).float().cpu().numpy()
                yield [image.key for place, image in enumerate(several) if place not in unreadable], patches

    FeatureCache.write(folder, features(), len(ordered))
    encoder.to("cpu")


# ---------------------------------------------------------------- language model
def _prepare_language_model(settings: LanguageModel, seed: int, folder: Path, report: Callable[[Progress], None]) -> None:
    preparation = settings.preparation
    assert preparation is not None
    tokenizer = load_tokenizer(settings.tokenizer)
    with random_state(seed, "language_model"):
        language_model = build_language_model(settings, tokenizer.vocabulary_size, tokenizer.padding, tokenizer.end)
    model = MultimodalModel(nn.Identity(), nn.Identity(), language_model, image_tokens=1, scale_embeddings=settings.scale_embeddings)
    source = preparation.source
    packing = Packing(row_tokens=preparation.row_tokens, nominal_image_tokens=1)
    data = Data(mixture={source.data_type: 1}, sources={"text": source}, packing=packing)
    # A seed of its own, so that preparation and training do not read documents in one order.
    loader = BatchLoader(
        data,
        tokenizer,
        image_tokens=1,
        image_pipeline=ImagePipeline.of(None),
        seed=seed + 1_000_003,
        steps=preparation.steps,
        batch_rows=preparation.batch_rows,
    )
    training = Training(
        steps=preparation.steps,
        batch_rows=preparation.batch_rows,
        optimizer=preparation.optimizer,
        warmup_steps=max(1, preparation.steps * 6 // 100) if preparation.steps > 1 else 0,
        final_learning_rate=0.0,
    )
    with random_state(seed, "language_model_training"):
        train(model, loader, training, 1.0, folder, report, stage="prepare")
    save_atomically(language_model.state_dict(), folder / "weights.pt")
    (folder / "last.ckpt").unlink(missing_ok=True)
