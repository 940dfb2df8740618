"""The miniature world: the same pictures and words for ever, and nothing in training that evaluation asks for."""

from __future__ import annotations

from hashlib import sha256
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from mm1_ablate.data.documents import Document, Image
from mm1_ablate.data.sources.miniature import Miniature
from mm1_ablate.data.tokenizer import UnknownWords, load_tokenizer
from mm1_ablate.miniature import language, tasks
from mm1_ablate.miniature.episodes import GLYPH_CUE
from mm1_ablate.miniature.rendering import SIDE, image_pool, render
from mm1_ablate.miniature.world import ATTRIBUTES, NAMES, POOL_SIZES, attributes, scenes

DATA_TYPES = {"alt_text": "captioned", "synthetic_captions": "captioned", "interleaved": "interleaved", "text": "text"}


def opened(content: str, **settings):
    return Miniature(content=content, data_type=DATA_TYPES[content], **settings).open(0, content)


def written(document: Document) -> str:
    return " ".join("<img>" if isinstance(part, Image) else part for part in document.parts)


def digest(text: str | bytes) -> str:
    return sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:12]


# ---------------------------------------------------------------- pictures
def test_pictures_are_the_same_for_ever():
    assert digest(render(0, "training", np.arange(4)).tobytes()) == "2a1e9b01c684"


def test_a_picture_does_not_depend_on_what_is_rendered_beside_it():
    together = render(0, "report", np.array([700, 3, 41]))
    assert together.shape == (3, SIDE, SIDE, 3) and together.dtype == np.uint8
    assert np.array_equal(together[1], render(0, "report", np.array([3]))[0])
    assert np.array_equal(together[0], image_pool("report")[700].load())


def test_splits_and_world_seeds_share_no_picture():
    pools = {(split, seed): render(seed, split, np.arange(100)) for split in POOL_SIZES for seed in (0, 1)}
    pictures = [picture.tobytes() for pool in pools.values() for picture in pool]
    assert len(set(pictures)) == len(pictures)
    keys = [image.key for split, size in POOL_SIZES.items() for image in image_pool(split)]
    assert len(set(keys)) == len(keys) == sum(POOL_SIZES.values())


def test_attributes_are_uniform_and_independent():
    table = attributes(0, "training", np.arange(POOL_SIZES["training"]))
    for field, values in enumerate(ATTRIBUTES.values()):
        shares = np.bincount(table[:, field], minlength=len(values)) / len(table)
        assert np.allclose(shares, 1 / len(values), atol=0.015)
    assert np.abs(np.corrcoef(table.T) - np.eye(len(NAMES))).max() < 0.03


def test_every_attribute_shows_in_the_pixels():
    """The nearest mean picture of a value, over other pictures, is right more often than chance: for the letter, on its plate."""
    table = attributes(0, "training", np.arange(1500))
    pixels = render(0, "training", np.arange(1500)).astype(np.float32)
    plates = pixels[:, 40:47, 40:47].reshape(1500, -1)
    letters = np.stack([plates[:1000][table[:1000, 5] == value].mean(0) for value in range(8)])
    nearest = ((plates[1000:, None] - letters) ** 2).sum(-1).argmin(1)
    assert (nearest == table[1000:, 5]).mean() == 1.0


# ---------------------------------------------------------------- words
def test_every_word_of_every_document_is_in_the_vocabulary():
    tokenizer = load_tokenizer()
    for content in DATA_TYPES:
        for settings in [{}] + [{"images": False}, {"interleaving": False}] * (content == "interleaved"):
            source = opened(content, **settings)
            for index in range(0, 3000, 3):
                tokenizer.encode(source[index].text)


def test_an_unknown_word_is_named():
    with pytest.raises(UnknownWords, match="zebra"):
        load_tokenizer().encode("a red zebra")


def test_text_survives_the_tokenizer():
    tokenizer = load_tokenizer("miniature")
    text = "<img> card -> red".removeprefix("<img> ")
    assert tokenizer.decode([*tokenizer.encode(text), tokenizer.end, tokenizer.padding]) == text
    assert tokenizer.vocabulary_size == len(language.VOCABULARY) == len(set(language.VOCABULARY))


# ---------------------------------------------------------------- documents
@pytest.mark.parametrize(
    ("content", "expected"),
    [("alt_text", "3c0628ffbd77"), ("synthetic_captions", "d9cde2aafcef"), ("interleaved", "d212002a1cef"), ("text", "745a89c962e0")],
)
def test_documents_are_the_same_for_ever(content: str, expected: str):
    source = opened(content)
    said = "\n".join(written(source[index]) + str([image.key for image in source[index].images]) for index in range(50))
    assert digest(said) == expected


def test_a_source_knows_its_length_and_its_documents_carry_its_name():
    source = opened("text", documents=7)
    assert len(source) == 7 and source[6].source == "text" and source[6].data_type == "text"
    with pytest.raises(IndexError):
        source[7]


def test_a_synthetic_caption_says_all_and_alt_text_little():
    pool = scenes(0, "training")
    for index in range(200):
        assert all(value in opened("synthetic_captions")[index].text.split() for value in pool[index])
    said = [sum(value in opened("alt_text")[index].text.split() for value in pool[index]) for index in range(2000)]
    assert 0.34 < np.mean(said) / 6 < 0.41  # four tenths of the attributes, an eighth of it by luck only


def test_half_of_the_interleaved_documents_are_as_long_as_an_8_shot_prompt():
    source = opened("interleaved")
    sizes = np.array([len(source[index].images) for index in range(1000)])
    assert sizes.min() == 3 and sizes.max() == 9
    assert 0.45 < (sizes == 9).mean() < 0.62


def test_removing_images_leaves_the_text_as_it_is():
    whole, without = opened("interleaved"), opened("interleaved", images=False)
    assert len(whole) == len(without)
    for index in range(300):
        assert not without[index].images
        assert without[index].text == whole[index].text


def test_removing_the_interleaving_leaves_the_same_images_with_their_own_texts():
    whole, pairs = opened("interleaved", documents=30), opened("interleaved", documents=30, interleaving=False)
    images = [image.key for index in range(30) for image in whole[index].images]
    assert [pairs[index].images[0].key for index in range(len(pairs))] == images
    assert all(len(pairs[index].images) == 1 for index in range(len(pairs)))
    place = 0
    for index in range(30):
        joined = [pairs[place + offset].text for offset in range(len(whole[index].images))]
        place += len(joined)
        left = whole[index].text
        for text in joined:
            assert text in left
            left = left.split(text, 1)[1]


def test_features_can_only_be_removed_where_they_are():
    with pytest.raises(ValidationError, match="not from text"):
        Miniature(content="text", data_type="text", images=False)


# ---------------------------------------------------------------- what evaluation asks for stays out of training
def test_evaluation_formats_never_stand_beside_an_image():
    withheld = {*language.EVALUATION_CUES, "=>", "Q", "A", "?", "what"}
    for content in ("alt_text", "synthetic_captions", "interleaved"):
        source = opened(content)
        for index in range(2000):
            text = source[index].text
            assert not withheld & set(text.split()), text
            assert GLYPH_CUE not in text
    assert all(set(f"{cue} {separator}".split()) & withheld for cue, separator in language.EVALUATION_FORMATS)


def test_withheld_facts_sums_agreements_and_scenes_are_never_read_in_training():
    source = opened("text")
    read = " . ".join(source[index].text for index in range(6000))
    for split in tasks.WITHHELD:
        assert all(f"{phrase} " not in read for phrase, _, _ in tasks.facts(split))
        for first, second in tasks.sums(split):
            assert all(f" {form.format(first, second)} " not in read for form in language.SUMS)
        for noun, verb in tasks.agreements(split):
            for number in (0, 1):
                assert f". the {language.NOUNS[noun][number]} {language.VERBS[verb][number]}" not in read


def test_what_is_withheld_can_be_known_from_training():
    """Every fact in other phrasings, every sum in the other order, every noun and verb with others."""
    known = {answer for _, answer, _ in tasks.facts("training")}
    for split in tasks.WITHHELD:
        assert {answer for _, answer, _ in tasks.facts(split)} <= known
        assert all((second, first) in tasks.sums("training") for first, second in tasks.sums(split))
        assert len(tasks.agreements(split)) == 10
    assert {noun for noun, _ in tasks.agreements("training")} == set(range(len(language.NOUNS)))
    assert not set(tasks.sums("report")) & set(tasks.sums("development"))
    assert not {phrase for phrase, _, _ in tasks.facts("report")} & {phrase for phrase, _, _ in tasks.facts("development")}


def test_texts_after_images_are_those_of_the_first_documents():
    settings = Miniature(content="interleaved", data_type="interleaved", documents=40)
    found, documents = settings.texts_after_images(9), settings.open(0)
    expected = [
        after
        for index in range(9)
        for before, after in pairwise(documents[index].parts)
        if isinstance(before, Image) and isinstance(after, str)
    ]
    assert found == expected[:9] and len(found) == 9
    assert len(settings.texts_after_images(10_000)) > 40
