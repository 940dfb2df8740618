"""Whether a sweep file is right. In: a path. Out: what it declares, or every problem that it has."""

from __future__ import annotations

import shutil
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mm1_ablate.commands.common import missing_file
from mm1_ablate.config.settings import NOT_IMPORTED, without_imports
from mm1_ablate.config.sweep.differences import arms_in_words
from mm1_ablate.report.terminal import paragraph

MOST_TOLD = 1000
"""Problems of a file in JSON."""


@dataclass(frozen=True)
class FileReport:
    file: str
    name: str = ""
    arms: int = 0
    rows: int = 0
    distinct_trials: int = 0
    earlier_stages: int = 0
    """Distinct earlier stages that trials start from and that are not trials themselves."""
    problems: list[dict[str, Any]] = field(default_factory=list)
    """Each with file, line, column, path, message, hint."""
    warnings: list[dict[str, Any]] = field(default_factory=list)
    """Warnings, likewise."""
    differences: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By arm, the settings in which it differs from its baseline, each with path, old, new, and whether it was removed, is declared by the
    ablation, or was dropped with the type of a component."""
    everywhere: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By baseline, the settings in which it differs from its experiment file, likewise."""
    arm_lines: list[str] = field(default_factory=list)
    """The differences for display."""
    not_expanded: bool = False
    """Whether arms and data are not known, because classes that are not imported declare them."""
    text: str = ""
    """The problems, or the warnings of a valid file, for display, with the lines that they are about."""

    @property
    def valid(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        return {"valid": self.valid, **{name: value for name, value in vars(self).items() if name not in ("text", "arm_lines")}}

    def in_words(self) -> str:
        if not self.valid:
            return self.text
        if self.not_expanded:
            told = "nothing wrong, as far as that can be said without importing; arms and data were not looked at"
            return f"{self.file}: {told}\n{self.text}"
        joined = f", {self.distinct_trials} of them distinct" if self.distinct_trials < self.rows else ""
        stages = f", earlier stages to start from: {self.earlier_stages}" if self.earlier_stages else ""
        valid = f"{self.file}: valid: study '{self.name}', {_number_of(self.arms, 'arm')}, {_number_of(self.rows, 'trial')}{joined}{stages}"
        return "\n".join(
            [*(paragraph(valid, _width()) if sys.stdout.isatty() else [valid]), *self.arm_lines, *([self.text] if self.text else [])]
        )


def validate(path: Path, without_data: bool = False, no_import: bool = False) -> FileReport:
    """Read a sweep and all that it names, the beginning of the data included.

    Args:
        without_data: leave the data alone; it may be on another machine.
        no_import: import no classes of the user's own, so that no code of the file's author is run.
    """
    from mm1_ablate.config.yaml_file import FileErrors, in_words
    from mm1_ablate.plan.preflight import preflight

    missing = missing_file(path)
    if missing:
        problem = {"file": str(path), "line": None, "column": None, "path": "", "message": missing.partition(": ")[2], "hint": ""}
        return FileReport(str(path), problems=[problem], text=missing)
    try:
        with without_imports() if no_import else nullcontext():
            study = preflight(path, "nowhere" if without_data else "check")
    except FileErrors as errors:
        if all(NOT_IMPORTED in problem.message for problem in errors.problems):
            not_checked = [replace(problem, warning=True) for problem in errors.problems]
            return FileReport(str(path), warnings=[one.to_json() for one in not_checked], not_expanded=True, text=in_words(not_checked))
        return FileReport(str(path), problems=[one.to_json() for one in errors.problems[:MOST_TOLD]], text=str(errors))
    warnings = [warning.to_json() for warning in study.warnings]
    counts = (len(study.arms), study.row_count, len(study.trials), len(study.stages))
    told = arms_in_words([study]) if len(study.arms) > 1 or study.arms[0].everywhere else []
    lines = [line for name, words in told for line in paragraph(words, _width(), *(("", "") if name is None else ("  ", "      ")))]
    return FileReport(
        str(path), study.name, *counts, warnings=warnings, **study.differences_json(), arm_lines=lines, text=in_words(study.warnings)
    )


def _number_of(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _width() -> int:
    return shutil.get_terminal_size((160, 24)).columns
