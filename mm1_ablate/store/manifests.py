"""What is to be done: records of trials, preparations and studies, for machines that have only the store.

In: studies and their trials. Out: records, and what they say, to whoever does the work.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.fingerprint import short
from mm1_ablate.config.preparation import Preparation
from mm1_ablate.data.atomic_files import read_json, read_json_or_nothing
from mm1_ablate.store.evaluation_manifest import evaluation_of, evaluation_record, write_records
from mm1_ablate.store.layout import Places

if TYPE_CHECKING:
    from mm1_ablate.config.sweep.expand import Study, Trial


class FingerprintCollision(Exception):
    """Two fingerprints share their first 12 digits. They stand for different trials: use another store for one of them."""


class Records(Places):
    """The records of a store."""

    def write_trial(self, trial: Trial) -> Path:
        """Record what a trial is and how it is to be run now; returns its folder.

        Raises:
            FingerprintCollision: the folder is another trial's.
        """
        folder = self.trial_folder(trial.fingerprint)
        declared = trial.experiment.model_dump(mode="json")
        # Whoever trains it is told what it starts from: a fingerprint may hold the contents of files, which are not looked at again.
        prepared = {part.kind: part.fingerprint for part in trial.preparations}
        record = {"fingerprint": trial.fingerprint, "seed": trial.seed, "name": trial.name, "experiment": declared, "prepared": prepared}
        if trial.earlier:
            record["starts_from"] = trial.earlier[-1].fingerprint
        if not trial.evaluation_fingerprint:
            # An earlier stage may be an arm too, of this study or another: then it goes by its name there.
            record["name"] = read_json_or_nothing(folder / "trial.json").get("name", trial.name)
        self._write_record(folder / "trial.json", record)
        if not trial.evaluation_fingerprint:
            return folder
        record = evaluation_record(trial)
        self._write_record(self.evaluation_folder(trial) / "evaluation.json", record)
        write_records(record, self.evaluation_folder(trial), self.write)
        return folder

    def write_preparation(self, preparation: Preparation) -> Path:
        """Record what a preparation is; returns its folder."""
        folder = self.prepared_folder(preparation)
        record = {"fingerprint": preparation.fingerprint, "name": preparation.name, "preparation": preparation.model_dump(mode="json")}
        self._write_record(folder / "preparation.json", record)
        return folder

    def write_study(self, study: Study) -> Path:
        """Keep a copy of the sweep file, and what its data is, for machines without it; returns the study's folder."""
        folder = self.study_folder(study)
        if study.path.exists():
            self.write(folder / "sweep.yaml", study.path.read_bytes())
        if contents := study.snapshot.to_record():
            self.write_json(folder / "contents.json", contents)
        return folder

    def write_warnings(self, study: Study) -> None:
        """Keep what a study was warned of when it was run, for its report."""
        self.write_json(self.study_folder(study) / "warnings.json", [warning.in_one_line() for warning in study.warnings])

    def warnings(self, study: Study) -> list[str]:
        """What was warned of before the last run of a study; empty where there was none."""
        path = self.study_folder(study) / "warnings.json"
        return read_json(path) if path.exists() else []

    def recorded_contents(self, study: str) -> dict[str, str]:
        """What the last run of a study of this name saw of its data, for `config.identity.data_digests`; empty where there was none."""
        try:
            return read_json_or_nothing(self._study_folder(study) / "contents.json")
        except OSError:  # no folder at all: whoever reads the store next says so
            return {}

    def read_trial(self, fingerprint: str, evaluation: str | None = None) -> tuple[Experiment, int]:
        """A trial's experiment and seed, with the evaluation of a fingerprint; the user's own tasks as they were when that was recorded."""
        folder = self.trial_folder(fingerprint)
        record = read_json(self._record_of(fingerprint))
        experiment = Experiment.model_validate(record["experiment"])
        if evaluation is not None:
            experiment = experiment.model_copy(update={"evaluation": evaluation_of(folder / "evaluations" / short(evaluation))})
        return experiment, record["seed"]

    def read_prepared(self, fingerprint: str) -> dict[str, Path]:
        """The folders of what a trial starts from, by kind; with their files."""
        folders = {kind: self.prepared_folder(part) for kind, part in read_json(self._record_of(fingerprint))["prepared"].items()}
        for folder in folders.values():
            self.bring_folder(folder, "weights.pt", "features")
        return folders

    def read_start(self, fingerprint: str) -> Path | None:
        """A folder with the `model.pt` of the earlier stage whose weights a trial starts from; nothing where there is none."""
        earlier = read_json(self._record_of(fingerprint)).get("starts_from")
        if earlier is None:
            return None
        return self.borrow(self.trial_folder(earlier) / "model.pt", self.trial_folder(fingerprint)).parent

    def _record_of(self, fingerprint: str) -> Path:
        return self._record(self.trial_folder(fingerprint) / "trial.json")

    def read_preparation(self, fingerprint: str) -> Preparation:
        record = read_json(self._record(self.prepared_folder(fingerprint) / "preparation.json"))
        return Preparation.model_validate(record["preparation"])

    def _record(self, path: Path) -> Path:
        """A record that another machine may just have written."""
        if not path.exists():
            self.refresh(path.parent)
        return path

    def _write_record(self, path: Path, record: dict[str, Any]) -> None:
        """Written again where it differs: settings of how a trial is run, which no fingerprint holds, may have been edited."""
        if check_fingerprint(path, record["fingerprint"]) != record:
            self.write_json(path, record)


def check_fingerprint(path: Path, fingerprint: str) -> dict[str, Any]:
    """The record of a fingerprint; empty if it is not there."""
    record = read_json_or_nothing(path)
    if record.get("fingerprint") not in (None, fingerprint):
        raise FingerprintCollision(f"{path.parent} belongs to {record['fingerprint']}, not to {fingerprint}")
    return record
