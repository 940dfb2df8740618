"""What is told of items that cannot be drawn or files that are not what a record says: whole messages, as users read them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import official_files
import pytest
from question_files import ids, row, source, write_questions

from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.documents import Unreadable
from mm1_ablate.data.files import find_files
from mm1_ablate.data.items import _drawing
from mm1_ablate.data.items._candidates import as_text
from mm1_ablate.data.items._expressions import most_common_first, one_line, regex_findall, regex_replace, without_longer
from mm1_ablate.data.readers import annotation_files
from mm1_ablate.data.readers.annotation_files import WrongShape, is_quick, rows_of


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("MM1_ABLATE_BENCHMARKS", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_questions(tmp_path)
    return tmp_path


def refused(folder: Path | str, **other: Any) -> tuple[str, str]:
    with pytest.raises(SettingError) as error:
        source(folder, **other).check()
    return error.value.at, error.value.message


# ---------------------------------------------------------------- annotation files
@pytest.mark.parametrize(
    ("name", "content", "inside", "message"),
    [
        ("a.csv", b"x,y\n1,2\n", "rows", "'rows' is looked for in JSON files only"),
        ("a.json", b'{"data": {"rows": [1], "other": 2}}', "data.row", "has no 'data.row' (it has rows, other)"),
        ("a.json", b'{"data": [1]}', "data.rows", "has no 'data.rows' (it is a list)"),
        ("a.json", b'{"a": 1, "b": 2}', "", "expected rows, found a mapping of a, b; name their place with 'rows'"),
        ("a.json", b'{"a": "text"}', "a", "expected a list of rows, found str"),
        ("a.json", b"7", "", "expected a list of rows, found int"),
        ("a.json", b"[1,", "", "is not JSON: Expecting value: line 1 column 4 (char 3)"),
        ("a.json", b'{"a": 1}\n{"a": 2}', "a", "is not JSON: Extra data: line 2 column 1 (char 9)"),
        ("a.json", b"[" * 200_000, "", "is not JSON that can be read: it is nested too deeply"),
        ("a.csv", b"x,y,x\n1,2,3\n", "", "two columns are called 'x'"),
        ("a.csv", b'x,y\n1,2\n3,"4\n5,6\n', "", "a quotation mark that begins a field in line 3 is never closed"),
        (
            "a.txt",
            b"caf\xe9\n",
            "",
            "is not UTF-8: invalid continuation byte at byte 3; convert it (iconv -f latin1 -t utf-8, if it is latin1)",
        ),
        (
            "a.doc",
            b"x",
            "",
            "expected a name that ends in .json, .jsonl, .ndjson, .csv, .tsv (each also .gz or .zst), .parquet, or .txt for lines of text",
        ),
        ("a.txt.gz", b"", "", "cannot be unpacked: it is empty"),
    ],
)
def test_a_file_of_another_shape_is_refused_with_what_it_is(tmp_path: Path, name: str, content: bytes, inside: str, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WrongShape) as error:
        list(rows_of(find_files([f"{tmp_path}/{name}"]), inside))
    assert str(error.value) in (f"{tmp_path}/{name}: {message}", f"{tmp_path}/{name} {message}")


@pytest.mark.parametrize(
    ("name", "content", "inside", "rows"),
    [
        ("a.json", b'{"a": {"x": 1}, "b": {"key": "c"}}', "", [{"key": "a", "x": 1}, {"key": "c"}]),
        ("a.json", b'[{"x": 1}, 7, ["y"]]', "", [{"x": 1}, {"value": 7}, {"value": ["y"]}]),
        ("a.json", b'{"data": {"rows": [{"x": 1}]}}', "data.rows", [{"x": 1}]),
        ("a.json", b'{"x": 1}\n\n7\n', "", [{"x": 1}, {"value": 7}]),
        ("a.tsv", b"x\ty\n\n1,5\t\n", "", [{"x": "1,5", "y": ""}]),
        ("a.csv", b'\xef\xbb\xbfx,,\n"1\n2",3,4\n', "", [{"x": "1\n2", "": "4"}]),
        ("a.LST", b"one\r\n\ntwo", "", [{"text": "one"}, {"text": ""}, {"text": "two"}]),
        ("a.txt", b"", "", []),
        ("names", b"one\n", "", [{"text": "one"}]),
        ("a.txt.gz", gzip.compress(b"one\ntwo\n", mtime=0), "", [{"text": "one"}, {"text": "two"}]),
    ],
)
def test_rows_are_what_the_file_says(tmp_path: Path, name: str, content: bytes, inside: str, rows: list[Any]) -> None:
    (tmp_path / name).write_bytes(content)
    assert list(rows_of(find_files([f"{tmp_path}/{name}"]), inside)) == rows


def test_rows_that_cannot_be_read_are_named_by_their_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n\n{"x"\n{"x": 2}\n')
    (tmp_path / "a.csv").write_text('x,y\n1\n"2"3,4\n5,6\n"7\n8",9,10\n')
    found = [
        [f"{row}" if isinstance(row, Unreadable) else row for row in rows_of(find_files([f"{tmp_path}/{name}"]))]
        for name in ("a.jsonl", "a.csv")
    ]
    assert found[0] == [{"x": 1}, f"a line is not JSON: {tmp_path}/a.jsonl:3", {"x": 2}]
    assert found[1] == [
        f"a row of 1 fields, not 2: {tmp_path}/a.csv:2",
        f"text behind a closing quotation mark: {tmp_path}/a.csv:3",
        {"x": "5", "y": "6"},
        f"a row of 3 fields, not 2: {tmp_path}/a.csv:5",
    ]


def test_files_are_quick_up_to_a_size_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("a.txt", 99), ("b.txt", 100)):
        (tmp_path / name).write_bytes(bytes(size))
    monkeypatch.setattr(annotation_files, "QUICK_BYTES", 100)
    assert is_quick(find_files([f"{tmp_path}/a.txt"])) and not is_quick(find_files([f"{tmp_path}/*.txt"]))


# ---------------------------------------------------------------- what a check says
def test_what_is_missing_is_told_with_where_names_start_and_what_is_published(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = f"; names start at the folder {folder}"
    at, message = refused(folder, queries={"file": "x.jsonl"})
    assert at == "queries.file" and message.startswith(f"no file matches '{folder}/x.jsonl'") and message.endswith(starts)
    at, message = refused(folder, queries=[{"file": "x.jsonl"}, {"file": "y.jsonl"}], published="https://example.org")
    assert at == "queries" and message.count("no file matches") == 2 and "; no file matches" in message
    assert message.endswith(f"{starts}; the files are published at https://example.org")
    assert refused(folder, archives="x.zip")[0] == "archives"
    joined = {"file": "q.jsonl", "join": {"notes": {"file": "a.jsonl", "on": "id"}}}
    assert refused(folder, queries=joined)[0] == "queries.join.notes.file"
    assert refused(folder, queries=[joined, {"file": "q.jsonl"}])[0] == "queries.0.join.notes.file"
    monkeypatch.setenv("MM1_ABLATE_BENCHMARKS", str(folder))
    at, message = refused("${MM1_ABLATE_BENCHMARKS}", queries={"file": "x.jsonl"})
    assert message.endswith(f"{starts} (${{MM1_ABLATE_BENCHMARKS}})")
    assert refused(folder, references="sya") == (
        "queries",
        f"none of the first rows can be used: no references: 'sya' is undefined: 0{starts}",
    )


def test_a_check_looks_at_twenty_rows_and_is_content_with_one(folder: Path) -> None:
    rows = [{"id": number, "ask": "?", "say": []} for number in range(40)]
    official_files.write_lines(folder / "q.jsonl", [*rows[:19], row(19), *rows[20:]])
    source(folder).check()
    official_files.write_lines(folder / "q.jsonl", [*rows[:20], row(20)])
    assert refused(folder)[1].startswith("none of the first rows can be used: no reference: 0;")


def test_a_list_that_is_joined_and_names_nothing_is_refused_at_its_join(folder: Path) -> None:
    official_files.write_lines(folder / "a.jsonl", [{"of": 1}, {"off": 2}])
    joined = {"file": "q.jsonl", "join": {"notes": {"file": "a.jsonl", "on": "of", "to": "id"}}}
    assert refused(folder, queries=joined) == ("queries.join", "no join.notes.on: 'of' is undefined")


@pytest.mark.parametrize(
    ("change", "bad"),
    [
        ({"fields": {"question": "say"}}, "no field 'question': 1 (expected a text, found ['it is 1'])"),
        ({"fields": {"question": "none"}}, "no field 'question': 1"),
        ({"references": "[say]"}, "no reference: 1 (expected a text or a list of texts, found [['it is 1']])"),
        ({"references": "['', none, ' ']"}, "no reference: 1"),
        ({"choices": "['a', '']", "correct": "0"}, "no choices: 1 (expected texts, none of them empty, found ['a', ''])"),
        ({"choices": "[]", "correct": "0"}, "no choices: 1 (expected texts, none of them empty, found [])"),
        ({"choices": "['a', 'b']", "correct": "'x'"}, "no correct choice: 1 ('x' is not a number)"),
        ({"choices": "['a', 'b']", "correct": "2"}, "no correct choice: 1 (2, of 2 choices)"),
        ({"choices": "['a', 'b']", "correct": "-1"}, "no correct choice: 1 (-1, of 2 choices)"),
        ({"image": "{picture}.jpg"}, "no image: {picture}.jpg cannot be filled in: 1 (no field 'picture')"),
        ({"image": "{ask}/../../x.jpg"}, "image is missing: 1 (what is 1?/../../x.jpg)"),
    ],
)
def test_what_an_item_lacks_is_told_with_its_id_and_what_was_found(folder: Path, change: dict[str, Any], bad: str) -> None:
    official_files.write_lines(folder / "q.jsonl", [row(1)])
    with pytest.raises(SettingError) as error:
        source(folder, demonstrations=None, **change).open()
    assert (error.value.at, error.value.message) == ("queries", f"no item can be evaluated; {bad}")


def test_items_hold_what_the_record_says(folder: Path) -> None:
    one = {"id": 7.0, "ask": 5, "say": ["a", None, 3], "kind": 2.0, "options": ["b", "c"], "label": "1"}
    official_files.write_lines(folder / "q.jsonl", [one])
    asked = source(folder, group="kind", choices="options", correct="label", demonstrations=None).open().queries
    assert [(item.id, item.group, item.fields, item.references, item.choices, item.correct, item.image) for item in asked] == [
        ("7", "2", {"question": "5"}, ("a", "3"), ("b", "c"), 1, None)
    ]
    only = source(folder, references=None, choices="options", correct="label", demonstrations=None).open().queries[0]
    assert (only.group, only.references) == ("all", ("c",))
    assert [as_text(value) for value in (7, 7.0, 7.5, "7", None)] == ["7", "7", "7.5", "7", "None"]


def test_rows_of_one_id_are_one_item_where_they_are_merged(folder: Path) -> None:
    official_files.write_lines(folder / "q.jsonl", [row(1), row(2), {"id": 1, "ask": "another", "say": "one more"}])
    merged = source(folder, queries={"file": "q.jsonl", "merge": True}, demonstrations=None).open()
    by_id = {item.id: (item.fields["question"], item.references) for item in merged.queries}
    assert by_id == {"1": ("what is 1?", ("it is 1", "one more")), "2": ("what is 2?", ("it is 2",))} and merged.bad == []
    single = source(folder, demonstrations=None).open()
    assert [str(problem) for problem in single.bad] == ["an id occurs twice: 1"] and len(single.queries) == 2


def test_a_tenth_of_the_pictures_is_held_out_with_all_their_questions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        official_files.write_image(folder / f"images/{number}.jpg")
    official_files.write_lines(folder / "d.jsonl", [row(number, picture=number % 30) for number in range(60)])
    declared = source(folder, image="images/{picture}.jpg", queries={"file": "d.jsonl"})
    asked = [int(one.removeprefix("demonstration/")) % 30 for one in ids(declared.open("development").queries)]
    shown = [int(one) % 30 for one in ids(declared.open().demonstrations)]
    assert not set(asked) & set(shown) and len(set(asked) | set(shown)) == 30
    assert sorted(asked) == sorted([*set(asked)] * 2) and 0 < len(set(asked)) < 10
    monkeypatch.setattr(_drawing, "HELD_OUT", 1)
    assert len(declared.open("development").queries) == 60 and declared.open().demonstrations == []


def test_pools_are_as_large_as_is_said_where_a_record_says_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_drawing, "POOL", 3)
    monkeypatch.setattr(_drawing, "HELD_OUT", 2)
    assert len(source(folder).open().demonstrations) == 3 and len(source(folder).open("development").queries) == 3
    assert len(source(folder).open("development", count=2).queries) == 2 and len(source(folder).open("development", count=9).queries) == 3


# ---------------------------------------------------------------- filters
def test_filters_of_expressions_do_what_they_are_called() -> None:
    assert regex_replace("a1b22", "[0-9]+") == "ab" and regex_replace(121, "1", "x") == "x2x"
    assert regex_findall("a1 b2", "[a-z]") == ["a", "b"] and regex_findall("a1 b c2", "([a-z])([0-9])?") == ["a1", "b", "c2"]
    assert one_line(" a\n\tb  c ") == "a b c"
    assert most_common_first(iter(["b", "a", "c", "a", "c"])) == ["a", "a", "c", "c", "b"]
    assert without_longer(["ab", "b", "a", "ba", "abc", "c"]) == ["a", "b", "c"]
