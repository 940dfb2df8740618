"""Which solved items stand before a question.

A pure function of the evaluation seed, the task's name, the group and the policy (for `per_query` the question too): never of the
batch size or of which process asks. Nested: the 4-shot demonstrations are the first four of the 8-shot ones.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mm1_ablate.data.documents import Item

Policy = Literal["per_task", "per_query"]


def _drawn(generator: random.Random, count: int) -> Iterator[int]:
    """0 .. count-1 in random order, one after the other: how many are taken changes nothing in those before (Fisher-Yates)."""
    moved: dict[int, int] = {}
    for position in range(count):
        other = generator.randrange(position, count)
        yield moved.get(other, other)
        moved[other] = moved.get(position, position)


def demonstrations(query: Item, pool: Sequence[Item], shots: int, seed: int, task: str, policy: Policy) -> tuple[Item, ...]:
    """The `shots` solved items that stand before a question, the first one first.

    Args:
        query: the question. Neither it nor another question about its picture is among them: it then takes the next one.
        pool: solved items of the question's group.
        policy: `per_task`: the same for all questions of a group (MM1); `per_query`: drawn for each (OpenFlamingo).

    Raises:
        ValueError: where the pool is too small.
    """
    if not shots:
        return ()
    key = [str(seed), task, query.group, policy] + ([query.id] if policy == "per_query" else [])
    chosen: list[Item] = []
    for index in _drawn(random.Random("\n".join(key)), len(pool)):
        candidate = pool[index]
        same_picture = candidate.image is not None and query.image is not None and candidate.image.key == query.image.key
        if candidate.id != query.id and not same_picture:
            chosen.append(candidate)
            if len(chosen) == shots:
                return tuple(chosen)
    raise ValueError(
        f"evaluation.tasks: {task}, group '{query.group}': {shots} shots need as many demonstrations,"
        f" there are {len(chosen)} beside the question"
    )
