"""The miniature world: the same pictures and words for ever, and nothing in training that evaluation asks for."""

from __future__ import annotations

import re
from collections import Counter
from hashlib import sha256
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from mm1_ablate.config.evaluation import Evaluation
from mm1_ablate.config.tasks import task_settings
from mm1_ablate.data.documents import Document, Image
from mm1_ablate.data.resizing import resize
from mm1_ablate.data.sources.miniature import Miniature
from mm1_ablate.data.tokenizer import UnknownWords, load_tokenizer
from mm1_ablate.evaluation.requests import prepare_requests
from mm1_ablate.miniature import language, rendering, tasks
from mm1_ablate.miniature.episodes import FINE_DETAIL_CUE
from mm1_ablate.miniature.rendering import PLATE, SIDE, image_pool, render
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
    assert digest(render(0, "training", np.arange(4)).tobytes()) == "327c827abdcb"


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


GRAIN = NAMES.index("grain")


@pytest.fixture(scope="module")
def plates() -> tuple[np.ndarray, np.ndarray]:
    """The plates of 4,000 pictures, and which grain each has."""
    return render(0, "training", np.arange(4000))[:, PLATE, PLATE], attributes(0, "training", np.arange(4000))[:, GRAIN]


@pytest.mark.parametrize("size", [24, 12])
def test_below_full_resolution_a_picture_is_the_same_whatever_its_grain(monkeypatch: pytest.MonkeyPatch, size: int):
    """To the last digit: all that is left of the grain is the same grey, so nothing that sees these pictures can tell."""
    pictures = []
    for grain in range(4):

        def all_of_one_grain(world_seed: int, split: str, indices: np.ndarray, grain: int = grain) -> np.ndarray:
            table = attributes(world_seed, split, indices)
            table[:, GRAIN] = grain
            return table

        monkeypatch.setattr(rendering, "attributes", all_of_one_grain)
        pictures.append(render(0, "report", np.arange(200)))
    assert all(np.array_equal(resize(one, size), resize(pictures[0], size)) for one in pictures)
    assert all((one != other).any((1, 2, 3)).all() for one, other in pairwise(pictures))


def classified(features: np.ndarray, labels: np.ndarray) -> float:
    """How often ridge regression, fitted on three quarters, tells the labels of the last quarter."""
    features = features.reshape(len(features), -1).astype(np.float64)
    features = (features - features.mean(0)) / (features.std(0) + 1e-9)
    features = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    fitted, tried = features[: len(features) * 3 // 4], features[len(features) * 3 // 4 :]
    weights = np.linalg.solve(fitted.T @ fitted + 30 * np.eye(fitted.shape[1]), fitted.T @ np.eye(4)[labels[: len(fitted)]])
    return float(((tried @ weights).argmax(1) == labels[len(fitted) :]).mean())


def nonlinear(plates: np.ndarray) -> np.ndarray:
    """Sizes of differences between neighbours, which any phase of a pattern has."""
    grey = plates.astype(np.float64).mean(-1)
    return np.concatenate([np.abs(np.diff(grey, axis=axis)).reshape(len(grey), -1) for axis in (1, 2)], axis=1)


def test_the_grain_is_read_at_full_resolution_and_by_nobody_below_it(plates: tuple[np.ndarray, np.ndarray]):
    pixels, grains = plates
    assert classified(nonlinear(pixels), grains) == 1.0
    for factor in (2, 4):
        coarse = resize(pixels, 12 // factor)
        assert abs(classified(coarse, grains) - 0.25) < 0.05, factor
        assert abs(classified(nonlinear(coarse), grains) - 0.25) < 0.05, factor


def test_the_plate_is_as_grey_and_as_noisy_for_every_grain_and_never_cut_off(plates: tuple[np.ndarray, np.ndarray]):
    pixels, grains = plates
    assert pixels.min() > 0 and pixels.max() < 255
    means = [pixels[grains == grain].mean() for grain in range(4)]
    assert np.ptp(means) < 0.1
    smooth = pixels[grains == 3].std()
    rows = pixels[grains == 0].astype(np.float64)
    assert abs(np.abs(rows - 128).std() - smooth) < 0.3, "beside its two levels"


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
    [("alt_text", "710dd37d1be2"), ("synthetic_captions", "2fb82336d364"), ("interleaved", "b23392fe17a2"), ("text", "a639c954e0f7")],
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


def test_half_of_the_interleaved_documents_have_as_many_images_as_an_8_shot_prompt():
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


def tokens(parts: tuple[str | Image, ...]) -> int:
    """In rows of the miniature's recipe: four for an image."""
    return sum(4 if isinstance(part, Image) else len(load_tokenizer().encode(part)) for part in parts)


def test_8_shot_prompts_are_no_longer_than_interleaved_documents_and_documents_fit_into_a_row():
    source = opened("interleaved")
    lengths = np.array([tokens(source[index].parts) for index in range(4000)])
    for name in ("attributes", "vqa", "fine_detail", "captions"):
        task = task_settings(f"miniature_{name}")
        asked = prepare_requests(task, Evaluation(tasks=[task.task], shots=[8], items=240), load_tokenizer()).requests
        longest = max(sum(one.lengths(8, lambda image: 4)) + tokens((one.item.references[0],)) for one in asked)
        assert longest <= lengths.max() and (lengths >= longest).mean() > 0.01, (name, longest)
    assert lengths.max() + 1 <= 128, "and the token that ends a document"


def test_an_eighth_of_the_words_on_pages_are_about_another_picture():
    """Of the colours that are named, an eighth are drawn from all pictures: an eighth of those by luck right."""
    scene_of = {image.key: scene for image, scene in zip(image_pool("training"), scenes(0, "training"), strict=True)}
    source, right, named = opened("interleaved"), 0, 0
    for index in range(3000):
        for image, text in pairwise(source[index].parts):
            colours = {*text.split()} & {*ATTRIBUTES["colour"]} if isinstance(image, Image) and isinstance(text, str) else set()
            if colours:
                named += 1
                right += scene_of[image.key][0] in colours
    assert named > 3000
    assert abs(right / named - (1 - 0.12 * 7 / 8)) < 0.015


def test_the_wall_is_named_on_pages_half_as_often_as_other_attributes():
    source = opened("interleaved")
    named = Counter(name for index in range(4000) for name, values in ATTRIBUTES.items() if {*values} & {*source[index].text.split()})
    shares = {name: count / 4000 for name, count in named.items()}
    assert 0.1 < shares["wall"] < 0.7 * min(shares[name] for name in language.NAMED_ON_PAGES)


def test_half_of_the_pages_ask_questions_of_their_own_with_one_question_or_several():
    source = opened("interleaved")
    openings = [[part for part in source[index].parts if isinstance(part, str)] for index in range(2000)]
    asked = [{name for text in texts for name in NAMES if name in text.split()} for texts in openings]
    assert abs(np.mean([len(names) > 0 for names in asked]) - 0.5) < 0.04
    assert abs(np.mean([len(names) == 1 for names in asked]) - 0.3) < 0.05


def test_pages_describe_in_words_and_orders_of_their_own():
    """As many ways as there are documents that describe: what a page says next is told by what it said before."""
    source = opened("interleaved")
    shapes = Counter()
    for index in range(2000):
        text = str(source[index].parts[1])
        words = ["_" if any(word in values for values in ATTRIBUTES.values()) else word for word in text.split()[:-1]]
        if words.count("_") > 1:
            shapes[" ".join(words)] += 1
    assert shapes.total() > 200 and len(shapes) > 0.8 * shapes.total()


# ---------------------------------------------------------------- what evaluation asks for stays out of training
def test_evaluation_formats_never_stand_beside_an_image():
    withheld = {*language.EVALUATION_CUES, "=>", "Q", "A", "?", "what"}
    for content in ("alt_text", "synthetic_captions", "interleaved"):
        source = opened(content)
        for index in range(2000):
            text = source[index].text
            assert not withheld & set(text.split()), text
            assert FINE_DETAIL_CUE not in text
            assert content != "interleaved" or not any(said(template, text) for template in language.CAPTIONS)
    assert all(set(f"{cue} {separator}".split()) & withheld for cue, separator in language.EVALUATION_FORMATS)


def said(template: str, text: str) -> bool:
    """Whether a text holds a template with some values in it."""
    return re.search(re.sub(r"\\\{\w+\\\}", r"\\w+", re.escape(template)), text) is not None


def test_withheld_facts_agreements_and_scenes_are_never_read_in_training():
    source = opened("text")
    read = " . ".join(source[index].text for index in range(6000))
    for split in tasks.WITHHELD:
        assert all(f"{phrase} " not in read for phrase, _, _ in tasks.facts(split))
        for noun, verb in tasks.agreements(split):
            for number in (0, 1):
                assert f". the {language.NOUNS[noun][number]} {language.VERBS[verb][number]}" not in read


def test_what_is_withheld_can_be_known_from_training():
    """Every fact in other phrasings, every noun and verb with others."""
    known = {answer for _, answer, _ in tasks.facts("training")}
    for split in tasks.WITHHELD:
        assert {answer for _, answer, _ in tasks.facts(split)} <= known
        assert len(tasks.agreements(split)) == 10
    assert {noun for noun, _ in tasks.agreements("training")} == set(range(len(language.NOUNS)))
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
