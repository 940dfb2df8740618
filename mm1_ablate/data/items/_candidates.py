"""Settings of `records` in, candidates out: the files that a split reads, their rows with what is joined to them, and an id for each.

Which of the candidates become items is drawn later (`_drawing`): so a row's image and answers are looked at only if it is drawn.
"""

from __future__ import annotations

import json
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from typing import Any

from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.documents import Unreadable
from mm1_ablate.data.files import DataFile, NoFiles, find_files
from mm1_ablate.data.items._expressions import AnnotationRow, evaluate
from mm1_ablate.data.items._record import ItemFiles, RecordSettings, Shape
from mm1_ablate.data.readers.annotation_files import WrongShape, rows_of

FoundFiles = Mapping[str, Sequence[DataFile]]
"""The files that were found: of the rows under an empty name, of what is joined under the name of the join."""


# ---------------------------------------------------------------- which files
def declared_files(source: RecordSettings, split: str) -> dict[str, tuple[ItemFiles, ...]]:
    """What a split reads as it is declared, by purpose; alternatives beside each other.

    Raises:
        SettingError: there is no such split.
    """
    demonstrations = {} if source.demonstrations is None else {"demonstrations": source.demonstrations}
    if split == "report":
        return {"queries": source.queries, **demonstrations}
    if source.development is not None:
        return {"development": source.development, **demonstrations}
    if not demonstrations:
        raise SettingError("development", "there is no development split: the record declares neither 'development' nor 'demonstrations'")
    return demonstrations


def chosen_files(source: RecordSettings, split: str) -> dict[str, tuple[ItemFiles, FoundFiles]]:
    """What a split reads and the files of it, by purpose; of alternatives the first that is there.

    Raises:
        SettingError: files are missing.
    """
    return {name: _chosen(source, name, alternatives) for name, alternatives in declared_files(source, split).items()}


def _chosen(source: RecordSettings, name: str, alternatives: Sequence[ItemFiles]) -> tuple[ItemFiles, FoundFiles]:
    problems = []
    for number, declared in enumerate(alternatives):
        at = f"{name}.{number}" if len(alternatives) > 1 else name
        try:
            rows = _found(source, declared.file)
        except NoFiles as error:
            problems.append(str(error))
            continue
        return declared, {"": rows, **dict(_joined_files(source, at, declared))}
    raise missing(source, f"{name}.file" if len(alternatives) == 1 else name, "; ".join(problems))


def _joined_files(source: RecordSettings, at: str, declared: ItemFiles) -> Iterator[tuple[str, list[DataFile]]]:
    for name, join in declared.join.items():
        if join.file is not None:
            try:
                yield name, _found(source, join.file)
            except NoFiles as error:
                raise missing(source, f"{at}.join.{name}.file", str(error)) from None


def _found(source: RecordSettings, names: Iterable[str]) -> list[DataFile]:
    folder = source.base()
    return find_files(name if "://" in name or name.startswith(("/", "${")) else posixpath.join(folder, name) for name in names)


def archives(source: RecordSettings) -> list[DataFile]:
    """Further archives with images.

    Raises:
        SettingError: there are no such files.
    """
    try:
        return _found(source, source.archives or ())
    except NoFiles as error:
        raise missing(source, "archives", str(error)) from None


def missing(source: RecordSettings, at: str, problem: str) -> SettingError:
    """A message that something is missing, where names start, and where files are published."""
    where = f"; names start at the folder {source.base()}" + (f" ({source.folder})" if source.folder.startswith("${") else "")
    return SettingError(at, problem + where + (f"; the files are published at {source.published}" if source.published else ""))


# ---------------------------------------------------------------- candidates
@dataclass
class Candidate:
    """An item that may be drawn: the rows of its id."""

    id: str
    rows: list[AnnotationRow]


@dataclass
class Pool:
    """All candidates for one purpose."""

    shape: Shape
    candidates: list[Candidate] = field(default_factory=list)
    bad: list[Unreadable] = field(default_factory=list)
    """Rows that cannot even be candidates."""


def pool_of(source: RecordSettings, name: str, declared: ItemFiles, files: FoundFiles, first: int | None = None) -> Pool:
    """The candidates for one purpose, in the order of the file; of its first rows only, if so many are enough.

    Raises:
        SettingError: the files are not what the record says.
    """
    pool = Pool(source.shape(declared))
    known: dict[str, Candidate] = {}
    times: dict[str, int] = defaultdict(int)
    try:
        for row in islice(_rows(declared, files), first):
            try:
                if isinstance(row, Unreadable):
                    raise row
                identity = as_text(evaluate(pool.shape.id, row, "id")) if pool.shape.id else _digest(row, declared.join)
            except Unreadable as problem:
                pool.bad.append(problem)
                continue
            if pool.shape.id is None:
                # Rows that say the same are items of their own, as in any other harness.
                times[identity] += 1
                identity += f"-{times[identity]}" if times[identity] > 1 else ""
            if identity not in known:
                known[identity] = Candidate(identity, [row])
                pool.candidates.append(known[identity])
            elif declared.merge:
                known[identity].rows.append(row)
            else:
                pool.bad.append(Unreadable("an id occurs twice", identity))
    except WrongShape as error:
        raise SettingError(f"{name}.rows" if declared.rows else name, str(error)) from None
    except Unreadable as error:  # in a list that is joined
        raise SettingError(f"{name}.join", str(error)) from None
    if not pool.candidates and first is None:
        raise SettingError(name, f"{', '.join(declared.file)} has no usable row" + (f"; {pool.bad[0]}" if pool.bad else ""))
    return pool


def _rows(declared: ItemFiles, files: FoundFiles) -> Iterator[AnnotationRow | Unreadable]:
    """Rows that count, with the rows of other lists that belong to them.

    Raises:
        Unreadable: a row of another list does not say what it belongs to.
    """
    others: dict[str, dict[str, list[AnnotationRow]]] = {}
    for name, join in declared.join.items():
        others[name] = defaultdict(list)
        for other in _numbered(rows_of(files.get(name, files[""]), join.rows)):
            if not isinstance(other, Unreadable):
                others[name][as_text(evaluate(join.on, other, f"join.{name}.on"))].append(other)
    for row in _numbered(rows_of(files[""], declared.rows)):
        if isinstance(row, Unreadable):
            yield row
            continue
        try:
            if declared.where is not None and not evaluate(declared.where, row, "where"):
                continue
            belonging = {}
            for name, join in declared.join.items():
                wanted = as_text(evaluate(join.to or join.on, row, f"join.{name}.to"))
                if wanted not in others[name]:
                    raise Unreadable(f"no {name}", wanted)
                belonging[name] = others[name][wanted]
            row.update(belonging)
        except Unreadable as problem:
            yield problem
            continue
        yield row


def _numbered(rows: Iterable[dict[str, Any] | Unreadable]) -> Iterator[AnnotationRow | Unreadable]:
    for number, fields in enumerate(rows):
        yield fields if isinstance(fields, Unreadable) else AnnotationRow(fields, number)


def as_text(value: Any) -> str:
    """An id as text: 7 and 7.0 and "7" are one."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _digest(row: AnnotationRow, joined: Iterable[str]) -> str:
    """12 hexadecimal digits of what a row itself says, whatever the order of its fields."""
    own = {name: value for name, value in row.items() if name not in set(joined)}
    return sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()[:12]
