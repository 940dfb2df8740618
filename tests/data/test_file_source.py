"""A data format of one's own in one method: what the base class makes of its records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from official_files import jpeg

from mm1_ablate.config.data import DataType
from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.documents import Document, Image, KnownLoss, LeftOut, Unreadable
from mm1_ablate.data.file_source import FileSource, Parts, Record
from mm1_ablate.data.files import DataFile
from mm1_ablate.data.filters import open_source

READ: list[str] = []
"""Names of files that were read, so that tests see how often."""


class Pages(FileSource):
    """Words of a line: a number is a grey image, `=0.5` the column `score`; the line BAD is bad data, and STOP breaks the file off."""

    type: str = "test_file_source.Pages"
    data_type: DataType = "interleaved"
    upper: bool = False

    def records(self, file: DataFile) -> Iterator[Parts | Record | Unreadable]:
        READ.append(file.name)
        with file.open() as lines:
            for line in lines:
                words = line.decode().split()
                if words == ["BAD"]:
                    yield Unreadable("page that is bad")
                    continue
                if words == ["STOP"]:
                    raise ValueError("it stops here")
                parts = [jpeg(int(word)) if word.isdigit() else word.upper() if self.upper else word for word in words if word[0] != "="]
                scores = [float(word[1:]) for word in words if word[0] == "="]
                yield Record(parts, {"score": scores[0]}) if scores else parts


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path_factory.mktemp("cache")))
    READ.clear()


def source(folder: Path, *files: str, **settings: Any) -> Pages:
    for number, content in enumerate(files):
        (folder / f"{number}.txt").write_text(content)
    return Pages.model_validate({"files": str(folder / "*.txt"), **settings})


def said(document: Document) -> list[str | int]:
    return [round(part.load().mean()) if isinstance(part, Image) else part for part in document.parts]


def test_documents_are_texts_and_images_in_order_at_any_place(tmp_path: Path) -> None:
    opened = source(tmp_path, "a 40 b\n80 c\n", "d 120\n").open(name="pages")
    assert [said(opened[index]) for index in (2, 0, 1)] == [["d", 120], ["a", 40, "b"], [80, "c"]]
    assert len({opened[index].key for index in range(3)}) == 3
    assert {document.source for document in (opened[0], opened[2])} == {"pages"} and opened[0].data_type == "interleaved"
    assert len({image.key for index in range(3) for image in opened[index].images}) == 3


def test_files_are_read_once_until_they_or_settings_change(tmp_path: Path) -> None:
    pages = source(tmp_path, "a\n", "b\n")
    pages.make_ready()
    assert said(pages.open()[0]) == ["a"] and sorted(READ) == ["0.txt", "1.txt"]
    assert said(source(tmp_path, upper=True).open()[1]) == ["B"] and len(READ) == 4
    assert said(source(tmp_path, "c\n").open()[0]) == ["c"] and READ[4:] == ["0.txt"]


def test_bad_records_are_named_and_a_file_that_breaks_off_is_lost_from_there(tmp_path: Path) -> None:
    opened = source(tmp_path, "a\nBAD\n\nb\nSTOP\nc\n", "d\ne\nf\ng\nh\n").open()
    bad = []
    for index in range(len(opened)):
        try:
            opened[index]
        except KnownLoss as error:
            bad.append(f"known: {error}")
        except Unreadable as error:
            bad.append(str(error))
    assert bad == [
        "page that is bad: 0.txt, record 2",
        "empty document: 0.txt, record 3",
        "known: damaged file: 0.txt: ValueError: it stops here",
    ]
    (losses,) = opened.losses
    assert losses.documents == 1 and "it stops here" in losses.in_words()


def test_a_check_says_what_is_wrong_at_its_field(tmp_path: Path) -> None:
    source(tmp_path, "BAD\na\n").check()
    with pytest.raises(SettingError, match="files: no file matches"):
        Pages.model_validate({"files": str(tmp_path / "*.tsv")}).check()
    for content, message in (("BAD\n", "page that is bad"), ("STOP\n", "cannot be read: ValueError: it stops here"), ("", "no records")):
        with pytest.raises(SettingError, match=f"files: .*{message}"):
            source(tmp_path, content).check()
    scored = {"keep": {"columns": {"score": {"at_least": 0.4}}}}
    with pytest.raises(SettingError, match=r"keep.columns.score: the data has no column 'score'"):
        source(tmp_path, "a\n", **scored).check()
    source(tmp_path, "a =0.5\n", **scored).check()


def test_what_is_kept_depends_on_columns(tmp_path: Path) -> None:
    opened = open_source(source(tmp_path, "a =0.5\nb =0.25\n", keep={"columns": {"score": {"at_least": 0.4}}}))
    assert said(opened[0]) == ["a"]
    with pytest.raises(LeftOut, match=r"score below 0\.4"):
        opened[1]


def test_an_empty_file_among_others_is_a_loss_that_a_plan_knows(tmp_path: Path) -> None:
    pages = source(tmp_path, "abcdef\n" * 10, "")
    (losses,) = pages.losses()
    assert losses.documents > 0 and "a file of 0 bytes" in losses.in_words()
    assert not source(tmp_path, "a\n", "b\n").losses()


def test_contents_change_with_the_files_alone(tmp_path: Path) -> None:
    before = source(tmp_path, "a\n").contents()
    assert source(tmp_path, "a\n", upper=True).contents() == before != source(tmp_path, "b\n").contents()


def test_texts_after_images_are_those_of_the_first_records(tmp_path: Path) -> None:
    pages = source(tmp_path, "BAD\n1 a 2 b\nc 3 d\n")
    assert pages.texts_after_images(10) == ["a", "b", "d"] and pages.texts_after_images(2) == ["a", "b"]
