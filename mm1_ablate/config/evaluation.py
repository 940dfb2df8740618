"""What is measured and how: tasks, shots, demonstrations, averages, and losses on held-out documents.

Part of `experiment.py`, whose rules on defaults and identity hold here too.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator, model_validator

from mm1_ablate.config.data import AnySource
from mm1_ablate.config.settings import HowItRuns, SettingError, Settings
from mm1_ablate.config.training import Precision

TASKS = Path(__file__).resolve().parent.parent / "evaluation" / "tasks"
"""The task records of this package."""
Protocol = Literal["mm1", "openflamingo"]


class Sets(Settings):
    """Several sets of demonstrations for each task."""

    sets: PositiveInt
    """Number of demonstration sets. Queries are assigned to them in turn, so scores average over several draws."""


class TextOnly(Settings):
    """Demonstrations without images at 0 shots."""

    text_only: PositiveInt
    """Number of demonstrations shown without images before an image question at 0 shots."""


Demonstrations = Literal["per_task", "per_query"] | Sets

PRESETS: dict[Protocol, dict[str, Any]] = {
    "mm1": {},
    "openflamingo": {"demonstrations": "per_query", "zero_shot": TextOnly(text_only=2)},
}
"""Defaults that a protocol sets for other fields of `evaluation`."""


class Wording(Settings):
    """How a task is asked instead of as its record says. None: as the record says."""

    prompt: str | None = None
    """The template of a question and its answer, as in a record of a task. None: the record's."""
    separator: str | None = None
    """The text that ends a demonstration. None: the record's."""
    stop: list[Annotated[str, Field(min_length=1)]] | None = None
    """Texts before which an answer ends. None: the record's."""
    max_new_tokens: PositiveInt | None = None
    """The longest answer that is generated, in tokens. None: the record's."""


class TaskSettings(Wording):
    """What an experiment says of a task instead of its record, and of the protocol."""

    items: PositiveInt | None = None
    """Number of items of this task. None: `evaluation.items`."""


class TaskGroup(Settings):
    """Tasks that have an average of their own: `shot_8/<name>` over its image tasks, `text_core/<name>` over its text tasks.

    Every member counts alike unless it has a weight: 100 x CIDEr beside accuracy in percent, as in MM1. A group of groups is the mean of
    their means: of `captions` and `questions`, say, so that three caption tasks count as much as five question tasks.
    """

    tasks: list[str] = Field(min_length=1)
    """Names of tasks or of other groups."""
    weights: dict[str, PositiveFloat] = {}
    """Weights of members in the mean. Default: 1."""

    @field_validator("tasks")
    @classmethod
    def _distinct(cls, tasks: list[str]) -> list[str]:
        if len(set(tasks)) != len(tasks):
            raise ValueError("a task occurs twice")
        return tasks

    @model_validator(mode="after")
    def _weights_are_of_its_tasks(self) -> TaskGroup:
        for task in self.weights:
            if task not in self.tasks:
                raise SettingError(f"weights.{task}", f"it is not among the group's tasks: {', '.join(self.tasks)}")
        return self


class HeldOut(Settings):
    """Documents that training does not read, to measure how well they are predicted."""

    source: AnySource
    """Where the documents come from: a source as under `data.sources`."""
    first: Annotated[int, Field(ge=0)] = 0
    """Index of the first document. For a source that training reads too, choose one that training cannot reach."""
    documents: PositiveInt = 1000
    """Maximum number of documents."""


class Evaluation(Settings):
    """What is measured, and how."""

    tasks: list[str]
    """Names of records in `mm1_ablate/evaluation/tasks/`, or paths of your own records, relative to this file."""
    shots: list[Annotated[int, Field(ge=0)]] = [0, 4, 8]
    """Numbers of demonstrations before an image question. Text tasks are evaluated without demonstrations."""
    items: PositiveInt | None = None
    """Number of items of each task. None: all."""
    seed: int = 0
    """Seed that selects items, and demonstrations unless `seeds` is given. The same for all arms and training seeds."""
    seeds: list[int] | None = None
    """Evaluation seeds: each draws other demonstrations for the same items, and scores are means over all. None: `seed` alone."""
    split: Literal["report", "development"] = "report"
    """development: other episodes from another image pool, for tuning a recipe."""
    protocol: Protocol = "mm1"
    """openflamingo: the prompts, stop strings, demonstrations and text-only zero-shot of OpenFlamingo (Awadalla et al. 2023), unless
    this section or a task's record sets them."""
    demonstrations: Demonstrations = "per_task"
    """per_task: one nested set for all queries of a task group (MM1); {sets: k}: k of them; per_query: drawn for each query
    (OpenFlamingo)."""
    zero_shot: TextOnly | None = None
    """What precedes an image question at 0 shots. None: no demonstration; {text_only: 2}: demonstrations without images (OpenFlamingo)."""
    overrides: dict[str, TaskSettings] = {}
    """By task: replacements for the items, prompt, separator, stop strings and token limit of its record."""
    groups: dict[str, TaskGroup] = {}
    """Averages over some of the tasks or groups, by name. A group named 'average' replaces the average over all tasks."""
    losses: dict[str, HeldOut] = {}
    """Held-out documents whose loss per token is `loss/<name>` and whose bits per byte of text are `bits_per_byte/<name>`."""
    probability: bool = False
    """Also measure how probable the right answer is, for every task and at every number of shots: `8-shot probability` beside `8-shot`."""
    precision: Precision = "32-true"
    """Precision of the evaluation, independent of training. bf16-mixed: matrices except the output head are stored and multiplied in
    bfloat16. This halves memory and is several times faster on a GPU; near ties between answers may change."""
    batch_items: Annotated[PositiveInt, HowItRuns] = 64
    """Questions that go through the model together on each worker. More is faster on a GPU and takes more memory."""

    @field_validator("tasks")
    @classmethod
    def _from_folder(cls, tasks: list[str], info: ValidationInfo) -> list[str]:
        folder = str((info.context or {}).get("folder") or os.getcwd())
        own = {task: os.path.normpath(os.path.join(folder, os.path.expanduser(task))) for task in tasks if task.endswith((".yaml", ".yml"))}
        return [own.get(task, task) for task in tasks]

    @field_validator("shots", "tasks", "seeds")
    @classmethod
    def _distinct(cls, values: list[Any] | None) -> list[Any] | None:
        if values is not None and (not values or len(set(values)) != len(values)):
            raise ValueError("expected at least one, without duplicates")
        return values

    @model_validator(mode="after")
    def _preset(self) -> Evaluation:
        self._derive(**{name: value for name, value in PRESETS[self.protocol].items() if name not in self.model_fields_set})
        return self

    @model_validator(mode="after")
    def _named_tasks_are_evaluated(self) -> Evaluation:
        # Where a record is the user's own, or there is none, names are checked after that: `tasks.wrong_records`.
        shipped = all(os.path.isfile(TASKS / f"{task}.yaml") for task in self.tasks)
        if shipped and (wrong := misnamed(self.groups, self.overrides, self.tasks)):
            raise SettingError(*wrong)
        return self

    @property
    def evaluation_seeds(self) -> tuple[int, ...]:
        """The seeds that draw demonstrations, one after the other."""
        return tuple(self.seeds) if self.seeds is not None else (self.seed,)

    def items_of(self, task: str) -> int | None:
        """How many items of a task are asked; None: all that the task has."""
        own = self.overrides.get(task)
        return own.items if own and own.items else self.items


def misnamed(groups: Mapping[str, TaskGroup], overridden: Iterable[str], tasks: Collection[str]) -> tuple[str, str] | None:
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
                return f"groups.{name}.tasks", f"'{member}' is neither an evaluated task nor a group; the tasks are {known}"
        if name in _inside(groups, name, set()):
            return f"groups.{name}.tasks", f"'{name}' contains itself, through {', '.join(group.tasks)}"
    return None


def tasks_of(name: str, groups: Mapping[str, TaskGroup]) -> set[str]:
    """The tasks of a group, those of the groups inside it among them."""
    members = {member for inside in (name, *_inside(groups, name, set())) for member in groups[inside].tasks}
    return members - groups.keys()


def _inside(groups: Mapping[str, TaskGroup], name: str, seen: set[str]) -> set[str]:
    """The groups inside a group, at any depth."""
    for member in groups[name].tasks:
        if member in groups and member not in seen:
            seen.add(member)
            _inside(groups, member, seen)
    return seen
