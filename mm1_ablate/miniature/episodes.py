"""Evaluation items of the miniature world: (content, split, count, seed) in, queries and demonstrations out.

Queries show images of the split's own pool, demonstrations images of the training pool. A group is an episode: its queries share
their demonstrations. The image tasks ask in formats that never stand beside an image in training; the text tasks ask for what
`tasks` withholds from training texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

from mm1_ablate.data.counter_based_random import Draws, key, permuted
from mm1_ablate.data.documents import Item, ItemSet
from mm1_ablate.miniature import language, tasks
from mm1_ablate.miniature.rendering import image_pool
from mm1_ablate.miniature.world import ATTRIBUTES, NAMES, POOL_SIZES, Scene, scenes

COUNT = 240
"""Queries of a task, unless told otherwise."""
DEMONSTRATIONS = 24
"""Candidates for demonstrations in each group."""
EPISODES = 2
"""Groups of each question that is always asked in one format: one unlucky set of demonstrations would affect all of it."""
FINE_DETAIL_CUE = "the grain is"
CHOICES = 4

Answer = tuple[Mapping[str, str], tuple[str, ...]]
"""Fields and references of one question."""


def items(content: str, split: str, count: int | None = None, seed: int = 0, world_seed: int = 0) -> ItemSet:
    """The items of a task.

    Raises:
        ValueError: if there is no such content or split, or more queries are wanted than the pool has images.
    """
    if split not in tasks.WITHHELD:
        raise ValueError(f"no evaluation split '{split}' (there are: {', '.join(tasks.WITHHELD)})")
    count = COUNT if count is None else count
    if content in IMAGE_QUESTIONS:
        return _about_images(content, split, count, seed, world_seed)
    if content in TEXT_QUESTIONS:
        return _about_texts(content, split, count, seed, world_seed)
    raise ValueError(f"no task '{content}' in the miniature world (there are: {', '.join([*IMAGE_QUESTIONS, *TEXT_QUESTIONS])})")


# ---------------------------------------------------------------- questions about images
def _attribute(group: int, scene: Scene) -> Answer:
    attribute, form = divmod(group, len(language.EVALUATION_FORMATS))
    cue, separator = language.EVALUATION_FORMATS[form]
    return {"cue": cue, "separator": separator, "attribute": NAMES[attribute]}, (scene[attribute],)


def _vqa(group: int, scene: Scene) -> Answer:
    """All questions of an episode are the same one."""
    attribute = group % len(NAMES)
    return {"question": language.QUESTIONS[NAMES[attribute]], "attribute": NAMES[attribute]}, (scene[attribute],)


def _fine_detail(group: int, scene: Scene) -> Answer:
    return {"cue": FINE_DETAIL_CUE, "attribute": "grain"}, (scene[NAMES.index("grain")],)


def _caption(group: int, scene: Scene) -> Answer:
    """The demonstrations of an episode all speak in one template; every template is a reference."""
    templates = [group, *(template for template in range(len(language.CAPTIONS)) if template != group)]
    return {"slots": " ".join(scene)}, tuple(language.caption(scene, template) for template in templates)


IMAGE_QUESTIONS: dict[str, tuple[Callable[[int, Scene], Answer], int]] = {
    "attributes": (_attribute, len(NAMES) * len(language.EVALUATION_FORMATS)),
    "vqa": (_vqa, len(NAMES) * EPISODES),
    "fine_detail": (_fine_detail, 4 * EPISODES),
    "captions": (_caption, len(language.CAPTIONS)),
}
"""Content to (question of a group about a scene) and the number of groups."""


def _about_images(content: str, split: str, count: int, seed: int, world_seed: int) -> ItemSet:
    question, groups = IMAGE_QUESTIONS[content]
    if count > POOL_SIZES[split]:
        raise ValueError(f"{count} queries, but the {split} pool of the miniature world has {POOL_SIZES[split]} images")
    pool, pictures = scenes(world_seed, split), image_pool(split, world_seed)
    queries = []
    for number in range(count):
        index = permuted(key("queries", content, split, seed), number, len(pool))
        # Groups take turns, so that fewer queries are still balanced.
        group = number % groups
        fields, references = question(group, pool[index])
        queries.append(Item(f"{content}/{split}-{seed}/{number}", f"{content}/{group}", pictures[index], fields, references))

    pool, pictures = scenes(world_seed, "training"), image_pool("training", world_seed)
    demonstrations: list[Item] = []
    for group in range(min(groups, count)):
        draws = Draws(key("demonstrations", content, split, seed), group)
        shown: Counter[str] = Counter()
        while (number := shown.total()) < DEMONSTRATIONS:
            index = draws.below(len(pool))
            fields, references = question(group, pool[index])
            answer = references[0]
            # An answer comes again only when the group has shown the others as often; captions are not answers of a kind.
            if "attribute" in fields and shown[answer] > min(shown[value] for value in ATTRIBUTES[fields["attribute"]]):
                continue
            shown[answer] += 1
            identity = f"{content}/{split}-{seed}/group-{group}/{number}"
            demonstrations.append(Item(identity, f"{content}/{group}", pictures[index], fields, references))
    return ItemSet(queries, demonstrations)


# ---------------------------------------------------------------- questions about texts
def _fact(split: str, number: int, draws: Draws) -> tuple[str, str, list[str]]:
    known = tasks.facts(split)
    phrase, answer, others = known[number % len(known)]
    return phrase, answer, draws.sample(others, CHOICES - 1)


def _agreement(split: str, number: int, draws: Draws) -> tuple[str, str, list[str]]:
    """One choice agrees with the subject; the others are the same verb and two more in the other number."""
    pairs = tasks.agreements(split)
    noun, verb = pairs[number % len(pairs)]
    plural = draws.below(2)
    others = draws.sample([place for place in range(len(language.VERBS)) if place != verb], CHOICES - 2)
    wrong = [language.VERBS[place][1 - plural] for place in (verb, *others)]
    return tasks.subject(draws, noun, plural, draws.chance(0.75)), language.VERBS[verb][plural], wrong


def _text_question(split: str, number: int, draws: Draws) -> tuple[str, str, list[str]]:
    scene = tasks.scene_of(draws, split)
    asked = [place for place, values in enumerate(ATTRIBUTES.values()) if len(values) >= CHOICES]
    place = asked[number % len(asked)]
    context = f"{language.caption(scene, draws.below(len(language.CAPTIONS)))} . Q : {language.QUESTIONS[NAMES[place]]} A :"
    return context, scene[place], draws.sample([value for value in ATTRIBUTES[NAMES[place]] if value != scene[place]], CHOICES - 1)


TEXT_QUESTIONS: dict[str, Callable[[str, int, Draws], tuple[str, str, list[str]]]] = {
    "facts": _fact,
    "agreement": _agreement,
    "text_qa": _text_question,
}
"""Content to (context, right answer, wrong answers) of a query."""


def _about_texts(content: str, split: str, count: int, seed: int, world_seed: int) -> ItemSet:
    question = partial(TEXT_QUESTIONS[content], split)
    queries = []
    for number in range(count):
        draws = Draws(key("text queries", content, split, seed, world_seed), number)
        context, right, wrong = question(number, draws)
        choices = tuple(draws.sample([right, *wrong], CHOICES))
        queries.append(
            Item(f"{content}/{split}-{seed}/{number}", content, None, {"context": context}, (right,), choices, choices.index(right))
        )
    return ItemSet(queries, [])
