"""What came out of trials: scores, items, curves, and what a study still lacks. In: a store. Out: tables for the report."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_ablate.config.identity.fingerprint import short
from mm1_ablate.data.atomic_files import read_json, read_json_or_nothing, replacing, write_json
from mm1_ablate.store.status import States

if TYPE_CHECKING:
    import pandas

    from mm1_ablate.config.sweep.expand import Study, Trial


class Results(States):
    """The results in a store."""

    def write_evaluation(self, fingerprint: str, evaluation: str, items: pandas.DataFrame, scores: dict[str, float]) -> None:
        """Keep a trial's item scores and their summary; the summary last, because it says that all is there."""
        folder = self.trial_folder(fingerprint) / "evaluations" / short(evaluation)
        with replacing(folder / "items.parquet") as beside:
            items.to_parquet(beside, index=False)
        write_json(folder / "scores.json", {"scores": scores, "finished": time.time()})

    def scores(self, trial: Trial) -> dict[str, float]:
        """Summary of a trial that is done, by metric."""
        return read_json(self.evaluation_folder(trial) / "scores.json")["scores"]

    def items(self, trial: Trial) -> pandas.DataFrame:
        """Item scores of a trial that is done, as `evaluation.evaluate` gives them."""
        import pandas

        self.bring(self.evaluation_folder(trial) / "items.parquet")
        return pandas.read_parquet(self.evaluation_folder(trial) / "items.parquet")

    def results(self, study: Study) -> pandas.DataFrame:
        """All scores of a study so far: arm, seed, fingerprint, metric, value. A trial of several arms is in each of them."""
        import pandas

        rows = []
        for trial in study.trials:
            if self.has_scores(trial):
                scores = self.scores(trial)
                rows += [(arm, trial.seed, trial.fingerprint, metric, value) for arm in trial.arms for metric, value in scores.items()]
        order = {arm.name: index for index, arm in enumerate(study.arms)}
        rows.sort(key=lambda row: (order[row[0]], row[1]))
        return pandas.DataFrame(rows, columns=["arm", "seed", "fingerprint", "metric", "value"])

    def holes(self, study: Study) -> list[tuple[str, int, str]]:
        """What a study lacks: arm, seed and why."""
        return [
            (arm.name, trial.seed, f"{state.status}: {state.reason}")
            for arm in study.arms
            for trial in study.trials_of(arm.name)
            if (state := self.status(trial)).status != "done"
        ]

    def data_account(self, trial: Trial) -> dict[str, dict[str, Any]]:
        """What became of a trial's data so far, by source: see `data.accounting.Accounting.account`. Empty before its first checkpoint."""
        return read_json_or_nothing(self.trial_folder(trial) / "data.json")

    def curve(self, trial: Trial) -> pandas.DataFrame:
        """A trial's training: step, loss, learning_rate, tokens, images, seconds. Empty before its first point."""
        import pandas

        path = self.trial_folder(trial.fingerprint) / "curve.jsonl"
        self.bring(path)
        lines = path.read_text().splitlines() if path.exists() else []
        # The last line may be being written.
        points = [json.loads(line) for line in lines if line.endswith("}")]
        return pandas.DataFrame(points, columns=None if points else ["step", "loss", "learning_rate", "tokens", "images", "seconds"])

    def curves(self, study: Study) -> pandas.DataFrame:
        """Training of all trials of a study: arm, seed, fingerprint and the columns of `curve`."""
        import pandas

        parts = []
        for trial in study.trials:
            curve = self.curve(trial)
            if len(curve):
                parts += [curve.assign(arm=arm, seed=trial.seed, fingerprint=trial.fingerprint) for arm in trial.arms]
        columns = ["arm", "seed", "fingerprint", "step", "loss", "learning_rate", "tokens", "images", "seconds"]
        return pandas.concat(parts, ignore_index=True).reindex(columns=columns) if parts else pandas.DataFrame(columns=columns)

    def error(self, folder: Path) -> str | None:
        """The traceback of a failure."""
        path = folder / "error.txt"
        return path.read_text() if path.exists() else None
