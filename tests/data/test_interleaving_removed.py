"""What stays of interleaved documents when images, the interleaving or both are removed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interleaved_files import png, read, switched, write_mmc4, write_obelics, write_pictures, written

from mm1_ablate.config.data import Data
from mm1_ablate.data.documents import Image, LeftOut, Unreadable
from mm1_ablate.data.packing import open_packed_rows
from mm1_ablate.data.sources._interleaved import OpenInterleaved, Page, joined, pairs_of
from mm1_ablate.data.sources.mmc4 import Mmc4
from mm1_ablate.data.sources.obelics import Obelics
from mm1_ablate.data.tokenizer import load_tokenizer

SOURCES = {
    "obelics": lambda folder: Obelics(files=str(write_obelics(folder / "a.parquet"))),
    "mmc4": lambda folder: Mmc4(files=str(write_mmc4(folder / "a.jsonl")), image_files=write_pictures(folder / "b", "base name")[0]),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_without_images_the_text_stays(tmp_path: Path, kind: str):
    whole = SOURCES[kind](tmp_path)
    without = switched(whole, images=False)
    assert [" ".join(page).split() for page in read(without)] == [
        [p for p in " ".join(page).split() if p[0] != "I"] for page in read(whole)
    ]


@pytest.mark.parametrize("kind", SOURCES)
def test_without_interleaving_each_run_of_images_has_the_text_that_follows_it(tmp_path: Path, kind: str):
    whole = SOURCES[kind](tmp_path)
    between = "\n\n" if kind == "obelics" else " "
    end = [["I4", "seven"], ["I5"]] if kind == "obelics" else [["I4", "I5", "seven"]]
    pairs = switched(whole, interleaving=False)
    assert read(pairs) == [["I0", f"one{between}two"], ["I1", "I2", "three"], ["four", "I3", "five"], ["six"], *end]
    assert len({pairs.open()[index].key for index in range(len(pairs.open()))}) == len(pairs.open())


def test_without_both_the_texts_of_the_pairs_stay(tmp_path: Path):
    source = switched(SOURCES["mmc4"](tmp_path), images=False, interleaving=False)
    assert read(source) == [["one two"], ["three"], ["four five"], ["six"], ["seven"]]


def test_bad_pages_stay_one_bad_document_without_interleaving(tmp_path: Path):
    table = {
        "images": [[None, png(0), None, png(1), None], [None], [png(2), None]],
        "texts": [["a", None, "b", None, "c"], ["x", "y"], [None, "d"]],
    }
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    opened = Obelics(files=f"{tmp_path}/a.parquet", interleaving=False).open()
    assert len(opened) == 4
    with pytest.raises(Unreadable):
        opened[2]
    assert [written(opened[index]) for index in (0, 1, 3)] == [["a", "I0", "b"], ["I1", "c"], ["I2", "d"]]


class MadeUp:
    """Pages of any parts."""

    def __init__(self, pages: Sequence[Sequence[str | Image]]) -> None:
        self.pages = pages

    def __len__(self) -> int:
        return len(self.pages)

    def __getitem__(self, index: int) -> Page:
        return Page(str(index), tuple(self.pages[index]))


PARTS = st.lists(
    st.one_of(st.integers(0, 99).map(lambda shade: Image(str(shade), lambda: np.zeros((1, 1, 3), np.uint8))), st.text("abc", min_size=1))
)


@given(pages=st.lists(PARTS.filter(bool), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_pairs_laid_end_to_end_are_the_documents_and_each_has_one_run_of_images(pages: list[list[str | Image]]):
    pairs = [pairs_of(tuple(page)) for page in pages]
    assert [[part for pair in of_page for part in pair] for of_page in pairs] == pages
    for of_page in pairs:
        for pair in of_page:
            kinds = "".join("I" if isinstance(part, Image) else "t" for part in pair)
            runs = [run for run in kinds.split("t") if run]
            assert len(runs) == (1 if any(isinstance(part, Image) for part in sum(of_page, ())) else 0)
    firsts = np.cumsum([0, *(len(of_page) for of_page in pairs)])
    opened = OpenInterleaved(Obelics(files="unused", interleaving=False), MadeUp(pages), "pages", " ", firsts)
    assert [opened[index].parts for index in range(len(opened))] == [joined(pair, " ") for of_page in pairs for pair in of_page]


# ---------------------------------------------------------------- pages of pictures alone
PICTURES_ALONE = {
    "obelics": lambda folder: Obelics(files=str(write_obelics(folder / "a.parquet", [["I0", "one"], ["I1", "I2"], ["two"]]))),
    "mmc4": lambda folder: mmc4_with_a_page_of_pictures(folder),
}


def mmc4_with_a_page_of_pictures(folder: Path) -> Mmc4:
    path = write_mmc4(folder / "a.jsonl", [["I0", "one"], ["I1", "I2", " "], ["two"]])
    return Mmc4(files=str(path), image_files=write_pictures(folder / "b", "base name")[0])


@pytest.mark.parametrize("kind", PICTURES_ALONE)
@pytest.mark.parametrize("switches", [{"images": False}, {"images": False, "interleaving": False}])
def test_without_images_a_page_of_pictures_alone_is_left_out_and_not_bad(tmp_path: Path, kind: str, switches: dict[str, bool]):
    opened = switched(PICTURES_ALONE[kind](tmp_path), **switches).open()
    assert [written(opened[index]) for index in (0, 2)] == [["one"], ["two"]]
    with pytest.raises(LeftOut, match="no text beside its images"):
        opened[1]


@pytest.mark.parametrize("kind", PICTURES_ALONE)
@pytest.mark.parametrize("switches", [{"images": False}, {"images": False, "interleaving": False}])
def test_a_page_without_anything_is_bad_with_and_without_images(tmp_path: Path, kind: str, switches: dict[str, bool]):
    pages = [["one"], []]
    write = {"obelics": lambda: Obelics(files=str(write_obelics(tmp_path / "b.parquet", pages))), "mmc4": lambda: empty_mmc4(tmp_path)}
    for source in (write[kind](), switched(write[kind](), **switches)):
        opened = source.open()
        assert written(opened[0]) == ["one"]
        with pytest.raises(Unreadable, match="empty document"):
            opened[1]


def empty_mmc4(folder: Path) -> Mmc4:
    path = write_mmc4(folder / "b.jsonl", [["one"], []])
    return Mmc4(files=str(path), image_files=write_pictures(folder / "b", "base name")[0])


def test_without_images_missing_pictures_of_a_page_without_text_are_no_bad_data(tmp_path: Path):
    path = write_obelics(tmp_path / "a.parquet", [["I0", "one"], ["I1", "I2"]], images="url")
    source = Obelics(files=str(path), image_files=write_pictures(tmp_path / "b", "img2dataset", [0])[0])
    with pytest.raises(Unreadable, match="missing image"):
        source.open()[1]
    for switches in ({"images": False}, {"images": False, "interleaving": False}):
        with pytest.raises(LeftOut, match="no text beside its images"):
            switched(source, **switches).open()[1]


def test_removing_the_images_of_pages_of_which_many_are_pictures_alone_trains(tmp_path: Path):
    """The arm that the documentation shows: `remove: data.sources.pages.images`."""
    path = write_obelics(tmp_path / "a.parquet", [["I0", "small red circle"], ["I1"], ["I2", "I3"]] * 4)
    data = Data.model_validate(
        {
            "mixture": {"interleaved": 1},
            "sources": {"pages": {"type": "obelics", "files": str(path), "images": False}},
            "packing": {"row_tokens": 16, "nominal_image_tokens": 4, "buffer_documents": 8},
        }
    )
    rows = open_packed_rows(data, load_tokenizer(), seed=0)
    assert len([row for row, _ in zip(rows, range(20), strict=False)]) == 20
    account = rows.accounting.account()["pages"]
    assert not account["bad"] and account["left_out"]["no text beside its images"] > 0


def test_a_page_whose_images_are_all_dissimilar_is_not_kept_rather_than_bad(tmp_path: Path):
    source = mmc4_with_a_page_of_pictures(tmp_path)
    opened = Mmc4.model_validate({**source.model_dump(), "similarity": {"at_least": 0.9}}).open()
    assert written(opened[0]) == ["one"]
    with pytest.raises(LeftOut, match="no text, and no image that is kept"):
        opened[1]
