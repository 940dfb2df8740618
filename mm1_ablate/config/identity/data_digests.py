"""What the sources of an experiment read, looked at once a study: is it there as declared, and which data is it?

In: settings of sources, and of the items of tasks. Out: what is wrong, by place in the experiment; and a digest of the files, which is
part of a trial's identity. Where nothing may be looked at, the declared patterns stand in for the digest, and identities are provisional.
Where files are missing that an earlier run of the study saw, the digest may come from its record. Sources that read no files have none.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from mm1_ablate.config.data import Source
from mm1_ablate.config.errors import Diagnostic
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.settings import Component, SettingError, Settings, is_identity

Look = Literal["check", "contents", "nowhere"]
"""check: verify that data is as declared, and compute its digests; contents: only compute digests; nowhere: read no data."""
Place = tuple[str | int, ...]
RecordedDigests = Mapping[str, str]
"""Digests that an earlier run saw, by `DataSnapshot.names`."""
Value = TypeVar("Value")

_OF_THE_MIXTURE = frozenset({"data_type", "weight", "max_epochs", "max_bad_share"})
"""Fields that change neither what is read nor whether it is as declared."""
_KEPT = frozenset({"keep"})
"""Fields that change which documents are read, but not the files."""


class DataSnapshot:
    """What one study saw of its data when it was loaded. Files that change later change neither it nor what is derived from it.

    The functions below use the snapshot that is active. Outside of any study each call has one of its own and keeps none of it.

    Args:
        look: how far to look.
        folder: of the study's file.
    """

    def __init__(self, look: Look = "check", folder: Path | None = None) -> None:
        self.look = look
        self.folder = (folder or Path()).resolve()
        self.recorded: RecordedDigests = {}
        """Digests of an earlier run, used for what cannot be read."""
        self.from_record: dict[str, None] = {}
        """Files that could not be read and whose digests came from the record; in order."""
        self.digests: dict[str, str] = {}
        self.diagnostics: dict[str, tuple[Diagnostic, ...]] = {}
        self.names: dict[str, dict[str, str]] = {}
        """Its two names in a record: with the declared paths of files, and with paths relative to the study's folder."""
        self.cache: dict[str, Any] = {}
        """Results of `once`."""

    @contextmanager
    def active(self) -> Iterator[None]:
        """Have all that is derived within use this snapshot."""
        token = _ACTIVE.set(self)
        try:
            yield
        finally:
            _ACTIVE.reset(token)

    def to_record(self) -> dict[str, str]:
        """Digests of all that has been read for the study, for machines that lack it."""
        return {name: digest for names in self.names.values() for name, digest in names.items()}


_ACTIVE: ContextVar[DataSnapshot | None] = ContextVar("active data snapshot", default=None)


def _active() -> DataSnapshot:
    return _ACTIVE.get() or DataSnapshot()


def look() -> Look:
    """How far to look at data."""
    return _active().look


def once(key: str, make: Callable[[], Value]) -> Value:
    """The result of a function that is called once for each study."""
    cache = _active().cache
    if key not in cache:
        cache[key] = make()
    value: Value = cache[key]
    return value


# ---------------------------------------------------------------- digests
def contents_of(source: Component, split: str | None = None) -> str:
    """The digest of what a source reads; empty for one that reads no files.

    Args:
        split: of the items of a task; None for a source of documents.

    Raises:
        Exception: whatever keeps the source from being read. `diagnostics_about` makes a sentence of it.
    """
    snapshot = _active()
    if snapshot.look == "nowhere":
        return stand_in(source)
    key = _key(source, split, _KEPT)
    if key not in snapshot.digests:
        snapshot.digests[key] = _digest(source, split, key, snapshot)
    return snapshot.digests[key]


def _digest(source: Any, split: str | None, key: str, snapshot: DataSnapshot) -> str:
    try:
        digest: str = source.contents() if split is None else source.contents(split)
    except Exception:
        names = _names(key, snapshot.folder)
        recorded = next((snapshot.recorded[name] for name in names if name in snapshot.recorded), None)
        if recorded is None:
            raise
        snapshot.from_record[_files(source)] = None
        return recorded
    if digest:
        snapshot.names[key] = dict.fromkeys(_names(key, snapshot.folder), digest)
    return digest


def stand_in(source: Component) -> str:
    """A digest of the patterns by which files are declared; empty for a source that declares none."""
    patterns = _how_it_runs(source)
    return "declared " + _sha256(json.dumps(patterns, sort_keys=True)) if patterns else ""


def _names(key: str, folder: Path) -> list[str]:
    """A study may have moved to the other machine alone, or with its data beside it: so files are known in two ways."""

    def seen_from_the_study(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: seen_from_the_study(entry) for name, entry in value.items()}
        if isinstance(value, list):
            return [seen_from_the_study(entry) for entry in value]
        return os.path.relpath(value, folder) if isinstance(value, str) and os.path.isabs(value) else value

    kind, _, declared = key.partition(" ")
    return [_sha256(key), _sha256(f"{kind} {json.dumps(seen_from_the_study(json.loads(declared)))}")]


def _files(source: Component) -> str:
    """Where a source's files are, for display."""
    texts: list[str] = []

    def collect(values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                collect(value)
            elif name in ("files", "folder"):
                texts.extend([value] if isinstance(value, str) else value)

    collect(_how_it_runs(source))
    return ", ".join(texts) or source.type


# ---------------------------------------------------------------- checks
def identity_of(source: Component, split: str | None = None) -> str:
    """What tells apart what sources read and keep: two of one identity need to be looked at, or made ready, once only."""
    return _key(source, split)


def sources_of(experiment: Experiment) -> Iterator[tuple[Place, Source]]:
    """All sources that are read, by their place: those that feed the mixture, those of preparations, and held-out documents; of earlier
    stages what they are trained on."""
    for name in experiment.data.shares():
        yield ("data", "sources", name), experiment.data.sources[name]
    for part, section in (("image_encoder", experiment.model.image_encoder), ("language_model", experiment.model.language_model)):
        if section.preparation is not None:
            yield ("model", part, "preparation", "source"), section.preparation.source
    for name, held_out in experiment.evaluation.losses.items():
        yield ("evaluation", "losses", name, "source"), held_out.source
    if experiment.starts_from is not None:
        for place, source in sources_of(experiment.starts_from):
            if place[0] != "evaluation":
                yield ("starts_from", *place), source


def diagnostics_about(source: Component, split: str | None = None) -> tuple[Diagnostic, ...]:
    """What is wrong with what a source reads, or what it warns of, paths relative to the source; empty where data is not read."""
    snapshot = _active()
    if snapshot.look == "nowhere":
        return ()
    key = identity_of(source, split)
    if key not in snapshot.diagnostics:
        with snapshot.active():
            snapshot.diagnostics[key] = _looked_at(source, split, snapshot)
    return snapshot.diagnostics[key]


def _looked_at(source: Any, split: str | None, snapshot: DataSnapshot) -> tuple[Diagnostic, ...]:
    found: Diagnostic | None = None
    warned: list[Diagnostic] = []

    def check() -> None:
        source.check(*(() if split is None else (split,)))

    def contents() -> None:
        contents_of(source, split)

    def warnings() -> None:
        if found is None and isinstance(source, Source):
            warned.extend(replace(_at_field(misfit), warning=True) for misfit in source.warnings())

    for look_at in (check, contents, warnings) if snapshot.look == "check" else (contents,):
        try:
            look_at()
        except SettingError as error:
            found = found or _at_field(error)
        except Exception as error:  # permissions, networks, a user's own source: whatever it is, it is reported in a sentence
            place: Place = ("files",) if "files" in type(source).model_fields else ()
            found = found or Diagnostic(place, f"cannot be read: {_in_words(error)}")
    if found is not None:
        # No study comes of it: what is expanded besides needs only something that tells this source from others.
        snapshot.digests.setdefault(_key(source, split, _KEPT), stand_in(source) or "unread")
        return (found,)
    return tuple(warned)


def _at_field(misfit: SettingError) -> Diagnostic:
    return Diagnostic(tuple(int(part) if part.isdigit() else part for part in misfit.at.split(".") if part), misfit.message)


def _in_words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _key(source: Component, split: str | None, without: frozenset[str] = frozenset()) -> str:
    kind = type(source)
    declared = source.model_dump(mode="json", exclude=set(_OF_THE_MIXTURE | without))
    return f"{kind.__module__}.{kind.__qualname__}{f':{split}' if split else ''} {json.dumps(declared, sort_keys=True)}"


def _how_it_runs(settings: Settings) -> dict[str, Any]:
    """Values of the fields that are not identity, such as patterns of files, at any depth."""
    values: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            below = _how_it_runs(value)
            values |= {name: below} if below else {}
        elif not is_identity(field) and name not in _OF_THE_MIXTURE and value is not None:
            values[name] = settings.model_dump(mode="json", include={name})[name]
    return values


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
