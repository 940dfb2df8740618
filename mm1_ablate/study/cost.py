"""What a trial costs before it runs: tokens, floating-point operations, hours.

In: an experiment, its parameter counts, and what a packed row holds. Out: numbers to decide by. The rules are the usual ones,
and stated here because a plan that cannot be checked is not worth reading:

* a parameter of the language model's blocks costs 6 operations per token (2 forward, 4 backward; Kaplan et al. 2020, section 2.1),
  one of its head 6 per text token, for only text is predicted, and looking up an embedding none;
* attention adds 12 x layers x width x (half of a document's length, for it is causal) per token (Chowdhery et al. 2022, appendix B);
* the image encoder costs 6 operations per parameter and patch where it is trained, 2 where it is frozen, and none where it was
  prepared and frozen, because its features are kept;
* the connector costs 6 per parameter and image token.

Evaluation and data loading are not counted. Hours on a GPU are operations over (peak x utilisation); hours on a CPU come from
finished trials of the store, and only without any from a rough rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mm1_ablate.spec.experiment import Experiment, LanguageModel
from mm1_ablate.spec.preparation import Preparation

CPU_RATE = 2e10
"""Operations per second of one CPU core on models as small as the miniature's: a rough guess, used only until a trial has been timed."""

GPU_PEAKS = {"H100": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bf16 peak of GPUs by name, in operations per second (NVIDIA's data sheets, without sparsity)."""

GPU_UTILISATION = 0.4
"""Share of the peak that training is assumed to reach."""


@dataclass(frozen=True)
class RowContent:
    """What a packed row holds on average, counted on real rows where the data can be opened, else as declared."""

    text_tokens: float
    images: float
    document_tokens: float
    """Mean length of a document in text tokens, as seen by an average token."""
    measured: bool
    epochs: Mapping[str, float] = field(default_factory=dict)
    """By source, how much of an epoch of it goes into a row; empty where it was not counted."""

    @classmethod
    def declared(cls, experiment: Experiment) -> RowContent:
        """A full row with as many images as the packing allows, in the mixture's share of rows that hold any."""
        packing = experiment.data.packing
        weights = experiment.data.mixture
        share = 1 - weights.get("text", 0) / sum(weights.values())
        most = packing.row_tokens // packing.nominal_image_tokens
        images = share * min(most, packing.max_images if packing.max_images is not None else most)
        text = packing.row_tokens - images * packing.nominal_image_tokens
        return cls(text_tokens=text, images=images, document_tokens=packing.row_tokens, measured=False)


@dataclass(frozen=True)
class TrialTokens:
    """What a trial trains on, over all its steps."""

    text: int
    images: int
    image_tokens: int

    @property
    def total(self) -> int:
        return self.text + self.image_tokens


def trial_tokens(experiment: Experiment, row: RowContent) -> TrialTokens:
    """Tokens and images of all steps: rows x what a row holds; an image counts what the connector makes of it."""
    rows = experiment.training.steps * experiment.training.batch_rows
    images = round(rows * row.images)
    return TrialTokens(round(rows * row.text_tokens), images, images * experiment.model.connector.image_tokens)


def training_flops(experiment: Experiment, parameters: Mapping[str, int], tokens: TrialTokens, row: RowContent) -> float:
    """Floating-point operations of training one trial, by the rules at the top of this file.

    Args:
        parameters: image_encoder, connector, language_model, and without_embeddings, which is the language model's.
    """
    encoder = experiment.model.image_encoder
    configuration = experiment.model.language_model.configuration
    embeddings = parameters["language_model"] - parameters["without_embeddings"]
    head = embeddings if configuration.get("tie_word_embeddings") else embeddings / 2
    language = 6 * parameters["without_embeddings"] * tokens.total + 6 * head * tokens.text
    connector = 6 * parameters["connector"] * tokens.image_tokens
    per_patch = (0 if encoder.preparation else 2) if encoder.frozen else 6
    vision = per_patch * parameters["image_encoder"] * tokens.images * encoder.grid_side**2
    layers, width = configuration.get("num_hidden_layers", 0), configuration.get("hidden_size", 0)
    attention = 0.0
    # A model by name declares neither: its attention (some percent at 4,096 tokens) is left out.
    if isinstance(layers, int) and isinstance(width, int) and tokens.text:
        document = row.document_tokens * tokens.total / tokens.text
        attention = 12 * layers * width * document / 2 * tokens.total
    return float(language + connector + vision + attention)


def preparation_flops(preparation: Preparation, parameters: Mapping[str, int]) -> float:
    """Operations of preparing an encoder (6 x parameters x patches) or a language model (6 x parameters x tokens)."""
    settings = preparation.settings
    if settings.preparation is None:
        return 0.0
    if isinstance(settings, LanguageModel):
        section = settings.preparation
        return 6.0 * parameters["language_model"] * section.steps * section.batch_rows * section.row_tokens
    patches = settings.preparation.steps * settings.preparation.batch_images * settings.grid_side**2
    return 6.0 * parameters["image_encoder"] * patches


@dataclass(frozen=True)
class Estimate:
    """How long what remains will take, and how that was reckoned."""

    cpu_hours: float | None
    gpu_hours: dict[str, float]
    """By name of the GPU; empty for studies that ask for none."""
    basis: str

    def against(self, *, gpu_hours: float | None, cpu_hours: float | None) -> list[str]:
        """Which limits the estimate breaks, in words. GPU hours are held against the fastest GPU named: a plan above that is above any."""
        broken = []
        if cpu_hours is not None and self.cpu_hours is not None and self.cpu_hours > cpu_hours:
            broken.append(f"about {self.cpu_hours:.3g} CPU hours are needed, the budget allows {cpu_hours:g}")
        if gpu_hours is not None and self.gpu_hours:
            name, least = min(self.gpu_hours.items(), key=lambda pair: pair[1])
            if least > gpu_hours:
                broken.append(f"about {least:.3g} {name} hours are needed, the budget allows {gpu_hours:g}")
        return broken


def estimate(flops: float, *, gpus: float, finished: Sequence[tuple[float, float]], cpus: float = 1) -> Estimate:
    """Hours for so many operations.

    Args:
        flops: operations that remain.
        gpus: GPUs of a trial; 0 for CPU.
        finished: (operations, seconds) of trials that this store has timed.
        cpus: CPU cores that a trial holds while it runs.
    """
    if gpus:
        hours = {name: flops / (peak * GPU_UTILISATION) / 3600 for name, peak in GPU_PEAKS.items()}
        return Estimate(None, hours, f"an estimate: operations over the bf16 peak at {GPU_UTILISATION:.0%} utilisation")
    if finished and sum(done for done, _ in finished) > 0:
        seconds = flops * sum(spent for _, spent in finished) / sum(done for done, _ in finished) * cpus
        return Estimate(seconds / 3600, {}, f"from {len(finished)} finished trial{'s' if len(finished) > 1 else ''} of this store")
    return Estimate(flops / CPU_RATE / 3600, {}, f"rough: no finished trial to go by, {CPU_RATE:.0e} operations a second and core")
