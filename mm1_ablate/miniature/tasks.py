"""What the text tasks know and withhold: facts, agreement and scenes, each split into training, report and development.

A model is asked for what it has not read: a fact in another phrasing, a subject with a verb that it never stood beside, a scene that
no text described. What is withheld for a report differs from what is withheld for development.
The same functions draw the sentences of training documents, so that neither can drift from the other.
"""

from __future__ import annotations

from functools import lru_cache

from mm1_ablate.data.counter_based_random import Draws, key, mix
from mm1_ablate.miniature import language
from mm1_ablate.miniature.world import ATTRIBUTES, Scene

WITHHELD = ("report", "development")


def _part(parts: int, *what: int | str) -> int:
    """A fixed draw from 0 to parts - 1 for a thing of the world."""
    return mix(key("withheld", *what)) % parts


# ---------------------------------------------------------------- facts
@lru_cache(maxsize=4)
def facts(split: str) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """(phrase, answer, wrong answers) of a split: of four phrasings of a fact, report and development have one each."""
    found = []
    for number, (answers, phrasings) in enumerate(language.FACTS):
        possible = tuple(dict.fromkeys(answers.values()))
        for subject, answer in answers.items():
            first = _part(len(phrasings), "fact", number, subject)
            withheld = {first: "report", (first + 1 + _part(3, "other", number, subject)) % len(phrasings): "development"}
            for place, phrasing in enumerate(phrasings):
                if withheld.get(place, "training") == split:
                    found.append((phrasing.format(subject), answer, tuple(other for other in possible if other != answer)))
    return tuple(found)


def training_fact(draws: Draws) -> str:
    phrase, answer, _ = draws.choice(facts("training"))
    return f"{phrase} {answer}"


# ---------------------------------------------------------------- agreement
@lru_cache(maxsize=4)
def agreements(split: str) -> tuple[tuple[int, int], ...]:
    """(noun, verb) pairs; an eighth is withheld for reports, an eighth for development."""
    parts = {0: "report", 4: "development"}
    pairs = ((noun, verb) for noun in range(len(language.NOUNS)) for verb in range(len(language.VERBS)))
    return tuple((noun, verb) for noun, verb in pairs if parts.get((3 * noun + verb) % 8, "training") == split)


def subject(draws: Draws, noun: int, number: int, attracted: bool) -> str:
    """A subject, perhaps with another noun of the other number between it and its verb."""
    head = f"the {language.NOUNS[noun][number]}"
    if not attracted:
        return head
    return f"{head} {draws.choice(language.BETWEEN)} the {draws.choice(language.NOUNS)[1 - number]}"


def training_agreement(draws: Draws) -> str:
    noun, verb = draws.choice(agreements("training"))
    number = draws.below(2)
    return f"{subject(draws, noun, number, draws.chance(0.6))} {language.VERBS[verb][number]}"


# ---------------------------------------------------------------- scenes in words
def scene_split(scene: Scene) -> str:
    """Whose texts may describe a scene: a tenth belongs to reports, a tenth to development."""
    return {0: "report", 1: "development"}.get(_scene_part(scene), "training")


@lru_cache(maxsize=1 << 16)
def _scene_part(scene: Scene) -> int:
    return _part(10, "scene", *scene)


def scene_of(draws: Draws, split: str) -> Scene:
    """A scene that the texts of a split may describe."""
    while True:
        scene = tuple(draws.choice(values) for values in ATTRIBUTES.values())
        if scene_split(scene) == split:
            return scene


def training_scene(draws: Draws) -> Scene:
    return scene_of(draws, "training")
