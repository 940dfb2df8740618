"""Records of tasks, as far as a study needs them: what they are called, whether they are right, whether their files are there, and
what of them is part of an evaluation's identity.

In: `evaluation.tasks`. Out: diagnostics by place in the experiment, and identities by the task's name. The path of a user's own record is
in none of them: what the record says is. Records are read once for each study that is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from mm1_ablate.config.errors import Diagnostic, did_you_mean
from mm1_ablate.config.evaluation import TASKS, Evaluation, misnamed
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import contents_of, diagnostics_about, look, once
from mm1_ablate.config.identity.fingerprint import canonical
from mm1_ablate.config.task_record import Task
from mm1_ablate.config.yaml_file import FileErrors, read, read_tree


# ---------------------------------------------------------------- records
@cache
def shipped_tasks() -> frozenset[str]:
    """Names of the task records of this package."""
    return frozenset(path.stem for path in TASKS.glob("*.yaml"))


def is_own(task: str) -> bool:
    """Whether an entry of `evaluation.tasks` is the path of a user's own record."""
    return task.endswith((".yaml", ".yml"))


def task_record(task: str) -> Any:
    """What the record of a task says, as plain values."""
    return once(f"record {task}", lambda: read_tree(record_path(task))[0])


def task_settings(task: str) -> Task:
    """The record of a task, as settings.

    Raises:
        FileErrors: with every problem of the record.
    """
    return once(f"task {task}", lambda: read(record_path(task), Task)[0])


def task_names(evaluation: Evaluation) -> list[str]:
    """What the tasks are called in tables. A record of one's own says it; one that cannot be read has its path for a name."""
    names = []
    for task in evaluation.tasks:
        try:
            name = task_record(task).get("task", task) if is_own(task) else task
        except (FileErrors, AttributeError):
            name = task
        names.append(str(name))
    return names


def record_path(task: str) -> Path:
    """The file of a record, which may be missing."""
    return Path(task) if is_own(task) else TASKS / f"{task}.yaml"


# ---------------------------------------------------------------- what a score is made by
def task_identities(evaluation: Evaluation) -> dict[str, Any]:
    """By name, what an evaluation's identity holds of each task.

    Of a task whose items are in files: its record as settings, without where the files are, and a digest of the files. Of others, whose
    items are made by code: what the record says, as it is written.

    Raises:
        FileErrors: a record is wrong.
    """
    return {name: task_identity(task, evaluation.split) for name, task in zip(task_names(evaluation), evaluation.tasks, strict=True)}


def task_identity(task: str, split: str) -> Any:
    """What an evaluation's identity holds of a task."""

    def identity() -> Any:
        settings = task_settings(task)
        contents = contents_of(settings.items, split)
        if not contents:
            version = settings.items.version
            return {**task_record(task), "version": version} if version > 1 else task_record(task)
        form = canonical(settings)
        return {**form, "items": {**form["items"], "contents": contents}}

    return once(f"identity {look()} {split} {task}", identity)


def reads_files(evaluation: Evaluation) -> bool:
    """Whether the items of some task are in files."""
    return any(contents_of(task_settings(task).items, evaluation.split) for task in evaluation.tasks)


# ---------------------------------------------------------------- what is wrong
def wrong_records(experiment: Experiment) -> list[Diagnostic]:
    """Tasks that have no record or a wrong one, and names of tasks that are not there, by place in the experiment."""
    evaluation = experiment.evaluation
    found = []
    for index, task in enumerate(evaluation.tasks):
        place = ("evaluation", "tasks", index)
        if is_own(task):
            if not os.path.isfile(task):
                found.append(Diagnostic(place, f"there is no file '{task}' (paths of tasks are relative to the file that names them)"))
                continue
        elif task not in shipped_tasks():
            shipped = ", ".join(sorted(shipped_tasks()))
            message = f"there is no task '{task}'; expected one of {shipped}, or the path of a record"
            found.append(Diagnostic(place, message, did_you_mean(task, shipped_tasks())))
            continue
        try:
            record = task_settings(task)
        except FileErrors as errors:
            for problem in errors.problems:
                at = f"{problem.file}:{problem.line}:{problem.column}: " + (f"{problem.path}: " if problem.path else "")
                found.append(Diagnostic(place, at + problem.message, problem.hint))
        else:
            if not record.shots_of(evaluation.shots):
                shots = ", ".join(map(str, evaluation.shots))
                message = f"'{record.task}' is asked from {record.fewest_shots} shots on, and evaluation.shots has {shots}"
                found.append(Diagnostic(place, message, "add more shots, or leave the task out"))
    if found:
        return found
    names = task_names(evaluation)
    for index, name in enumerate(names):
        if name in names[:index]:
            found.append(Diagnostic(("evaluation", "tasks", index), f"another task has the same name, '{name}'"))
    wrong = misnamed(evaluation.groups, evaluation.overrides, names)
    if wrong:
        found.append(Diagnostic(("evaluation", *wrong[0].split(".")), wrong[1]))
    return found


def wrong_files(experiment: Experiment) -> Iterator[tuple[str, Diagnostic]]:
    """What is wrong with the files of tasks: for each an identity of what was looked at, and a diagnostic by place in the experiment."""
    evaluation = experiment.evaluation
    for index, (name, task) in enumerate(zip(task_names(evaluation), evaluation.tasks, strict=True)):
        for diagnostic in diagnostics_about(task_settings(task).items, evaluation.split):
            where = ".".join(map(str, ("items", *diagnostic.path)))
            at = read_tree(record_path(task))[1].problem(("items", *diagnostic.path), "") if is_own(task) else None
            of = f"task '{name}' ({at.file}:{at.line}:{at.column})" if at else f"task '{name}'"
            place, message = ("evaluation", "tasks", index), f"{of}: {where}: {diagnostic.message}"
            yield f"{task} {evaluation.split}", replace(diagnostic, path=place, message=message, at_key=False)
