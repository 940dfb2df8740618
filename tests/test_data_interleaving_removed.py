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

from mm1_ablate.data.documents import Image, Unreadable
from mm1_ablate.data.sources._interleaved import OpenInterleaved, Page, joined, pairs_of
from mm1_ablate.data.sources.mmc4 import Mmc4
from mm1_ablate.data.sources.obelics import Obelics

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
