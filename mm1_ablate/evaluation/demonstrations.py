"""Selection of the demonstrations before a question.

A pure function of the evaluation seed, the task's name, the group, the policy, and what cannot be shown: never of the batch size or of
which process asks. Nested: the 4-shot demonstrations are the first four of the 8-shot ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from mm1_ablate.config.evaluation import Demonstrations, Sets
from mm1_ablate.data.documents import Item


def _random_order(generator: random.Random, count: int) -> Iterator[int]:
    """0 .. count-1 in random order, one after the other: how many are taken changes nothing in those before (Fisher-Yates)."""
    moved: dict[int, int] = {}
    for position in range(count):
        other = generator.randrange(position, count)
        yield moved.get(other, other)
        moved[other] = moved.get(position, position)


def assigned_sets(queries: Sequence[Item], policy: Demonstrations, seed: int, task: str) -> list[int]:
    """The set of demonstrations that each query gets: one of `sets: k`, 0 where all have one, -1 where each has its own.

    Within a group the queries take turns in random order, so that all sets get the same number of them, give or take one.
    """
    if not isinstance(policy, Sets):
        return [0 if policy == "per_task" else -1] * len(queries)
    groups: dict[str, list[int]] = {}
    for place, query in enumerate(queries):
        groups.setdefault(query.group, []).append(place)
    numbers = [0] * len(queries)
    for group, places in groups.items():
        for turn, member in enumerate(_random_order(_generator(seed, task, group, "dealt"), len(places))):
            numbers[places[member]] = turn % policy.sets
    return numbers


def demonstrations(
    query: Item,
    pool: Sequence[Item],
    shots: int,
    seed: int,
    task: str,
    policy: Demonstrations,
    set_number: int = 0,
    usable: Callable[[Item], bool] = lambda item: True,
) -> tuple[Item, ...]:
    """The `shots` solved items that stand before a question, the first one first.

    Args:
        query: the question. Neither it nor another question about its picture is among them: it then takes the next one.
        pool: solved items of the question's group.
        policy: `per_task`: the same for all questions of a group (MM1); `sets: k`: one of k; `per_query`: drawn for each (OpenFlamingo).
        set_number: which of the k sets.
        usable: whether an item can be shown; the next one replaces one that cannot. Asked only of those whose turn it is.

    Raises:
        ValueError: where the pool is too small.
    """
    if not shots:
        return ()
    if isinstance(policy, Sets):
        generator = _generator(seed, task, query.group, "sets", str(set_number))
    else:
        generator = _generator(seed, task, query.group, policy, *([query.id] if policy == "per_query" else []))
    chosen: list[Item] = []
    for index in _random_order(generator, len(pool)):
        candidate = pool[index]
        same_picture = candidate.image is not None and query.image is not None and candidate.image.key == query.image.key
        if candidate.id != query.id and not same_picture and usable(candidate):
            chosen.append(candidate)
            if len(chosen) == shots:
                return tuple(chosen)
    raise ValueError(
        f"evaluation.tasks: {task}, group '{query.group}': {shots} shots need {shots} demonstrations,"
        f" but there are {len(chosen)} besides the question"
    )


def _generator(seed: int, *key: str) -> random.Random:
    return random.Random("\n".join([str(seed), *key]))
