"""Files handed out: a commented sweep to start from, its experiment, and the JSON Schemas that both name for the editor.

The layout is that of the repository (`sweeps/`, `experiments/`, `schemas/`), so that the paths inside the files hold.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mm1_ablate.commands.path_completion import with_paths
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.settings import Settings
from mm1_ablate.config.sweep.declaration import Sweep
from mm1_ablate.config.task_record import Task

PACKAGE = Path(__file__).resolve().parent.parent


def template(name: str) -> Path:
    """A file to start from. The experiment is packaged from the repository's own; a checkout has it in its place there."""
    packaged = PACKAGE / "templates" / name
    return packaged if packaged.exists() else PACKAGE.parent / name


def write_sweep(folder: Path) -> list[Path]:
    """Write a sweep, its experiment and the schemas into a folder.

    Raises:
        FileExistsError: a file of that name is there already; nothing has been written then.
    """
    texts = {
        folder / "sweeps" / "first.yaml": template("sweep.yaml").read_text(encoding="utf-8"),
        folder / "experiments" / "miniature.yaml": template("experiments/miniature.yaml").read_text(encoding="utf-8"),
    }
    for path in texts:
        if path.exists():
            raise FileExistsError(path)
    from mm1_ablate.commands.init import write_schemas

    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [*texts, *write_schemas(folder / "schemas")]


DIALECT = "https://json-schema.org/draft/2020-12/schema"


def experiment_schema() -> dict[str, Any]:
    """Of experiment files. Lists the components that are installed."""
    return _schema(Experiment)


def sweep_schema() -> dict[str, Any]:
    """Of sweep files. Paths are completed; that they name something is checked when the sweep is read."""
    return with_paths(_schema(Sweep), experiment_schema())


def task_schema() -> dict[str, Any]:
    """Of records of tasks. Lists the sources of items and the metrics that are installed."""
    return _schema(Task)


def _schema(settings: type[Settings]) -> dict[str, Any]:
    schema = settings.model_json_schema(by_alias=True)
    if "$ref" in schema:  # settings that hold their like are defined beside the others
        schema = {**schema["$defs"][schema["$ref"].rpartition("/")[2]], "$defs": schema["$defs"]}
    return {"$schema": DIALECT, **schema}


def write_schemas(folder: Path) -> list[Path]:
    """Write experiment.schema.json, sweep.schema.json and task.schema.json into a folder, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, schema in (("experiment", experiment_schema()), ("sweep", sweep_schema()), ("task", task_schema())):
        path = folder / f"{name}.schema.json"
        path.write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")
        written.append(path)
    return written
