"""Packing: documents whole, each exactly once, within the limits of a row; what cannot fit is counted."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm1_ablate.data.documents import Document, Image
from mm1_ablate.data.mixture import Mixture
from mm1_ablate.data.packing import PackedRows, TokenisedDocument, pack, tokenise
from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.spec.experiment import Packing

PICTURE = Image("picture", lambda: np.zeros((48, 48, 3), np.uint8))
SHAPES = st.lists(st.tuples(st.integers(1, 128), st.integers(0, 5)), max_size=80)


def shaped(place: int, length: int, images: int) -> TokenisedDocument:
    return TokenisedDocument(str(place), "source", (), (PICTURE,) * images, length)


@settings(max_examples=100, deadline=None)
@given(SHAPES, st.sampled_from([None, 5, 8]))
def test_every_document_is_in_one_row_whole_and_rows_keep_their_limits(shapes: list[tuple[int, int]], max_images: int | None):
    documents = [shaped(place, length, images) for place, (length, images) in enumerate(shapes)]
    rows = pack(documents, 128, max_images)
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


def test_a_document_is_tokenised_in_reading_order_and_closed_by_the_end():
    tokenizer = load_tokenizer()
    document = tokenise(Document("key", "source", "interleaved", ("red", PICTURE, "card -> blue", PICTURE)), tokenizer, 7)
    red, arrow = tokenizer.ids("red"), tokenizer.ids("card -> blue")
    assert document.segments == (red, PICTURE, arrow, PICTURE, (tokenizer.end,))
    assert document.nominal_length == 1 + 7 + 3 + 7 + 1
    assert tokenise(Document("key", "source", "text", ("red",)), tokenizer, 7).segments == ((*red, tokenizer.end),)


class Texts:
    """A source of one image and ever more words."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Document:
        return Document(f"text/{index}", "texts", "captioned", (PICTURE, "red " * (index + 1)))


def rows_of(row_tokens: int, max_images: int | None = 16) -> PackedRows:
    packing = Packing(row_tokens=row_tokens, nominal_image_tokens=2, max_images=max_images, buffer_documents=12)
    return PackedRows(Mixture({"texts": Fraction(1)}, {"texts": Texts()}), load_tokenizer(), packing, seed=0)


def test_documents_longer_than_a_row_are_left_out_and_counted():
    rows = rows_of(row_tokens=10)
    kept = set()
    while rows.mixture.position < 13:
        kept |= {document.key for document in next(rows)}
    # Two image tokens, one to twelve words and the end: up to seven words fit.
    assert kept == {f"text/{index}" for index in range(7)}
    assert rows.dropped == {("longer than a row", "texts"): 10}


def test_rows_that_nothing_fits_in_are_an_error():
    with pytest.raises(ValueError, match=r"no document fits in a row of 3 tokens.*longer than a row"):
        next(rows_of(row_tokens=3))


def test_rows_of_a_window_do_not_come_sorted_by_length():
    lengths = []
    for seed in range(5):
        rows = rows_of(16)
        rows = PackedRows(rows.mixture, load_tokenizer(), Packing(row_tokens=16, nominal_image_tokens=2, buffer_documents=12), seed)
        lengths.append([sum(document.nominal_length for document in next(rows)) for _ in range(5)])
    assert len({tuple(each) for each in lengths}) > 1
