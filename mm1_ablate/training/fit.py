"""One trial's training: a declared experiment and a seed in, a trained model in a folder out. Resumes where it was stopped."""

from __future__ import annotations

import gc
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as lightning
import torch

from mm1_ablate.data.images import FeatureCache, ImagePipeline
from mm1_ablate.data.loader import BatchLoader
from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.model.image_encoder import PatchEncoder
from mm1_ablate.model.multimodal import MultimodalModel, build, random_state
from mm1_ablate.model.resample import resampled
from mm1_ablate.spec.experiment import Experiment
from mm1_ablate.spec.progress import Progress, Stage
from mm1_ablate.spec.training import Training
from mm1_ablate.training.blocks import economical
from mm1_ablate.training.checkpoint import AtomicCheckpointIO, save_atomically, write_account
from mm1_ablate.training.distributed import SharedLoader, Workers
from mm1_ablate.training.module import PackedTraining, Watch

CHECKPOINT, WEIGHTS, CURVE, DATA = "last.ckpt", "model.pt", "curve.jsonl", "data.json"


def image_pipeline(experiment: Experiment, encoder_folder: Path | None) -> ImagePipeline:
    """How this experiment's images reach its model: as pixels, or as features where a frozen encoder has prepared them. Features are of
    whole images, so with sub-images they stay pixels."""
    encoder, sub_images = experiment.model.image_encoder, experiment.model.sub_images
    if sub_images is not None:
        return ImagePipeline(encoder.image_size, sub_images=sub_images)
    features = encoder_folder / f"features{encoder.feature_layer}" if encoder.frozen and encoder_folder is not None else None
    cache = FeatureCache(features) if features is not None and features.exists() else None
    return ImagePipeline(encoder.image_size, cache)


def weights_in(folder: Path | None) -> Path | None:
    """The weights of a prepared part."""
    return None if folder is None else folder / "weights.pt"


def load_trained(experiment: Experiment, seed: int, folder: Path) -> MultimodalModel:
    """A trained trial's model, for evaluation."""
    model = build(experiment, seed, published=False)
    model.load_state_dict(torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True))
    return on_device(model.eval())


def load_earlier(model: MultimodalModel, folder: Path) -> None:
    """Give a model the weights that an earlier stage ended with, resampled where its resolution is another.

    Raises:
        ValueError: they are of a model with other parts.
    """
    weights = resampled(torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True), model)
    own = model.state_dict()
    # One that takes its features from an earlier block than the stage before it has no use for the blocks behind.
    behind = [name for name in weights if name not in own and _is_behind_features(name, model)]
    weights = {name: value for name, value in weights.items() if name not in behind}
    misfits = [f"{name} is there only" for name in weights if name not in own]
    misfits += [f"{name} is not there" for name in own if name not in weights]
    shapes = [(name, list(weights[name].shape), list(value.shape)) for name, value in own.items() if name in weights]
    misfits += [f"{name} has the shape {there} there and {here} here" for name, there, here in shapes if there != here]
    if misfits:
        more = f", and {len(misfits) - 1} more" if len(misfits) > 1 else ""
        raise ValueError(f"the weights of the earlier stage in {folder} do not fit: {misfits[0]}{more}")
    model.load_state_dict(weights)


def _is_behind_features(name: str, model: MultimodalModel) -> bool:
    prefix, _, inside = name.partition("encoder.vision.")
    return not prefix and bool(inside) and isinstance(model.encoder, PatchEncoder) and model.encoder.is_beyond_features(inside)


def on_device(model: MultimodalModel) -> MultimodalModel:
    """The model where it is to be evaluated: on the GPU that the process sees, if any. Lightning leaves it on the CPU."""
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def fit(
    experiment: Experiment,
    seed: int,
    encoder_folder: Path | None,
    language_model_folder: Path | None,
    folder: Path,
    report: Callable[[Progress], None],
    workers: Workers = Workers(),
    start_from: Path | None = None,
) -> MultimodalModel:
    """Train, or go on from `folder/last.ckpt`; leave `model.pt`, `curve.jsonl` and `data.json` (what became of the data) in the folder.

    Args:
        encoder_folder, language_model_folder: prepared parts that the trial starts from; nothing for a part that is not prepared.
        report: told how far the training is; by the process that leads alone.
        workers: the processes that train it together, which all call this and all get the trained model.
        start_from: the folder of an earlier stage, whose trained weights the model starts from; nothing where there is none.

    Raises:
        ValueError: when there are fewer rows in a step than processes, or the earlier stage's weights do not fit.
        Diverged: when the loss is no longer a number.
        TooMuchBadData: when more of a source is unreadable than is allowed.
    """
    training = experiment.training
    prepared = weights_in(encoder_folder), weights_in(language_model_folder)
    model = build(experiment, seed, *prepared, published=start_from is None)
    if start_from is not None:
        load_earlier(model, start_from)
    loader = BatchLoader(
        experiment.data,
        load_tokenizer(experiment.model.language_model.tokenizer),
        image_tokens=experiment.model.connector.image_tokens,
        image_pipeline=image_pipeline(experiment, encoder_folder),
        seed=seed,
        steps=training.steps,
        batch_rows=training.batch_rows,
        micro_batch_rows=training.micro_batch_rows,
        threads=training.loader_threads,
        rank=workers.rank,
        ranks=workers.ranks,
    )
    with random_state(seed, "training" if workers.leads else f"training/{workers.rank}"):
        train(model, loader, training, experiment.model.image_encoder.learning_rate_scale, folder, report, workers=workers)
    if workers.shard:
        from mm1_ablate.training.sharding import remove_shards, whole_state

        weights = whole_state(model)
        if workers.leads:
            save_atomically(weights, folder / WEIGHTS)
            remove_shards(folder / CHECKPOINT)
        workers.wait_for_all()
        # The trainer holds the sharded model and its optimisers in circles; they make room before the whole model is made.
        del model
        gc.collect()
        model = build(experiment, seed, published=False)
        model.load_state_dict(torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True))
    elif workers.leads:
        save_atomically(model.state_dict(), folder / WEIGHTS)
    if workers.leads:
        (folder / CHECKPOINT).unlink(missing_ok=True)
    return on_device(model.eval())


def train(
    model: MultimodalModel,
    loader: BatchLoader,
    training: Training,
    encoder_scale: float,
    folder: Path,
    report: Callable[[Progress], None],
    stage: Stage = "train",
    workers: Workers = Workers(),
) -> None:
    """Train a model in place over a loader's batches, from the checkpoint in the folder if there is one.

    What became of the data is kept in the folder at each checkpoint and at the end, whatever the end is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / CHECKPOINT
    resume = checkpoint if workers.agreed(checkpoint.exists()) else None
    module = PackedTraining(model, training, encoder_scale, workers)
    if workers.leads:
        if resume and not workers.shard:
            from mm1_ablate.training.sharding import make_whole

            make_whole(resume, module)
        _cut_curve(folder / CURVE, torch.load(resume, map_location="cpu", weights_only=True)["mm1_ablate"]["step"] if resume else 0)
    workers.wait_for_all()
    batches = SharedLoader(loader, workers) if workers.ranks > 1 else loader

    def keep_account() -> None:
        account = batches.account()
        if workers.leads:
            write_account(account, folder / DATA)

    trainer = quiet_trainer(
        precision=training.precision,
        callbacks=[Watch(folder, training.steps, training.checkpoint_every_steps, report, stage, saved=keep_account)],
        plugins=[AtomicCheckpointIO(), *workers.environment()],
        **workers.options(),
    )
    model.train()
    try:
        with economical(model, training):
            trainer.fit(module, batches, ckpt_path=resume, weights_only=True)
    except BaseException:
        # Of several processes the others may never answer again: what this one knows has to do.
        if workers.leads:
            write_account(loader.account(), folder / DATA)
        raise
    keep_account()


def _cut_curve(curve: Path, step: int) -> None:
    """Drop points after a step: those that a stopped run wrote since its last checkpoint will be written again."""
    if curve.exists():
        lines = [line for line in curve.read_text().splitlines() if line.endswith("}") and json.loads(line)["step"] <= step]
        curve.write_text("".join(f"{line}\n" for line in lines))


def quiet_trainer(**options: object) -> lightning.Trainer:
    """A Lightning trainer for one pass over a loader on the device at hand, without bars, loggers or advice."""
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
        **options,  # type: ignore[arg-type]
    )
