"""Evaluating a trained model and scoring its predictions. In: a trial and an evaluation. Out: predictions, items and scores in the store.

What has been predicted already is not asked again; scoring needs no model and imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.progress import Progress
from mm1_ablate.evaluation.prediction_shards import PredictionShard, join_shards, shard_rows
from mm1_ablate.store.manifests import recorded_shards
from mm1_ablate.store.predictions import Predictions
from mm1_ablate.store.store import Store

if TYPE_CHECKING:
    import pandas

    from mm1_ablate.model.multimodal import MultimodalModel
    from mm1_ablate.training.workers import Workers


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
    missing = [part for part in recorded_shards(store.evaluation_folder_of(fingerprint, evaluation)) if not kept.has(part, whole=True)]
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
    from mm1_ablate.evaluation.evaluate import evaluating, predict
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
    # Held-out documents are laid out first, so that one that does not fit is told before anything is generated.
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
