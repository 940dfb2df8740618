"""What is to be done: records of trials, evaluations, preparations and studies, for machines that have only the store.

In: studies and their trials. Out: records, written and read back for the processes that do the work.

    trials/<12>/trial.json                          settings of a trial, what it starts from
    trials/<12>/files.jsonl                         the files that it was planned with (beside other records: that those were planned with)
    trials/<12>/evaluations/<12>/evaluation.json    an evaluation, its parts and metrics
    trials/<12>/evaluations/<12>/task-<n>.yaml      the user's own tasks, as they were when the study was started
    prepared/<12>/preparation.json                  settings of a preparation
    studies/<name>/                                 sweep.yaml, contents.json, warnings.json, and trials.json: all trials that it ever had,
                                                    because the other folders do not say which studies they were made for
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mm1_ablate.config.evaluation import Evaluation
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import DataSnapshot, once
from mm1_ablate.config.identity.fingerprint import canonical
from mm1_ablate.config.identity.reads import (
    Contents,
    Reads,
    from_lines,
    reads_of_evaluation,
    reads_of_preparation,
    reads_of_training,
    to_lines,
)
from mm1_ablate.config.passwords import hidden, without_passwords
from mm1_ablate.config.preparation import Preparation
from mm1_ablate.config.study import Study, Trial
from mm1_ablate.config.tasks import is_own, task_names, task_settings
from mm1_ablate.data.atomic_files import read_json
from mm1_ablate.evaluation.prediction_shards import PredictionShard, shards_of
from mm1_ablate.store.files import Files, StorageError
from mm1_ablate.store.layout import LAYOUT, Layout
from mm1_ablate.store.records import EvaluationRecord, LayoutRecord, Names, PreparationRecord, TrialRecord
from mm1_ablate.store.study_files import TextThatRan, how_they_ran, keep_texts, other_study, texts_that_ran, write_place
from mm1_ablate.version import __version__


class FingerprintCollision(Exception):
    """Two fingerprints share their first 12 digits. They stand for different trials: use another store for one of them."""


class Manifests:
    """What is recorded in a store of what is to be done."""

    def __init__(self, layout: Layout, files: Files) -> None:
        self._layout, self._files = layout, files

    def write_trial(self, trial: Trial) -> Path:
        """Record what a trial is and how it is to be run now; returns its folder.

        Raises:
            FingerprintCollision: the folder is another trial's.
        """
        folder = self._layout.trial_folder(trial.fingerprint)
        declared = trial.experiment.model_dump(mode="json")
        # Whoever trains it is told what it starts from: a fingerprint may hold the contents of files, which are not looked at again.
        prepared = {part.kind: part.fingerprint for part in trial.preparations}
        record = {"fingerprint": trial.fingerprint, "seed": trial.seed, "name": trial.name, "experiment": declared, "prepared": prepared}
        if trial.earlier:
            record["starts_from"] = trial.earlier[-1].fingerprint
        if not trial.evaluation_fingerprint:
            # An earlier stage may be an arm too, of this study or another: then it goes by its name there.
            record["name"] = self._files.read_record(folder / "trial.json", TrialRecord).get("name", trial.name)
        self._write_record(folder / "trial.json", record, TrialRecord)
        if not self._files.has(folder / "model.pt"):  # of one that is trained the record says what it was trained with
            self._write_reads(folder, trial.snapshot, lambda: reads_of_training(trial.experiment))
        if not trial.evaluation_fingerprint:
            return folder
        evaluation, beside = evaluation_record(trial), self._layout.evaluation_folder(trial)
        self._write_record(beside / "evaluation.json", evaluation, EvaluationRecord)
        self._write_reads(beside, trial.snapshot, lambda: reads_of_evaluation(trial.experiment.evaluation))
        for number, settings in enumerate(evaluation["records"].values()):
            self._write_task(beside / f"task-{number}.yaml", settings)
        return folder

    def write_preparation(self, preparation: Preparation, snapshot: DataSnapshot | None = None) -> Path:
        """Record what a preparation is; returns its folder.

        Args:
            snapshot: what its study saw of the data.
        """
        folder = self._layout.prepared_folder(preparation)
        record = {"fingerprint": preparation.fingerprint, "name": preparation.name, "preparation": preparation.model_dump(mode="json")}
        self._write_record(folder / "preparation.json", record, PreparationRecord)
        if snapshot is not None:
            self._write_reads(folder, snapshot, lambda: reads_of_preparation(preparation))
        return folder

    def check_layout(self) -> None:
        """Look at which version of the layout a store has; one without a record has the first.

        Raises:
            StorageError: it was written by a newer version of the package, which would be taken for never run and overwritten.
        """
        self._files.download(self._layout.record)
        record = self._files.read_record(self._layout.record, LayoutRecord)
        if record.get("version", 1) > LAYOUT:
            by = record.get("written_by") or "a newer version"
            raise StorageError(
                f"the store {self._files.where(self._layout.root)} was written by a newer version (mm1-ablate {by}, layout "
                f"{record['version']}; this is {__version__}, which knows layouts up to {LAYOUT}); upgrade: pip install -U mm1-ablate, or "
                "name another store with --store or MM1_ABLATE_STORE"
            )

    def write_study(self, study: Study) -> Path:
        """Keep a copy of the sweep file, and what its data is, for machines without it; returns the study's folder."""
        self.check_layout()
        if not self._files.read_record(self._layout.record, LayoutRecord):
            self._write_json(self._layout.record, {"version": LAYOUT, "written_by": __version__})
        folder = self._layout.study_folder(study)
        text = next(iter(study.texts.values()), None)  # as it was when it was loaded: it may have been edited since
        if text is not None or study.path.exists():
            whole = study.path.read_bytes().decode(errors="surrogateescape") if text is None else text
            self._files.write(folder / "sweep.yaml", without_passwords(whole).encode(errors="surrogateescape"))
        write_place(study, folder, self._files)
        if contents := study.snapshot.to_record():
            self._write_json(folder / "contents.json", contents)
        return folder

    def other_study(self, study: Study) -> str:
        """Why a sweep file may not be run with this store: another file's study is kept where its own would be. Empty if it may."""
        return other_study(study, self._layout.study_folder(study), self._files)

    def keep_texts(self, study: Study, to_do: Iterable[Trial]) -> None:
        """Keep what the files of a study say, with the trials that are about to be run by it."""
        keep_texts(study, to_do, self._layout.study_folder(study), self._files)

    def texts_that_ran(self, study: Study, scored: Iterable[Trial]) -> list[TextThatRan]:
        """The texts by which trials of a study were run, the latest first."""
        return texts_that_ran(study, scored, self._layout.study_folder(study), self._files)

    def how_they_ran(self, study: Study) -> dict[str, dict[str, str]]:
        """By evaluation fingerprint the `command` by which a trial was run last, and the git `commit` of its sweep then."""
        return how_they_ran(self._layout.study_folder(study), self._files)

    def write_warnings(self, study: Study) -> None:
        """Keep what a study was warned of when it was run, for its report."""
        self._write_json(self._layout.study_folder(study) / "warnings.json", [warning.in_one_line() for warning in study.warnings])

    def warnings(self, study: Study) -> list[str]:
        """What was warned of before the last run of a study; empty where there was none."""
        warned: list[str] = self._files.read_record(self._layout.study_folder(study) / "warnings.json", list[str], [])
        return warned

    def recorded_contents(self, study: str) -> dict[str, str]:
        """What the last run of a study of this name saw of its data, for `config.identity.data_digests`; empty where there was none."""
        try:
            contents: dict[str, str] = self._files.read_record(self._layout.study_folder(study) / "contents.json", Names)
            return contents
        except OSError:  # no folder at all: whoever reads the store next says so
            return {}

    # ------------------------------------------------------------ trials that a study ever had
    def register_trials(self, study: Study, others: Mapping[str, str] = {}) -> None:
        """Add the study's trials and their earlier stages to those that it has had: full training fingerprint to name, that of the first
        of several arms.

        Args:
            others: further ones that it has had.
        """
        known, names = self._registered(study) | dict(others), dict[str, str]()
        for one in (*study.stages, *study.trials):
            names.setdefault(one.fingerprint, one.name)
        now = known | names
        if now != known or others:
            self._write_json(self._registry(study), now)

    def unlisted_trials(self, study: Study) -> dict[Path, str]:
        """Trials that the study once had, that its file no longer lists and that still lie in the store: folder to name. After several
        edits some share a name."""
        listed = {one.fingerprint for trial in study.possible_trials for one in (*trial.earlier, trial)}
        gone = {self._layout.trial_folder(one): name for one, name in self._registered(study).items() if one not in listed}
        return {folder: name for folder, name in gone.items() if folder.exists()}

    def trained_before(self, study: Study, trial: Trial) -> list[tuple[Experiment, dict[str, Contents]]]:
        """The trained trials that had this one's name in the study and are others: their experiments, and what they read."""
        others = [one for one, name in self._registered(study).items() if name == trial.name and one != trial.fingerprint]
        found = []
        for one in others:
            folder = self._layout.trial_folder(one)
            if self._files.has(folder / "model.pt") and (folder / "trial.json").exists():
                try:
                    found.append((self.read_trial(one)[0], self.planned_reads(folder)))
                except (ValueError, KeyError):  # its component is gone, or a version of this package wrote it otherwise
                    continue
        return found

    def _registry(self, study: Study) -> Path:
        return self._layout.study_folder(study) / "trials.json"

    def _registered(self, study: Study) -> dict[str, str]:
        registered: dict[str, str] = self._files.read_record(self._registry(study), Names)
        return registered

    # ------------------------------------------------------------ read by the processes that do the work
    def read_trial(self, fingerprint: str, evaluation: str | None = None) -> tuple[Experiment, int]:
        """A trial's experiment and seed, with the evaluation of a fingerprint; the user's own tasks as they were when that was recorded."""
        record = read_json(self._record_of(fingerprint))
        experiment = Experiment.model_validate(record["experiment"])
        if evaluation is not None:
            recorded = evaluation_of(self._layout.evaluation_folder_of(fingerprint, evaluation))
            experiment = experiment.model_copy(update={"evaluation": recorded})
        return experiment, record["seed"]

    def read_prepared(self, fingerprint: str) -> dict[str, Path]:
        """The folders of what a trial starts from, by kind; with their files."""
        folders = {kind: self._layout.prepared_folder(part) for kind, part in read_json(self._record_of(fingerprint))["prepared"].items()}
        for folder in folders.values():
            self._files.download_folder(folder, "weights.pt", "features")
        return folders

    def read_start(self, fingerprint: str) -> Path | None:
        """A folder with the `model.pt` of the earlier stage whose weights a trial starts from; None where there is none."""
        earlier = read_json(self._record_of(fingerprint)).get("starts_from")
        if earlier is None:
            return None
        return self._files.download_for(self._layout.trial_folder(fingerprint), self._layout.trial_folder(earlier) / "model.pt").parent

    def planned_reads(self, folder: Path) -> dict[str, Contents]:
        """What a trial's, an evaluation's or a preparation's folder says of what it was planned to read; empty in earlier stores, and where
        it is damaged."""
        path = folder / "files.jsonl"
        self._files.download(path)
        try:
            return from_lines(path.read_bytes()) if path.exists() else {}
        except ValueError as error:
            self._files.note_damage(path, str(error))
            return {}

    def _write_reads(self, folder: Path, snapshot: DataSnapshot, reads: Callable[[], Reads]) -> None:
        if snapshot.look == "nowhere":
            return
        with snapshot.active():
            content, path = to_lines(reads()), folder / "files.jsonl"
        if content and (not path.exists() or path.read_bytes() != content):
            self._files.write(path, content)

    def _record_of(self, fingerprint: str) -> Path:
        return self._record(self._layout.trial_folder(fingerprint) / "trial.json")

    def read_preparation(self, fingerprint: str) -> Preparation:
        record = read_json(self._record(self._layout.prepared_folder(fingerprint) / "preparation.json"))
        return Preparation.model_validate(record["preparation"])

    def _record(self, path: Path) -> Path:
        """A record that another machine may just have written."""
        if not path.exists():
            self._files.refresh(path.parent)
        return path

    def _write_record(self, path: Path, record: dict[str, Any], shape: Any) -> None:
        """Written again where it differs: settings of how a trial is run, which no fingerprint holds, may have been edited."""
        if check_fingerprint(self._files, path, record["fingerprint"], shape) != record:
            self._write_json(path, record)

    def _write_task(self, path: Path, settings: dict[str, Any]) -> None:
        """Put one of the user's own tasks beside an evaluation: it may be edited, and is not on every node."""
        content = json.dumps(settings, ensure_ascii=False, indent=1).encode()  # which is YAML too
        if not path.exists() or path.read_bytes() != content:
            self._files.write(path, content)

    def _write_json(self, path: Path, value: Any) -> None:
        self._files.write(path, json.dumps(hidden(value), indent=1).encode())


def check_fingerprint(files: Files, path: Path, fingerprint: str, shape: Any) -> dict[str, Any]:
    """The record of a fingerprint; empty if it is not there, or damaged."""
    record: dict[str, Any] = files.read_record(path, shape)
    if record.get("fingerprint") not in (None, fingerprint):
        raise FingerprintCollision(f"{path.parent} belongs to {record['fingerprint']}, not to {fingerprint}")
    return record


# ---------------------------------------------------------------- evaluations
def evaluation_record(trial: Trial) -> dict[str, Any]:
    """All that carrying out an evaluation takes: the files of its items and the user's own records are not read again."""
    evaluation = trial.experiment.evaluation
    with trial.snapshot.active():
        tasks = {name: task_settings(task) for name, task in zip(task_names(evaluation), evaluation.tasks, strict=True)}
        own = {task: task_settings(task).model_dump(mode="json") for task in evaluation.tasks if is_own(task)}
    return {
        "fingerprint": trial.evaluation_fingerprint,
        "evaluation": evaluation.model_dump(mode="json"),
        "parts": [part.to_json() for part in shards_of_trial(trial)],
        "metrics": {name: canonical(task.metrics) for name, task in tasks.items()},
        "records": own,
    }


def evaluation_of(folder: Path) -> Evaluation:
    """The evaluation that is recorded in a folder, the user's own tasks as they were then."""
    record = read_json(folder / "evaluation.json")
    own = {task: str(folder / f"task-{number}.yaml") for number, task in enumerate(record.get("records", {}))}
    tasks = [own.get(task, task) for task in record["evaluation"]["tasks"]]
    return Evaluation.model_validate({**record["evaluation"], "tasks": tasks})


def shards_of_trial(trial: Trial) -> list[PredictionShard]:
    """The parts of a trial's evaluation, by what its tasks' records and files were when its study was loaded."""
    with trial.snapshot.active():
        return once(f"parts {trial.evaluation_fingerprint}", lambda: shards_of(trial.experiment, trial.fingerprint))


def recorded_shards(folder: Path) -> list[PredictionShard]:
    """The parts of an evaluation, as they were when it was recorded."""
    return [PredictionShard.from_json(part) for part in read_json(folder / "evaluation.json")["parts"]]
