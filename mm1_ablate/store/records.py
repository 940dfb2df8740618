"""What the files of a store hold, and whether a file still holds it: disks fill up, machines are lost, copies break off.

In: a path and what should be there. Out: that, or why the file is damaged. Whoever reads a store takes a damaged file for one that is not
there, names it (`Files.damaged`) and shows the rest; a run writes it again (`repair.py`).
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from mm1_ablate.data.atomic_files import DamagedFile

Status = Literal["missing", "running", "interrupted", "done", "failed"]
MAGIC = b"PAR1"
"""With which parquet files begin and end."""


class Record(BaseModel):
    """What has to be in a file for it to be read; it may hold more."""

    model_config = ConfigDict(extra="allow", strict=True)


class StatusRecord(Record):
    status: Status
    reason: str = ""
    stage: str | None = None
    evaluation: str | None = None
    started: float | None = None
    finished: float | None = None
    host: str = ""
    pid: int | None = None
    run: str | None = None
    code: str | None = None

    @model_validator(mode="after")
    def _failed_of_something(self) -> StatusRecord:
        if self.status == "failed" and not self.reason:
            raise ValueError("it failed, and the reason is missing")
        return self


class ProgressRecord(Record):
    stage: str
    step: int
    steps: int
    loss: float | None = None
    time: float | None = None
    stage_started: float | None = None


class TrialRecord(Record):
    fingerprint: str
    seed: int
    experiment: dict[str, Any]
    name: str = ""
    prepared: dict[str, str] = {}
    starts_from: str | None = None


class EvaluationRecord(Record):
    fingerprint: str
    evaluation: dict[str, Any]
    parts: list[dict[str, Any]] = []
    metrics: dict[str, Any] = {}
    records: dict[str, Any] = {}


class PreparationRecord(Record):
    fingerprint: str
    preparation: dict[str, Any]


class ScoresRecord(Record):
    scores: dict[str, float]
    finished: float = 0.0


class PredictionsRecord(Record):
    kind: str
    name: str
    shots: int
    seeds: list[int]
    fingerprint: str
    identity: dict[str, Any]
    code: str | None = None


class SourceAccount(Record):
    """Of one source, in `data.json`: see `data.accounting.Accounting.account`."""

    bad: dict[str, int] = {}
    left_out: dict[str, int] = {}
    dropped: dict[str, int] = {}
    examples: dict[str, list[Any]] = {}
    lost: list[dict[str, Any]] = []


class FloorRecord(Record):
    """Of a task's items: see `report.task_scores.ScoreBounds`."""

    model_config = ConfigDict(extra="forbid", strict=True)
    floor: float | None
    answer: str
    ceiling: float | None


class StudyRecord(Record):
    """Which sweep files a study was run from."""

    name: str
    files: list[str]
    """The last one first."""
    declares: str


class TextRecord(Record):
    """What the files of a study said when trials were run."""

    files: dict[str, str]
    trials: dict[str, str]
    """Names by evaluation fingerprint."""
    first: float
    last: float
    how: dict[str, dict[str, str]] = {}
    """By evaluation fingerprint: see `study_files.how_they_ran`."""


class DeclaredArm(Record):
    baseline: str
    family: str
    seeds: list[int]
    trials: list[str]


class Declared(Record):
    """See `config.declarations.declared`."""

    expectations: list[dict[str, Any]]
    primary: str
    measured: str
    metrics: list[str]
    smallest_difference_of_interest: float
    confidence: float
    seeds: Any
    arms: dict[str, DeclaredArm]


class DeclarationRecord(Record):
    """What a study declared at a time."""

    time: float
    scored: list[str]
    """12 digits of training fingerprints."""
    after: list[str]
    """Names of the entries that were there when it was written."""
    declared: Declared
    known_before: bool = False


class RunRecord(Record):
    """What a run of a study does: see `activity.Run`."""

    host: str
    pid: int
    what: str
    began: float
    since: float
    seen: float
    ended: bool = False


class LayoutRecord(Record):
    version: int
    written_by: str = ""


Names = dict[str, str]


@functools.cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape, config=None if isinstance(shape, type) and issubclass(shape, BaseModel) else ConfigDict(strict=True))


def checked(path: Path, value: Any, shape: Any) -> Any:
    """A value as it was read, if it has a shape: a `Record`, or a type such as dict[str, str].

    Raises:
        DamagedFile: it has not.
    """
    try:
        _adapter(shape).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DamagedFile(path, (f"{place}: " if place else "") + first["msg"]) from None
    return value


def problem_of_table(path: Path, whole: bool = False) -> str | None:
    """What is wrong with a parquet file, if anything.

    Args:
        whole: read all of it; otherwise its first and last bytes, which tell whether it was cut.
    """
    size = path.stat().st_size
    if not size:
        return "it is empty"
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(max(0, size - 8))
        tail = file.read(8)
    if head != MAGIC:
        return "this is not parquet"
    if size < 12 or tail[4:] != MAGIC or int.from_bytes(tail[:4], "little") > size - 12:
        return "its end is missing"
    if whole:
        from pyarrow import parquet

        try:
            parquet.read_table(path)
        except Exception as error:  # whatever pyarrow makes of bytes at random
            return _line(error)
    return None


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
