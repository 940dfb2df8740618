"""A task as an experiment asks it: its record, then what the protocol says, then what the experiment says.

OpenFlamingo's prompts are those of its evaluation code (Awadalla et al. 2023, open_flamingo/eval): questions and captions have one
each, a demonstration ends with `<|endofchunk|>`, an answer ends before `Question`, `Answer`, `Short` or a comma, a caption before
`Output`. Its beam search of three is not part of the protocol here: decoding is greedy. Nor is `<|endofchunk|>` a token of its own here, as
OpenFlamingo's training makes it: it is plain text, which is warned of.
"""

from __future__ import annotations

import os

from mm1_ablate.config.evaluation import Evaluation, Wording, misnamed
from mm1_ablate.config.task_record import ANSWER, IMAGE, Task, template_fields
from mm1_ablate.config.tasks import record_path, shipped_tasks
from mm1_ablate.config.yaml_file import read

END_OF_CHUNK = "<|endofchunk|>"


def load_task(name: str) -> Task:
    """The record of a name in `tasks/`, or of a path that ends with .yaml.

    Raises:
        LookupError: where there is no such record.
        FileErrors: every problem of the record, with file, line and column.
    """
    if not os.path.isfile(path := record_path(name)):
        raise LookupError(
            f"no task '{name}' (there are: {', '.join(sorted(shipped_tasks()))}, or the path of a record of your own, ending with .yaml)"
        )
    return read(path, Task)[0]


def openflamingo(task: Task) -> Wording:
    """How OpenFlamingo asks a task whose record says nothing of it: as a question if the prompt names a field of the item, else as a
    caption. Tasks that choose or that have no image stay as they are."""
    if task.family != "image" or task.kind != "generate":
        return Wording()
    fields = [field for field in template_fields(task.prompt) if field not in (IMAGE, ANSWER)]
    if not fields:
        return Wording(prompt="{image}Output:{answer}", separator=END_OF_CHUNK, stop=["Output", END_OF_CHUNK], max_new_tokens=20)
    return Wording(
        prompt=f"{{image}}Question:{{{fields[0]}}} Short answer:{{answer}}",
        separator=END_OF_CHUNK,
        stop=["Question", "Answer", "Short", ", ", END_OF_CHUNK],
        max_new_tokens=5,
    )


def as_asked(task: Task, evaluation: Evaluation) -> Task:
    """The task with the wording of the experiment's protocol and overrides.

    Raises:
        ValueError: where what comes out is no valid task, such as a prompt without `{answer}`.
    """
    wordings: list[Wording] = []
    if evaluation.protocol == "openflamingo":
        wordings.append(task.protocols.get("openflamingo") or openflamingo(task))
    if task.task in evaluation.overrides:
        wordings.append(evaluation.overrides[task.task])
    changes = {name: value for wording in wordings for name in Wording.model_fields if (value := getattr(wording, name)) is not None}
    if not changes:
        return task
    return Task.model_validate({**{name: getattr(task, name) for name in task.model_fields_set}, **changes})


def load_tasks(evaluation: Evaluation) -> list[Task]:
    """The tasks of an experiment as it asks them.

    Raises:
        LookupError: where there is no such record.
        ValueError: where two have one name, or overrides or groups name a task that is not there.
    """
    tasks = [load_task(name) for name in evaluation.tasks]
    names = [task.task for task in tasks]
    if len(set(names)) != len(names):
        raise ValueError(f"evaluation.tasks: two records have the same name: {', '.join(names)}")
    if wrong := misnamed(evaluation.groups, evaluation.overrides, names):
        raise ValueError(f"evaluation.{wrong[0]}: {wrong[1]}")
    return [as_asked(task, evaluation) for task in tasks]
