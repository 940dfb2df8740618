"""Chained stages: an experiment that starts from another one's weights, which may be in a file of its own.

In: the plain values of an experiment, in which `starts_from` may be the path of a file. Out: the same with the earlier experiment in the
file's place, its relative paths made absolute, and where its file cannot be taken, what is wrong.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from mm1_ablate.config.errors import Diagnostic, file_like, validated
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.local_path import real
from mm1_ablate.config.paths import plain
from mm1_ablate.config.tasks import wrong_records
from mm1_ablate.config.yaml_file import FileErrors, FileProblem, Marks, read_tree

STARTS_FROM = "starts_from"


class IsASweep(FileErrors):
    """A sweep file stands where an experiment file was expected."""

    def __init__(self, path: Path, tree: dict[str, Any], marks: Marks) -> None:
        about = tree.get("experiment")
        hint = f"the experiment of this sweep is '{about}'" if isinstance(about, str) else ""
        self.diagnostic = Diagnostic(("sweep",), f"{path} is a sweep; expected an experiment file", hint, at_key=True)
        super().__init__(marks.problems([self.diagnostic]))

    def named_at(self, place: tuple[str | int, ...]) -> Diagnostic:
        """The same, told where the file is named."""
        return replace(self.diagnostic, path=place, at_key=False)


def read_experiment(path: Path, later: tuple[Path, ...] = ()) -> tuple[Experiment, Marks]:
    """The experiment of a file with its earlier stages, and where the file says what; its data is not looked at.

    Args:
        later: files of the stages that start from this one.

    Raises:
        FileErrors: with every problem of the file and of those that it starts from.
        IsASweep: one of these, for a sweep file.
    """
    tree, marks, problems = read_tree(path)
    if isinstance(tree, dict) and "sweep" in tree and not {"data", "model", "training"} & set(tree):
        raise IsASweep(path, tree, marks)
    tree, found, others = with_earlier(tree, path.parent, (*later, real(path)))
    if found or others:
        raise FileErrors([*problems, *marks.problems(found), *others])
    experiment, found = validated(Experiment, tree, path.parent)
    if experiment is not None:
        found = wrong_records(experiment)
    if experiment is None or problems or found:
        raise FileErrors([*problems, *marks.problems(found)])
    return experiment, marks


def _wrong_path(written: Any, path: Path, later: tuple[Path, ...]) -> tuple[str, str] | None:
    """What is wrong with the path of an earlier stage, and a suggestion; None if there is a file that can be read."""
    if not isinstance(written, str) or not written:
        return (
            f"expected the path of an experiment file, or an experiment, not {'a list' if isinstance(written, list) else repr(written)}",
            "",
        )
    if real(path) in later:
        circle = [*later[later.index(real(path)) :], path]
        told = f", through {', '.join(one.name for one in circle[1:-1])}" if len(circle) > 2 else ""
        return f"{path} starts from itself{told}", "a stage starts from an earlier one"
    if os.path.isdir(path):
        return f"{path} is a directory; expected the path of an experiment file", ""
    if not os.path.isfile(path):
        return f"there is no experiment file {path}", file_like(path)
    return None


def with_earlier(tree: Any, folder: Path, later: tuple[Path, ...] = ()) -> tuple[Any, list[Diagnostic], list[FileProblem]]:
    """Plain values with the earlier stage in its file's place; diagnostics about the path, and problems of the file that it leads to."""
    earlier = tree.get(STARTS_FROM) if isinstance(tree, dict) else None
    if isinstance(earlier, dict):
        below, found, problems = with_earlier(earlier, folder, later)
        inside = [Diagnostic((STARTS_FROM, *diagnostic.path), diagnostic.message, diagnostic.hint) for diagnostic in found]
        return {**tree, STARTS_FROM: below}, inside, problems
    if earlier is None:
        return tree, [], []
    path = folder / os.path.expanduser(earlier) if isinstance(earlier, str) else folder
    if wrong := _wrong_path(earlier, path, later):
        return tree, [Diagnostic((STARTS_FROM,), *wrong)], []
    try:
        experiment, _ = read_experiment(path, later)
    except IsASweep as error:
        return tree, [error.named_at((STARTS_FROM,))], []
    except FileErrors as errors:
        return tree, [], errors.problems
    return {**tree, STARTS_FROM: plain(experiment)}, [], []
