"""Whether a sweep file is right. In: a path. Out: what it declares, or every problem that it has."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mm1_ablate.commands.common import checks, missing_file


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
    text: str = ""
    """The problems for people, with the lines that they are about."""

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
        return f"{self.file}: valid: study '{self.name}', {self.arms} arms, {self.rows} trials{joined}{stages}"


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
        keys = ("file", "line", "column", "path", "message", "hint")
        problems = [{key: _plain(getattr(problem, key)) for key in keys} for problem in errors.problems]
        return FileReport(str(path), problems=problems, text="\n".join(str(problem) for problem in errors.problems))
    return FileReport(str(path), study.name, len(study.arms), study.row_count, len(study.trials), len(study.stages))


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, int) else str(value)
