"""Candidates in, queries and demonstrations out: ranked by a hash of seed and id, and made into items until there are enough.

An item's rank depends on the seed and its id alone: so the items are the same whatever the order of the file, and fewer are the
first of more. A bad one is left out and named, and the next in rank takes its place. What is drawn from large files is kept in the
cache, so that only the first of many trials reads them.
"""

from __future__ import annotations

import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mm1_ablate.config.identity.fingerprint import fingerprint
from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.cache import ProgressCallback, build_once
from mm1_ablate.data.counter_based_random import key
from mm1_ablate.data.documents import Item, ItemSet, Unreadable
from mm1_ablate.data.files import digest_files
from mm1_ablate.data.items._candidates import Candidate, FoundFiles, Pool, archives, as_text, chosen_files, missing, pool_of
from mm1_ablate.data.items._expressions import evaluate, file_name
from mm1_ablate.data.items._record import ItemFiles, RecordSettings, Shape
from mm1_ablate.data.readers.annotation_files import is_quick
from mm1_ablate.data.readers.image_folder import MISSING, ImageFolder

HELD_OUT = 10
"""One of so many pictures of the demonstrations is for development."""
POOL = 2048
"""Candidates for demonstrations, and items of a development split that is held out from them, unless a record says otherwise."""
RULE = 3
"""Version of the rule by which items are drawn: increased when it draws other items, which must not be taken from the cache."""


# ---------------------------------------------------------------- one item
@dataclass
class DrawnItem:
    """An item as plain values, which can be kept; its image by name."""

    id: str
    group: str
    fields: dict[str, str]
    references: list[str]
    choices: list[str] = field(default_factory=list)
    correct: int | None = None
    image: str | None = None
    image_key: str | None = None

    def item(self, pictures: ImageFolder) -> Item:
        """Raises Unreadable where there is no such image."""
        image = None
        if self.image is not None:
            from mm1_ablate.data.decoding import encoded_image

            # A file name is that of another picture in another folder.
            name = self.image_key or posixpath.join(pictures.folder, self.image)
            image = encoded_image(name, pictures.find(self.image), self.image)
        return Item(self.id, self.group, image, self.fields, tuple(self.references), tuple(self.choices), self.correct)


def _draw_item(candidate: Candidate, shape: Shape, prefix: str) -> DrawnItem:
    """Raises Unreadable where a row lacks something."""
    row = candidate.rows[0]
    fields = {name: _text(evaluate(source, row, f"field '{name}'"), f"field '{name}'") for name, source in (shape.fields or {}).items()}
    choices = _choices(evaluate(shape.choices, row, "choices")) if shape.choices else []
    correct = _correct(evaluate(shape.correct, row, "correct"), len(choices)) if shape.correct else None
    references = [] if correct is None else [choices[correct]]
    if shape.references:
        references = [text for each in candidate.rows for text in _references(evaluate(shape.references, each, "references"))]
    if not any(reference.strip() for reference in references):
        raise Unreadable("no reference")
    image = file_name(shape.image, row, "image") if shape.image else None
    group = as_text(evaluate(shape.group, row, "group")) if shape.group else "all"
    image_key = file_name(shape.image_key, row, "image_key") if shape.image and shape.image_key else None
    return DrawnItem(prefix + candidate.id, group, fields, references, choices, correct, image, image_key)


def _picture_key(candidate: Candidate, shape: Shape) -> str | None:
    template = shape.image_key or shape.image
    return file_name(template, candidate.rows[0], "image_key") if template and shape.image else None


def _text(value: Any, what: str) -> str:
    if value is None:
        raise Unreadable(f"no {what}")
    if isinstance(value, dict | list):
        raise Unreadable(f"no {what}", f"expected a text, found {value}")
    return str(value)


def _choices(value: Any) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(choice, str) and choice for choice in value):
        raise Unreadable("no choices", f"expected texts, none of them empty, found {value}")
    return value


def _correct(value: Any, choices: int) -> int:
    try:
        index = int(value)
    except (TypeError, ValueError):
        raise Unreadable("no correct choice", f"'{value}' is not a number") from None
    if not 0 <= index < choices:
        raise Unreadable("no correct choice", f"{index}, of {choices} choices")
    return index


def _references(value: Any) -> list[str]:
    texts = [text for text in (value if isinstance(value, list) else [value]) if text is not None]
    for text in texts:
        if isinstance(text, dict | list):  # as text it would never be a correct answer
            raise Unreadable("no reference", f"expected a text or a list of texts, found {value}")
    return [str(text) for text in texts]


# ---------------------------------------------------------------- drawing
def _ranked(candidates: Sequence[Candidate], purpose: str, seed: int) -> list[Candidate]:
    return sorted(candidates, key=lambda candidate: (key(purpose, seed, candidate.id), candidate.id))


def _first_good(
    candidates: Iterable[Candidate], shape: Shape, count: int | None, pictures: ImageFolder, prefix: str = "", shown: bool = False
) -> tuple[list[DrawnItem], list[Unreadable]]:
    """The first `count` good items, and what is wrong with those that were skipped.

    Args:
        prefix: of the items' ids.
        shown: whether they are demonstrations, whose first reference must say something.
    """
    taken: list[DrawnItem] = []
    bad: list[Unreadable] = []
    for candidate in candidates:
        if len(taken) == count:
            break
        try:
            one = _draw_item(candidate, shape, prefix)
            if shown and not one.references[0].strip():
                raise Unreadable("no answer to show")
            one.item(pictures)
        except Unreadable as problem:
            bad.append(Unreadable(problem.reason, f"{candidate.id} ({problem.what})" if problem.what else candidate.id))
            continue
        taken.append(one)
    return taken, bad


def _is_held_out(candidate: Candidate, shape: Shape) -> bool:
    """Whether a candidate of the demonstrations is for development: by its picture, so that no picture is in both splits."""
    try:
        what = _picture_key(candidate, shape) or candidate.id
    except Unreadable:
        what = candidate.id
    return key("development", what) % HELD_OUT == 0


def _usual(bad: Sequence[Unreadable]) -> Unreadable:
    """The first with the reason that most have."""
    usual = Counter(problem.reason for problem in bad).most_common(1)[0][0]
    return next(problem for problem in bad if problem.reason == usual)


@dataclass
class _DrawnItems:
    queries: list[DrawnItem]
    demonstrations: list[DrawnItem]
    bad: list[Unreadable]
    bad_demonstrations: list[Unreadable]


def _draw(source: RecordSettings, chosen: dict[str, tuple[ItemFiles, FoundFiles]], split: str, count: int | None, seed: int) -> _DrawnItems:
    pictures = ImageFolder(source.base(), archives(source))
    asked = "queries" if split == "report" else "development"
    items = _DrawnItems([], [], [], [])

    def ask(name: str, pool: Pool, candidates: Iterable[Candidate], most: int | None) -> None:
        wanted = count if most is None else min(most, count or most)
        items.queries, bad = _first_good(candidates, pool.shape, wanted, pictures)
        items.bad += bad
        if not items.queries:
            raise SettingError(name, "no item can be evaluated" + (f"; {_usual(items.bad)}" if items.bad else ""))

    if asked in chosen:
        declared, files = chosen[asked]
        pool = pool_of(source, asked, declared, files)
        items.bad += pool.bad
        ask(asked, pool, _ranked(pool.candidates, "queries", seed), declared.count)
        del pool  # large: not to be held beside the next
    if "demonstrations" in chosen:
        declared, files = chosen["demonstrations"]
        pool = pool_of(source, "demonstrations", declared, files)
        items.bad_demonstrations += pool.bad
        shape = pool.shape
        if asked not in chosen:
            held_out = (one for one in _ranked(pool.candidates, "queries", seed) if _is_held_out(one, shape))
            ask("demonstrations", pool, held_out, POOL)
        shown: Iterable[Candidate] = _ranked(pool.candidates, "demonstrations", seed)
        if source.development is None:
            shown = (one for one in shown if not _is_held_out(one, shape))
        # Ids of one file are one thing; of another file another, even where both count from 0.
        prefix = "" if asked in chosen and chosen[asked][0].file == declared.file else "demonstration/"
        items.demonstrations, bad = _first_good(shown, shape, declared.count or POOL, pictures, prefix, shown=True)
        items.bad_demonstrations += bad
    return items


def draw(source: RecordSettings, split: str, count: int | None, seed: int) -> ItemSet:
    """The items of a split.

    Raises:
        SettingError: files are missing or not what the record says, or no item can be evaluated.
    """
    chosen = chosen_files(source, split)
    every = [file for _, files in chosen.values() for found in files.values() for file in found]
    if is_quick(every):
        return _item_set(source, _draw(source, chosen, split, count, seed))
    identity = fingerprint([RULE, source, digest_files(every), split, count, seed])

    def build(folder: Path, report: ProgressCallback) -> None:
        items = _draw(source, chosen, split, count, seed)
        if any(problem.reason == MISSING for problem in [*items.bad, *items.bad_demonstrations]):
            raise _Incomplete(items)
        _save(folder, items)

    try:
        return _item_set(source, _load(build_once("items", identity, 1 << 26, build)))
    except _Incomplete as drawn:
        return _item_set(source, drawn.items)
    except Unreadable:  # an image has gone since they were drawn
        return _item_set(source, _draw(source, chosen, split, count, seed))


def _item_set(source: RecordSettings, items: _DrawnItems) -> ItemSet:
    pictures = ImageFolder(source.base(), archives(source))
    return ItemSet(
        [one.item(pictures) for one in items.queries],
        [one.item(pictures) for one in items.demonstrations],
        items.bad,
        items.bad_demonstrations,
    )


class _Incomplete(Exception):
    """What was drawn lacks images, which may come."""

    def __init__(self, items: _DrawnItems) -> None:
        self.items = items


def _save(folder: Path, items: _DrawnItems) -> None:
    drawn = {name: [vars(one) for one in getattr(items, name)] for name in ("queries", "demonstrations")}
    bad = {name: [(problem.reason, problem.what) for problem in getattr(items, name)] for name in ("bad", "bad_demonstrations")}
    (folder / "items.json").write_text(json.dumps({**drawn, **bad}))


def _load(folder: Path) -> _DrawnItems:
    plain = json.loads((folder / "items.json").read_text())
    queries, demonstrations = ([DrawnItem(**one) for one in plain[name]] for name in ("queries", "demonstrations"))
    bad, bad_demonstrations = ([Unreadable(*problem) for problem in plain[name]] for name in ("bad", "bad_demonstrations"))
    return _DrawnItems(queries, demonstrations, bad, bad_demonstrations)


# ---------------------------------------------------------------- looking beforehand
def check(source: RecordSettings, split: str) -> None:
    """Look whether the files are there, and at the first rows where that is quick.

    Raises:
        SettingError: at the field that is wrong.
    """
    pictures = ImageFolder(source.base(), archives(source))
    for name, (declared, files) in chosen_files(source, split).items():
        if all(is_quick(each) for each in files.values()):
            pool = pool_of(source, name, declared, files, first=20)
            taken, bad = _first_good(pool.candidates, pool.shape, 1, pictures)
            if not taken:
                first = next(iter([*bad, *pool.bad]), None)
                raise missing(source, name, f"none of the first rows can be used: {first}" if first else "no row is usable")
