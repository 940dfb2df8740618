"""What trials start from, as artifacts of their own: a pre-trained image encoder, a pre-trained language model.

In: an experiment and a trial's seed. Out: the preparations that the trial needs, each with a fingerprint of only what the
artifact depends on, so that all trials with the same encoder share one.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import contents_of
from mm1_ablate.config.identity.fingerprint import canonical, fingerprint, source_identity
from mm1_ablate.config.identity.model_digests import local_identity
from mm1_ablate.config.image_encoder import TimmEncoder, VisionTransformer
from mm1_ablate.config.model import LanguageModel
from mm1_ablate.config.settings import Settings

NOT_OF_THE_ARTIFACT = ("frozen", "learning_rate_scale")
"""Fields of an encoder that say how trials use it, not how it is prepared. (The layer whose features are used is also the one that
preparation trains through.)"""


class Preparation(Settings):
    """One artifact to be made before the trials that start from it."""

    kind: Literal["image_encoder", "language_model"]
    settings: VisionTransformer | TimmEncoder | LanguageModel
    """The section of the experiment, with its `preparation`."""
    seed: int
    contents: str = ""
    """Digest of the files of its data; empty without files. Passed in, so that files are not read again."""
    weights: str = ""
    """Digest of the local weights that it starts from, likewise."""
    tokenizer: str = ""
    """Digest of the local tokenizer that it reads with, likewise."""

    @property
    def identity(self) -> dict[str, Any]:
        """What the artifact depends on, as plain JSON values."""
        settings = {name: value for name, value in canonical(self.settings).items() if name not in NOT_OF_THE_ARTIFACT}
        reads = settings
        if self.settings.preparation is not None:
            source = source_identity(self.settings.preparation.source, settings["preparation"]["source"], self.contents)
            settings["preparation"] = {**settings["preparation"], "source": source}
            reads = settings if isinstance(self.settings, LanguageModel) else settings["preparation"]
        if self.weights:
            settings["name" if isinstance(self.settings, LanguageModel) else "weights"] = self.weights
        if self.tokenizer:
            reads["tokenizer"] = self.tokenizer
        return {"kind": self.kind, "settings": settings, "seed": self.seed}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the identity: 64 hex digits."""
        return fingerprint(self.identity)

    @property
    def name(self) -> str:
        """For people: 'image_encoder contrastive 48px 3x96 seed 0'."""
        if isinstance(self.settings, LanguageModel):
            what = self.settings.model_type or self.settings.name
        else:
            objective = self.settings.preparation.objective if self.settings.preparation else "as it is"
            encoder = self.settings
            size = f"{encoder.depth}x{encoder.width}" if isinstance(encoder, VisionTransformer) else encoder.name
            what = f"{objective} {encoder.image_size}px {size}"
        return f"{self.kind} {what} seed {self.seed}"


def preparations_of(experiment: Experiment, seed: int) -> list[Preparation]:
    """The preparations that a trial starts from; none when nothing is prepared.

    Args:
        seed: the trial's; `model.preparation_seed` goes before it.
    """
    model = experiment.model
    if model.preparation_seed is not None:
        seed = model.preparation_seed
    needed = []
    if (encoder := model.image_encoder.preparation) is not None:
        digests = {**local_identity(model.image_encoder), **local_identity(encoder)}
        needed.append(
            Preparation(kind="image_encoder", settings=model.image_encoder, seed=seed, contents=contents_of(encoder.source), **digests)
        )
    if (language := model.language_model.preparation) is not None:
        own = local_identity(model.language_model)
        digests = {"weights": own.get("name", ""), "tokenizer": own.get("tokenizer", "")}
        needed.append(
            Preparation(kind="language_model", settings=model.language_model, seed=seed, contents=contents_of(language.source), **digests)
        )
    return needed
