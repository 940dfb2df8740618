"""Files of runs: which a trial's run has, and how they get to where MLflow keeps them.

In: a trial and its store. Out: the trial's settings, what became of its data, its predictions, its log and why it failed. They go where the
server says, not to the server, and that may be out of reach: then none is written, which is told.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from mm1_ablate.config.passwords import without_passwords
from mm1_ablate.config.study import Trial
from mm1_ablate.store.store import Store
from mm1_ablate.tracking.run_contents import settings_text
from mm1_ablate.tracking.server import first_line

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

    from mm1_ablate.tracking.own_runs import OwnRun

LARGEST = 50e6
"""Bytes of a file that is copied into MLflow; larger ones stay in the store alone."""


@dataclass(frozen=True)
class RunFile:
    """A file of a run: one of the store, or a text."""

    place: str
    """Among the run's files."""
    path: Path | None = None
    text: str = ""


def trial_files(trial: Trial, store: Store) -> list[RunFile]:
    """The files of a trial or earlier stage that has ended."""
    folder = store.trial_folder(trial)
    found = [RunFile("experiment.yaml", text=without_passwords(settings_text(trial.experiment)))]
    kept = [("data.json", folder / "data.json"), ("log.txt", folder / "log.txt"), ("machine.json", folder / "machine.json")]
    failed = store.failed_folder(trial) / "error.txt"
    kept += [("error.txt", failed)]
    if trial.evaluation_fingerprint:
        kept.append(("predictions/items.parquet", store.evaluation_folder(trial) / "items.parquet"))
    for place, path in kept:
        if store.has(path):
            store.download(path)
        if path.is_file() and 0 < path.stat().st_size < LARGEST:
            found.append(RunFile(place, path))
    return found


def digest_of_folder(folder: Path) -> str:
    """The same for folders that hold the same files."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode() + path.read_bytes())
    return whole.hexdigest()[:12]


class RunFiles:
    """Writes files of runs.

    Attributes:
        problem: why not; None where all could be written so far.
    """

    def __init__(self, address: str, place: str) -> None:
        """
        Args:
            address: of MLflow.
            place: of a run's files, as the server says.
        """
        self.problem: str | None = None
        self.address = address
        folder = urlparse(place)
        if address.startswith("http") and folder.scheme in ("", "file"):
            # Below the root is a folder for each experiment, then for each run.
            root = Path(unquote(folder.path)).parents[2]
            if not root.is_dir():
                self.problem = f"they belong in {root}, a folder of the server's that is not here (mlflow server --no-serve-artifacts)"

    def write(self, write: Callable[[], object]) -> bool:
        """Whether a call that writes files was made, and succeeded."""
        if self.problem is None:
            try:
                write()
            except Exception as error:
                self.problem = first_line(error)
        return self.problem is None

    def log(self, run: OwnRun, file: RunFile) -> bool:
        """Whether a file was written."""
        return self.write(lambda: self._log(run, file))

    def _log(self, run: OwnRun, file: RunFile) -> None:
        folder = str(Path(file.place).parent) if "/" in file.place else None
        if file.path is not None:
            self._repository(run).log_artifact(str(file.path), folder)  # type: ignore[no-untyped-call]
            return
        with tempfile.TemporaryDirectory() as beside:
            path = Path(beside, Path(file.place).name)
            path.write_text(file.text, encoding="utf-8")
            self._repository(run).log_artifact(str(path), folder)  # type: ignore[no-untyped-call]

    def replace_folder(self, run: OwnRun, folder: Path, place: str) -> bool:
        """Bring a folder of a run's files up to one of this machine; what the latter does not have is removed. Whether that was done."""
        return self.write(lambda: self._replace_folder(run, folder, place))

    def _replace_folder(self, run: OwnRun, folder: Path, place: str) -> None:
        repository = self._repository(run)
        repository.log_artifacts(str(folder), place)  # type: ignore[no-untyped-call]
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        for file in repository.list_artifacts(place):
            if not file.is_dir and file.path.removeprefix(f"{place}/") not in there:
                repository.delete_artifacts(file.path)  # type: ignore[no-untyped-call]

    def _repository(self, run: OwnRun) -> ArtifactRepository:
        """Where a run's files are. MLflow's client remembers that of each run, and a store may have been moved."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(run.artifact_uri, tracking_uri=self.address)
