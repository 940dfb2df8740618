"""One trial from its record in the store to its scores there; one preparation likewise. Runs in a child process on the worker.

In: a store and a fingerprint. Out: an exit code (0: done), and in the store the model, its curve, the item scores, or the reason why
there are none. Training is resumed from its last checkpoint; a saved model is only evaluated, as far as its predictions are not saved too.
"""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import sources_of
from mm1_ablate.config.passwords import without_passwords
from mm1_ablate.config.sweep.declaration import Strategy
from mm1_ablate.config.training import Precision, Progress
from mm1_ablate.data.atomic_files import write_json
from mm1_ablate.evaluation.prediction_shards import PredictionShard, join_shards, shard_rows
from mm1_ablate.store.disk_full import is_disk_full
from mm1_ablate.store.files import StorageError
from mm1_ablate.store.locks import AlreadyRunning
from mm1_ablate.store.manifests import recorded_shards
from mm1_ablate.store.predictions import Predictions
from mm1_ablate.store.store import HELD, Store

if TYPE_CHECKING:
    import pandas

    from mm1_ablate.model.multimodal import MultimodalModel
    from mm1_ablate.training.workers import Workers


FAILURE_NAMES = {"TooMuchBadData": ("bad data", 1000)}
"""What a failure is called in its line of reason, where not by the exception, and how many characters of the message follow."""
REPORT_EVERY = 0.5
"""Seconds between two writes of the progress."""
UPLOADED_WITHIN = 3600.0
"""Seconds to wait for a model that another machine has trained: it may be large, and the storage unavailable for a while."""


class ProgressFile:
    """Writes the progress of a folder's work at intervals; call it with every `Progress`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "progress.json"
        self.stage: str | None = None
        self.stage_started = 0.0
        self.written = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.time()
        if progress.stage != self.stage:
            self.stage, self.stage_started, self.written = progress.stage, now, 0.0
        if now - self.written < REPORT_EVERY and progress.step < progress.steps:
            return
        self.written = now
        record = {"stage": progress.stage, "step": progress.step, "steps": progress.steps, "loss": progress.loss}
        write_json(self.path, record | {"time": now, "stage_started": self.stage_started}, durable=False)


def run_trial(store_root: str, fingerprint: str, evaluations: list[str], rank: int = 0, ranks: int = 1, strategy: Strategy = "ddp") -> int:
    """Train a trial unless its model is saved, then evaluate it once for each evaluation fingerprint.

    Args:
        rank, ranks: which of how many workers this is. The first holds the trial's folder and writes; the others wait for it.
    """
    store = Store(store_root)
    folder = store.trial_folder(fingerprint)
    leads = rank == 0

    def work() -> None:
        report = ProgressFile(folder) if leads else _no_report
        if leads:
            store.start(folder, "train")
        from mm1_ablate.training.fit import TrainedModel, fit, load_trained
        from mm1_ablate.training.workers import Workers

        with contextlib.ExitStack() as stack:
            workers = _join_workers(stack, store, folder, Workers(rank, ranks, strategy))
            # A sharded model's weights are read by the first worker alone.
            reads = leads or not workers.shard
            experiment, seed = store.read_trial(fingerprint)

            def load(precision: Precision) -> MultimodalModel:
                if reads:
                    _wait_for(store, folder / "model.pt")
                return load_trained(experiment, seed, folder, workers, precision)

            model = TrainedModel(load)
            if not workers.broadcast(store.has(folder / "model.pt")):
                store.download_checkpoint(folder / "last.ckpt")
                # Another worker of this machine must not download again what one worker now replaces.
                workers.barrier()
                prepared = store.read_prepared(fingerprint)
                report(Progress("train", 0, experiment.training.steps))
                _make_ready(experiment, "data")
                parts = prepared.get("image_encoder"), prepared.get("language_model")
                start = store.read_start(fingerprint) if reads else None
                model = TrainedModel(load, fit(experiment, seed, *parts, folder, report, workers, start))
            for evaluation in evaluations:
                if leads:
                    store.start(folder, "evaluate", evaluation)
                asked = store.read_trial(fingerprint, evaluation)[0]
                _make_ready(asked, "evaluation")
                evaluate_trial(store, fingerprint, evaluation, partial(model, asked.evaluation.precision), report, workers)

    if not leads:
        return recording_failure(store, folder, work, leads)
    try:
        with store.hold(folder, lost=_exit_taken_over):
            return recording_failure(store, folder, work, alone=ranks == 1)
    except AlreadyRunning:
        return HELD


def _join_workers(stack: contextlib.ExitStack, store: Store, folder: Path, workers: Workers) -> Workers:
    """Join the other workers of a trial, and make sure that those on other machines get what this one writes."""
    stack.enter_context(workers.joined())
    homes = workers.all_gather(store.home)
    first = homes.index(store.home)
    if first:
        workers = replace(workers, first_here=first, share_files=partial(store.upload, wait=True))
        if workers.leads_here:
            stack.enter_context(store.help(folder))
    workers.barrier()
    return workers


def _wait_for(store: Store, file: Path) -> None:
    """Download a file that a worker on another machine may be uploading."""
    until = time.monotonic() + UPLOADED_WITHIN
    store.download(file)
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.5)
        with contextlib.suppress(StorageError):
            store.refresh(file.parent)
            store.download(file)


def _exit_taken_over() -> None:
    """End this process at once: another machine has taken its work over."""
    print("another machine has taken over this trial: the storage was unavailable here for too long", flush=True)
    os._exit(HELD)


def _no_report(progress: Progress) -> None:
    """Progress of a worker that is not the first: only the first reports."""


def _make_ready(experiment: Experiment, section: str) -> None:
    """Make the sources of a section ready. They are where the run was started; another node may lack indices."""
    for place, source in sources_of(experiment):
        if place[0] == section:
            source.make_ready()


def run_preparation(store_root: str, fingerprint: str) -> int:
    """Make a preparation, unless another process makes it meanwhile."""
    store = Store(store_root)
    preparation = store.read_preparation(fingerprint)
    folder = store.prepared_folder(preparation)

    def work() -> None:
        store.start(folder, "prepare")
        from mm1_ablate.training.preparation import prepare

        section = preparation.settings.preparation
        if section is not None:
            section.source.make_ready()
        prepare(preparation, folder, ProgressFile(folder))

    with store.hold(folder, wait=True, lost=_exit_taken_over):
        done = store.preparation_status(preparation).status == "done"
        return 0 if done else recording_failure(store, folder, work)


def recording_failure(store: Store, folder: Path, work: Callable[[], None], leads: bool = True, alone: bool = True) -> int:
    """Do the work of a held folder. A failure is its result: the traceback and a line of reason go into the store.

    Args:
        leads: whether this process marks the folder as finished.
        alone: whether this is the only worker. Of several the first that fails records why: the others only lose the connection to it.

    Raises:
        Exception: a disk is full (`store/disk_full.py`), of which nothing is recorded.
    """
    try:
        work()
    except Exception as error:
        if is_disk_full(error):
            raise
        traceback.print_exc()
        if (leads and alone) or not store.has_failed(folder):
            store.write(folder / "error.txt", without_passwords(traceback.format_exc()).encode())
            message = str(error).strip().splitlines()
            kind, longest = FAILURE_NAMES.get(type(error).__name__, (type(error).__name__, 300))
            store.fail(folder, f"{kind}: {message[0][:longest]}" if message else kind)
        return 1
    if leads:
        store.finish(folder)
    return 0


# ---------------------------------------------------------------- evaluation
def evaluate_trial(
    store: Store,
    fingerprint: str,
    evaluation: str,
    model: Callable[[], MultimodalModel],
    report: Callable[[Progress], None],
    workers: Workers | None = None,
) -> None:
    """Ask a trained model what an evaluation lacks, then score all of it.

    Args:
        model: loads it; not called where nothing is lacking.
        report: told how far the asking is.
        workers: the processes that share the asking; the first of them writes. Nothing: this one alone.

    Raises:
        ContextOverflow, LookupError, ValueError: see `evaluate.predict`.
    """
    kept = Predictions(store.trial_folder(fingerprint), store)
    missing = [part for part in recorded_shards(store.evaluation_folder_of(fingerprint, evaluation)) if not kept.has(part)]
    if workers is not None:
        # One that looks a moment later may see what the first has written meanwhile.
        missing = workers.broadcast(missing)
    if missing:
        experiment, _ = store.read_trial(fingerprint, evaluation)
        _predict(kept, missing, experiment, model(), report, workers)
    if workers is None or workers.leads:
        score_trial(store, fingerprint, evaluation)


def _predict(
    kept: Predictions,
    missing: Sequence[PredictionShard],
    experiment: Experiment,
    model: MultimodalModel,
    report: Callable[[Progress], None],
    workers: Workers | None = None,
) -> None:
    import pandas

    from mm1_ablate.data.images import ImagePipeline
    from mm1_ablate.data.tokenizer import load_tokenizer
    from mm1_ablate.evaluation.evaluate import predict
    from mm1_ablate.evaluation.evaluation_mode import evaluating
    from mm1_ablate.evaluation.held_out_loss import measure, prepare_documents
    from mm1_ablate.evaluation.protocols import load_tasks
    from mm1_ablate.evaluation.scores import merged

    records = load_tasks(experiment.evaluation)
    tokenizer = load_tokenizer(experiment.model.language_model.tokenizer)
    pipeline = ImagePipeline.of(experiment.model)
    tasks = [part for part in missing if part.kind == "task"]
    losses = {part.name: part for part in missing if part.kind == "loss"}

    def wanted(task: str, shots: int, seed: int) -> bool:
        return any(part.name == task and part.shots == shots and seed in part.seeds for part in tasks)

    def of_all(table: pandas.DataFrame) -> list[pandas.DataFrame]:
        return [table] if workers is None else workers.all_gather(table)

    writes = workers is None or workers.leads
    rank, ranks = (0, 1) if workers is None else (workers.rank, workers.ranks)

    def keep(share: pandas.DataFrame) -> None:
        predictions = share if ranks == 1 else merged(of_all(share), records)
        names = set(predictions["task"])
        for part in tasks:
            if part.name in names and writes:
                kept.write(part, shard_rows(part, predictions))

    own = experiment.evaluation.losses
    few = experiment.evaluation.model_copy(update={"losses": {name: own[name] for name in own if name in losses}})
    # Held-out documents are laid out first, so that one that does not fit is reported before anything is generated.
    held_out = prepare_documents(model, experiment.model_copy(update={"evaluation": few}), tokenizer)
    predict(model, experiment, tokenizer, pipeline, report, rank, ranks, wanted=wanted, keep=keep)
    for name, documents in held_out.items():
        with evaluating(model, experiment.evaluation.precision):
            share = measure(model, {name: documents}, tokenizer, pipeline, rank, ranks)
        measured = pandas.concat(of_all(share)).sort_values("place", kind="stable").reset_index(drop=True)
        if writes:
            kept.write(losses[name], measured)


def score_trial(store: Store, fingerprint: str, evaluation: str) -> None:
    """Score an evaluation all of whose parts are kept. Needs no model and imports no torch.

    Raises:
        ValueError: no item of a task has a score.
    """
    from mm1_ablate.evaluation.protocols import load_tasks
    from mm1_ablate.evaluation.scores import item_scores, merged, summarise

    experiment, _ = store.read_trial(fingerprint, evaluation)
    kept = Predictions(store.trial_folder(fingerprint))
    predictions, documents = join_shards(
        (part, kept.read(part)) for part in recorded_shards(store.evaluation_folder_of(fingerprint, evaluation))
    )
    tasks = load_tasks(experiment.evaluation)
    items = item_scores(merged([predictions], tasks), documents, tasks, experiment.evaluation)
    store.write_evaluation(fingerprint, evaluation, items, summarise(items, experiment.evaluation.groups))
