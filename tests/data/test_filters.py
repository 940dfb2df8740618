"""What `keep` keeps: the same rules for every source, what is left out counted by reason and never taken for bad data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm1_ablate.config.data import DataType, Source
from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.documents import Document, Image, LeftOut, Unreadable
from mm1_ablate.data.filters import open_source
from mm1_ablate.data.sources.miniature import Miniature


class MadeUp(Source):
    """One document: sides of images as numbers (a negative one cannot be read), texts as they are."""

    type: Literal["made_up"] = "made_up"
    data_type: DataType = "interleaved"
    parts: tuple[int | str, ...] = ()
    columns: dict[str, Any] = {}
    knows_sizes: bool = True

    def open(self, seed: int = 0, name: str = "") -> Sequence[Document]:
        parts = tuple(part if isinstance(part, str) else self._image(part) for part in self.parts)
        return [Document("page", name, self.data_type, parts, self.columns)]

    def _image(self, side: int) -> Image:
        def load() -> np.ndarray:
            if side < 0:
                raise Unreadable("not an image", "page")
            return np.zeros((side, side + 5, 3), np.uint8)

        return Image(f"{side}", load, (lambda: load().shape[1::-1]) if self.knows_sizes else None)


def kept(source: MadeUp) -> list[int | str]:
    """What of the document stays, or the reason why nothing does."""
    try:
        document = open_source(source, 0, "made-up")[0]
    except LeftOut as error:
        return [f"left out: {error.reason}"]
    except Unreadable as error:
        return [f"bad: {error.reason}"]
    assert document.source == "made-up"
    return [int(part.key) if isinstance(part, Image) else part for part in document.parts]


# ---------------------------------------------------------------- bounds
@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"at_least": 6}, ["abc", 9, "def"]),
        ({"at_most": 6}, ["abc", 9, "def"]),
        ({"at_least": 7}, ["left out: text of fewer than 7 characters"]),
        ({"at_most": 5}, ["left out: text of more than 5 characters"]),
    ],
)
def test_text_is_bounded_over_all_texts_of_a_document(bounds: Mapping[str, int], expected: list):
    assert kept(MadeUp(parts=("abc", 9, "def"), keep={"text_characters": bounds})) == expected


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"at_least": 2, "at_most": 2}, [9, "a", 8]),
        ({"at_least": 3}, ["left out: document of fewer than 3 images"]),
        ({"at_most": 1}, ["left out: document of more than 1 images"]),
    ],
)
def test_images_of_a_document_are_bounded(bounds: Mapping[str, int], expected: list):
    assert kept(MadeUp(parts=(9, "a", 8), keep={"images": bounds})) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.3, ["a"]),
        (np.float32(0.5), ["a"]),
        (1, ["left out: clip above 0.5"]),
        (0.1, ["left out: clip below 0.25"]),
        (None, ["bad: no number in column 'clip'"]),
        ("0.3", ["bad: no number in column 'clip'"]),
        (True, ["bad: no number in column 'clip'"]),
        (float("nan"), ["bad: no number in column 'clip'"]),
        ([0.3], ["bad: no number in column 'clip'"]),
        (10**400, ["bad: no number in column 'clip'"]),
    ],
)
def test_a_column_of_the_data_is_bounded_and_has_to_be_there(value: Any, expected: list):
    assert kept(MadeUp(parts=("a",), columns={"clip": value}, keep={"columns": {"clip": {"at_least": 0.25, "at_most": 0.5}}})) == expected


def test_a_column_may_be_called_anything():
    assert kept(MadeUp(parts=("a",), columns={"{0}": 1}, keep={"columns": {"{0}": {"at_least": 2}}})) == ["left out: {0} below 2"]


# ---------------------------------------------------------------- sizes of images
@pytest.mark.parametrize("knows_sizes", [True, False])
@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((9, "a", 3, "b"), [9, "a b"]),
        ((3, "a"), ["a"]),
        ((3, 2), ["left out: image side below 4 pixels"]),
        ((9, 99, "a"), [9, "a"]),
        ((9, -1, "a"), [9, "a"]),
        ((-1,), ["bad: not an image"]),
        ((-1, 3), ["left out: image side below 4 pixels"]),
    ],
)
def test_small_images_of_interleaved_documents_are_left_out_and_the_rest_stays(parts: tuple, expected: list, knows_sizes: bool):
    assert kept(MadeUp(parts=parts, keep={"image_side": {"at_least": 4, "at_most": 50}}, knows_sizes=knows_sizes)) == expected


def test_an_image_that_cannot_be_measured_is_damage():
    document = open_source(MadeUp(parts=(9, -1, "a"), keep={"image_side": {"at_least": 4}}))[0]
    assert [error.reason for error in document.damage] == ["not an image"]


@pytest.mark.parametrize("data_type", ["captioned", "synthetic_captioned"])
@pytest.mark.parametrize(("side", "expected"), [(9, [9, "a"]), (3, ["left out: image side below 4 pixels"]), (-1, ["bad: not an image"])])
def test_of_a_captioned_document_nothing_is_left_without_its_image(side: int, expected: list, data_type: str):
    assert kept(MadeUp(parts=(side, "a"), data_type=data_type, keep={"image_side": {"at_least": 4}})) == expected


def test_images_are_counted_after_small_ones_are_left_out():
    keep = {"image_side": {"at_least": 4}, "images": {"at_least": 2}}
    assert kept(MadeUp(parts=(9, 3, "a"), keep=keep)) == ["left out: document of fewer than 2 images"]


def test_pictures_are_not_looked_at_where_text_or_columns_decide():
    source = MadeUp(parts=(-1, "a"), data_type="captioned", keep={"image_side": {"at_least": 4}, "text_characters": {"at_least": 5}})
    assert kept(source) == ["left out: text of fewer than 5 characters"]


@given(
    sides=st.lists(st.integers(1, 20), max_size=6),
    texts=st.lists(st.text("abc ", min_size=1, max_size=9), min_size=1, max_size=4),
    least=st.integers(1, 20),
    shuffle=st.randoms(use_true_random=False),
)
def test_leaving_small_images_out_leaves_every_text_and_every_other_image_in_order(sides, texts, least, shuffle):
    parts = [*sides, *texts]
    shuffle.shuffle(parts)
    found = kept(MadeUp(parts=tuple(parts), keep={"image_side": {"at_least": least}}))
    assert [part for part in found if isinstance(part, int)] == [part for part in parts if isinstance(part, int) and part >= least]
    assert "".join(part for part in found if isinstance(part, str)).replace(" ", "") == "".join(
        part for part in parts if isinstance(part, str)
    ).replace(" ", "")


# ---------------------------------------------------------------- every source
def test_where_nothing_binds_the_source_itself_is_opened():
    source = MadeUp(parts=("a",), keep={"columns": {}, "images": {}})
    assert isinstance(open_source(source), list)


def test_the_miniature_obeys_as_any_other_source_and_keeps_its_length():
    settings = Miniature(content="interleaved", data_type="interleaved", documents=60)
    few = open_source(settings.model_copy(update={"keep": type(settings.keep)(images={"at_most": 5})}), 0, "pages")
    whole = settings.open(0, "pages")
    assert len(few) == len(whole) == 60
    stayed = 0
    for index in range(60):
        if len(whole[index].images) <= 5:
            assert few[index] == replace(whole[index]) and few[index].images
            stayed += 1
        else:
            with pytest.raises(LeftOut, match="document of more than 5 images"):
                few[index]
    assert 0 < stayed < 60


def test_a_source_whose_data_has_no_columns_refuses_to_be_chosen_by_one():
    with pytest.raises(SettingError, match=r"^keep\.columns\.clip: the data has no column 'clip'; it has none"):
        Miniature(content="text", data_type="text", keep={"columns": {"clip": {"at_least": 1}}}).check()
