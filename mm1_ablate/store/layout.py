"""Where in a store everything has its place. In: the store's folder. Out: the folders of trials, evaluations, preparations and studies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mm1_ablate.config.identity.fingerprint import short
from mm1_ablate.config.preparation import Preparation
from mm1_ablate.config.study import Study, Trial

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
        return self.root / "trials" / short(trial if isinstance(trial, str) else trial.fingerprint)

    def evaluation_folder(self, trial: Trial) -> Path:
        """The folder of a trial's own evaluation."""
        return self.evaluation_folder_of(trial.fingerprint, trial.evaluation_fingerprint)

    def evaluation_folder_of(self, fingerprint: str, evaluation: str) -> Path:
        """The folder of a training fingerprint and an evaluation fingerprint."""
        return self.trial_folder(fingerprint) / "evaluations" / short(evaluation)

    def prepared_folder(self, preparation: Preparation | str) -> Path:
        """The folder of a preparation, or of its fingerprint."""
        return self.root / "prepared" / short(preparation if isinstance(preparation, str) else preparation.fingerprint)

    def study_folder(self, study: Study | str) -> Path:
        """Where a study, or the study of a name, keeps its sweep and its report."""
        return self.root / "studies" / re.sub(r"[^\w.-]+", "-", study if isinstance(study, str) else study.name)
