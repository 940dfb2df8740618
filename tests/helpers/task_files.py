"""Records of a user's own tasks with their annotation files, and experiments that are scored on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from config_files import EXPERIMENT, write_experiment

RECORD: dict[str, Any] = {
    "task": "colours",
    "family": "text",
    "kind": "choose",
    "items": {
        "type": "records",
        "folder": "data",
        "id": "name",
        "fields": {"question": "text"},
        "choices": "labels",
        "correct": "right",
        "queries": {"file": "test.jsonl"},
    },
    "prompt": "{question} {answer}",
    "metrics": ["choice_accuracy"],
}
ROWS = [{"name": str(number), "text": "shape : circle colour :", "labels": ["red", "green"], "right": number % 2} for number in range(4)]


def write_task(folder: Path, name: str = "colours", rows: Any = ROWS, **changes: Any) -> str:
    """A record, and its annotation file in `data/` beside it; returns the record's name."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "data" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**RECORD, **changes}))
    return f"{name}.yaml"


def write_evaluation(folder: Path, **evaluation: Any) -> Path:
    """The small experiment with another evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_experiment(folder, yaml.safe_dump({**yaml.safe_load(EXPERIMENT), "evaluation": evaluation}))
