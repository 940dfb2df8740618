"""Which sweep file a study in a store is of, and what its files said when its trials were run.

In: a study and its folder in the store. Out: why another sweep file may not use that folder; the texts that ran. A study is the same
wherever its file is moved or copied to, and however it is edited where it is: what is not the same is another file, still there, that
declares something else under the same name.

    studies/<name>/study.json         the study's name, its files, a digest of what they declare
    studies/<name>/texts/<12>.json    what the sweep and the files that it names said, and the trials that were to be done then
"""

from __future__ import annotations

import difflib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1_ablate.config.identity.fingerprint import digest, short
from mm1_ablate.config.passwords import without_passwords
from mm1_ablate.config.study import Study, Trial
from mm1_ablate.config.sweep.file import read_sweep_file
from mm1_ablate.config.yaml_file import FileErrors
from mm1_ablate.store.files import Files
from mm1_ablate.store.records import StudyRecord, TextRecord

MOST_FILES = 20
"""Places of a study that are remembered: of each checkout and machine that it was run from."""


# ---------------------------------------------------------------- whose folder it is
def declared(study: Study) -> str:
    """The same for files that declare the same arms and trials under the same name."""
    return digest(
        [study.name, sorted([arm, trial.seed, trial.evaluation_fingerprint] for trial in study.possible_trials for arm in trial.arms)]
    )


def other_study(study: Study, folder: Path, files: Files) -> str:
    """Why a study may not use a folder of the store: it is another study's. Empty if it may."""
    record: dict[str, Any] = files.read_record(folder / "study.json", StudyRecord) or _of_an_earlier_version(folder)
    here = str(study.path.resolve())
    if not record or (record["name"] == study.name and (here in record["files"] or record["declares"] == declared(study))):
        return ""
    there = [Path(place) for place in record["files"]]
    if record["name"] == study.name:
        there = [place for place in there if _name_in(place) == study.name]
        # Where none of its files is any more it was moved, or is on another machine.
        if not there or any(place.read_bytes() == study.path.read_bytes() for place in there):
            return ""
    known = f"the study '{record['name']}'" + (f" of {there[0]}" if there else "")
    return (
        f"{study.path}: its study '{study.name}' would be kept where {files.where(folder)} has {known}, which declares something else: "
        "rename one of them (`sweep:` in the file; of an experiment alone `experiment:`), or name another store with --store or "
        "MM1_ABLATE_STORE. Two files that are to be one study have to be equal once, when it is run"
    )


def _of_an_earlier_version(folder: Path) -> dict[str, Any]:
    """What the copy of a sweep tells that versions without `study.json` left; nothing where it has no name."""
    name = _name_in(folder / "sweep.yaml")
    return {"name": name, "files": [], "declares": ""} if name else {}


def _name_in(path: Path) -> str | None:
    """The name of the study that a sweep file (or an experiment file) declares; None where there is no such file."""
    try:
        sweep = read_sweep_file(path).sweep if path.is_file() else None
    except (FileErrors, OSError):
        return None
    return sweep.sweep if sweep else None


def write_place(study: Study, folder: Path, files: Files) -> None:
    """Record that a study is run from its file."""
    path = folder / "study.json"
    record = files.read_record(path, StudyRecord)
    places = list(dict.fromkeys([str(study.path.resolve()), *record.get("files", [])]))[:MOST_FILES]
    now = {"name": study.name, "files": places, "declares": declared(study)}
    if now != record:
        files.write(path, json.dumps(now, indent=1).encode())


# ---------------------------------------------------------------- what its files said
@dataclass(frozen=True)
class TextThatRan:
    """What the files of a study said when trials were run."""

    files: Mapping[str, str]
    """The sweep first."""
    trials: tuple[str, ...]
    """Names of those that were to be done then, and not later by other texts."""
    first: float
    """Seconds since the epoch."""


def keep_texts(study: Study, to_do: Iterable[Trial], folder: Path, files: Files) -> None:
    """Keep what the files of a study say, with the trials that are about to be run by it."""
    to_do = list(to_do)
    trials = {trial.evaluation_fingerprint: trial.name for trial in to_do}
    if not trials or not study.texts:
        return
    path, now = folder / "texts" / f"{short(digest(dict(study.texts)))}.json", time.time()
    record = files.read_record(path, TextRecord)
    trials = {**record.get("trials", {}), **trials}
    kept = {"files": dict(study.texts), "trials": trials, "first": record.get("first", now), "last": now}
    how = {"command": without_passwords(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])), "commit": commit_of(study.path.parent)}
    kept["how"] = {**record.get("how", {}), **dict.fromkeys((trial.evaluation_fingerprint for trial in to_do), how)}
    files.write(path, json.dumps(kept, indent=1).encode())


def commit_of(folder: Path) -> str:
    """The git commit of the working tree that a folder is in, with '+changes' where files differ from it; empty where there is none."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def how_they_ran(folder: Path, files: Files) -> dict[str, dict[str, str]]:
    """By evaluation fingerprint the command by which a trial was run last, and the git commit of its sweep's folder then."""
    records = [record for path in folder.glob("texts/*.json") if (record := files.read_record(path, TextRecord))]
    found: dict[str, dict[str, str]] = {}
    for record in sorted(records, key=lambda record: record["last"]):
        found |= record.get("how", {})
    return found


def texts_that_ran(study: Study, scored: Iterable[Trial], folder: Path, files: Files) -> list[TextThatRan]:
    """The texts by which trials of a study were run, the latest first."""
    records = [record for path in folder.glob("texts/*.json") if (record := files.read_record(path, TextRecord))]
    left, found = {trial.evaluation_fingerprint: trial.name for trial in scored}, []
    for record in sorted(records, key=lambda record: -record["last"]):
        own = [left.pop(one) for one in list(left) if one in record["trials"]]
        if own:
            found.append(TextThatRan(record["files"], tuple(own), record["first"]))
    return found


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """In what two texts differ, as a unified diff; empty where they are the same."""
    lines: list[str] = []
    for name in dict.fromkeys([*before, *after]):
        one, other = before.get(name, "").splitlines(), after.get(name, "").splitlines()
        lines += difflib.unified_diff(one, other, name, name, lineterm="", n=2)
    return "\n".join(lines)
