"""The records of tasks in `tasks/`, and those of the user's own: a name or a path in, a `Task` out. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

from mm1_ablate.config.task_record import Task
from mm1_ablate.config.tasks import TASKS, shipped_tasks
from mm1_ablate.config.yaml_file import read

__all__ = ["Task", "load_task"]


def load_task(name: str) -> Task:
    """The record of a name in `tasks/`, or of a path that ends with .yaml.

    Raises:
        LookupError: where there is no such record.
        FileErrors: every problem of the record, with file, line and column.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else TASKS / f"{name}.yaml"
    if not os.path.isfile(path):
        raise LookupError(
            f"no task '{name}' (there are: {', '.join(sorted(shipped_tasks()))}, or the path of a record of your own, ending with .yaml)"
        )
    return read(path, Task)[0]
