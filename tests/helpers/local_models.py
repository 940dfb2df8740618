"""Tokenizers and encoders of a few kilobytes, and files that declare them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from config_files import EXPERIMENT, write_experiment

from mm1_ablate.config.image_encoder import TimmEncoder

TINY = "test_vit"
"""timm's smallest: 6 blocks of width 64 on patches of 16 pixels, with a class token."""
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)


def encoder(size: int = 48, **more: object) -> TimmEncoder:
    return TimmEncoder.model_validate({"name": TINY, "image_size": size, "patch_size": 16, "weights": None, **more})


def pixels(size: int, images: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def declared(folder: Path, encoder: str) -> Path:
    text = EXPERIMENT
    before, after = text.index("  image_encoder:"), text.index("  connector:")
    return write_experiment(folder, f"{text[:before]}  image_encoder: {encoder}\n{text[after:]}")


def tokenizer_folder(folder: Path, words: Sequence[str] = ("a small red circle",)) -> Path:
    """A byte-level tokenizer as transformers writes it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([word for word in words for _ in range(5)], trainer)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(folder)
    return folder
