"""Plain text from JSON lines (.jsonl, .json, .ndjson; also .gz and .zst) or parquet, as C4, FineWeb and DCLM come."""

from __future__ import annotations

from typing import Any, Literal

from mm1_ablate.config.data import Source
from mm1_ablate.data.documents import Document
from mm1_ablate.data.files import Files, digest_files
from mm1_ablate.data.lost_documents import Losses
from mm1_ablate.data.readers.open_files import check_columns, columns_of, found_files, kept_columns, open_rows
from mm1_ablate.data.readers.quick_check import lost_rows
from mm1_ablate.data.readers.rows import BYTES, TEXT, Rows, text_of


class Text(Source):
    """A document in each line or row."""

    type: Literal["text"] = "text"
    data_type: Literal["text"] = "text"
    """The data type of the mixture that this source provides."""
    files: Files
    """Patterns of the files: data/*.jsonl.zst, s3://bucket/fineweb/{000..099}.parquet. All of one kind."""
    field: str = "text"
    """The field (of JSON) or column (of parquet) with the text."""

    def open(self, seed: int = 0, name: str = "") -> OpenText:
        """The documents. The seed changes nothing: their order is the mixture's."""
        return OpenText(self, name or self.type)

    def check(self) -> None:
        columns = columns_of(found_files(self.files))
        check_columns(columns, {"field": (self.field, (TEXT, BYTES)), **kept_columns(self.keep)})

    def losses(self) -> list[Losses]:
        return lost_rows(found_files(self.files), {self.field: (TEXT, BYTES), **dict(kept_columns(self.keep).values())})

    def contents(self) -> str:
        return digest_files(found_files(self.files))

    def make_ready(self, report: Any = None) -> None:
        self.rows(report)

    def rows(self, report: Any = None) -> Rows:
        """The lines or rows, with at least the columns that are needed."""
        return open_rows(found_files(self.files), list(dict.fromkeys([self.field, *self.keep.columns])), report)


class OpenText:
    """Documents by index."""

    def __init__(self, settings: Text, name: str) -> None:
        self.settings = settings
        self.name = name
        self.rows = settings.rows()
        self.losses = self.rows.losses

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Document:
        row = self.rows[index]
        text = text_of(row.get(self.settings.field), self.rows.place(index))
        columns = {name: row.get(name) for name in self.settings.keep.columns}
        return Document(self.rows.key(index), self.name, self.settings.data_type, (text,), columns)
