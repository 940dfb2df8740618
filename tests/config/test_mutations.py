"""Whatever a file says, it is read, or refused at line and column: no traceback, no waiting. All shipped files, with seeded mistakes."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mutations
import pytest
from config_files import EXPERIMENT

from mm1_ablate.config.yaml_file import FileErrors

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("experiments/**/*.yaml", "sweeps/**/*.yaml", "mm1_ablate/evaluation/tasks/*.yaml")
    for path in ROOT.glob(pattern)
)
LONGEST = 20.0
"""Seconds of one file, of this process's own time."""
SAMPLE, WHOLE = 1, 30
"""Mistakes in each file, by default and with -m slow."""


class TooLong(BaseException):
    """Not an Exception, so that nothing catches it."""


@contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    def end(*_: Any) -> None:
        raise TooLong(f"more than {seconds} seconds")

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The shipped files, where they may be changed; and all that is imported late, imported."""
    from mm1_ablate.plan.preflight import preflight

    folder = tmp_path_factory.mktemp("shipped")
    for name in ("experiments", "sweeps"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copytree(ROOT / "mm1_ablate/evaluation/tasks", folder / "mm1_ablate/evaluation/tasks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MM1_ABLATE_CACHE", str(folder / "cache"))
        patch.delenv("MM1_ABLATE_BENCHMARKS", raising=False)
        for name in ("experiments/mm1_base.yaml", "experiments/miniature.yaml", "sweeps/mm1/all.yaml"):
            preflight(folder / name, "nowhere")
        yield folder


def written(place: Path, file: str, text: str) -> Path:
    """A changed file beside the others; of a task record, an experiment that names it."""
    changed = (place / file).with_name("changed.yaml")
    changed.write_bytes(text.encode("utf-8", "surrogatepass"))
    if "tasks" not in file:
        return changed
    experiment = changed.with_name("experiment.yaml")
    experiment.write_text(EXPERIMENT.replace("[miniature_attributes,", "[changed.yaml,"))
    return experiment


def read_or_refused(path: Path) -> list[str]:
    """What is wrong with a file, after looking whether all of it has a place."""
    from mm1_ablate.plan.preflight import preflight

    try:
        with no_longer_than(LONGEST):
            preflight(path, "nowhere")
    except FileErrors as errors:
        assert errors.problems
        for problem in errors.problems:
            assert problem.message and problem.line >= 1 and problem.column >= 1, problem
            lines = Path(problem.file).read_bytes().count(b"\n") + Path(problem.file).read_text(errors="replace").count("\r") + 40
            assert problem.line <= lines, problem
            assert len(str(problem)) < 4000, problem
        return [str(problem) for problem in errors.problems]
    return []


def check_file(place: Path, file: str, count: int) -> None:
    text = (ROOT / file).read_text()
    for number in range(count):
        changed, what = mutations.mutated(text, f"{file} {number}")
        path = written(place, file, changed)
        try:
            read_or_refused(path)
        except BaseException as error:
            raise AssertionError(f"{file} with mistake {number}, {what}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize("file", FILES)
def test_a_shipped_file_with_mistakes_is_read_or_refused_at_line_and_column(place: Path, file: str) -> None:
    check_file(place, file, SAMPLE)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_a_shipped_file_with_many_mistakes_is_read_or_refused_at_line_and_column(place: Path, file: str) -> None:
    check_file(place, file, WHOLE)


def command(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mm1_ablate", arguments[0], str(path), *arguments[1:]]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=path.parent)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\nsweep: quickstart", "\nsweep: &a [quickstart, *a]", "quickstart.yaml:3:8: sweep"),
        ("    remove_each:", "    <<: shared\n    remove_each:", "quickstart.yaml:11:9: ablations.without.<<: expected a mapping to merge"),
        ("data.mixture.captioned,", "data.mixture.captoined,", "did you mean 'data.mixture.captioned'?"),
    ],
)
def test_the_command_refuses_a_file_with_a_mistake_and_ends_with_2(place: Path, old: str, new: str, message: str) -> None:
    path = place / "sweeps" / "quickstart.yaml"
    text = (ROOT / "sweeps" / "quickstart.yaml").read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    try:
        done = command(path, "validate")
    finally:
        path.write_text(text)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert message in done.stderr


@pytest.mark.slow
def test_the_command_ends_without_a_traceback_whatever_the_file_says(place: Path) -> None:
    for number, file in enumerate(file for file in FILES if "tasks" not in file):
        changed, what = mutations.mutated((ROOT / file).read_text(), f"command {number}")
        path = written(place, file, changed)
        done = command(path, "validate" if number % 2 else "plan")
        assert done.returncode in (0, 1, 2, 3) and "Traceback" not in done.stderr, (file, what, changed, done.stderr)
        assert done.returncode != 2 or re.search(r"\.yaml:\d+:\d+: ", done.stderr), (file, what, done.stderr)
