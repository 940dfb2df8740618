"""A source of a user's own: each line of some text files is a document. `type: lines_source.Lines`."""

from __future__ import annotations

from typing import Any

from mm1_ablate.config.data import Source
from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.documents import Document, Unreadable
from mm1_ablate.data.files import DataFile, Files, NoFiles, digest_files, find_files


class Lines(Source):
    """Lines that begin with BAD are bad data; a file that begins with REFUSED cannot be opened by anybody."""

    type: str = "lines_source.Lines"
    data_type: str = "text"  # type: ignore[assignment]
    files: Files
    must_have: str = ""
    """A word that the first file holds: what other formats have fields for."""

    def found(self) -> list[DataFile]:
        return find_files(self.files)

    def check(self) -> None:
        try:
            files = self.found()
        except NoFiles as error:
            raise SettingError("files", str(error)) from None
        beginning = files[0].read(0, 1000)
        if beginning.startswith(b"REFUSED"):
            raise PermissionError(13, "Permission denied", files[0].address)
        if self.must_have.encode() not in beginning:
            raise SettingError("must_have", f"the first file has no '{self.must_have}'")

    def contents(self) -> str:
        return digest_files(self.found())

    def make_ready(self, report: Any = None) -> None:
        if report is not None:
            for file in self.found():
                report(f"reading {file.name}", file.size, file.size)

    def open(self, seed: int = 0, name: str = "") -> OpenLines:
        return OpenLines(self, name)


class OpenLines:
    def __init__(self, settings: Lines, name: str) -> None:
        self.name = name
        self.lines = [line for file in settings.found() for line in file.read(0, file.size).decode().splitlines()]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Document:
        if self.lines[index].startswith("BAD"):
            raise Unreadable("line that begins with BAD", f"line {index}")
        return Document(f"lines/{index}", self.name, "text", (self.lines[index],))
