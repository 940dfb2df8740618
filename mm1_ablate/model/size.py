"""How many parameters a declared model has, without making it: parts are built on torch's meta device."""

from __future__ import annotations

import torch

from mm1_ablate.spec.experiment import Experiment, TimmEncoder


def count_parameters(experiment: Experiment) -> dict[str, int]:
    """Parameters of image_encoder, connector, language_model; `total`; `trained` (a frozen encoder's are not); and
    `without_embeddings`, the language model's, which learning-rate and FLOP rules are about."""
    from mm1_ablate.data.tokenizer import load_tokenizer
    from mm1_ablate.model.image_encoder import build_image_encoder
    from mm1_ablate.model.language_model import build_language_model, parameters_without_embeddings

    settings = experiment.model
    encoder_settings, language_settings = settings.image_encoder, settings.language_model
    if isinstance(encoder_settings, TimmEncoder):
        encoder_settings = encoder_settings.model_copy(update={"weights": None})
    tokenizer = load_tokenizer(language_settings.tokenizer)
    with torch.device("meta"):
        language_model = build_language_model(language_settings, tokenizer.vocabulary_size, tokenizer.padding, tokenizer.end, weights=False)
        encoder = build_image_encoder(encoder_settings)
        connector = settings.connector.build(encoder.width, encoder_settings.grid_side, language_model.config.hidden_size)
    counts = {
        name: sum(parameter.numel() for parameter in part.parameters())
        for name, part in (("image_encoder", encoder), ("connector", connector), ("language_model", language_model))
    }
    total = sum(counts.values())
    frozen = counts["image_encoder"] if encoder_settings.frozen else 0
    return {**counts, "total": total, "trained": total - frozen, "without_embeddings": parameters_without_embeddings(language_model)}
