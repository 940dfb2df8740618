"""Packing: documents whole, each exactly once, within the limits of a row; what cannot fit is cut without loss, or counted."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from config_files import load_experiment
from hypothesis import given, settings
from hypothesis import strategies as st

from mm1_ablate.config.data import Data, Packing, Source
from mm1_ablate.data.documents import Document, Image
from mm1_ablate.data.joining import Segment
from mm1_ablate.data.packing import PACKERS, TokenisedDocument, open_packed_rows, pack, pieces, tokenise, why_dropped
from mm1_ablate.data.tokenizer import load_tokenizer

PICTURE = Image("picture", lambda: np.zeros((48, 48, 3), np.uint8))
SHAPES = st.lists(st.tuples(st.integers(1, 128), st.integers(0, 5)), max_size=80)


def shaped(place: int, length: int, images: int) -> TokenisedDocument:
    return TokenisedDocument(str(place), "source", (), (PICTURE,) * images, length)


@settings(max_examples=100, deadline=None)
@given(SHAPES, st.sampled_from([None, 5, 8]), st.sampled_from(["best_fit", "balanced"]))
def test_every_document_is_in_one_row_whole_and_rows_keep_their_limits(shapes: list[tuple[int, int]], max_images: int | None, policy: str):
    documents = [shaped(place, length, images) for place, (length, images) in enumerate(shapes)]
    rows = PACKERS[policy](documents, 128, max_images)
    assert len(rows) <= len(pack(documents, 128, max_images))
    assert Counter(document.key for row in rows for document in row) == Counter(document.key for document in documents)
    for row in rows:
        assert sum(document.nominal_length for document in row) <= 128
        assert max_images is None or sum(len(document.images) for document in row) <= max_images


@settings(max_examples=50, deadline=None)
@given(SHAPES)
def test_no_two_rows_could_have_been_one(shapes: list[tuple[int, int]]):
    rows = pack([shaped(place, length, 0) for place, (length, _) in enumerate(shapes)], 128, None)
    lengths = sorted(sum(document.nominal_length for document in row) for row in rows)
    assert len(lengths) < 2 or lengths[0] + lengths[1] > 128


def test_balanced_rows_fill_what_captions_alone_could_not():
    # Sixteen captions fill half a row, and a row takes no more images; texts of half a row lie beside them, or fill rows of two.
    captions = [shaped(place, 8, 1) for place in range(16 * 8)]
    texts = [shaped(200 + place, 128, 0) for place in range(8)]
    assert len(pack(captions + texts, 256, 16)) == 4 + 8
    assert len(PACKERS["balanced"](captions + texts, 256, 16)) == 8


def test_a_document_is_tokenised_in_reading_order_and_closed_by_the_end():
    tokenizer = load_tokenizer()
    document = tokenise(Document("key", "source", "interleaved", ("red", PICTURE, "card -> blue", PICTURE)), tokenizer, 7)
    red, arrow = tokenizer.ids("red"), tokenizer.ids("card -> blue")
    assert document.segments == (red, PICTURE, arrow, PICTURE, (tokenizer.end,))
    assert document.nominal_length == 1 + 7 + 3 + 7 + 1
    assert tokenise(Document("key", "source", "text", ("red",)), tokenizer, 7).segments == ((*red, tokenizer.end),)


# ---------------------------------------------------------------- documents that no row can hold
WORDS = ["red", "blue", "card", "green", "mesh"]
PARTS = st.lists(st.one_of(st.just(PICTURE), st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join)), min_size=1, max_size=20)


def flat(segments: tuple[Segment, ...]) -> list[int | Image]:
    """Tokens and images one by one."""
    return [one for segment in segments for one in ((segment,) if isinstance(segment, Image) else segment)]


@settings(max_examples=150, deadline=None)
@given(PARTS, st.integers(1, 30), st.integers(1, 8), st.sampled_from([None, 1, 2, 5]))
def test_pieces_laid_end_to_end_are_the_document_and_each_fits_in_a_row(
    parts: list[str | Image], row_tokens: int, nominal: int, max_images: int | None
):
    packing = Packing(row_tokens=row_tokens, nominal_image_tokens=nominal, max_images=max_images)
    document = tokenise(Document("key", "source", "interleaved", tuple(parts)), load_tokenizer(), nominal)
    if reason := why_dropped(document, packing):
        assert reason == "an image longer than a row" and nominal > row_tokens and document.images
        return
    cut = pieces(document, packing)
    assert flat(tuple(segment for piece in cut for segment in piece.segments)) == flat(document.segments)
    assert sum((piece.images for piece in cut), ()) == document.images
    assert sum(piece.nominal_length for piece in cut) == document.nominal_length
    for piece in cut:
        assert piece.images == tuple(segment for segment in piece.segments if isinstance(segment, Image))
        assert piece.nominal_length == sum(nominal if isinstance(one, Image) else 1 for one in flat(piece.segments)) <= row_tokens
        assert piece.nominal_length > 0 and (max_images is None or len(piece.images) <= max_images)
        assert (piece.source, piece.data_type) == ("source", "interleaved")
    assert [piece.key for piece in cut] == ["key", *(f"key#{number}" for number in range(2, len(cut) + 1))]
    if document.nominal_length <= row_tokens and (max_images is None or len(document.images) <= max_images):
        assert cut == [document]


def test_a_long_text_fills_its_rows_and_ends_once():
    tokenizer = load_tokenizer()
    document = tokenise(Document("key", "source", "text", ("red " * 25,)), tokenizer, 4)
    cut = pieces(document, Packing(row_tokens=10, nominal_image_tokens=4))
    assert [piece.nominal_length for piece in cut] == [10, 10, 6]
    assert [tokenizer.end in flat(piece.segments) for piece in cut] == [False, False, True]


def test_an_image_goes_where_the_text_is_that_follows_it():
    document = tokenise(Document("key", "source", "interleaved", ("red " * 6, PICTURE, "blue " * 5)), load_tokenizer(), 4)
    first, second = pieces(document, Packing(row_tokens=10, nominal_image_tokens=4))
    assert not first.images and second.segments[0] == PICTURE
    # Where there is nothing but images, they fill pieces as they come.
    only = tokenise(Document("key", "source", "interleaved", (PICTURE,) * 5), load_tokenizer(), 4)
    assert [len(piece.images) for piece in pieces(only, Packing(row_tokens=10, nominal_image_tokens=4))] == [2, 2, 1]


def test_a_book_is_cut_in_no_time():
    document = TokenisedDocument("book", "source", ((7,) * 2_000_000,), (), 2_000_000)
    began = time.process_time()
    assert len(pieces(document, Packing(row_tokens=1000))) == 2000
    assert time.process_time() - began < 5


# ---------------------------------------------------------------- rows of a mixture
def texts(long_documents: str = "drop", **packing: Any) -> Data:
    """Twelve documents, packed in rows."""
    return Data.model_validate(
        {
            "mixture": {"captioned": 1},
            "sources": {"texts": {"type": f"{__name__}.MoreAndMore", "data_type": "captioned"}},
            "packing": {"nominal_image_tokens": 2, "buffer_documents": 12, "long_documents": long_documents, **packing},
        }
    )


class MoreAndMore(Source):
    """A source of one image and ever more words."""

    type: str

    def open(self, seed: int = 0, name: str = "") -> OpenMoreAndMore:
        return OpenMoreAndMore(name)


class OpenMoreAndMore:
    def __init__(self, name: str) -> None:
        self.name = name

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Document:
        return Document(f"text/{index}", self.name, "captioned", (PICTURE, "red " * (index + 1)))


def test_documents_longer_than_a_row_are_left_out_and_counted():
    rows = open_packed_rows(texts(row_tokens=10), load_tokenizer(), seed=0)
    kept = {document.key for _ in range(30) for document in next(rows)}
    # Two image tokens, one to twelve words and the end: up to seven words fit.
    assert kept == {f"text/{index}" for index in range(7)}
    account = rows.accounting.account()["texts"]
    assert account["dropped"].keys() == {"longer than a row"}
    assert account["drawn"] == account["documents"] + account["dropped"]["longer than a row"]
    assert account["split"] == account["bad_share"] == 0 and not account["bad"]


def test_documents_longer_than_a_row_are_cut_and_counted():
    rows = open_packed_rows(texts("split", row_tokens=10), load_tokenizer(), seed=0)
    packed = [next(rows) for _ in range(12)]
    keys = {document.key for row in packed for document in row}
    assert {"text/0", "text/7", "text/7#2", "text/11", "text/11#2"} <= keys and "text/6#2" not in keys
    account = rows.accounting.account()["texts"]
    assert (account["documents"], account["split"], account["pieces"], account["dropped"]) == (12, 5, 10, {})
    assert account["tokens"] == sum(2 + words + 1 for words in range(1, 13)) and account["images"] == 12
    assert rows.fill == pytest.approx(sum(document.nominal_length for row in packed for document in row) / 120)


@pytest.mark.parametrize(
    ("packing", "reason"), [({"row_tokens": 3}, "longer than a row"), ({"row_tokens": 1}, "an image longer than a row")]
)
def test_rows_that_nothing_fits_in_are_an_error(packing: dict[str, Any], reason: str):
    with pytest.raises(ValueError, match=rf"none of the .* documents of source 'texts' can be used: \d+ {reason}"):
        next(open_packed_rows(texts(**packing), load_tokenizer(), seed=0))


def test_rows_of_a_window_do_not_come_sorted_by_length():
    lengths = []
    for seed in range(5):
        rows = open_packed_rows(texts(row_tokens=16), load_tokenizer(), seed)
        lengths.append([sum(document.nominal_length for document in next(rows)) for _ in range(5)])
    assert len({tuple(each) for each in lengths}) > 1


def test_rows_end_where_the_data_ends_with_nothing_lost():
    data = texts("split", row_tokens=10)
    once = data.model_copy(update={"sources": {"texts": data.sources["texts"].model_copy(update={"max_epochs": 2})}})
    rows = list(open_packed_rows(once, load_tokenizer(), seed=0))
    keys = Counter(document.key for row in rows for document in row)
    assert set(keys.values()) == {2} and len(keys) == 12 + 5


@pytest.mark.parametrize("used", [0, 1, 3, 4, 5, 9, 10, 23])
def test_rows_restored_anywhere_continue_exactly_pieces_included(used: int):
    whole, fresh = (open_packed_rows(texts("split", row_tokens=10, buffer_documents=5), load_tokenizer(), seed=0) for _ in range(2))
    for _ in range(used):
        next(whole)
    fresh.restore(json.loads(json.dumps(whole.state())))
    assert fresh.fill == whole.fill
    assert [next(fresh) for _ in range(30)] == [next(whole) for _ in range(30)]
    assert fresh.accounting.account() == whole.accounting.account() and fresh.fill == whole.fill


def test_the_miniature_fills_its_rows_with_and_without_a_cap_on_images():
    data = load_experiment(Path(__file__).parents[2] / "experiments" / "miniature.yaml").data
    for max_images in (None, 16):
        packing = data.packing.model_copy(update={"max_images": max_images})
        rows = open_packed_rows(data.model_copy(update={"packing": packing}), load_tokenizer(), seed=0)
        for _ in range(400):
            next(rows)
        assert rows.fill >= 0.95


# ---------------------------------------------------------------- exactly
def keys(rows: list[tuple[TokenisedDocument, ...]]) -> list[list[int]]:
    return [[int(document.key) for document in row] for row in rows]


def test_best_fit_puts_the_longest_first_into_the_fullest_row_that_takes_it():
    # Rows of ten: 7, then 6, then 4 beside the 6, which it fills, then 3 beside the 7, then 2 alone.
    lengths = [2, 3, 4, 6, 7]
    assert keys(pack([shaped(place, length, 0) for place, length in enumerate(lengths)], 10, None)) == [[4, 1], [3, 2], [0]]
    # Equal ones in their order; a row of no space left takes nothing more.
    assert keys(pack([shaped(place, 5, 0) for place in range(4)], 10, None)) == [[0, 1], [2, 3]]
    # The fullest row has its two images; the next that has room for one takes it.
    images = [shaped(0, 8, 2), shaped(1, 6, 1), shaped(2, 2, 1), shaped(3, 2, 0)]
    assert keys(pack(images, 10, 2)) == [[0, 3], [1, 2]] and keys(pack(images, 10, 3)) == [[0, 2], [1, 3]]


@pytest.mark.parametrize(
    ("length", "images", "packing", "reason"),
    [
        (10, 2, {"max_images": 2}, None),
        (11, 2, {"max_images": 2}, "longer than a row"),
        (11, 2, {"max_images": 2, "long_documents": "split"}, None),
        (10, 3, {"max_images": 2}, "too many images"),
        (10, 3, {"max_images": 2, "long_documents": "split"}, None),
        (10, 3, {}, None),
        (10, 1, {"nominal_image_tokens": 10}, None),
        (10, 1, {"nominal_image_tokens": 11, "long_documents": "split"}, "an image longer than a row"),
        (10, 0, {"nominal_image_tokens": 11}, None),
    ],
)
def test_a_document_is_dropped_only_where_no_row_can_hold_it(length: int, images: int, packing: dict[str, Any], reason: str | None):
    declared = Packing(**{"row_tokens": 10, "nominal_image_tokens": 2, "long_documents": "drop", **packing})
    assert why_dropped(shaped(0, length, images), declared) == reason


def test_images_beyond_the_cap_begin_another_piece():
    document = tokenise(Document("key", "source", "interleaved", (PICTURE, "red", PICTURE, PICTURE, "blue")), load_tokenizer(), 2)
    cut = pieces(document, Packing(row_tokens=100, nominal_image_tokens=2, max_images=2))
    assert [[isinstance(segment, Image) for segment in piece.segments] for piece in cut] == [[True, False], [True, True, False]]
    assert [(piece.key, piece.piece, piece.nominal_length) for piece in cut] == [("key", 1, 3), ("key#2", 2, 6)]
    assert pieces(document, Packing(row_tokens=9, nominal_image_tokens=2, max_images=3)) == [document]


def test_shares_by_tokens_count_images_and_by_tokens_of_text_do_not():
    declared = {"row_tokens": 40, "nominal_image_tokens": 9}
    for count, tokens in (("tokens", [9 + words + 1 for words in range(1, 13)]), ("text_tokens", [words + 1 for words in range(1, 13)])):
        rows = open_packed_rows(texts(**declared).model_copy(update={"count": count}), load_tokenizer(), seed=0)
        next(rows)
        assert rows.mixture.state()["tokens"] == {"texts": sum(tokens)}
