"""Whether a sweep file is right. In: a path. Out: what it declares, or every problem that it has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_ablate.commands.common import checks, missing_file

if TYPE_CHECKING:
    from mm1_ablate.spec.yaml_file import FileProblem


@dataclass(frozen=True)
class FileReport:
    file: str
    name: str = ""
    arms: int = 0
    rows: int = 0
    distinct_trials: int = 0
    earlier_stages: int = 0
    """Distinct ones that trials start from and that are no trials themselves."""
    problems: list[dict[str, Any]] = field(default_factory=list)
    """Each with file, line, column, path, message, hint."""
    warnings: list[dict[str, Any]] = field(default_factory=list)
    """What stops nothing, likewise."""
    text: str = ""
    """The problems, or the warnings of a valid file, for people, with the lines that they are about."""

    @property
    def valid(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        return {"valid": self.valid, **{name: value for name, value in vars(self).items() if name != "text"}}

    def in_words(self) -> str:
        if not self.valid:
            return self.text
        joined = f", {self.distinct_trials} of them distinct" if self.distinct_trials < self.rows else ""
        stages = f", earlier stages to start from: {self.earlier_stages}" if self.earlier_stages else ""
        valid = f"{self.file}: valid: study '{self.name}', {self.arms} arms, {self.rows} trials{joined}{stages}"
        return "\n".join([valid, *([self.text] if self.text else [])])


def validate(path: Path, without_data: bool = False) -> FileReport:
    """Read a sweep and all that it names, the beginning of the data included.

    Args:
        without_data: leave the data alone; it may be on another machine.
    """
    from mm1_ablate.spec.expansion import load_study
    from mm1_ablate.spec.yaml_file import FileErrors

    missing = missing_file(path)
    if missing:
        problem = {"file": str(path), "line": None, "column": None, "path": "", "message": missing.partition(": ")[2], "hint": ""}
        return FileReport(str(path), problems=[problem], text=missing)
    try:
        study = load_study(path, "nowhere" if without_data else "check", checks())
    except FileErrors as errors:
        return FileReport(str(path), problems=[problem.to_json() for problem in errors.problems], text=_text(errors.problems))
    warnings = [warning.to_json() for warning in study.warnings]
    counts = (len(study.arms), study.row_count, len(study.trials), len(study.stages))
    return FileReport(str(path), study.name, *counts, warnings=warnings, text=_text(study.warnings))


def _text(problems: Iterable[FileProblem]) -> str:
    return "\n".join(map(str, problems))
