"""YAML files: what a scalar means, and where each thing stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

from mm1_ablate.spec.settings import Settings
from mm1_ablate.spec.yaml_file import FileErrors, FileProblem, read, read_tree


def tree_of(folder: Path, text: str) -> Any:
    path = folder / "file.yaml"
    path.write_text(text)
    tree, _, problems = read_tree(path)
    assert not problems, problems
    return tree


def yaml_problems(folder: Path, text: str, model: type[Settings] | None = None) -> list[FileProblem]:
    class Anything(Settings):
        a: JsonValue = None
        b: JsonValue = None

    path = folder / "file.yaml"
    path.write_text(text)
    with pytest.raises(FileErrors) as caught:
        read(path, model or Anything)
    return caught.value.problems


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1e-3", 0.001),
        ("2E+5", 200000.0),
        ("3", 3),
        ("-3", -3),
        ("200_000", 200000),
        (".5", 0.5),
        ("010", 10),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("Off", "Off"),
        ("null", None),
        ("~", None),
        ("", None),
        ("5:5:1", "5:5:1"),
        ("2024-01-31", "2024-01-31"),
        ("'3'", "3"),
        ('"true"', "true"),
        (".inf", ".inf"),
        ("!!str 3", "3"),
        ("phi-1.5", "phi-1.5"),
    ],
)
def test_a_scalar_is_what_it_looks_like(tmp_path: Path, written: str, meant: Any) -> None:
    value = tree_of(tmp_path, f"a: {written}\n")["a"]
    assert value == meant and type(value) is type(meant)


def test_keys_are_text_and_anchors_and_merges_work(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, "base: &base {x: 1, y: 2}\nno: *base\n8: {<<: *base, y: 3}\n")
    assert tree == {"base": {"x": 1, "y": 2}, "no": {"x": 1, "y": 2}, "8": {"x": 1, "y": 3}}


def test_a_key_given_twice_is_an_error_at_the_second(tmp_path: Path) -> None:
    (problem,) = yaml_problems(tmp_path, "a: 1\nb: {c: 1, c: 2}\n")
    assert (problem.line, problem.column, problem.path) == (2, 11, "b.c")
    assert "first on line 2" in problem.message


def test_a_syntax_error_has_its_place_and_an_excerpt_with_a_caret(tmp_path: Path) -> None:
    (problem,) = yaml_problems(tmp_path, "a: [1, 2\nb: 3\n")
    assert "not YAML" in problem.message and problem.line == 2
    source, caret = str(problem).splitlines()[1:]
    assert source.endswith("b: 3") and caret.index("^") == source.index("b: 3") + problem.column - 1


def test_tabs_are_named_as_such(tmp_path: Path) -> None:
    (problem,) = yaml_problems(tmp_path, "a:\n\tb: 1\n")
    assert problem.line == 2 and "spaces" in problem.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("# only a comment\n", "empty"),
        ("a: &x [*x]\n", "alias"),
        ("a: !!binary xx\n", "kind"),
        ("? [1]\n: 2\n", "key of text"),
        ("a: 1e999\n", "not a value"),
    ],
)
def test_what_is_no_declaration_is_refused(tmp_path: Path, text: str, message: str) -> None:
    assert any(message in problem.message for problem in yaml_problems(tmp_path, text))


def test_a_file_that_is_not_there_or_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(FileErrors, match="no such file"):
        read_tree(tmp_path / "nothing.yaml")
    (tmp_path / "picture.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileErrors, match="cannot be read"):
        read_tree(tmp_path / "picture.yaml")
    with pytest.raises(FileErrors, match="cannot be read"):
        read_tree(tmp_path)


def test_every_problem_is_told_in_the_order_of_the_file(tmp_path: Path) -> None:
    class Inner(Settings):
        steps: int
        rate: float = 1.0

    class Outer(Settings):
        name: str
        inner: Inner
        flags: list[bool] = []

    problems = yaml_problems(tmp_path, "inner: {steps: many, rte: 2}\nname: 5\nflags: [true, maybe]\nx: 1\nx: 2\n", Outer)
    assert [(problem.line, problem.path) for problem in problems] == [
        (1, "inner.steps"),
        (1, "inner.rte"),
        (2, "name"),
        (3, "flags[1]"),
        (5, "x"),
        (5, "x"),
    ]
    assert problems[0].message == "expected a whole number, not 'many'"
    assert problems[1].hint == "did you mean 'rate'?"


def test_true_is_not_taken_for_one(tmp_path: Path) -> None:
    class Counts(Settings):
        steps: int
        rate: float

    problems = yaml_problems(tmp_path, "steps: true\nrate: false\n", Counts)
    assert [problem.message for problem in problems] == ["expected a whole number, not true", "expected a number, not false"]


def test_a_missing_key_is_told_at_the_mapping_that_lacks_it(tmp_path: Path) -> None:
    class Inner(Settings):
        steps: int

    class Outer(Settings):
        inner: Inner

    (problem,) = yaml_problems(tmp_path, "inner:\n  {}\n", Outer)
    assert (problem.line, problem.path, problem.message) == (1, "inner.steps", "is missing; expected a whole number")
