"""One trial from its record in the store to its scores there; one preparation likewise. Runs in a child process on the worker.

In: a store and a fingerprint. Out: an exit code (0: done), and in the store the model, its curve, the item scores, or the reason why
there are none. Training is resumed from its last checkpoint; a saved model is only evaluated, as far as its predictions are not saved too.
"""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import sources_of
from mm1_ablate.config.identity.reads import DataChanged, reads_of_preparation, reads_of_training
from mm1_ablate.config.passwords import without_passwords
from mm1_ablate.config.sweep.declaration import Strategy
from mm1_ablate.config.training import Precision, Progress
from mm1_ablate.data.atomic_files import write_json
from mm1_ablate.run.evaluate_trial import EvaluationFailed, evaluate_trial
from mm1_ablate.run.machine_record import write_machine
from mm1_ablate.run.planned_data import PlannedData
from mm1_ablate.store.disk_full import is_disk_full
from mm1_ablate.store.files import StorageError
from mm1_ablate.store.locks import AlreadyRunning
from mm1_ablate.store.status import preparation_code, training_code
from mm1_ablate.store.store import HELD, Store

if TYPE_CHECKING:
    from mm1_ablate.model.multimodal import MultimodalModel
    from mm1_ablate.training.workers import Workers

FAILURE_NAMES = {"TooMuchBadData": ("bad data", 1000), "DataChanged": ("data changed", 1000), "SeveralFailed": ("evaluation", 1000)}
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
            if leads:
                store.start(folder, "train", code=training_code(experiment))
                if not store.has(folder / "model.pt"):
                    write_machine(folder)

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
                check = _DataCheck(store, folder, experiment) if workers.leads_here else _no_check
                check(False)
                _make_ready(experiment, "data")
                parts = prepared.get("image_encoder"), prepared.get("language_model")
                start = store.read_start(fingerprint) if reads else None
                model = TrainedModel(load, fit(experiment, seed, *parts, folder, report, workers, start, check))
            for evaluation in evaluations:

                def evaluate(evaluation: str = evaluation) -> None:
                    asked = store.read_trial(fingerprint, evaluation)[0]
                    _make_ready(asked, "evaluation")
                    evaluate_trial(store, fingerprint, evaluation, partial(model, asked.evaluation.precision), report, workers)

                if not recording_evaluation(store, fingerprint, evaluation, evaluate, leads, ranks == 1):
                    break

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


class _DataCheck:
    """Compares what a trial reads with what it was planned with: for `fit`, which calls it with whether all has been read."""

    def __init__(self, store: Store, folder: Path, experiment: Experiment) -> None:
        self.folder, self.planned = folder, PlannedData(store, folder)
        self.reads = partial(reads_of_training, experiment)

    def __call__(self, over: bool) -> None:
        if not over:
            self.planned.check(self.reads)
            return
        try:
            self.planned.check_what_was_opened(self.reads)
        except DataChanged:
            from mm1_ablate.training.checkpoint import remove_checkpoint

            remove_checkpoint(self.folder / "last.ckpt")  # nobody knows which of its steps read what
            raise


def _no_check(over: bool) -> None:
    """Another process of this machine looks."""


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
        store.start(folder, "prepare", code=preparation_code(preparation))
        from mm1_ablate.training.preparation import prepare

        section, planned = preparation.settings.preparation, PlannedData(store, folder)
        reads = partial(reads_of_preparation, preparation)
        planned.check(reads)
        if section is not None:
            section.source.make_ready()
        prepare(preparation, folder, ProgressFile(folder))
        planned.check(reads)

    with store.hold(folder, wait=True, lost=_exit_taken_over):
        done = store.preparation_status(preparation).status == "done"
        return 0 if done else recording_failure(store, folder, work)


def recording_evaluation(
    store: Store, fingerprint: str, evaluation: str, work: Callable[[], None], leads: bool = True, alone: bool = True
) -> bool:
    """Do an evaluation of a held trial. A failure is its own, and is remembered beside it; others of the same model are done all the same.

    Args:
        leads, alone: see `recording_failure`.

    Returns:
        Whether the process can go on to the next.

    Raises:
        Exception: of several workers this one cannot go on, or a disk is full.
    """
    if leads:
        store.start_evaluation(fingerprint, evaluation)
    try:
        work()
    except Exception as error:
        if is_disk_full(error) or not (alone or isinstance(error, EvaluationFailed)):
            raise
        cause = error.__cause__ if isinstance(error, EvaluationFailed) and isinstance(error.__cause__, Exception) else error
        if leads:
            if cause is error:
                traceback.print_exc()
            folder = store.evaluation_folder_of(fingerprint, evaluation)
            store.write(folder / "error.txt", "".join(traceback.format_exception(cause)).encode())
            store.fail(folder, reason_of(cause))
        return "CUDA error" not in str(cause)  # after which no computation of this process works
    return True


def reason_of(error: Exception) -> str:
    """Why something failed, in a line."""
    message = str(error).strip().splitlines()
    kind, longest = FAILURE_NAMES.get(type(error).__name__, (type(error).__name__, 300))
    return f"{kind}: {message[0][:longest]}" if message else kind


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
            store.fail(folder, reason_of(error))
        return 1
    if leads:
        store.finish(folder)
    return 0
