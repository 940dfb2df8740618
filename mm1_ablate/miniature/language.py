"""Every word of the miniature world and the phrases that are made of them: captions, formats, facts, questions.

Words are separated by spaces, punctuation too. The vocabulary is the words in the order in which they are written here.
"""

from __future__ import annotations

from collections.abc import Iterable

from mm1_ablate.data.counter_based_random import Draws
from mm1_ablate.miniature.world import ATTRIBUTES, NAMES, Scene

PADDING, END = "<pad>", "<end>"


def _listed(words: str) -> tuple[str, ...]:
    return tuple(words.split())


# ---------------------------------------------------------------- pictures in words
CAPTIONS = (
    "a {size} {colour} {shape} , {side} , {wall} {grain}",
    "{wall} wall : {size} {colour} {shape} {side} , {grain}",
    "{grain} and a {size} {shape} in {colour} {side} {wall}",
    "{colour} {shape} , {size} {side} of a {wall} {grain}",
    "here a {size} {shape} , {colour} {side} {wall} {grain}",
)
"""Captions that say all there is. Captioning is judged by them too."""
JUNK = _listed("photo image stock free buy new best shop hd click sale art print gallery online deal")


def caption(scene: Scene, template: int) -> str:
    """A full description of a scene, by one of the templates."""
    return CAPTIONS[template].format(**dict(zip(NAMES, scene, strict=True)))


# ---------------------------------------------------------------- formats of interleaved documents
NAMED_ON_PAGES = tuple(name for name in NAMES if name != "wall")
"""The attributes that all interleaved documents may speak of. The wall is seldom named but in captions."""
PAGE_QUESTIONS = (
    "tell me the {name} here :",
    "which {name} has this one , reply :",
    "please name the {name} shown ->",
    "{name} of this picture =",
    "and its {name} , you say :",
)
"""Questions that stand beside images, in other words than those that are asked in evaluation."""
PAGE_WORDS = _listed("look this we like my and with one , : ; near some that")
"""What stands between attributes in descriptions on interleaved pages."""
CUES = _listed("card note label tag item entry page sheet slide frame ticket stamp box file list map")
LINKS = ("->", ":", "=", "~", ">", "shows", "is", "")
SEPARATORS = ("|", ";", "/", ",", ".", "&")
EVALUATION_CUES = ("panel", "sample", "exhibit", "record")
"""Nouns of the text documents that never stand beside an image in training."""
EVALUATION_FORMATS = (("panel :", ";"), ("sample =", "|"), ("exhibit =>", "/"), ("record sheet ->", ","))
"""Cue and separator of the four formats in which attributes are asked for."""

# ---------------------------------------------------------------- questions about scenes
QUESTIONS = {name: f"what {name} ?" for name in NAMES}
STATEMENT = "the {name} is {value}"

# ---------------------------------------------------------------- facts
CAPITALS = {
    "france": "paris", "spain": "madrid", "italy": "rome", "japan": "tokyo", "egypt": "cairo", "peru": "lima",
    "cuba": "havana", "kenya": "nairobi", "norway": "oslo", "china": "beijing", "greece": "athens", "iraq": "baghdad",
}  # fmt: skip
KINDS = {
    "apple": "fruit", "lemon": "fruit", "plum": "fruit", "pear": "fruit",
    "hammer": "tool", "spade": "tool", "drill": "tool", "rake": "tool",
    "horse": "animal", "goat": "animal", "duck": "animal", "frog": "animal",
    "truck": "vehicle", "train": "vehicle", "boat": "vehicle", "plane": "vehicle",
}  # fmt: skip
PLACES = {
    "apple": "kitchen", "lemon": "kitchen", "plum": "garden", "pear": "garden",
    "hammer": "shed", "spade": "garden", "drill": "shed", "rake": "shed",
    "horse": "barn", "goat": "barn", "duck": "garden", "frog": "kitchen",
    "truck": "barn", "train": "station", "boat": "shed", "plane": "station",
}  # fmt: skip
FACTS = (
    (CAPITALS, ("the capital of {} is", "{} has the capital", "in {} the capital is", "Q : what is the capital of {} ? A :")),
    (KINDS, ("the {} is a kind of", "the kind of the {} is", "every {} is a sort of", "Q : what kind is the {} ? A :")),
    (PLACES, ("the {} is in the", "look for the {} in the", "they keep the {} in the", "Q : where is the {} ? A :")),
)
"""A relation and its four phrasings; the answer comes last."""

# ---------------------------------------------------------------- agreement
NOUNS = (
    *((noun, f"{noun}s") for noun in _listed("dog cat boy girl bird king teacher farmer singer")),
    ("child", "children"),
)
"""Singular and plural, as in `VERBS`."""
VERBS = (
    ("runs", "run"), ("sings", "sing"), ("sleeps", "sleep"), ("jumps", "jump"),
    ("eats", "eat"), ("waits", "wait"), ("works", "work"), ("smiles", "smile"),
)  # fmt: skip
BETWEEN = ("near", "behind", "beside", "with")

# ---------------------------------------------------------------- stories
PEOPLE = _listed("tom anna mia sam leo eva")
SPOTS = ("park", "garden", "kitchen", "barn", "station", "shed", "school", "market")
OPENINGS = ("{person} went to the {spot} .", "one day {person} was in the {spot} .", "{person} and {friend} met at the {spot} .")
SIGHTS = (
    "there {person} found the {cue} .",
    "on the {cue} was one {colour} {shape} .",
    "it had a {size} {shape} .",
    "the {cue} was {grain} .",
)
ENDINGS = ("then {person} went home .", "{friend} was happy .", "{person} gave the {cue} to {friend} .")


def _words() -> Iterable[str]:
    """Every word, again and again, in the order of this file."""
    yield from (PADDING, END)
    for values in ATTRIBUTES.values():
        yield from values
    yield from NAMES
    yield from JUNK
    yield from PAGE_WORDS + CUES + LINKS + SEPARATORS + EVALUATION_CUES + BETWEEN + PEOPLE + SPOTS
    for pair in NOUNS + VERBS:
        yield from pair
    for answers, _ in FACTS:
        for subject, answer in answers.items():
            yield from (subject, answer)
    phrases = [*CAPTIONS, *(cue for cue, _ in EVALUATION_FORMATS), *QUESTIONS.values(), STATEMENT, "Q A the"]
    phrases += [phrase for _, phrasings in FACTS for phrase in phrasings]
    phrases += [*PAGE_QUESTIONS, *OPENINGS, *SIGHTS, *ENDINGS]
    for phrase in phrases:
        yield from (word for word in phrase.split() if not word.startswith("{"))


VOCABULARY = tuple(dict.fromkeys(word for word in _words() if word))
"""All words; a word's place is its token id."""


def story(draws: Draws, scene: Scene, cues: tuple[str, ...]) -> str:
    """Three to five sentences about people who find a picture."""
    person, friend = draws.sample(PEOPLE, 2)
    people = {"person": person, "friend": friend, "spot": draws.choice(SPOTS), "cue": draws.choice(cues)}
    said = people | dict(zip(NAMES, scene, strict=True))
    sights = [SIGHTS[place] for place in sorted(draws.sample(range(len(SIGHTS)), 1 + draws.below(3)))]
    sentences = [draws.choice(OPENINGS), *sights, draws.choice(ENDINGS)]
    return " ".join(sentence.format(**said) for sentence in sentences)
