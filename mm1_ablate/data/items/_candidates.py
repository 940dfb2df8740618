"""Settings of `records` in, candidates out: the files of each part, their rows with what is joined to them, and an id for each.

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
from typing import TYPE_CHECKING, Any

from mm1_ablate.config.settings import Misfit
from mm1_ablate.data.documents import Unreadable
from mm1_ablate.data.files import DataFile, NoFiles, find_files
from mm1_ablate.data.items._expressions import Row, evaluate
from mm1_ablate.data.items._rows import WrongShape, rows_of

if TYPE_CHECKING:
    from mm1_ablate.data.items.records import Part, RecordItems, Shape

Files = Mapping[str, Sequence[DataFile]]
"""The files of a part: of its rows under an empty name, of what is joined under the name of the join."""


# ---------------------------------------------------------------- which files
def used_parts(source: RecordItems, split: str) -> dict[str, tuple[Part, ...]]:
    """The parts that a split reads, by name; alternatives beside each other.

    Raises:
        Misfit: there is no such split.
    """
    demonstrations = {} if source.demonstrations is None else {"demonstrations": source.demonstrations}
    if split == "report":
        return {"queries": source.queries, **demonstrations}
    if source.development is not None:
        return {"development": source.development, **demonstrations}
    if not demonstrations:
        raise Misfit("development", "there is no development split: the record declares neither 'development' nor 'demonstrations'")
    return demonstrations


def chosen_parts(source: RecordItems, split: str) -> dict[str, tuple[Part, Files]]:
    """The parts that a split reads and their files; of alternatives the first that is there.

    Raises:
        Misfit: files are missing.
    """
    return {name: _chosen(source, name, alternatives) for name, alternatives in used_parts(source, split).items()}


def _chosen(source: RecordItems, name: str, alternatives: Sequence[Part]) -> tuple[Part, Files]:
    problems = []
    for number, part in enumerate(alternatives):
        at = f"{name}.{number}" if len(alternatives) > 1 else name
        try:
            rows = _found(source, part.file)
        except NoFiles as error:
            problems.append(str(error))
            continue
        return part, {"": rows, **dict(_joined_files(source, at, part))}
    raise missing(source, f"{name}.file" if len(alternatives) == 1 else name, "; ".join(problems))


def _joined_files(source: RecordItems, at: str, part: Part) -> Iterator[tuple[str, list[DataFile]]]:
    for name, join in part.join.items():
        if join.file is not None:
            try:
                yield name, _found(source, join.file)
            except NoFiles as error:
                raise missing(source, f"{at}.join.{name}.file", str(error)) from None


def _found(source: RecordItems, names: Iterable[str]) -> list[DataFile]:
    folder = source.base()
    return find_files(name if "://" in name or name.startswith(("/", "${")) else posixpath.join(folder, name) for name in names)


def archives(source: RecordItems) -> list[DataFile]:
    """Further archives with images.

    Raises:
        Misfit: there are no such files.
    """
    try:
        return _found(source, source.archives or ())
    except NoFiles as error:
        raise missing(source, "archives", str(error)) from None


def missing(source: RecordItems, at: str, problem: str) -> Misfit:
    """That something is not there, and where names start and files are to be had."""
    where = f"; names start at the folder {source.base()}" + (f" ({source.folder})" if source.folder.startswith("${") else "")
    return Misfit(at, problem + where + (f"; the files are published at {source.published}" if source.published else ""))


# ---------------------------------------------------------------- candidates
@dataclass
class Candidate:
    """An item that may be drawn: the rows of its id."""

    id: str
    rows: list[Row]


@dataclass
class Pool:
    """All candidates of a part."""

    shape: Shape
    candidates: list[Candidate] = field(default_factory=list)
    bad: list[Unreadable] = field(default_factory=list)
    """Rows that cannot even be candidates."""


def pool_of(source: RecordItems, name: str, part: Part, files: Files, first: int | None = None) -> Pool:
    """The candidates of a part, in the order of the file; of its first rows only, if so many are enough.

    Raises:
        Misfit: the files are not what the record says.
    """
    pool = Pool(source.shape(part))
    known: dict[str, Candidate] = {}
    times: dict[str, int] = defaultdict(int)
    try:
        for row in islice(_rows(part, files), first):
            try:
                if isinstance(row, Unreadable):
                    raise row
                identity = as_text(evaluate(pool.shape.id, row, "id")) if pool.shape.id else _digest(row, part.join)
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
            elif part.merge:
                known[identity].rows.append(row)
            else:
                pool.bad.append(Unreadable("an id occurs twice", identity))
    except WrongShape as error:
        raise Misfit(f"{name}.rows" if part.rows else name, str(error)) from None
    except Unreadable as error:  # in a list that is joined
        raise Misfit(f"{name}.join", str(error)) from None
    if not pool.candidates and first is None:
        raise Misfit(name, f"{', '.join(part.file)} has no row that counts" + (f"; {pool.bad[0]}" if pool.bad else ""))
    return pool


def _rows(part: Part, files: Files) -> Iterator[Row | Unreadable]:
    """Rows that count, with the rows of other lists that belong to them.

    Raises:
        Unreadable: a row of another list does not say what it belongs to.
    """
    tables: dict[str, dict[str, list[Row]]] = {}
    for name, join in part.join.items():
        tables[name] = defaultdict(list)
        for other in rows_of(files.get(name, files[""]), join.rows):
            if not isinstance(other, Unreadable):
                tables[name][as_text(evaluate(join.on, other, f"join.{name}.on"))].append(other)
    for row in rows_of(files[""], part.rows):
        if isinstance(row, Unreadable):
            yield row
            continue
        try:
            if part.where is not None and not evaluate(part.where, row, "where"):
                continue
            belonging = {}
            for name, join in part.join.items():
                wanted = as_text(evaluate(join.to or join.on, row, f"join.{name}.to"))
                if wanted not in tables[name]:
                    raise Unreadable(f"no {name}", wanted)
                belonging[name] = tables[name][wanted]
            row.update(belonging)
        except Unreadable as problem:
            yield problem
            continue
        yield row


def as_text(value: Any) -> str:
    """An id as text: 7 and 7.0 and "7" are one."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _digest(row: Row, joined: Iterable[str]) -> str:
    """12 hexadecimal digits of what a row itself says, whatever the order of its fields."""
    own = {name: value for name, value in row.items() if name not in set(joined)}
    return sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()[:12]
