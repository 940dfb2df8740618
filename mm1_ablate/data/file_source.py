"""A data format of one's own in one method: files in, the parts of one document after the other out.

`FileSource` does the rest: it finds the files, looks at the first records when a plan is made, and copies all records once into the cache,
where any of them is read at once. A format that has random access of its own overrides `open` instead, as those in `sources/` do.
"""

from __future__ import annotations

import inspect
import json
import marshal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_ablate.config.data import Source
from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.cache import BytesAdded, Conversion, ProgressCallback, build_all
from mm1_ablate.data.documents import Document, Image, Unreadable, after_images
from mm1_ablate.data.files import DataFile, Files, digest_file, digest_files
from mm1_ablate.data.lost_documents import FileRead, Losses, losses_of
from mm1_ablate.data.readers.compression import Damaged
from mm1_ablate.data.readers.file_signatures import NO_BYTES
from mm1_ablate.data.readers.open_files import check_columns, found_files, kept_columns
from mm1_ablate.data.readers.parquet import COPY, CopiedColumn
from mm1_ablate.data.readers.rows import NUMBER, Rows, text_of

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = "1"
"""Changes when records are copied otherwise, so that copies in a cache are made anew."""
LOOKED_AT = 20
"""First records of a file among which a check expects a good one."""
BATCH_BYTES = 32 << 20
"""About what is in memory at once while records are copied."""

Parts = Sequence[str | bytes]
"""A document in reading order: texts, and images as the bytes of their files (JPEG, PNG, ...)."""


@dataclass(frozen=True, slots=True)
class Record:
    """A document with numbers that `keep.columns` can name."""

    parts: Parts
    columns: Mapping[str, float] = field(default_factory=dict)


class FileSource(Source):
    """Documents in files, of a format that `records` reads."""

    files: Files
    """Patterns of the files."""

    def records(self, file: DataFile) -> Iterator[Parts | Record | Unreadable]:
        """The documents of a file, in its order; always the same.

        Args:
            file: `file.open()` gives its bytes as a binary file, wherever it is.

        Yields:
            The parts of a document; a `Record`, where it has columns; or `Unreadable` with a reason, in place of one that is bad data.

        Raises:
            Exception: the rest of the file is damaged; its documents are lost and counted.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement `records`")

    def open(self, seed: int = 0, name: str = "") -> OpenRecords:
        """The documents. The seed changes nothing: their order is the mixture's."""
        return OpenRecords(self, name or self.type)

    def check(self) -> None:
        files = found_files(self.files)
        first, why = self._first_records(files, LOOKED_AT)
        if not first:
            raise SettingError("files", why or ("it has no records" if len(files) == 1 else f"none of the {len(files)} files has a record"))
        columns = {name: NUMBER for record in first for name in record.columns}
        check_columns(columns, kept_columns(self.keep))

    def losses(self) -> list[Losses]:
        files = found_files(self.files)
        if all(file.size for file in files):
            return []
        first, _ = self._first_records(files, LOOKED_AT)
        bytes_of_one = sum(len(part) for record in first for part in record.parts) / max(1, len(first))
        counts = [file.size / bytes_of_one if bytes_of_one else 0.0 for file in files]
        sizes = zip(files, counts, strict=True)
        return losses_of([FileRead(file.name, file.size, count, file.size, "" if file.size else NO_BYTES) for file, count in sizes])

    def texts_after_images(self, most: int) -> Sequence[str]:
        records, _ = self._first_records(found_files(self.files), most)
        return [text for record in records for text in after_images(record.parts)][:most]

    def contents(self) -> str:
        return digest_files(found_files(self.files))

    def make_ready(self, report: ProgressCallback | None = None) -> None:
        self.copied(report)

    def copied(self, report: ProgressCallback | None = None) -> CopiedRecords:
        """All records, by number; the first time, after reading all of the files once.

        Args:
            report: called with the progress.

        Raises:
            NotEnoughSpace: the copies do not fit in the cache.
        """
        files, reader = found_files(self.files), self._reader()
        copies = [
            Conversion(f"{VERSION} {digest_file(file)} {file.stamp} {reader}", file.size, partial(_size, file), partial(self._copy, file))
            for file in files
        ]
        return CopiedRecords(files, build_all("records", "copying records", copies, report))

    def _reader(self) -> str:
        """Identity of what makes records of a file: the code of the class, and its settings."""
        code = sha256()
        for kind in type(self).__mro__:
            if issubclass(kind, FileSource) and kind is not FileSource:
                code.update(_code_of(kind))
        settings = self.model_dump(mode="json", exclude={"files", *Source.model_fields})
        return f"{type(self).__module__}.{type(self).__qualname__} {code.hexdigest()} {json.dumps(settings, sort_keys=True)}"

    def _first_records(self, files: Sequence[DataFile], count: int) -> tuple[list[Record], str]:
        """Good records among the first of the first file that has any; and where there are none, why."""
        why = ""
        for file in files:
            good: list[Record] = []
            try:
                for number, record in enumerate(islice(self._checked(file), count)):
                    if isinstance(record, Record):
                        good.append(record)
                    else:
                        why = why or f"{file.address}, record {number + 1}: {record}"
            except Damaged as error:
                why = why or f"{file.address} cannot be read: {error}"
            if good:
                return good, ""
        return [], why

    def _checked(self, file: DataFile) -> Iterator[Record | Unreadable]:
        """The records of a file, each with at least one part and no empty text, or why it is not.

        Raises:
            Damaged: where `records` fails.
        """
        try:
            for found in self.records(file):
                record = found if isinstance(found, Record | Unreadable) else Record(found)
                if isinstance(record, Record):
                    try:
                        if not record.parts:
                            raise Unreadable("empty document")
                        parts = [part if isinstance(part, bytes) else text_of(part, "") for part in record.parts]
                        record = Record(parts, record.columns)
                    except Unreadable as error:
                        record = error
                yield record
        except Exception as error:  # whatever bytes do to code that did not expect them
            if isinstance(error, OSError) and error.errno is not None:
                raise  # a network or a disk, not the bytes of the file
            raise Damaged(f"{type(error).__name__}: {error}") from error

    def _copy(self, file: DataFile, folder: Path, add: BytesAdded) -> None:
        """Write the records of a file, and in `about.json` how many there are in each batch and what is wrong with the file."""
        import pyarrow as pa

        kinds = [("texts", pa.list_(pa.string())), ("images", pa.list_(pa.binary())), ("columns", pa.string()), ("bad", pa.string())]
        schema = pa.schema([pa.field("record", pa.struct(kinds))])
        counts: list[int] = []
        damage: tuple[str, str] | None = None
        waiting: list[dict[str, Any]] = []
        size = 0
        with pa.OSFile(str(folder / COPY), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:

            def flush() -> None:
                if waiting:
                    writer.write_batch(pa.record_batch([pa.array(waiting, schema.field(0).type)], schema=schema))
                    counts.append(len(waiting))
                    waiting.clear()

            try:
                for record in self._checked(file):
                    waiting.append(_plain(record))
                    size += sum(map(len, record.parts)) if isinstance(record, Record) else 0
                    if size > BATCH_BYTES or len(waiting) == 1 << 16:
                        flush()
                        size = 0
            except Damaged as error:
                damage = "damaged file", str(error)
            flush()
        add(file.size)
        (folder / "about.json").write_text(json.dumps({"batches": counts, "damage": damage}))


def _code_of(kind: type) -> bytes:
    """The text of a class's module; of one that is written in no file, such as a notebook's, what its own methods compile to."""
    try:
        return inspect.getsource(sys.modules[kind.__module__]).encode()
    except (KeyError, OSError, TypeError):
        return b"".join(marshal.dumps(value.__code__) for value in vars(kind).values() if inspect.isfunction(value))


def _size(file: DataFile) -> int:
    return file.size


def _plain(record: Record | Unreadable) -> dict[str, Any]:
    if isinstance(record, Unreadable):
        return {"bad": record.reason}
    texts = [part if isinstance(part, str) else None for part in record.parts]
    images = [part if isinstance(part, bytes) else None for part in record.parts]
    return {"texts": texts, "images": images, "columns": json.dumps(dict(record.columns)) if record.columns else None}


class CopiedRecords(Rows):
    """Records by number, from their copies in the cache."""

    def __init__(self, files: Sequence[DataFile], folders: Sequence[Path]) -> None:
        self._copies = [CopiedColumn(folder) for folder in folders]
        counts = [copy.rows for copy in self._copies]
        damage = [
            Unreadable(copy.damage[0], f"{file.name}: {copy.damage[1]}") if copy.damage else None
            for file, copy in zip(files, self._copies, strict=True)
        ]
        read = [
            FileRead(file.name, file.size, count, file.size if count else 0, copy.damage[1] if copy.damage else "")
            for file, count, copy in zip(files, counts, self._copies, strict=True)
        ]
        super().__init__(files, counts, damage, read)

    def place(self, index: int) -> str:
        return super().place(index).replace(", row ", ", record ")

    def record(self, index: int) -> pa.StructScalar:
        """One record, still in the mapped file.

        Raises:
            Unreadable: it is bad data, or the index stands for the damage of a file.
        """
        file, row = self.find(index)
        record = self._copies[file].scalar(row)
        if record["bad"].is_valid:
            raise Unreadable(record["bad"].as_py(), self.place(index))
        return record


class OpenRecords:
    """Documents by index."""

    def __init__(self, settings: FileSource, name: str) -> None:
        from mm1_ablate.data.decoding import encoded_image  # late: PIL

        self.settings = settings
        self.name = name
        self.records = settings.copied()
        self.losses = self.records.losses
        self._encoded_image = encoded_image

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Document:
        record = self.records.record(index)
        key = self.records.key(index)
        parts: list[str | Image] = []
        for place, text in enumerate(record["texts"].as_py()):
            if text is None:
                what = f"image {place + 1} of {self.records.place(index)}"
                parts.append(self._encoded_image(f"{key}#{place}", record["images"][place].as_py, what))
            else:
                parts.append(text)
        columns = json.loads(record["columns"].as_py() or "{}")
        return Document(key, self.name, self.settings.data_type, tuple(parts), columns)
