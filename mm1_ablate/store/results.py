"""What came out of trials: scores, items, curves, and what a study still lacks. In: a store. Out: tables for the report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mm1_ablate.config.study import Study, Trial
from mm1_ablate.data.atomic_files import DamagedFile, read_json, read_json_lines, replacing, write_json
from mm1_ablate.store.files import Files
from mm1_ablate.store.layout import Layout
from mm1_ablate.store.records import SourceAccount
from mm1_ablate.store.status import Statuses

if TYPE_CHECKING:
    import pandas


class Results:
    """The results in a store."""

    def __init__(self, layout: Layout, files: Files, statuses: Statuses) -> None:
        self._layout, self._files, self._statuses = layout, files, statuses

    def write_evaluation(
        self,
        fingerprint: str,
        evaluation: str,
        items: pandas.DataFrame,
        scores: dict[str, float],
        code: Mapping[str, str | None] | None = None,
    ) -> None:
        """Keep a trial's item scores and their summary; the summary last, because it says that all is there.

        Args:
            code: which `predicted` and which `scored`: see `status.evaluation_code`.
        """
        folder = self._layout.evaluation_folder_of(fingerprint, evaluation)
        with replacing(folder / "items.parquet") as beside:
            items.to_parquet(beside, index=False)
        write_json(folder / "scores.json", {"scores": scores, "finished": time.time(), **({"code": dict(code)} if code else {})})

    def scores(self, trial: Trial) -> dict[str, float]:
        """Summary of a trial that is done, by metric."""
        scores: dict[str, float] = read_json(self._layout.evaluation_folder(trial) / "scores.json")["scores"]
        return scores

    def evaluation_code(self, trial: Trial) -> dict[str, str]:
        """The code that `predicted` and that `scored` what a trial that is done has; without what is not known."""
        code = read_json(self._layout.evaluation_folder(trial) / "scores.json").get("code", {})
        return {role: by for role, by in code.items() if by}

    def items(self, trial: Trial) -> pandas.DataFrame:
        """Item scores of a trial that is done, as `evaluation.evaluate` gives them.

        Raises:
            DamagedFile: they cannot be read; from then on the trial has no scores.
        """
        return self._files.read_table(self._layout.evaluation_folder(trial) / "items.parquet")

    def results(self, study: Study) -> pandas.DataFrame:
        """All scores of a study so far: arm, seed, fingerprint, metric, value. A trial of several arms is in each of them."""
        import pandas

        rows = []
        for trial in study.trials:
            if self._statuses.has_scores(trial):
                scores = self.scores(trial)
                rows += [(arm, trial.seed, trial.fingerprint, metric, value) for arm in trial.arms for metric, value in scores.items()]
        order = {arm.name: index for index, arm in enumerate(study.arms)}
        rows.sort(key=lambda row: (order[row[0]], row[1]))
        return pandas.DataFrame(rows, columns=["arm", "seed", "fingerprint", "metric", "value"])

    def item_scores(self, study: Study) -> pandas.DataFrame | None:
        """Per-item scores of all arms and seeds that have been evaluated; a trial of several arms is in each. None: there are none."""
        import pandas

        parts = []
        for trial in study.trials:
            if self._statuses.has_scores(trial):
                with contextlib.suppress(DamagedFile):
                    items = self.items(trial)
                    parts += [items.assign(arm=arm, seed=trial.seed) for arm in trial.arms]
        return pandas.concat(parts, ignore_index=True) if parts else None

    def holes(self, study: Study) -> list[tuple[str, int, str]]:
        """What a study lacks: arm, seed and why."""
        return [
            (arm.name, trial.seed, f"{state.status}: {state.reason}")
            for arm in study.arms
            for trial in study.trials_of(arm.name)
            if (state := self._statuses.status(trial)).status != "done"
        ]

    def data_account(self, trial: Trial) -> dict[str, dict[str, Any]]:
        """What became of a trial's data so far, by source: see `data.accounting.Accounting.account`. Empty before its first checkpoint."""
        path = self._layout.trial_folder(trial) / "data.json"
        account: dict[str, dict[str, Any]] = self._files.read_record(path, dict[str, SourceAccount])
        return account

    def curve(self, trial: Trial) -> pandas.DataFrame:
        """A trial's training: step, loss, learning_rate, tokens, images, seconds, and what else `training.module.TrainingCallback` writes
        of each point. Empty before its first point."""
        import pandas

        path = self._layout.trial_folder(trial.fingerprint) / "curve.jsonl"
        self._files.download(path)
        points, problem = read_json_lines(path)
        if not points and path.exists() and self._files.has(path.with_name("model.pt")):
            problem = problem or "it has no points"
        if problem:
            self._files.note_damage(path, problem)
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
