"""The first texts of a source, to see before a run whether a tokenizer knows their words: settings in, a few texts out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from mm1_ablate.config.data import Source
from mm1_ablate.data.documents import LeftOut, Unreadable
from mm1_ablate.data.files import DataFile, find_files
from mm1_ablate.data.filters import open_source

FILE_BYTES = 256 << 20
"""Bytes of a file up to which it is opened: opening one may mean reading all of it."""
DOCUMENTS, READ = 16, 64
"""Documents with texts that are enough, and documents that are read at most."""


def first_texts(source: Source) -> list[str] | None:
    """Texts of the first documents, of one file where there are several; None where every file is too large for a look.

    Raises:
        Exception: whatever keeps the source from being read.
    """
    captions = getattr(source, "captions", None)  # of recaptioned images, whose own texts do not matter
    patterns = captions or getattr(source, "files", None)
    if patterns is None:
        return list(islice(_texts(open_source(source)), DOCUMENTS))
    file = next((file for file in find_files(patterns) if 0 < file.size <= FILE_BYTES), None)
    if file is None:
        return None
    if captions:
        return list(islice(_column(file, getattr(source, "caption", "caption")), DOCUMENTS))
    return list(islice(_texts(open_source(source.model_copy(update={"files": (file.address,)}))), DOCUMENTS))


def _texts(documents: Any) -> Iterator[str]:
    """The texts of each document, as one."""
    for index in range(min(READ, len(documents))):
        try:
            parts = documents[index].parts
        except (Unreadable, LeftOut):
            continue
        if texts := [part for part in parts if isinstance(part, str)]:
            yield " ".join(texts)


def _column(file: DataFile, name: str) -> Iterator[str]:
    from mm1_ablate.data.readers.open_files import open_rows

    rows = open_rows([file], [name])
    for index in range(min(READ, len(rows))):
        try:
            value = rows[index].get(name)
        except Unreadable:
            continue
        if isinstance(value, str):
            yield value
