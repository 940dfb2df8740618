"""Parts of an experiment's `evaluation`: what can be said of demonstrations, of single tasks and of averages."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from mm1_ablate.spec.settings import Misfit, Settings

Protocol = Literal["mm1", "openflamingo"]


class Sets(Settings):
    sets: PositiveInt
    """How many sets of demonstrations there are. Queries are dealt to them in turn, so scores also tell the luck of the draw."""


class TextOnly(Settings):
    text_only: PositiveInt
    """Demonstrations without their images before an image question at 0 shots."""


Demonstrations = Literal["per_task", "per_query"] | Sets

PRESETS: dict[Protocol, dict[str, Any]] = {
    "mm1": {},
    "openflamingo": {"demonstrations": "per_query", "zero_shot": TextOnly(text_only=2)},
}
"""What a protocol says of other fields of `evaluation`, where these are not written."""


class Wording(Settings):
    """How a task is asked instead of as its record says. Nothing: as the record says."""

    prompt: str | None = None
    separator: str | None = None
    stop: list[Annotated[str, Field(min_length=1)]] | None = None
    max_new_tokens: PositiveInt | None = None


class TaskSettings(Wording):
    """What an experiment says of a task instead of its record, and of the protocol."""

    items: PositiveInt | None = None
    """Items of this task. Nothing: `evaluation.items`."""


class Group(Settings):
    """Tasks that have an average of their own: `shot_8/<name>` over its image tasks, `text_core/<name>` over its text tasks.

    Every member counts alike unless it has a weight: 100 x CIDEr beside accuracy in percent, as in MM1. A group of groups is the mean of
    their means: of `captions` and `questions`, say, so that three caption tasks count as much as five question tasks.
    """

    tasks: list[str] = Field(min_length=1)
    """Names of tasks, as tables show them, or of other groups."""
    weights: dict[str, PositiveFloat] = {}
    """Weights of members in the mean; 1 where none is given."""

    @field_validator("tasks")
    @classmethod
    def _distinct(cls, tasks: list[str]) -> list[str]:
        if len(set(tasks)) != len(tasks):
            raise ValueError("a task occurs twice")
        return tasks

    @model_validator(mode="after")
    def _weights_are_of_its_tasks(self) -> Group:
        for task in self.weights:
            if task not in self.tasks:
                raise Misfit(f"weights.{task}", f"it is not among the group's tasks: {', '.join(self.tasks)}")
        return self


def misnamed(groups: Mapping[str, Group], overridden: Iterable[str], tasks: Collection[str]) -> tuple[str, str] | None:
    """The first name in groups or overrides that is neither a task nor a group, or a group that holds itself: (place, what is wrong)."""
    known = ", ".join(tasks)
    for task in overridden:
        if task not in tasks:
            return f"overrides.{task}", f"'{task}' is not evaluated; the tasks are {known}"
    for name, group in groups.items():
        if name in tasks:
            return f"groups.{name}", "a task has this name; give the group another"
        for member in group.tasks:
            if member not in tasks and member not in groups:
                return f"groups.{name}.tasks", f"'{member}' is neither a task that is evaluated nor a group; the tasks are {known}"
        if name in _inside(groups, name, set()):
            return f"groups.{name}.tasks", f"'{name}' holds itself, by way of {', '.join(group.tasks)}"
    return None


def _inside(groups: Mapping[str, Group], name: str, seen: set[str]) -> set[str]:
    """The groups inside a group, at any depth."""
    for member in groups[name].tasks:
        if member in groups and member not in seen:
            seen.add(member)
            _inside(groups, member, seen)
    return seen
