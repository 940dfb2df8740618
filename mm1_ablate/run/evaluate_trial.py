"""Evaluating a trained model and scoring its predictions. In: a trial and an evaluation. Out: predictions, items and scores in the store.

What has been predicted already is not asked again; scoring needs no model and imports no torch.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.reads import reads_of_loss, reads_of_task
from mm1_ablate.config.training import Progress
from mm1_ablate.evaluation.prediction_shards import PredictionShard, join_shards, shard_rows
from mm1_ablate.run.planned_data import PlannedData
from mm1_ablate.store.disk_full import is_disk_full
from mm1_ablate.store.manifests import recorded_shards
from mm1_ablate.store.predictions import Predictions
from mm1_ablate.store.status import evaluation_code
from mm1_ablate.store.store import Store

if TYPE_CHECKING:
    import pandas

    from mm1_ablate.data.images import ImagePipeline
    from mm1_ablate.data.tokenizer import Tokenizer
    from mm1_ablate.model.multimodal import MultimodalModel
    from mm1_ablate.training.workers import Workers


class EvaluationFailed(Exception):
    """An evaluation failed of its cause, and the process can go on to the next."""


class SeveralFailed(Exception):
    """Several parts of an evaluation failed, each for a reason of its own."""


class FailedOnAnotherWorker(Exception):
    """What happened to another worker of the trial."""


def evaluate_trial(
    store: Store,
    fingerprint: str,
    evaluation: str,
    model: Callable[[], MultimodalModel],
    report: Callable[[Progress], None],
    workers: Workers | None = None,
) -> None:
    """Ask a trained model what an evaluation lacks, then score all of it. What fails of it keeps the rest from being asked no more than
    it must: a task, a number of shots, a loss.

    Args:
        model: loads it; not called where nothing is lacking.
        report: told how far the asking is.
        workers: the processes that share the asking; the first of them writes. Nothing: this one alone.

    Raises:
        EvaluationFailed: something could not be asked or scored. All workers go on alike.
        Exception: what else keeps this process from working.
    """
    kept = Predictions(store.trial_folder(fingerprint), store)
    missing = [part for part in recorded_shards(store.evaluation_folder_of(fingerprint, evaluation)) if not kept.has(part, whole=True)]
    if workers is not None:
        # One that looks a moment later may see what the first has written meanwhile.
        missing = workers.broadcast(missing)
    if missing:
        experiment, _ = store.read_trial(fingerprint, evaluation)
        asking = _Asking(kept, missing, experiment, PlannedData(store, store.evaluation_folder_of(fingerprint, evaluation)), workers)
        asking.ask(model(), report)
        if asking.failures:
            raise EvaluationFailed from asking.failure()
    if workers is None or workers.leads:
        try:
            score_trial(store, fingerprint, evaluation)
        except Exception as error:
            if is_disk_full(error):
                raise
            traceback.print_exc()
            raise EvaluationFailed from error


class _Asking:
    """Asks what is missing of an evaluation, and keeps it part by part."""

    def __init__(
        self, kept: Predictions, missing: Sequence[PredictionShard], experiment: Experiment, planned: PlannedData, workers: Workers | None
    ) -> None:
        from mm1_ablate.evaluation.protocols import load_tasks

        self.kept, self.missing, self.experiment, self.planned, self.workers = kept, missing, experiment, planned, workers
        self.rank, self.ranks = (0, 1) if workers is None else (workers.rank, workers.ranks)
        self.records = load_tasks(experiment.evaluation)
        self.entries = dict(zip((task.task for task in self.records), experiment.evaluation.tasks, strict=True))
        self.code = evaluation_code(experiment, self.records)
        self.failures: dict[str, Exception] = {}
        """By what failed, in words."""

    def failure(self) -> Exception:
        """The only failure, or all of them in one line."""
        every = list(self.failures.values())
        if len(every) == 1:
            return every[0]
        lines = [f"{what}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}" for what, error in self.failures.items()]
        several = SeveralFailed(f"{len(lines)} parts failed: {' | '.join(lines)}")
        for error in every:
            several.add_note("".join(traceback.format_exception(error)))
        return several

    def ask(self, model: MultimodalModel, report: Callable[[Progress], None]) -> None:
        from mm1_ablate.data.images import ImagePipeline
        from mm1_ablate.data.tokenizer import load_tokenizer
        from mm1_ablate.evaluation.evaluate import predict

        tokenizer = load_tokenizer(self.experiment.model.language_model.tokenizer)
        pipeline = ImagePipeline.of(self.experiment.model)
        # Held-out documents are laid out first, so that one that does not fit is told before anything is generated.
        held_out = self._laid_out(model, tokenizer)
        tasks = [part for part in self.missing if part.kind == "task"]

        def wanted(task: str, shots: int, seed: int) -> bool:
            return any(part.name == task and part.shots == shots and seed in part.seeds for part in tasks)

        def failed(task: str, shots: Sequence[int], error: Exception) -> None:
            self._failed(f"task {task} at {', '.join(map(str, shots))} shots", error)

        predict(
            model, self.experiment, tokenizer, pipeline, report, self.rank, self.ranks, wanted=wanted, keep=self._keep, failed=failed,
            check=self._check_task, agree=self._agree,
        )  # fmt: skip
        self._measure(model, held_out, tokenizer, pipeline)

    # ------------------------------------------------------------ tasks
    def _keep(self, share: pandas.DataFrame) -> None:
        from mm1_ablate.evaluation.scores import merged

        predictions = share if self.ranks == 1 else merged(self._of_all(share), self.records)
        asked = set(predictions[["task", "shots"]].itertuples(index=False, name=None))
        for part in self.missing:
            if part.kind == "task" and (part.name, part.shots) in asked and self._writes:
                self.kept.write(part, shard_rows(part, predictions), self.code)

    def _check_task(self, task: str) -> None:
        self.planned.check(partial(reads_of_task, task, self.entries[task], self.experiment.evaluation))

    # ------------------------------------------------------------ held-out documents
    def _laid_out(self, model: MultimodalModel, tokenizer: Tokenizer) -> dict[str, Any]:
        from mm1_ablate.evaluation.held_out_loss import prepare_documents

        evaluation = self.experiment.evaluation
        found: dict[str, Any] = {}
        for name in evaluation.losses:
            if not any(part.kind == "loss" and part.name == name for part in self.missing):
                continue
            alone = evaluation.model_copy(update={"losses": {name: evaluation.losses[name]}})
            error: Exception | None = None
            try:
                self._check_loss(name)
                found |= prepare_documents(model, self.experiment.model_copy(update={"evaluation": alone}), tokenizer)
                self._check_loss(name)
            except Exception as caught:
                error = caught
            if (problem := self._agree(error)) is not None:
                found.pop(name, None)
                self._failed(f"evaluation.losses.{name}", problem)
        return found

    def _measure(self, model: MultimodalModel, held_out: dict[str, Any], tokenizer: Tokenizer, pipeline: ImagePipeline) -> None:
        import pandas

        from mm1_ablate.evaluation.evaluate import ends_all, without_frames
        from mm1_ablate.evaluation.evaluation_mode import evaluating
        from mm1_ablate.evaluation.held_out_loss import measure

        parts = {part.name: part for part in self.missing if part.kind == "loss"}
        for name, documents in held_out.items():
            share, error = pandas.DataFrame(), None
            try:
                with evaluating(model, self.experiment.evaluation.precision):
                    share = measure(model, {name: documents}, tokenizer, pipeline, self.rank, self.ranks)
            except Exception as caught:
                if ends_all(caught, model):
                    raise
                error = without_frames(caught)
            if (problem := self._agree(error)) is not None:
                self._failed(f"evaluation.losses.{name}", problem)
                continue
            measured = pandas.concat(self._of_all(share)).sort_values("place", kind="stable").reset_index(drop=True)
            if self._writes:
                self.kept.write(parts[name], measured, self.code)

    def _check_loss(self, name: str) -> None:
        self.planned.check(partial(reads_of_loss, name, self.experiment.evaluation))

    # ------------------------------------------------------------ several workers
    @property
    def _writes(self) -> bool:
        return self.workers is None or self.workers.leads

    def _of_all(self, table: pandas.DataFrame) -> list[pandas.DataFrame]:
        return [table] if self.workers is None else self.workers.all_gather(table)

    def _agree(self, error: Exception | None) -> Exception | None:
        """What happened to this worker or another."""
        if self.workers is None or self.ranks == 1:
            return error
        every = self.workers.all_gather(None if error is None else f"{type(error).__name__}: {error}")
        others = [FailedOnAnotherWorker(f"worker {rank}: {text}") for rank, text in enumerate(every) if text]
        return error or next(iter(others), None)

    def _failed(self, what: str, error: Exception) -> None:
        if is_disk_full(error):
            raise error
        print(f"{what} failed; the rest of the evaluation goes on:", file=sys.stderr)
        traceback.print_exception(error)
        self.failures[what] = error


def score_trial(store: Store, fingerprint: str, evaluation: str) -> None:
    """Score an evaluation all of whose parts are kept. Needs no model and imports no torch.

    Raises:
        DataChanged: references that a metric needs of all items are not those that the run was planned with.
        ValueError: no item of a task has a score.
    """
    from mm1_ablate.evaluation.protocols import load_tasks
    from mm1_ablate.evaluation.scores import item_scores, merged, summarise

    experiment, _ = store.read_trial(fingerprint, evaluation)
    folder = store.evaluation_folder_of(fingerprint, evaluation)
    kept, parts = Predictions(store.trial_folder(fingerprint)), recorded_shards(folder)
    predictions, documents = join_shards((part, kept.read(part)) for part in parts)
    tasks = load_tasks(experiment.evaluation)
    opened = [
        partial(reads_of_task, task.task, entry, experiment.evaluation)
        for task, entry in zip(tasks, experiment.evaluation.tasks, strict=True)
        if any(metric.wants_split_references for metric in task.metrics)
    ]
    planned = PlannedData(store, folder)
    for reads in opened:
        planned.check(reads)
    items = item_scores(merged([predictions], tasks), documents, tasks, experiment.evaluation)
    for reads in opened:
        planned.check(reads)
    code = {"predicted": kept.code(parts), "scored": evaluation_code(experiment, tasks)}
    store.write_evaluation(fingerprint, evaluation, items, summarise(items, experiment.evaluation.groups), code)
