"""Which trials a study has ever had. In: a study and a store. Out: those that its file no longer names; they are left alone.

The store's folders do not say which study they were made for, because several may share them: `studies/<name>/trials.json` does.
"""

from __future__ import annotations

import json
from pathlib import Path

from mm1_ablate.config.sweep.expand import Study
from mm1_ablate.store.store import Store


def _path(study: Study, store: Store) -> Path:
    return store.study_folder(study) / "trials.json"


def _known(study: Study, store: Store) -> dict[str, str]:
    try:
        return json.loads(_path(study, store).read_text())
    except FileNotFoundError:
        return {}


def remember(study: Study, store: Store) -> None:
    """Add the study's trials and their earlier stages to those that it has had: full training fingerprint to name."""
    known = _known(study, store)
    now = known | {one.fingerprint: one.name for one in (*study.stages, *study.trials)}
    if now != known:
        store.write_json(_path(study, store), now)


def no_longer_named(study: Study, store: Store) -> dict[Path, str]:
    """Trials that the study once had and that still lie in the store: folder to name. After several edits some share a name."""
    named = {one.fingerprint for trial in study.trials for one in (*trial.earlier, trial)}
    gone = {store.trial_folder(fingerprint): name for fingerprint, name in _known(study, store).items() if fingerprint not in named}
    return {folder: name for folder, name in gone.items() if folder.exists()}
