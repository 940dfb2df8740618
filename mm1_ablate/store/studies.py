"""Which studies a store has. In: the store alone, no sweep file. Out: of each study its sweep, how many trials it has and how many of them
are done, how much it takes, and when it was last worked on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mm1_ablate.config.identity.fingerprint import short
from mm1_ablate.store.activity import Activities
from mm1_ablate.store.declarations import FOLDER as DECLARATIONS
from mm1_ablate.store.files import Files
from mm1_ablate.store.layout import Layout
from mm1_ablate.store.records import DeclarationRecord, Names, StatusRecord, StudyRecord


@dataclass(frozen=True)
class StoredStudy:
    """A study of a store."""

    name: str
    sweep: str
    """The file that it was last run from; empty where it was only declared."""
    trials: int
    """Those that it has had by its last run, and that its file still declares."""
    done: int
    """Of these, how many have scores."""
    size: int
    """Bytes of its own folder and of its trials'. A trial that several studies share counts in each."""
    first: float | None
    """When it was first declared, or first worked on, in seconds since the epoch."""
    last: float | None
    """When one of its trials last ended or began."""
    is_running: bool
    """Whether a run of it is alive."""


class Studies:
    """The studies of a store."""

    def __init__(self, layout: Layout, files: Files, activities: Activities) -> None:
        self._layout, self._files, self._activities = layout, files, activities

    def studies(self) -> list[StoredStudy]:
        """All of them; the one that was last worked on first."""
        folders = [folder for folder in (self._layout.root / "studies").glob("*") if folder.is_dir()]
        found = [known for folder in folders if (known := self._study(folder)) is not None]
        return sorted(found, key=lambda study: (-(study.last or study.first or 0.0), study.name))

    def _study(self, folder: Path) -> StoredStudy | None:
        record = self._files.read_record(folder / "study.json", StudyRecord)
        registered: dict[str, str] = self._files.read_record(folder / "trials.json", Names)
        declarations = [self._files.read_record(path, DeclarationRecord) for path in sorted((folder / DECLARATIONS).glob("*.json"))]
        declarations = [one for one in declarations if one]
        if not record and not registered and not declarations:
            return None
        trials = {short(one) for one in registered}
        if declarations:
            declared = {trial for arm in declarations[-1]["declared"]["arms"].values() for trial in arm["trials"]}
            # Of seeds that are added until all is decided more are declared than were needed so far.
            trials = trials & declared if trials else declared
        own = [self._layout.trial_folder(one) for one in registered or trials]
        times = [moment for trial in own for moment in self._times(trial)]
        size = self._files.size(folder) + sum(self._files.size(trial) for trial in own)
        first = min([*(one["time"] for one in declarations), *times], default=None)
        alive = any(run.is_alive for run in self._activities.runs(folder.name))
        done = sum(self._is_scored(self._layout.trial_folder(one)) for one in trials)
        sweep = next(iter(record.get("files", [])), "")
        return StoredStudy(record.get("name", folder.name), sweep, len(trials), done, size, first, max(times, default=None), alive)

    def _times(self, folder: Path) -> Iterable[float]:
        """When a trial's work began and ended."""
        self._files.look(folder)
        record = self._files.read_record(folder / "status.json", StatusRecord)
        return [record[name] for name in ("started", "finished") if record.get(name)]

    def _is_scored(self, folder: Path) -> bool:
        self._files.look(folder)
        return any(folder.glob("evaluations/*/scores.json"))
