"""What a trained model predicted, kept apart from how predictions are scored, so that nothing is predicted twice.

In: a trial's folder and the parts of its evaluation (`evaluation.prediction_shards`). Out: a table for each part, and what of an evaluation
is missing. Parts that are kept stay when an evaluation is killed, and serve every later one that has them too.

    trials/<12>/predictions/<12>.parquet    the predictions of a part (columns of `scores.PREDICTION_COLUMNS` or `scores.LOSS_COLUMNS`)
    trials/<12>/predictions/<12>.json       what they are predictions of; written last, because it says that the table is there
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_ablate.config.errors import listed
from mm1_ablate.config.study import Trial
from mm1_ablate.data.atomic_files import replacing, write_json
from mm1_ablate.evaluation.prediction_shards import PredictionShard
from mm1_ablate.store.files import LocalFiles
from mm1_ablate.store.layout import folder_name
from mm1_ablate.store.manifests import evaluation_record, shards_of_trial
from mm1_ablate.store.records import EvaluationRecord, PredictionsRecord, ScoresRecord
from mm1_ablate.store.store import Store

if TYPE_CHECKING:
    import pandas

NAMED = 4
"""Names of one kind that a reason lists."""


# ---------------------------------------------------------------- files
class Predictions:
    """The saved predictions of a trial."""

    def __init__(self, trial_folder: Path, store: Store | None = None) -> None:
        """
        Args:
            store: of which the folder is. None: all files are in the folder itself.
        """
        self.folder = trial_folder / "predictions"
        self._files = store.files if store else LocalFiles(trial_folder)

    def has(self, part: PredictionShard, whole: bool = False) -> bool:
        """Whether a part has been predicted.

        Args:
            whole: read its table, which may be damaged where neither end shows it.
        """
        record = self._files.read_record(self._record(part), PredictionsRecord)
        return record.get("fingerprint") == part.fingerprint and self._files.has_table(self._table(part), whole)

    def read(self, part: PredictionShard) -> pandas.DataFrame:
        return self._files.read_table(self._table(part))

    def write(self, part: PredictionShard, table: pandas.DataFrame, code: str | None = None) -> None:
        """Keep a part.

        Args:
            code: by which it was predicted: see `status.evaluation_code`.
        """
        with replacing(self._table(part)) as beside:
            table.to_parquet(beside, index=False)
        write_json(self._record(part), {**part.to_json(), "rows": len(table), "finished": time.time(), "code": code})

    def code(self, parts: Iterable[PredictionShard]) -> str | None:
        """The code that predicted some parts, joined; None where that of one is unknown."""
        codes: list[str] = [self._files.read_record(self._record(part), PredictionsRecord).get("code") or "" for part in parts]
        if not codes or not all(codes):
            return None
        return ", ".join(sorted({each for code in codes for each in code.split(", ")}))

    def all(self) -> list[PredictionShard]:
        """Parts that have been predicted, whatever they were for."""
        records = (self._files.read_record(path, PredictionsRecord) for path in sorted(self.folder.glob("*.json")))
        return [PredictionShard.from_json(record) for record in records if record]

    def _table(self, part: PredictionShard) -> Path:
        return self.folder / f"{folder_name(part.fingerprint)}.parquet"

    def _record(self, part: PredictionShard) -> Path:
        return self.folder / f"{folder_name(part.fingerprint)}.json"


# ---------------------------------------------------------------- what is missing, and why
def missing_shards(trial: Trial, store: Store, whole: bool = False) -> list[PredictionShard]:
    """Parts of a trial's evaluation that have not been predicted. Empty: it can be scored without its model.

    Args:
        whole: see `Predictions.has`.
    """
    kept = Predictions(store.trial_folder(trial), store)
    return [part for part in shards_of_trial(trial) if not kept.has(part, whole)]


def evaluation_to_do(trial: Trial, store: Store) -> tuple[str, str]:
    """`evaluate` or `rescore`, and why, of a trial whose model is saved and whose evaluation is missing."""
    missing = missing_shards(trial, store)
    if not missing:
        return "rescore", f"predictions are saved; {_what_changed_in_scoring(trial, store)}"
    kept = Predictions(store.trial_folder(trial), store).all()
    if not kept:
        return "evaluate", "trained, not evaluated"
    return "evaluate", f"trained; to evaluate: {_in_words(missing, kept)}"


def _in_words(missing: Sequence[PredictionShard], kept: Sequence[PredictionShard]) -> str:
    """What missing parts have that saved ones have not."""
    reasons: dict[str, dict[str, None]] = {}
    for part in missing:
        what = "held-out documents" if part.kind == "loss" else "task"
        alike = [other for other in kept if (other.kind, other.name) == (part.kind, part.name)]
        if not alike:
            reasons.setdefault(f"{what} {{}} (new)", {})[part.name] = None
            continue
        changed = min((_differences(part.identity, other.identity) for other in alike), key=len)
        if changed == ["before"] and part.shots not in {other.shots for other in alike}:
            reasons.setdefault("{} shots (new)", {})[str(part.shots)] = None
        elif changed == ["before"] and part.seeds not in {other.seeds for other in alike}:
            reasons.setdefault("evaluation seed {} (new)", {})[str(part.seeds[0])] = None
        else:
            names = ", ".join("demonstrations" if name == "before" else name for name in changed)
            reasons.setdefault(f"{what} {{}} ({names} changed)", {})[part.name] = None
    return "; ".join(reason.format(listed(names, NAMED)) for reason, names in reasons.items())


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The keys in which two identities differ; those of a task's record by their own names."""
    names = [name for name in dict.fromkeys([*one, *other]) if name != "task" and one.get(name) != other.get(name)]
    record, before = one.get("task", {}), other.get("task", {})
    return [name for name in dict.fromkeys([*record, *before]) if record.get(name) != before.get(name)] + names


def _what_changed_in_scoring(trial: Trial, store: Store) -> str:
    """In what the scoring of an evaluation differs from that of the last one."""
    if damaged := store.damaged_scores(trial):
        return damaged
    read, places = store.files.read_record, (store.trial_folder(trial) / "evaluations").glob("*/scores.json")
    finished = {path.parent: record.get("finished", 0.0) for path in places if (record := read(path, ScoresRecord))}
    if not finished:
        return "not scored yet"
    last, now = read(max(finished, key=lambda folder: finished[folder]) / "evaluation.json", EvaluationRecord), evaluation_record(trial)
    changed = {name for name, metrics in now["metrics"].items() if last.get("metrics", {}).get(name, metrics) != metrics}
    reasons = [f"metrics of {listed(sorted(changed), NAMED)} changed"] if changed else []
    if last.get("evaluation", {}).get("groups", {}) != now["evaluation"]["groups"]:
        reasons.append("groups changed")
    if not last.get("evaluation", {}).get("probability", False) and now["evaluation"]["probability"]:
        reasons.append("probabilities added")
    return ", ".join(reasons) or "metrics unchanged, their selection changed"
