"""Where a store is, and where in it everything has its place. In: a folder, or an address of object storage. Out: local paths.

A store on object storage has a mirror (`bucket/replica.py`), and its paths are those of the mirror: what reads a record first sees to it
that it is here (`refresh`, `bring`), and what writes one does so by `write`. For a store in a folder all of these do nothing, or write
there.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_ablate.config.identity.fingerprint import short
from mm1_ablate.config.preparation import Preparation
from mm1_ablate.data.atomic_files import write_atomically
from mm1_ablate.store.bucket.object_store import is_address
from mm1_ablate.store.locks import is_held, is_held_by_this_process

if TYPE_CHECKING:
    from mm1_ablate.config.sweep.expand import Study, Trial
    from mm1_ablate.store.bucket.replica import Mirror


class Places:
    """The folders of a store.

    Args:
        place: a local (or shared) folder, or an address such as s3://bucket/prefix.
    """

    def __init__(self, place: Path | str) -> None:
        self.mirror: Mirror | None = None
        if is_address(place):
            from mm1_ablate.store.bucket.replica import Mirror

            self.mirror = Mirror(str(place))
            self.root = self.mirror.root
            self.address = self.mirror.remote.address
        else:
            self.root = Path(place).absolute()
            self.address = str(self.root)
            """By which other processes and machines open the same store."""

    @property
    def home(self) -> str:
        """The same for all processes that see the same files."""
        return self.mirror.identity if self.mirror else ""

    # ------------------------------------------------------------ folders
    def trial_folder(self, trial: Trial | str) -> Path:
        """The folder of a trial, or of a training fingerprint."""
        return self.root / "trials" / short(trial if isinstance(trial, str) else trial.fingerprint)

    def evaluation_folder(self, trial: Trial) -> Path:
        return self.trial_folder(trial) / "evaluations" / short(trial.evaluation_fingerprint)

    def prepared_folder(self, preparation: Preparation | str) -> Path:
        """The folder of a preparation, or of its fingerprint."""
        return self.root / "prepared" / short(preparation if isinstance(preparation, str) else preparation.fingerprint)

    def study_folder(self, study: Study) -> Path:
        """Where a study keeps its sweep and its report."""
        return self._study_folder(study.name)

    def _study_folder(self, name: str) -> Path:
        return self.root / "studies" / re.sub(r"[^\w.-]+", "-", name)

    def where(self, path: Path) -> str:
        """A path as people find it from any machine."""
        return self.mirror.address_of(path) if self.mirror else str(path)

    # ------------------------------------------------------------ files
    def refresh(self, *folders: Path, at_most_every: float = 0.0) -> None:
        """See what other machines have done, to all of the store or to some folders.

        Args:
            at_most_every: seconds; nothing is done if that has been seen since.
        """
        if self.mirror:
            self.mirror.refresh(*folders, at_most_every=at_most_every)

    def look(self, folder: Path) -> None:
        """See what other machines have done if that has never been looked at."""
        if self.mirror:
            self.mirror.look(folder)

    def has(self, file: Path) -> bool:
        """Whether a file is in the store, here or not."""
        return self.mirror.has(file) if self.mirror else file.exists()

    def bring(self, *files: Path) -> None:
        """Have files here that are not read by everybody, if they are in the store."""
        if self.mirror:
            self.mirror.bring(*files)

    def bring_folder(self, folder: Path, *beginnings: str) -> None:
        """Have all files of a folder here, or those whose path in it begins with one of these."""
        if self.mirror:
            self.mirror.bring_folder(folder, *beginnings)

    def borrow(self, file: Path, to: Path) -> Path:
        """Another folder's file for the work on one, for as long as that takes: where it is here."""
        return self.mirror.lend(file, to) if self.mirror else file

    def publish(self, *files: Path) -> None:
        """Have what was written outside of folders that somebody holds here, such as a report, seen by others."""
        if self.mirror:
            self.mirror.publish(*files)

    def write(self, file: Path, content: bytes) -> None:
        """Write a small file: the old one or the new one, whatever is killed when. In a held folder it is published with the others."""
        if self.mirror and not self._is_ours(file):
            self.mirror.write(file, content)
        else:
            write_atomically(file, content)

    def write_json(self, file: Path, value: Any) -> None:
        self.write(file, json.dumps(value, indent=1).encode())

    def _is_ours(self, file: Path) -> bool:
        """Whether a file of a mirror is in a folder that this process holds, and publishes."""
        assert self.mirror is not None
        folder = self.mirror.folder_of(self.mirror.path_of(file))
        return folder is not None and is_held_by_this_process(folder)

    def is_held(self, folder: Path) -> bool:
        """Whether a process, of any machine that shares the store, works on a folder."""
        return self.mirror.is_held(folder) if self.mirror else is_held(folder)

    def sign_of_life(self, folder: Path) -> float | None:
        """When whoever holds a folder last gave a sign of life; nothing where that is not told but by locks."""
        return self.mirror.sign_of_life(folder) if self.mirror else None
