"""What a trained model answered, kept apart from how answers are scored, so that a model is asked nothing twice.

In: a trial's folder and the parts of its evaluation (`evaluation.prediction_shards`). Out: a table for each part, and an evaluation's items
and scores
made of them without torch. Parts that are kept stay when an evaluation is killed, and serve every later one that has them too.

    trials/<12>/predictions/<12>.parquet    the predictions of a part (columns of `scores.PREDICTION_COLUMNS` or `scores.LOSS_COLUMNS`)
    trials/<12>/predictions/<12>.json       what they are predictions of; written last, because it says that the table is there
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_ablate.config.errors import listed
from mm1_ablate.config.identity.fingerprint import short
from mm1_ablate.data.atomic_files import read_json, read_json_or_nothing, replacing, write_json
from mm1_ablate.evaluation.prediction_shards import Part, joined, rows_of
from mm1_ablate.store.evaluation_manifest import evaluation_record, parts_of_trial, recorded_parts

if TYPE_CHECKING:
    import pandas

    from mm1_ablate.config.experiment import Experiment
    from mm1_ablate.config.progress import Progress
    from mm1_ablate.config.study import Trial
    from mm1_ablate.model.multimodal import MultimodalModel
    from mm1_ablate.store.store import Store
    from mm1_ablate.training.workers import Workers

NAMED = 4
"""Things of a kind that a line of reason names."""


# ---------------------------------------------------------------- files
class Predictions:
    """The kept predictions of a trial."""

    def __init__(self, trial_folder: Path, store: Store | None = None) -> None:
        """
        Args:
            store: of which the folder is; nothing: all files are in the folder itself.
        """
        self.folder = trial_folder / "predictions"
        self._exists: Callable[[Path], bool] = store.has if store else Path.exists

    def has(self, part: Part) -> bool:
        """Whether a part has been predicted."""
        record = read_json_or_nothing(self._record(part))
        return record.get("fingerprint") == part.fingerprint and self._exists(self._table(part))

    def read(self, part: Part) -> pandas.DataFrame:
        import pandas

        return pandas.read_parquet(self._table(part))

    def write(self, part: Part, table: pandas.DataFrame) -> None:
        with replacing(self._table(part)) as beside:
            table.to_parquet(beside, index=False)
        write_json(self._record(part), {**part.to_json(), "rows": len(table), "finished": time.time()})

    def all(self) -> list[Part]:
        """Parts that have been predicted, whatever they were for."""
        return [Part.from_json(read_json(path)) for path in sorted(self.folder.glob("*.json"))]

    def _table(self, part: Part) -> Path:
        return self.folder / f"{short(part.fingerprint)}.parquet"

    def _record(self, part: Part) -> Path:
        return self.folder / f"{short(part.fingerprint)}.json"


# ---------------------------------------------------------------- what is missing, and why
def missing_parts(trial: Trial, store: Store) -> list[Part]:
    """What of a trial's evaluation has not been predicted. Nothing: it can be scored without its model."""
    kept = Predictions(store.trial_folder(trial), store)
    return [part for part in parts_of_trial(trial) if not kept.has(part)]


def what_is_to_be_done(trial: Trial, store: Store) -> tuple[str, str]:
    """evaluate or rescore, and why, of a trial whose model is kept and whose evaluation is missing."""
    missing = missing_parts(trial, store)
    if not missing:
        return "rescore", f"its predictions are kept; {_scored_otherwise(trial, store)}"
    kept = Predictions(store.trial_folder(trial)).all()
    if not kept:
        return "evaluate", "trained; to be evaluated only"
    return "evaluate", f"trained; to be asked: {_asked_otherwise(missing, kept)}"


def _asked_otherwise(missing: Sequence[Part], kept: Sequence[Part]) -> str:
    """What missing parts have that kept ones have not, in words."""
    reasons: dict[str, dict[str, None]] = {}
    for part in missing:
        what = "held-out documents" if part.kind == "loss" else "task"
        alike = [other for other in kept if (other.kind, other.name) == (part.kind, part.name)]
        if not alike:
            reasons.setdefault(f"{what} {{}}, which is new", {})[part.name] = None
            continue
        changed = min((_differences(part.identity, other.identity) for other in alike), key=len)
        if changed == ["before"] and part.shots not in {other.shots for other in alike}:
            reasons.setdefault("{} shots, which are new", {})[str(part.shots)] = None
        elif changed == ["before"] and part.seeds not in {other.seeds for other in alike}:
            reasons.setdefault("evaluation seed {}, which is new", {})[str(part.seeds[0])] = None
        else:
            names = ", ".join("demonstrations" if name == "before" else name for name in changed)
            reasons.setdefault(f"{what} {{}}, of which {names} changed", {})[part.name] = None
    return "; ".join(reason.format(listed(names, NAMED)) for reason, names in reasons.items())


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The keys in which two identities differ; those of a task's record by their own names."""
    names = [name for name in dict.fromkeys([*one, *other]) if name != "task" and one.get(name) != other.get(name)]
    record, before = one.get("task", {}), other.get("task", {})
    return [name for name in dict.fromkeys([*record, *before]) if record.get(name) != before.get(name)] + names


def _scored_otherwise(trial: Trial, store: Store) -> str:
    """What an evaluation is scored by that the last one was not, in words."""
    finished = {path.parent: read_json(path)["finished"] for path in (store.trial_folder(trial) / "evaluations").glob("*/scores.json")}
    if not finished:
        return "they have not been scored"
    last, now = read_json_or_nothing(max(finished, key=lambda folder: finished[folder]) / "evaluation.json"), evaluation_record(trial)
    changed = {name for name, metrics in now["metrics"].items() if last.get("metrics", {}).get(name, metrics) != metrics}
    reasons = [f"metrics of {listed(sorted(changed), NAMED)} changed"] if changed else []
    if last.get("evaluation", {}).get("groups", {}) != now["evaluation"]["groups"]:
        reasons.append("groups changed")
    return ", ".join(reasons) or "no metric changed, but which of them are wanted"


# ---------------------------------------------------------------- doing it
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
    missing = [part for part in recorded_parts(store.trial_folder(fingerprint) / "evaluations" / short(evaluation)) if not kept.has(part)]
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
    missing: Sequence[Part],
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
                kept.write(part, rows_of(part, predictions))

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

    folder = store.trial_folder(fingerprint)
    experiment, _ = store.read_trial(fingerprint, evaluation)
    kept = Predictions(folder)
    predictions, documents = joined((part, kept.read(part)) for part in recorded_parts(folder / "evaluations" / short(evaluation)))
    tasks = load_tasks(experiment.evaluation)
    items = item_scores(merged([predictions], tasks), documents, tasks, experiment.evaluation)
    store.write_evaluation(fingerprint, evaluation, items, summarise(items, experiment.evaluation.groups))
