"""Text in files, a document a line, and experiments and sweeps that read it from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from config_files import EXPERIMENT, write_experiment
from tiny import TINY, tiny_experiment, write_tiny_sweep

LINES = {"type": "lines_source.Lines", "data_type": "text", "files": "data/*.txt"}


WORDS = "the goat is in the barn .\nevery plane is a sort of vehicle .\neva gave the page to tom .\nthe capital of iraq is baghdad .\n" * 10


def write_data(folder: Path, **files: str) -> Path:
    """Files of lines in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def write_lines_experiment(folder: Path, **source: Any) -> Path:
    """The small experiment, its text from such files."""
    tree = yaml.safe_load(EXPERIMENT)
    tree["data"]["sources"]["text"] = LINES | source
    return write_experiment(folder, yaml.safe_dump(tree, sort_keys=False))


def write_lines_study(folder: Path) -> Path:
    """An experiment whose text comes from two files in `data/` beside it; returns the folder."""
    write_data(folder / "data", first="one\ntwo\n", second="three\n")
    write_lines_experiment(folder)
    return folder


def write_lines_sweep(folder: Path) -> Path:
    """The tiny sweep, its text from 40 lines in a file of their own."""
    path = write_tiny_sweep(folder)
    write_data(folder / "experiments" / "data", first=WORDS)
    tree: dict[str, Any] = tiny_experiment(TINY).model_dump(mode="json")
    tree["data"]["sources"]["text"] = {**LINES, "max_bad_share": 1.0}
    write_experiment(folder / "experiments", yaml.safe_dump(tree, sort_keys=False), "tiny.yaml")
    return path
