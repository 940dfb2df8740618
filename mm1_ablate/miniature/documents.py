"""Training documents of the miniature world: (world seed, content, index) in, `Document` parts out.

Contents: `alt_text` and `synthetic_captions` (an image and a caption), `interleaved` (3 to 9 images with questions, a hidden
attribute or descriptions) and `text` (facts, agreement, questions about scenes in words, stories).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mm1_ablate.data.counter_based_random import Draws, below, hashed, key
from mm1_ablate.data.documents import Image
from mm1_ablate.miniature import language, tasks
from mm1_ablate.miniature.rendering import image_pool
from mm1_ablate.miniature.world import NAMES, POOL_SIZES, Scene, scenes

Parts = tuple[str | Image, ...]

KEPT_IN_ALT_TEXT = 0.4
WRONG_IMAGE = 0.12
"""How often the words beside an image are about another one, in alt-text and in interleaved documents."""
NAME_ALL_ON_PAGES = 0.6
"""How often an interleaved document may name any attribute, and not only those of `NAMED_ON_PAGES`."""
FEWEST_IMAGES, MOST_IMAGES = 3, 9


# ---------------------------------------------------------------- captions
def alt_text(world_seed: int, index: int) -> Parts:
    """An image with what a web page might say of it: some attributes, junk, and now and then the words of another image."""
    pool = scenes(world_seed, "training")
    draws = Draws(key("alt text", world_seed), index)
    place = index % len(pool)
    scene = pool[draws.below(len(pool))] if draws.chance(WRONG_IMAGE) else pool[place]
    words = [value for value in scene if draws.chance(KEPT_IN_ALT_TEXT)]
    words += draws.sample(language.JUNK, 1 + draws.below(4))
    return image_pool("training", world_seed)[place], " ".join(draws.sample(words, len(words)))


def synthetic_caption(world_seed: int, index: int) -> Parts:
    """An image with a caption that says all there is."""
    pool = scenes(world_seed, "training")
    place = index % len(pool)
    template = Draws(key("synthetic captions", world_seed), index).below(len(language.CAPTIONS))
    return image_pool("training", world_seed)[place], language.caption(pool[place], template)


# ---------------------------------------------------------------- interleaved
def images_of(world_seed: int, indices: np.ndarray) -> np.ndarray:
    """How many images interleaved documents have: half of them 9, as many as an 8-shot prompt, the others 3 to 8."""
    draws = hashed(key("interleaved lengths", world_seed), indices, 0)
    count = below(draws, 2 * (MOST_IMAGES - FEWEST_IMAGES)) + FEWEST_IMAGES
    images: np.ndarray = np.minimum(count, MOST_IMAGES)
    return images


@lru_cache(maxsize=8)
def first_pairs(world_seed: int, documents: int) -> np.ndarray:
    """int64 [documents + 1]: the number of image-text pairs in all documents before each, and in all."""
    return np.concatenate([[0], np.cumsum(images_of(world_seed, np.arange(documents)))])


def interleaved(world_seed: int, index: int, images: bool = True) -> Parts:
    """A document of several images. Without `images` its text stays as it is."""
    pairs, separator = _interleaved(world_seed, index)
    texts = [f"{text} {separator}" for _, text in pairs[:-1]] + [pairs[-1][1]]
    if not images:
        return (" ".join(texts),)
    return tuple(part for (picture, _), text in zip(pairs, texts, strict=True) for part in (picture, text))


def interleaved_pair(world_seed: int, index: int, documents: int, images: bool = True) -> Parts:
    """The same images and texts as single pairs: pair `index` of the first `documents` interleaved documents."""
    firsts = first_pairs(world_seed, documents)
    document = int(np.searchsorted(firsts, index, side="right")) - 1
    picture, text = _interleaved(world_seed, document)[0][index - int(firsts[document])]
    return (picture, text) if images else (text,)


def _interleaved(world_seed: int, index: int) -> tuple[list[tuple[Image, str]], str]:
    """(image, words after it) of a document, and what separates them."""
    pool, pictures = scenes(world_seed, "training"), image_pool("training", world_seed)
    draws = Draws(key("interleaved", world_seed), index)
    size = int(images_of(world_seed, np.array([index]))[0])
    chosen = [draws.below(len(pool)) for _ in range(size)]
    told = [pool[draws.below(len(pool)) if draws.chance(WRONG_IMAGE) else place] for place in chosen]
    named = NAMES if draws.chance(NAME_ALL_ON_PAGES) else language.NAMED_ON_PAGES
    kind = draws.below(100)
    if kind < 30:
        texts = _page_questions(draws, told, [draws.choice(named)] * size)
    elif kind < 50:
        texts = _page_questions(draws, told, [draws.choice(named) for _ in told])
    elif kind < 85:
        texts = _hidden_attribute(draws, told, NAMES.index(draws.choice(named)))
    else:
        texts = _page_descriptions(draws, told, named)
    separator = draws.choice(language.SEPARATORS)
    return [(pictures[place], text) for place, text in zip(chosen, texts, strict=True)], separator


def _page_questions(draws: Draws, told: list[Scene], asked: list[str]) -> list[str]:
    """A question and its answer to every image, all in one wording."""
    question = draws.choice(language.PAGE_QUESTIONS)
    return [f"{question.format(name=name)} {scene[NAMES.index(name)]}" for name, scene in zip(asked, told, strict=True)]


def _hidden_attribute(draws: Draws, told: list[Scene], attribute: int) -> list[str]:
    """One attribute of every image, in a format drawn for the document: which attribute, only the document says."""
    cue = " ".join(draws.sample(language.CUES, (0, 1, 1, 1, 2)[draws.below(5)]))
    link = draws.choice(language.LINKS)
    return [" ".join(word for word in (cue, link, scene[attribute]) if word) for scene in told]


def _page_descriptions(draws: Draws, told: list[Scene], named: tuple[str, ...]) -> list[str]:
    """Several attributes of every image, always the same ones in the same order and with the same words between them."""
    said = draws.sample(named, 2 + draws.below(min(len(named), 5) - 1))
    # Nine words at most, so that nine images with theirs fit into a row.
    between = draws.sample(["{}"] * len(said) + [""] * (9 - len(said)), 9)
    fillers = [draws.choice(language.PAGE_WORDS) if draws.chance(0.6) else "" for _ in between]
    template = " ".join(slot or filler for slot, filler in zip(between, fillers, strict=True))
    places = [NAMES.index(name) for name in said]
    return [" ".join(template.format(*(scene[place] for place in places)).split()) for scene in told]


# ---------------------------------------------------------------- text
def text(world_seed: int, index: int) -> Parts:
    """Facts, agreement, questions about a scene in words, or a story."""
    draws = Draws(key("text", world_seed), index)
    kind = draws.below(4)
    if kind == 0:
        sentences = [tasks.training_fact(draws) for _ in range(3 + draws.below(4))]
    elif kind == 1:
        sentences = [tasks.training_agreement(draws) for _ in range(3 + draws.below(4))]
    elif kind == 2:
        return (_questions(world_seed, draws),)
    else:
        pool = scenes(world_seed, "training")
        return (language.story(draws, draws.choice(pool), language.CUES + language.EVALUATION_CUES),)
    return (" . ".join(sentences),)


def _questions(world_seed: int, draws: Draws) -> str:
    """A scene in words, then questions and their answers, or statements."""
    scene = tasks.training_scene(draws)
    asked = draws.sample(range(len(NAMES)), 2 + draws.below(3))
    as_statement = draws.chance(0.3)
    sentences = [language.caption(scene, draws.below(len(language.CAPTIONS)))]
    for place in asked:
        if as_statement:
            sentences.append(language.STATEMENT.format(name=NAMES[place], value=scene[place]))
        else:
            sentences.append(f"Q : {language.QUESTIONS[NAMES[place]]} A : {scene[place]}")
    return " . ".join(sentences)


PARTS = {"alt_text": alt_text, "synthetic_captions": synthetic_caption, "text": text}
"""Content to a function of (world seed, index); interleaved documents have switches of their own."""
DOCUMENTS = {"alt_text": POOL_SIZES["training"], "synthetic_captions": POOL_SIZES["training"], "interleaved": 40_000, "text": 40_000}
"""Documents of one epoch, unless a source says otherwise."""
