"""Items of annotation files: what is drawn, what is bad and why."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import official_files
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from question_files import ids, row, said, source, write_questions

from mm1_ablate.config.settings import SettingError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("MM1_ABLATE_BENCHMARKS", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_questions(tmp_path)
    return tmp_path


# ---------------------------------------------------------------- drawing
def test_items_depend_on_seed_and_ids_not_on_the_order_of_the_file(folder: Path) -> None:
    before = {seed: said(source(folder).open(count=10, seed=seed)) for seed in (0, 1)}
    assert before[0] != before[1] and before[0] == said(source(folder).open(count=10, seed=0))
    official_files.write_lines(folder / "q.jsonl", [row(number) for number in reversed(range(30))])
    assert said(source(folder).open(count=10, seed=0)) == before[0]


@settings(max_examples=20, deadline=None)
@given(fewer=st.integers(1, 30), seed=st.integers(0, 3))
def test_fewer_items_are_the_first_of_more(fewer: int, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("files")
    official_files.write_lines(folder / "q.jsonl", [row(number) for number in range(30)])
    every = source(folder, demonstrations=None).open(seed=seed)
    assert sorted(ids(every.queries), key=int) == [str(number) for number in range(30)]
    assert ids(source(folder, demonstrations=None).open(count=fewer, seed=seed).queries) == ids(every.queries)[:fewer]


def test_items_are_the_same_for_ever(folder: Path) -> None:
    items = source(folder).open(count=5)
    assert (ids(items.queries), ids(items.demonstrations)[:3]) == (EXPECTED_QUERIES, EXPECTED_DEMONSTRATIONS)


EXPECTED_QUERIES = ["1", "16", "19", "24", "10"]
EXPECTED_DEMONSTRATIONS = ["demonstration/18", "demonstration/27", "demonstration/54"]


def test_ids_of_another_file_are_other_items_and_those_of_the_same_file_are_the_same(folder: Path) -> None:
    apart = source(folder).open()
    assert not set(ids(apart.queries)) & set(ids(apart.demonstrations))
    one_file = source(
        folder, queries={"file": "d.jsonl", "where": "id < 30"}, demonstrations={"file": "d.jsonl", "where": "id >= 20"}
    ).open()
    assert set(ids(one_file.queries)) & set(ids(one_file.demonstrations)) <= {str(number) for number in range(20, 30)} != set()


def test_a_development_split_is_held_out_from_the_demonstrations(folder: Path) -> None:
    development, report = source(folder).open("development"), source(folder).open("report")
    asked = {item.fields["question"] for item in development.queries}
    demonstrated = {item.fields["question"] for item in report.demonstrations}
    assert 1 <= len(asked) <= 15 and not asked & demonstrated and len(asked | demonstrated) == 60
    assert ids(development.demonstrations) == ids(report.demonstrations)
    official_files.write_lines(folder / "v.jsonl", [row(100)])
    declared = source(folder, development={"file": "v.jsonl"}).open("development")
    assert ids(declared.queries) == ["100"] and len(declared.demonstrations) == 60
    with pytest.raises(SettingError, match="no development split"):
        source(folder, demonstrations=None).open("development")
    with pytest.raises(ValueError, match="no evaluation split 'training'"):
        source(folder).open("training")  # type: ignore[arg-type]


def test_a_part_has_items_up_to_its_count(folder: Path) -> None:
    limited = source(folder, queries={"file": "q.jsonl", "count": 7}, demonstrations={"file": "d.jsonl", "count": 5})
    assert [len(limited.open(count=count).queries) for count in (None, 3, 20)] == [7, 3, 7]
    assert len(limited.open().demonstrations) == 5


def test_rows_without_an_id_are_distinguished_by_what_they_say(folder: Path) -> None:
    rows = [{"ask": f"{number}", "say": "x"} for number in (1, 2, 2)]
    official_files.write_lines(folder / "q.jsonl", rows)
    once = ids(source(folder, id=None, demonstrations=None).open().queries)
    official_files.write_lines(folder / "q.jsonl", [dict(reversed(one.items())) for one in reversed(rows)])
    assert ids(source(folder, id=None, demonstrations=None).open().queries) == once and len(set(once)) == 3


def test_groups_keep_demonstrations_to_their_own_kind(folder: Path) -> None:
    assert {item.group for item in source(folder, group="id % 2").open().queries} == {"0", "1"}


# ---------------------------------------------------------------- what is bad
def test_bad_rows_are_counted_and_named_and_others_take_their_places(folder: Path) -> None:
    lines = [json.dumps(row(number)) for number in range(20)]
    lines += [
        '{"id": 20',
        json.dumps({"ask": "?", "say": ["x"]}),
        json.dumps(row(22) | {"ask": None}),
        json.dumps({"id": 23, "say": ["x"]}),
        json.dumps(row(24) | {"say": []}),
        json.dumps(row(25) | {"say": ["", " "]}),
        json.dumps(row(3)),
    ]
    (folder / "q.jsonl").write_text("\n".join(lines) + "\n")
    items = source(folder, demonstrations=None).open()
    assert sorted(ids(items.queries), key=int) == [str(number) for number in range(20)]
    assert Counter(problem.reason for problem in items.bad) == {
        "a line is not JSON": 1,
        "no id: 'id' is undefined": 1,
        "no field 'question'": 1,
        "no field 'question': 'ask' is undefined": 1,
        "no reference": 2,
        "an id occurs twice": 1,
    }
    assert {problem.what for problem in items.bad} >= {f"{folder}/q.jsonl:21", "22", "23", "24", "25", "3"}
    assert len(source(folder, demonstrations=None).open(count=20).queries) == 20


def test_a_missing_image_and_a_missing_annotation_are_bad(folder: Path) -> None:
    official_files.write_lines(folder / "a.jsonl", [{"of": number, "answer": f"it is {number}"} for number in range(25)])
    for number in range(5, 30):
        official_files.write_image(folder / f"images/{number:03d}.jpg")
    declared = source(
        folder,
        references='notes | map(attribute="answer")',
        image="images/{id:03d}.jpg",
        queries={"file": "q.jsonl", "join": {"notes": {"file": "a.jsonl", "on": "of", "to": "id"}}},
        demonstrations=None,
    )
    items = declared.open()
    assert sorted(ids(items.queries), key=int) == [str(number) for number in range(5, 25)]
    assert Counter(problem.reason for problem in items.bad) == {"image is missing": 5, "no notes": 5}
    assert "3 (images/003.jpg)" in {problem.what for problem in items.bad}


def test_a_picture_of_one_folder_is_not_taken_for_one_of_another_that_has_its_name(tmp_path: Path) -> None:
    # Image tokens are kept by this key for all tasks of a trial.
    keys = []
    for name, colour in (("cats", 10), ("dogs", 200)):
        official_files.write_lines(tmp_path / name / "q.jsonl", [row(1)])
        official_files.write_image(tmp_path / name / "pictures/1.jpg", colour)
        (item,) = source(tmp_path / name, image="pictures/{id}.jpg", demonstrations=None).open().queries
        assert item.image is not None
        keys.append(item.image.key)
    assert keys[0] != keys[1]
    named = [source(tmp_path / name, image="pictures/{id}.jpg", image_key="pets/{id}", demonstrations=None) for name in ("cats", "dogs")]
    assert {item.image.key for one in named for item in one.open().queries if item.image} == {"pets/1"}


def test_what_is_no_text_is_no_reference_and_no_field(folder: Path) -> None:
    answers = [{"answer": "red"}, {"answer": "blue"}]
    official_files.write_lines(folder / "q.jsonl", [row(0, answers=answers), row(1, answers="red")])
    official_files.write_lines(folder / "d.jsonl", [row(number, answers="red") for number in range(40)])
    for change, reason in (
        ({"references": "answers"}, "no reference: 0 (expected a text or a list of texts, found [{'answer': 'red'}"),
        ({"fields": {"question": "answers"}}, "no field 'question': 0 (expected a text, found [{'answer': 'red'}"),
    ):
        items = source(folder, **change).open()
        assert ids(items.queries) == ["1"] and str(items.bad[0]).startswith(reason)


def test_a_choice_without_a_right_one_is_bad(folder: Path) -> None:
    rows = [
        {"id": 0, "options": ["a", "b"], "label": "B"},
        {"id": 1, "options": ["a", "b"], "label": "C"},
        {"id": 2, "options": ["a", ""], "label": "A"},
        {"id": 3, "options": ["a"], "label": "B"},
        {"id": 4, "options": "ab", "label": "A"},
    ]
    official_files.write_lines(folder / "q.jsonl", rows)
    shape = {"fields": None, "references": None, "choices": "options", "correct": '["A", "B"].index(label)', "demonstrations": None}
    items = source(folder, **shape).open()
    assert [(item.id, item.choices, item.correct, item.references) for item in items.queries] == [("0", ("a", "b"), 1, ("b",))]
    assert Counter(problem.reason for problem in items.bad) == {
        'no correct: ValueError in ["A", "B"].index(label)': 1,
        "no choices": 2,
        "no correct choice": 1,
    }


def test_a_demonstration_shows_an_answer_that_says_something(folder: Path) -> None:
    official_files.write_lines(folder / "d.jsonl", [row(number) | ({"say": ["", "x"]} if number < 5 else {}) for number in range(60)])
    items = source(folder, development={"file": "q.jsonl"}).open()
    assert (
        len(items.demonstrations) == 55
        and not items.bad
        and {problem.reason for problem in items.bad_demonstrations} == {"no answer to show"}
    )


def test_nothing_to_ask_is_an_error_with_its_reason(folder: Path) -> None:
    with pytest.raises(SettingError, match=r"queries: no item can be evaluated; no reference"):
        source(folder, references="[]").open()
    official_files.write_lines(folder / "twice.jsonl", [row(1), row(1), row(2), row(3)])
    with pytest.raises(SettingError, match=r"queries: no item can be evaluated; no reference"):  # the reason of most, not the first one
        source(folder, queries={"file": "twice.jsonl"}, references="[]").open()
    with pytest.raises(SettingError, match=r"queries: q.jsonl has no usable row"):
        source(folder, queries={"file": "q.jsonl", "where": "id > 99"}).open()
