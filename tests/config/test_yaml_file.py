"""YAML files: what a scalar means, and where each thing stands."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

from mm1_ablate.config.settings import Settings
from mm1_ablate.config.yaml_file import FileErrors, FileProblem, read, read_tree


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


def refused(folder: Path, text: str) -> list[FileProblem]:
    """What is wrong with the YAML itself."""
    path = folder / "file.yaml"
    path.write_text(text)
    try:
        return read_tree(path)[2]
    except FileErrors as errors:
        return errors.problems


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
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", 1000),
        ("0b11", "0b11"),
        ("9223372036854775807", 2**63 - 1),
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
        ("a: !!binary xx\n", "the YAML tag '!!binary' is not supported"),
        ("? [1]\n: 2\n", "text as a key"),
        ("a: 1e999\n", "not a finite number"),
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
    (tmp_path / "latin.yaml").write_bytes("a: 1\nb: caf\xe9\n".encode("latin-1"))
    with pytest.raises(FileErrors, match=r"latin.yaml:2:7: .*found the byte 0xe9 \(save the file as UTF-8"):
        read_tree(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        # What << names is merged, or refused.
        ("x: &shared {a: 1}\ny: {<<: shared, b: 2}\n", 2, 9, "did you mean '*shared'?"),
        ("y:\n  <<: shared\n", 2, 7, "expected a mapping to merge, or a list of mappings, such as *shared for what is marked &shared"),
        ("y: {<<: ~}\n", 1, 9, "not '~'"),
        ("y:\n  <<:\n  b: 1\n", 2, 6, "not null"),
        ("y: {<<: 5}\n", 1, 9, "not '5'"),
        ("y: {<<: []}\n", 1, 9, "not a list"),
        ("x: &shared {a: 1}\ny: {<<: [*shared, other]}\n", 2, 19, "not 'other'"),
        ("x: &shared [1]\ny: {<<: *shared}\n", 1, 13, "not '1'"),
        ("x: &shared [[{}]]\ny: {<<: *shared}\n", 1, 13, "not a list"),
        ("x: &s {a: 1}\nz: &t {b: 1}\ny: {<<: *s, <<: *t}\n", 3, 13, "<<: [*first, *second]"),
        ("x: &s {a: 1, <<: *s}\n", 1, 4, "an alias must not contain itself"),
        # Tags mean nothing here.
        ("a: !foo {b: 1}\n", 1, 4, "the YAML tag '!foo' is not supported"),
        ("a: !!set {b, c}\n", 1, 4, "'!!set'"),
        ("a: !!omap [b: 1]\n", 1, 4, "'!!omap'"),
        ("a: !!python/object:os.system {}\n", 1, 4, "'!!python/object:os.system'"),
        ("a: !!python/tuple [1, 2]\n", 1, 4, "'!!python/tuple'"),
        ("a: !foo text\n", 1, 4, "'!foo'"),
        ("a: !!timestamp 2024-01-31\n", 1, 4, "'!!timestamp'"),
        ("a: ! 3\n", 1, 4, "'!'"),
        ("!foo a: 3\n", 1, 1, "'!foo'"),
        ("x: &s !foo {a: 1}\ny: {<<: *s}\n", 1, 4, "'!foo'"),
        ("a: !!seq {b: 1}\n", 1, 4, "'!!seq'"),
        ("a: !!null text\n", 1, 4, "not a value of the YAML type 'null'"),
        ("a: !!int 3.5\n", 1, 4, "not a value of the YAML type 'int'"),
        ("a: !!int abc\n", 1, 4, "not a value of the YAML type 'int'"),
        # Numbers that are none.
        ("a: .inf\n", 1, 4, "not a finite number"),
        ("a: -.INF\n", 1, 4, "not a finite number"),
        ("a: .nan\n", 1, 4, "put it in quotes if it is text"),
        ("a: 1e999\n", 1, 4, "not a finite number"),
        ("a: 1e-999\n", 1, 4, "too small to be distinguished from 0"),
        ("a: 9223372036854775808\n", 1, 4, "too large; the largest whole number is 9223372036854775807"),
        (f"a: {'9' * 5000}\n", 1, 4, "too large"),
        (f"a: 0x{'9' * 5000}\n", 1, 4, "too large"),
        # Files that are several, or no text.
        ("a: 1\n---\nb: 2\n", 2, 1, "another document"),
        ("a: 1\n...\nb: 2\n", 3, 1, "not YAML"),
        ("a: 1\nb: x\x07y\n", 2, 5, "the character U+0007"),
        ("a: 1\nb: \x7f\n", 2, 4, "the character U+007F"),
        ('a: "x\\0y"\n', 1, 4, "the character NUL"),
        ('"a\\0": 1\n', 1, 1, "the character NUL"),
        # What takes for ever, or ends the process.
        (f"a: {'[' * 100_000}", 1, 103, "nested more than 100 deep"),
        (f"a: {'{a: ' * 2000}1{'}' * 2000}\n", 1, 400, "nested more than 100 deep"),
        ("- " * 2000 + "1\n", 1, 201, "nested more than 100 deep"),
    ],
)
def test_what_would_be_lost_without_a_word_is_refused_at_its_place(tmp_path: Path, text: str, line: int, column: int, message: str) -> None:
    problem = refused(tmp_path, text)[0]
    assert (problem.line, problem.column) == (line, column) and message in str(problem)


@pytest.mark.parametrize("merged", ["[*{0}, *{0}]", "{{<<: [*{0}, *{0}, *{0}]}}"])
def test_aliases_of_aliases_that_mean_billions_are_refused_soon(tmp_path: Path, merged: str) -> None:
    def line(number: int) -> str:
        return f"a{number}: &a{number} " + merged.format(f"a{number - 1}") + "\n"

    began = time.monotonic()
    problem = refused(tmp_path, "a0: &a0 {x: 1}\n" + "".join(map(line, range(1, 40))))[0]
    assert "its aliases written out" in problem.message and problem.line > 1
    assert time.monotonic() - began < 5


def test_a_chain_of_aliases_or_merges_may_not_be_too_deep(tmp_path: Path) -> None:
    for link in ("{{x: *a{}}}", "{{<<: *a{}}}"):
        text = "a0: &a0 {x: 1}\n" + "".join(f"a{number}: &a{number} {link.format(number - 1)}\n" for number in range(1, 300))
        assert any("nested more than 100 deep" in problem.message for problem in refused(tmp_path, text))


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    assert tree_of(tmp_path, "\ufeffa: 1\n") == {"a": 1}
    (problem,) = yaml_problems(tmp_path, "\ufeffa: 1\na: 2\n")
    assert (problem.line, problem.column) == (2, 1)


def test_what_a_mapping_says_itself_goes_before_what_it_merges_and_is_reported_where_it_stands(tmp_path: Path) -> None:
    class Inner(Settings):
        x: int
        y: int = 0
        z: int = 0

    class Outer(Settings):
        base: JsonValue
        inner: Inner

    text = "base: &base {x: no, y: no}\ninner:\n  y: never\n  <<: *base\n  z: nothing\n"
    problems = yaml_problems(tmp_path, text, Outer)
    assert [(problem.path, problem.line, problem.column) for problem in problems] == [
        ("inner.x", 1, 17),
        ("inner.y", 3, 6),
        ("inner.z", 5, 6),
    ]
    tree = tree_of(tmp_path, "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {z: 3, <<: [*a, *b]}\nd: {<<: {x: 4}}\n")
    assert tree["c"] == {"x": 1, "y": 1, "z": 3} and tree["d"] == {"x": 4}


def test_a_missing_key_is_reported_at_the_mapping_that_lacks_it_and_not_at_what_it_merges(tmp_path: Path) -> None:
    class Inner(Settings):
        x: int
        y: int

    class Outer(Settings):
        base: JsonValue
        inner: list[Inner]

    (problem,) = yaml_problems(tmp_path, "base: &base {x: 1}\ninner:\n  - <<: *base\n", Outer)
    assert (problem.line, problem.column, problem.path) == (3, 5, "inner[0].y")


def test_lines_are_counted_as_yaml_counts_them(tmp_path: Path) -> None:
    for ends in ("\n", "\r\n", "\r"):
        path = tmp_path / "file.yaml"
        path.write_bytes(f"# x\u2028# y{ends}a: |{ends}  x{ends}b: [{ends}".encode())
        with pytest.raises(FileErrors) as caught:
            read_tree(path)
        (problem,) = caught.value.problems
        assert problem.line == 6 and "not YAML" in problem.message


def test_an_excerpt_of_a_long_line_shows_the_place(tmp_path: Path) -> None:
    (problem,) = yaml_problems(tmp_path, f"a: 1\nb: [{'x, ' * 10_000}'y', .inf]\n")
    source, caret = str(problem).splitlines()[1:]
    assert len(source) < 200 and source[caret.index("^") :].startswith(".inf]")


def test_every_problem_is_reported_in_the_order_of_the_file(tmp_path: Path) -> None:
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


def test_a_missing_key_is_reported_at_the_mapping_that_lacks_it(tmp_path: Path) -> None:
    class Inner(Settings):
        steps: int

    class Outer(Settings):
        inner: Inner

    (problem,) = yaml_problems(tmp_path, "inner:\n  {}\n", Outer)
    assert (problem.line, problem.path, problem.message) == (1, "inner.steps", "is missing; expected a whole number")
