"""Where in a store everything has its place. In: the store's folder. Out: the folders of trials, evaluations, preparations and studies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mm1_ablate.config.identity.fingerprint import short
from mm1_ablate.config.preparation import Preparation
from mm1_ablate.config.study import Study, Trial
from mm1_ablate.store.files import StorageError


def folder_name(fingerprint: str) -> str:
    """The name by which a fingerprint has its place.

    Raises:
        StorageError: it is none. Fingerprints are read from records of the store too, and whoever may write there must not choose other
            folders by them.
    """
    name = short(fingerprint)
    if not re.fullmatch(r"\w+", name):
        raise StorageError(f"a record of the store names the fingerprint {name!r}, which is none: remove that record")
    return name


LAYOUT = 1
"""Version of where everything is and what its records mean. A version that could not go on with what another has written gets the next
number, and is kept from doing so by `layout.json`."""


@dataclass(frozen=True)
class Layout:
    """The folders below a store's own."""

    root: Path

    @property
    def record(self) -> Path:
        """The file that says which version of the layout a store has."""
        return self.root / "layout.json"

    def trial_folder(self, trial: Trial | str) -> Path:
        """The folder of a trial, or of a training fingerprint."""
        return self.root / "trials" / folder_name(trial if isinstance(trial, str) else trial.fingerprint)

    def evaluation_folder(self, trial: Trial) -> Path:
        """The folder of a trial's own evaluation."""
        return self.evaluation_folder_of(trial.fingerprint, trial.evaluation_fingerprint)

    def evaluation_folder_of(self, fingerprint: str, evaluation: str) -> Path:
        """The folder of a training fingerprint and an evaluation fingerprint."""
        return self.trial_folder(fingerprint) / "evaluations" / folder_name(evaluation)

    def prepared_folder(self, preparation: Preparation | str) -> Path:
        """The folder of a preparation, or of its fingerprint."""
        return self.root / "prepared" / folder_name(preparation if isinstance(preparation, str) else preparation.fingerprint)

    def study_folder(self, study: Study | str) -> Path:
        """Where a study, or the study of a name, keeps its sweep and its report."""
        return self.root / "studies" / re.sub(r"[^\w.-]+", "-", study if isinstance(study, str) else study.name)
