"""What a study declared, and how many of its trials had scores when that was first seen: a record that only grows.

In: a study and its store. Out: its `History`. Every entry is a file of its own that is never written again and that no other can replace,
also on object storage: it is named by its time and by a digest of its content. So machines that record at once keep both, and an entry that
was changed, cut or removed is noticed: later ones name those before them.

    studies/<name>/declarations/<time>-<12>.json    what the study declared, when, by which version, and the trials that had scores then
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from mm1_ablate.config.declarations import Declaration, History, declared, recorded_fingerprint
from mm1_ablate.config.identity.fingerprint import digest, short
from mm1_ablate.config.study import Study
from mm1_ablate.store.files import Files
from mm1_ablate.store.layout import Layout
from mm1_ablate.store.records import DeclarationRecord, TextRecord
from mm1_ablate.version import __version__

FOLDER = "declarations"
OF_A_RUN = ("study.json", "sweep.yaml", "trials.json")
"""What a study's folder holds once it has been run."""


class _Entry(NamedTuple):
    name: str
    after: tuple[str, ...]
    """The entries that were there when it was written."""
    declaration: Declaration


class Declarations:
    """What a store has of what its studies declared."""

    def __init__(self, layout: Layout, files: Files) -> None:
        self._layout, self._files = layout, files

    def declare(self, study: Study) -> History:
        """Record what a study declares, unless it is what was recorded last; returns all that it declared.

        Raises:
            OSError: the store cannot be written.
        """
        folder = self._layout.study_folder(study) / FOLDER
        self._files.refresh(folder)
        if not self.declarations(study).recorded:
            entries, _ = self._entries(folder)
            now = self._now(study, entries)
            record = {
                "time": now.time,
                "utc": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now.time)),
                "version": __version__,
                "trials": len(now.trials),
                "scored": sorted(now.scored),
                "known_before": now.known_before,
                # Damaged ones too: so their names are taken, and their end is noticed.
                "after": sorted(path.name for path in folder.glob("*.json")),
                "declared": now.declared,
            }
            content = json.dumps(record, indent=1).encode()
            self._files.write(folder / _name(now.time, content), content)
        return self.declarations(study)

    def declarations(self, study: Study) -> History:
        """What a study declared so far, what it declares now as the last, be it recorded or not."""
        entries, problems = self._entries(self._layout.study_folder(study) / FOLDER)
        found = tuple(entry.declaration for entry in entries)
        if found and found[-1].declared == declared(study):
            return History(found, problems)
        return History((*found, self._now(study, entries)), problems, recorded=False)

    def _entries(self, folder: Path) -> tuple[list[_Entry], tuple[str, ...]]:
        """The entries that can be read, the first one first; and what is wrong with others."""
        found, damaged = [], []
        for path in sorted(folder.glob("*.json")):
            record = self._files.read_record(path, DeclarationRecord)
            if record and _name(record["time"], path.read_bytes()) != path.name:
                self._files.note_damage(path, "it is not what was written: its digest is not that of its name")
                record = {}
            if record:
                found.append(_entry(path.name, record))
            else:
                damaged.append(path.name)
        found.sort(key=lambda entry: (entry.declaration.time, len(entry.after), entry.name))
        there = {entry.name for entry in found} | set(damaged)
        gone = sorted({name for entry in found for name in entry.after} - there)
        problems = [f"{self._files.where(folder / name)} is damaged" for name in damaged]
        return found, (*problems, *(f"{self._files.where(folder / name)} is missing" for name in gone))

    def _now(self, study: Study, entries: list[_Entry]) -> Declaration:
        """What a study declares now, as an entry after others."""
        folder, content = self._layout.study_folder(study), declared(study)
        ever = {recorded_fingerprint(trial) for trial in study.possible_trials}.union(*(entry.declaration.trials for entry in entries))
        scored, now = self._scored(ever), time.time()
        if entries:
            # In order, whatever the clocks of several machines say.
            return Declaration(max(now, entries[-1].declaration.time), content, scored)
        # Versions without this record kept the texts of a run, with the trials that had no scores then.
        text = self._files.read_record(folder / "texts" / f"{short(digest(dict(study.texts)))}.json", TextRecord)
        if text:
            open_then = {recorded_fingerprint(trial) for trial in study.possible_trials if trial.evaluation_fingerprint in text["trials"]}
            scored, now = scored - open_then, text["first"]
        known_before = any((folder / name).exists() for name in OF_A_RUN)
        return Declaration(now, content, scored, known_before)

    def _scored(self, fingerprints: Iterable[str]) -> frozenset[str]:
        """The trials whose trained models have scores, by whatever evaluation."""
        found = set()
        for one in fingerprints:
            folder = self._layout.trial_folder(one)
            self._files.look(folder)
            if any(folder.glob("evaluations/*/scores.json")):
                found.add(one)
        return frozenset(found)


def _entry(name: str, record: dict[str, Any]) -> _Entry:
    declaration = Declaration(record["time"], record["declared"], frozenset(record["scored"]), record.get("known_before", False))
    return _Entry(name, tuple(record["after"]), declaration)


def _name(seconds: float, content: bytes) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%dT%H%M%S.%fZ}-{hashlib.sha256(content).hexdigest()[:12]}.json"
