"""What the sources of an experiment read, looked at once a process: is it there as declared, and which data is it?

In: settings of sources. Out: what is wrong, by place in the experiment; and a digest of the files, which is part of a trial's identity.
Where nothing may be looked at, the declared patterns stand in for the digest, and identities are provisional. Sources that read no
files have neither.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Literal

from mm1_ablate.spec.experiment import Experiment, Source
from mm1_ablate.spec.messages import Finding
from mm1_ablate.spec.settings import Misfit, Settings, is_identity

Look = Literal["check", "contents", "nowhere"]
"""check: that all is there as declared, and which data it is; contents: only which data it is; nowhere: at no data at all."""
Place = tuple[str | int, ...]

_OF_THE_MIXTURE = frozenset({"data_type", "weight", "max_epochs", "max_bad_share"})
"""Fields that change neither what is read nor whether it fits."""


class _Seen:
    """What this process has seen so far. Files that change later are seen when the next study is loaded."""

    look: Look = "check"
    contents: dict[str, str] = {}
    findings: dict[str, Finding | None] = {}


def look_anew(look: Look) -> None:
    """Forget what was seen, and say how far to look from now on."""
    _Seen.look, _Seen.contents, _Seen.findings = look, {}, {}


def contents_of(source: Source) -> str:
    """The digest of what a source reads; empty for one that reads no files.

    Raises:
        Exception: whatever keeps the source from being read. `finding_about` makes a sentence of it.
    """
    if _Seen.look == "nowhere":
        return stand_in(source)
    key = _key(source, without=frozenset({"keep"}))
    if key not in _Seen.contents:
        _Seen.contents[key] = source.contents()
    return _Seen.contents[key]


def stand_in(source: Source) -> str:
    """A digest of the patterns by which files are declared; empty for a source that declares none."""
    patterns = _how_it_runs(source)
    return "declared " + hashlib.sha256(json.dumps(patterns, sort_keys=True).encode()).hexdigest() if patterns else ""


def identity_of(source: Source) -> str:
    """What tells apart what sources read and keep: two of one identity need to be looked at, or made ready, once only."""
    return _key(source)


def sources_of(experiment: Experiment) -> Iterator[tuple[Place, Source]]:
    """All sources that are read, by their place: those that feed the mixture, those of preparations, and held-out documents."""
    for name in experiment.data.shares():
        yield ("data", "sources", name), experiment.data.sources[name]
    for part, section in (("image_encoder", experiment.model.image_encoder), ("language_model", experiment.model.language_model)):
        if section.preparation is not None:
            yield ("model", part, "preparation", "source"), section.preparation.source
    for name, held_out in experiment.evaluation.losses.items():
        yield ("evaluation", "losses", name, "source"), held_out.source


def finding_about(source: Source) -> Finding | None:
    """What is wrong with what a source reads, its path relative to the source; nothing if all is well or nobody may look."""
    if _Seen.look == "nowhere":
        return None
    key = identity_of(source)
    if key not in _Seen.findings:
        _Seen.findings[key] = _looked_at(source)
    return _Seen.findings[key]


def _looked_at(source: Source) -> Finding | None:
    found = None
    for look in (source.check, lambda: contents_of(source)) if _Seen.look == "check" else (lambda: contents_of(source),):
        try:
            look()
        except Misfit as error:
            found = found or Finding(tuple(int(part) if part.isdigit() else part for part in error.at.split(".") if part), error.message)
        except Exception as error:  # permissions, networks, a user's own source: whatever it is, it has to be said in a sentence
            place: Place = ("files",) if "files" in type(source).model_fields else ()
            found = found or Finding(place, f"cannot be read: {_in_words(error)}")
    if found is not None:
        # No study comes of it: what is expanded besides needs only something that tells this source from others.
        _Seen.contents.setdefault(_key(source, without=frozenset({"keep"})), stand_in(source) or "unread")
    return found


def _in_words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _key(source: Source, without: frozenset[str] = frozenset()) -> str:
    kind = type(source)
    declared = source.model_dump(mode="json", exclude=set(_OF_THE_MIXTURE | without))
    return f"{kind.__module__}.{kind.__qualname__} {json.dumps(declared, sort_keys=True)}"


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
