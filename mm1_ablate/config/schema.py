"""JSON Schemas of the two kinds of file, for editors: `# yaml-language-server: $schema=../schemas/sweep.schema.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.settings import Settings
from mm1_ablate.config.sweep.declaration import Sweep

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def experiment_schema() -> dict[str, Any]:
    """Of experiment files. Lists the components that are installed."""
    return _schema(Experiment)


def sweep_schema() -> dict[str, Any]:
    """Of sweep files. Paths are text to it; that they name something is checked when the sweep is read."""
    return _schema(Sweep)


def _schema(settings: type[Settings]) -> dict[str, Any]:
    schema = settings.model_json_schema(by_alias=True)
    if "$ref" in schema:  # settings that hold their like are defined beside the others
        schema = {**schema["$defs"][schema["$ref"].rpartition("/")[2]], "$defs": schema["$defs"]}
    return {"$schema": DIALECT, **schema}


def write_schemas(folder: Path) -> list[Path]:
    """Write experiment.schema.json and sweep.schema.json into a folder, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, schema in (("experiment", experiment_schema()), ("sweep", sweep_schema())):
        path = folder / f"{name}.schema.json"
        path.write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")
        written.append(path)
    return written
