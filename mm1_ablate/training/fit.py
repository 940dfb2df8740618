"""One trial's training: a declared experiment and a seed in, a trained model in a folder out. Resumes where it was stopped.

Where the model is sharded, the process that leads makes or reads the weights that a training starts from, in the memory of its node; all
others only ever hold their parts.
"""

from __future__ import annotations

import gc
import json
import logging
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from torch import Tensor

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.training import Precision, Progress, Stage, Training
from mm1_ablate.data.atomic_files import write_json
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.loader import BatchLoader
from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.evaluation.evaluation_mode import cast_weights, is_sharded
from mm1_ablate.model.image_encoder import PatchEncoder
from mm1_ablate.model.multimodal import MultimodalModel, build, build_without_values, random_state
from mm1_ablate.model.weight_conversion import resample_positions
from mm1_ablate.training.activation_checkpointing import checkpointed_and_compiled
from mm1_ablate.training.checkpoint import make_whole, remove_checkpoint, save_atomically, whole_state
from mm1_ablate.training.distributed import DistributedLoader, shard_for_evaluation, trainer_options
from mm1_ablate.training.module import PackedTraining, TrainingCallback
from mm1_ablate.training.weight_distribution import allocate, broadcast_weights, check_weights, parameters_and_buffers
from mm1_ablate.training.workers import Workers

CHECKPOINT, WEIGHTS, CURVE, DATA = "last.ckpt", "model.pt", "curve.jsonl", "data.json"


def prepared_weights(folder: Path | None) -> Path | None:
    """The weights of a prepared part."""
    return None if folder is None else folder / "weights.pt"


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights that a training left, each of them read when it is used."""
    weights: dict[str, Tensor] = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True, mmap=True)
    return weights


def load_trained(
    experiment: Experiment, seed: int, folder: Path, workers: Workers = Workers(), precision: Precision = "32-true"
) -> MultimodalModel:
    """A trained trial's model, ready to be evaluated.

    Args:
        workers: which evaluate it together and all call this. Under fsdp its language model stays sharded: see `evaluation_mode`.
        precision: in which it is evaluated, and kept.
    """
    if not workers.shard:
        model = build(experiment, seed, published=False)
        model.load_state_dict(read_weights(folder))
        return ready_for_evaluation(model, precision)
    model = build_without_values(experiment, seed).eval()
    cast_weights(model, precision)
    shard_for_evaluation(model.requires_grad_(False), workers)
    allocate(model, workers.device)
    broadcast_weights(model, read_weights(folder) if workers.leads else None, workers)
    return model


def ready_for_evaluation(model: MultimodalModel, precision: Precision) -> MultimodalModel:
    """A whole model where and as it is to be evaluated: on the GPU that the process sees, if any. Lightning leaves it on the CPU."""
    cast_weights(model, precision)
    return model.eval().to(Workers().device)


class TrainedModel:
    """A trial's trained model for its evaluations: loaded when it is first asked for, and again where another precision is.

    Args:
        load: loads it in a precision.
        model: it, in float32, if it is at hand.
    """

    def __init__(self, load: Callable[[Precision], MultimodalModel], model: MultimodalModel | None = None) -> None:
        self._load = load
        self._model = model
        self._precision: Precision = "32-true"

    def __call__(self, precision: Precision) -> MultimodalModel:
        if self._model is not None and self._precision == "32-true" != precision and not is_sharded(self._model.language_model):
            cast_weights(self._model, precision)
        elif self._model is None or self._precision != precision:
            self._model = None  # makes room
            gc.collect()
            self._model = self._load(precision)
        self._precision = precision
        return self._model


def read_earlier_stage(model: MultimodalModel, folder: Path) -> dict[str, Tensor]:
    """The weights that an earlier stage ended with, resampled where the resolution of a model is another.

    Args:
        model: to which they are to be given, whole or sharded, with values or without.

    Raises:
        ValueError: they are of a model with other parts.
    """
    weights = resample_positions(read_weights(folder), model)
    own = model.state_dict()
    # One that takes its features from an earlier block than the stage before it has no use for the blocks behind.
    behind = [name for name in weights if name not in own and _is_behind_features(name, model)]
    weights = {name: value for name, value in weights.items() if name not in behind}
    check_weights(weights, model, f"the weights of the earlier stage in {folder}")
    return weights


def _is_behind_features(name: str, model: MultimodalModel) -> bool:
    prefix, _, inside = name.partition("encoder.vision.")
    return not prefix and bool(inside) and isinstance(model.encoder, PatchEncoder) and model.encoder.is_beyond_features(inside)


def load_earlier_stage(model: MultimodalModel, folder: Path) -> None:
    """Give a model the weights that an earlier stage ended with: see `read_earlier_stage`."""
    model.load_state_dict(read_earlier_stage(model, folder))


def fit(
    experiment: Experiment,
    seed: int,
    encoder_folder: Path | None,
    language_model_folder: Path | None,
    folder: Path,
    report: Callable[[Progress], None],
    workers: Workers = Workers(),
    start_from: Path | None = None,
) -> MultimodalModel | None:
    """Train, or resume from `folder/last.ckpt`; leave `model.pt`, `curve.jsonl` and `data.json` (the data account) in the folder.

    Args:
        encoder_folder, language_model_folder: prepared parts that the trial starts from; None for a part that is not prepared.
        report: told how far the training is; by the process that leads alone.
        workers: the processes that train it together, which all call this.
        start_from: the folder of an earlier stage, whose trained weights the model starts from; None where there is none.

    Returns:
        The trained model, ready to be evaluated in float32; None where it was sharded: evaluation shards it otherwise,
        `load_trained`.

    Raises:
        ValueError: when there are fewer rows in a step than processes, or the earlier stage's weights do not fit.
        Diverged: when the loss is no longer a number.
        TooMuchBadData: when more of a source is unreadable than is allowed.
    """
    model, weights = _start(experiment, seed, (encoder_folder, language_model_folder), start_from, workers)
    loader = _loader(experiment, seed, encoder_folder, workers)
    with random_state(seed, "training" if workers.leads else f"training/{workers.rank}"):
        scale = experiment.model.image_encoder.learning_rate_scale
        train(model, loader, experiment.training, scale, folder, report, workers=workers, weights=weights)
    state = whole_state(model) if workers.shard else model.state_dict()
    if workers.leads:
        save_atomically(state, folder / WEIGHTS)
    if workers.leads_here:
        remove_checkpoint(folder / CHECKPOINT)
    if not workers.shard:
        return ready_for_evaluation(model, "32-true")
    workers.barrier()
    return None


def _start(
    experiment: Experiment, seed: int, prepared_folders: tuple[Path | None, Path | None], start_from: Path | None, workers: Workers
) -> tuple[MultimodalModel, Callable[[], Mapping[str, Tensor]] | None]:
    """The model that a training starts from. Where it is to be sharded it has no values yet, and what gives them comes with it."""
    encoder, language_model = map(prepared_weights, prepared_folders)
    make = partial(build, experiment, seed, encoder, language_model, published=start_from is None)
    if not workers.shard:
        model = make()
        if start_from is not None:
            load_earlier_stage(model, start_from)
        return model, None
    model = build_without_values(experiment, seed)
    if start_from is not None:
        return model, partial(read_earlier_stage, model, start_from)
    return model, lambda: parameters_and_buffers(make())


def _loader(experiment: Experiment, seed: int, encoder_folder: Path | None, workers: Workers) -> BatchLoader:
    training = experiment.training
    return BatchLoader(
        experiment.data,
        load_tokenizer(experiment.model.language_model.tokenizer),
        image_tokens=experiment.model.connector.image_tokens,
        image_pipeline=ImagePipeline.of(experiment.model, encoder_folder),
        seed=seed,
        steps=training.steps,
        batch_rows=training.batch_rows,
        micro_batch_rows=training.micro_batch_rows,
        threads=training.loader_threads,
        rank=workers.rank,
        ranks=workers.ranks,
    )


def train(
    model: MultimodalModel,
    loader: BatchLoader,
    training: Training,
    encoder_scale: float,
    folder: Path,
    report: Callable[[Progress], None],
    stage: Stage = "train",
    workers: Workers = Workers(),
    weights: Callable[[], Mapping[str, Tensor]] | None = None,
) -> None:
    """Train a model in place over a loader's batches, from the checkpoint in the folder if there is one.

    What became of the data is kept in the folder at each checkpoint and at the end, whatever the end is.

    Args:
        weights: where the model has no values because it is to be sharded, what it starts from: see `PackedTraining`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / CHECKPOINT
    resume = checkpoint if workers.broadcast(checkpoint.exists()) else None
    module = PackedTraining(model, training, encoder_scale, workers, weights if resume is None else None)
    if workers.leads_here and resume and not workers.shard:
        make_whole(resume, module)
    if workers.leads:
        _cut_curve(folder / CURVE, torch.load(resume, map_location="cpu", weights_only=True)["mm1_ablate"]["step"] if resume else 0)
    workers.barrier()
    batches = DistributedLoader(loader, workers) if workers.ranks > 1 else loader

    def keep_account() -> None:
        account = batches.account()
        if workers.leads:
            write_json(folder / DATA, account, durable=False)

    trainer = lightning_trainer(
        precision=training.precision,
        callbacks=[TrainingCallback(folder, training.steps, training.checkpoint_every_steps, report, stage, saved=keep_account)],
        **trainer_options(workers),
    )
    model.train()
    try:
        with checkpointed_and_compiled(model, training):
            trainer.fit(module, batches, ckpt_path=resume, weights_only=True)
    except BaseException:
        # Of several processes the others may never answer again: what this one knows has to do.
        if workers.leads:
            write_json(folder / DATA, loader.account(), durable=False)
        raise
    keep_account()


def _cut_curve(curve: Path, step: int) -> None:
    """Drop points after a step: those that a stopped run wrote since its last checkpoint will be written again."""
    if curve.exists():
        lines = [line for line in curve.read_text().splitlines() if line.endswith("}") and json.loads(line)["step"] <= step]
        curve.write_text("".join(f"{line}\n" for line in lines))


def lightning_trainer(**options: Any) -> lightning.Trainer:
    """A Lightning trainer for one pass over a loader on the available device, without progress bars, loggers or advice."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    return lightning.Trainer(
        max_epochs=1,
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        inference_mode=False,
        **options,
    )
