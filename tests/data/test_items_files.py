"""Items of annotation files: shapes of files, where files and images may be, records that cannot be meant."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import official_files
import pytest
import zstandard
from pydantic import ValidationError
from question_files import ids, row, said, source, write_questions

from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.readers import annotation_files


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("MM1_ABLATE_BENCHMARKS", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_questions(tmp_path)
    return tmp_path


# ---------------------------------------------------------------- shapes of files
def test_every_format_gives_the_same_items(tmp_path: Path) -> None:
    rows = [{"id": str(number), "ask": f"what, {number}?", "say": f"it is\t{number}"} for number in range(12)]
    lines = "".join(f"{json.dumps(one)}\n" for one in rows).encode()
    official_files.write_lines(tmp_path / "a.jsonl", rows)
    official_files.write_lines(tmp_path / "a.ndjson", rows)
    official_files.write_lines(tmp_path / "lines.json", rows)
    official_files.write_json(tmp_path / "list.json", rows)
    official_files.write_json(tmp_path / "inside.json", {"data": {"rows": rows}})
    official_files.write_parquet(tmp_path / "a.parquet", rows)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(lines))
    quoted = "".join(f'{one["id"]},"{one["ask"]}",{one["say"]}\n' for one in rows)
    (tmp_path / "a.csv").write_text(f"id,ask,say\n{quoted}")
    for name, part in (("half-1", rows[:5]), ("half-2", rows[5:])):
        official_files.write_lines(tmp_path / f"{name}.jsonl", part)
    parts = [
        {"file": name} for name in ("a.jsonl", "a.ndjson", "lines.json", "list.json", "a.parquet", "a.jsonl.gz", "a.jsonl.zst", "a.csv")
    ]
    parts += [{"file": "inside.json", "rows": "data.rows"}, {"file": "half-{1,2}.jsonl"}, {"file": ["half-*.jsonl"]}]
    assert len({said(source(tmp_path, queries=part, demonstrations=None).open()) for part in parts}) == 1


def test_a_mapping_of_ids_is_rows_with_a_key_and_lines_of_text_are_text(tmp_path: Path) -> None:
    official_files.write_json(tmp_path / "q.json", {"x": {"ask": "?", "say": "a"}, "y": {"ask": "??", "say": "b"}})
    keyed = source(tmp_path, id="key", queries={"file": "q.json"}, demonstrations=None)
    assert {item.id: item.references for item in keyed.open().queries} == {"x": ("a",), "y": ("b",)}
    (tmp_path / "q.txt").write_text("one two\nthree four\n")
    shape = {"id": "number", "fields": {"question": 'text.split(" ")[0]'}, "references": 'row["text"].split(" ")[1]'}
    lines = source(tmp_path, **shape, queries={"file": "q.txt"}, demonstrations=None)
    assert {item.id: (item.fields["question"], *item.references) for item in lines.open().queries} == {
        "0": ("one", "two"),
        "1": ("three", "four"),
    }


def test_a_file_of_another_shape_is_reported_at_its_part(folder: Path) -> None:
    official_files.write_json(folder / "q.json", {"questions": [row(1)], "info": {}})
    for part, message in (
        ({"file": "q.json"}, "found a mapping of questions, info"),
        ({"file": "q.json", "rows": "data"}, r"queries.rows: .*has no 'data' \(it has questions, info\)"),
        ({"file": "q.jsonl", "rows": "data"}, "JSON files only"),
    ):
        with pytest.raises(SettingError, match=message):
            source(folder, queries=part).check()
    (folder / "q.json").write_text('{"questions": [')
    with pytest.raises(SettingError, match="is not JSON"):
        source(folder, queries={"file": "q.json", "rows": "questions"}).check()
    (folder / "q.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(SettingError, match="cannot be read"):
        source(folder, queries={"file": "q.parquet"}).check()


def test_of_alternatives_the_first_that_is_there_is_read(folder: Path) -> None:
    parts = [{"file": "hub-*.parquet", "id": "index"}, {"file": "q.jsonl"}]
    alternatives = source(folder, queries=parts, demonstrations=None)
    assert len(alternatives.open().queries) == 30
    official_files.write_parquet(folder / "hub-0.parquet", [row(7) | {"index": 5}])
    assert ids(alternatives.open().queries) == ["5"]


# ---------------------------------------------------------------- where things are
@pytest.mark.parametrize("ending", [".zip", ".tar"])
def test_images_may_stay_in_the_archive_that_they_came_in(folder: Path, ending: str) -> None:
    for number in range(30):
        official_files.write_image(folder / f"pictures/val/{number}.jpg", 8 * number)
    declared = source(folder, image="pictures/val/{id}.jpg", image_key="p/{id}", demonstrations=None)
    plain = {item.id: item.image.load().mean() for item in declared.open().queries if item.image}
    official_files.pack(folder / "pictures/val", ending)
    packed = declared.open()
    assert not packed.bad and {item.id: item.image.load().mean() for item in packed.queries if item.image} == plain
    assert {item.image.key for item in packed.queries if item.image} == {f"p/{number}" for number in range(30)}
    (folder / f"pictures/val{ending}").rename(folder / f"elsewhere{ending}")
    assert len(declared.model_copy(update={"archives": (f"elsewhere{ending}",)}).open().queries) == 30
    with pytest.raises(SettingError, match="no item can be evaluated; image is missing"):
        declared.open()


def test_a_truncated_archive_lacks_the_images_behind_its_end(folder: Path) -> None:
    for number in range(30):
        official_files.write_image(folder / f"val/{number:02d}.jpg")
    official_files.pack(folder / "val", ".tar")
    whole = (folder / "val.tar").read_bytes()
    (folder / "val.tar").write_bytes(whole[: len(whole) // 2])
    items = source(folder, image="val/{id:02d}.jpg", demonstrations=None).open()
    assert 0 < len(items.queries) < 30 and {problem.reason for problem in items.bad} == {"image is missing"}


def test_a_name_in_the_data_does_not_lead_out_of_the_folder(folder: Path) -> None:
    official_files.write_image(folder.parent / "outside.jpg")
    official_files.write_lines(folder / "q.jsonl", [row(1, name="../outside"), row(2, name="/outside"), row(3)])
    with pytest.raises(SettingError, match=r"no image: \{name\}.jpg cannot be filled in"):
        source(folder, image="{name}.jpg", demonstrations=None).open()


def test_missing_files_are_reported_with_the_variable_and_where_they_are_published(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official = source("${MM1_ABLATE_BENCHMARKS}", published="https://example.org/files")
    with pytest.raises(
        SettingError, match=r"folder: .* MM1_ABLATE_BENCHMARKS is not set; .* holds q.jsonl \(published at https://example.org/files\)"
    ):
        official.check()
    monkeypatch.setenv("MM1_ABLATE_BENCHMARKS", str(folder))
    official.check()
    (folder / "d.jsonl").unlink()
    with pytest.raises(
        SettingError, match=rf"demonstrations.file: no file matches '{folder}/d.jsonl'.*published at https://example.org/files"
    ):
        official.check()
    joined = source(folder, demonstrations=None, queries={"file": "q.jsonl", "join": {"notes": {"file": "a.jsonl", "on": "id"}}})
    with pytest.raises(SettingError, match=r"queries.join.notes.file: no file matches"):
        joined.check()


def test_a_check_looks_at_the_first_rows(folder: Path) -> None:
    source(folder).check()
    with pytest.raises(SettingError, match="queries: none of the first rows can be used: no references: 'sya' is undefined"):
        source(folder, references="sya").check()
    with pytest.raises(SettingError, match=r"image is missing: .* \(images/"):
        source(folder, image="images/{id}.jpg").check()
    official_files.write_lines(folder / "q.jsonl", [])
    with pytest.raises(SettingError, match="no row is usable"):
        source(folder).check()


def test_contents_are_those_of_the_annotations_wherever_they_are(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = source(folder).contents()
    moved = tmp_path_factory.mktemp("moved")
    shutil.copytree(folder, moved, dirs_exist_ok=True)
    assert source(moved).contents() == before != source(folder, demonstrations=None).contents()
    official_files.write_lines(moved / "d.jsonl", [row(1)])
    assert source(moved).contents() != before


def test_what_is_drawn_from_large_files_is_kept_until_they_change(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(60):
        official_files.write_image(folder / f"images/{number}.jpg")
    declared = source(folder, image="images/{id}.jpg")
    plain = said(declared.open(count=9))
    monkeypatch.setattr(annotation_files, "QUICK_BYTES", 0)
    drawn = declared.open(count=9)
    again = declared.open(count=9)
    assert said(drawn) == said(again) == plain and again.queries[0].image and again.queries[0].image.load().shape == (6, 8, 3)
    gone = again.queries[0].id
    (folder / f"images/{gone}.jpg").unlink()
    assert gone not in ids(declared.open(count=9).queries)
    official_files.write_lines(folder / "q.jsonl", [row(number) for number in range(9)])
    assert set(ids(declared.open(count=9).queries)) <= {str(number) for number in range(9)}


# ---------------------------------------------------------------- records that cannot be meant
@pytest.mark.parametrize(
    "change, message",
    [
        ({"references": "answers["}, "expected a Jinja expression"),
        ({"fields": {"question": "a b"}}, "expected a Jinja expression"),
        ({"image": "{name.jpg"}, "expected a name with fields in braces"),
        ({"references": None}, "neither 'references' nor 'choices'"),
        ({"choices": "options"}, "'choices' and 'correct' go together"),
        ({"queries": []}, "queries"),
        ({"quaries": {"file": "q.jsonl"}}, "quaries"),
    ],
)
def test_a_record_that_cannot_be_meant_is_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        source(folder, **change)


def test_an_expression_cannot_leave_the_sandbox(folder: Path) -> None:
    with pytest.raises(SettingError, match="no references"):
        source(folder, references="say.__class__.__mro__[1].__subclasses__()").open()


# ---------------------------------------------------------------- what is read is what the file says
ROWS = [{"id": str(number), "ask": f"what, {number}?", "say": f"it is {number}"} for number in range(12)]


def answers(folder: Path, name: str, **more: Any) -> dict[str, str]:
    return {item.id: item.references[0] for item in source(folder, queries={"file": name}, demonstrations=None, **more).open().queries}


@pytest.mark.parametrize(
    "ending", ["jsonl.gz", "jsonl.zst", "jsonl.zstd", "json.gz", "json.zst", "csv.zst", "tsv.gz", "JSONL.GZ", "parquet"]
)
def test_compressed_annotations_need_no_package_that_only_tests_install(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, _, packed = ending.lower().partition(".")
    lines = "".join(f"{json.dumps(one)}\n" for one in ROWS)
    table = "id\task\tsay\n" + "".join(f"{one['id']}\t{one['ask']}\t{one['say']}\n" for one in ROWS)
    plain = {
        "jsonl": lines,
        "json": json.dumps(ROWS),
        "tsv": table,
        "csv": "id,say\n" + "".join(f"{one['id']},{one['say']}\n" for one in ROWS),
    }
    if kind == "parquet":
        official_files.write_parquet(tmp_path / "a.parquet", ROWS)
    else:
        half = len(plain[kind]) // 2
        pack = gzip.compress if packed == "gz" else zstandard.compress
        # In two frames, as pigz and pzstd write large files.
        (tmp_path / f"a.{ending}").write_bytes(pack(plain[kind][:half].encode()) + pack(plain[kind][half:].encode()))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    fields = {} if kind != "csv" else {"fields": {"question": "id"}}
    assert answers(tmp_path, f"a.{ending}", **fields) == {one["id"]: one["say"] for one in ROWS}


@pytest.mark.parametrize("ending", ["gz", "zst"])
@pytest.mark.parametrize("harm", ["cut", "empty", "html"])
def test_a_damaged_compressed_file_is_reported_at_its_part(folder: Path, ending: str, harm: str) -> None:
    whole = {"gz": gzip.compress, "zst": zstandard.compress}[ending]((folder / "q.jsonl").read_bytes() * 50)
    (folder / f"q.jsonl.{ending}").write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "html": b"<html>not found</html>"}[harm])
    with pytest.raises(SettingError, match=rf"^queries: .*q\.jsonl\.{ending} cannot be unpacked"):
        source(folder, queries={"file": f"q.jsonl.{ending}"}).check()


def test_tables_with_pictures_in_base64_are_read(tmp_path: Path) -> None:
    """As MMBench's are written."""
    picture = "/9j/4AAQ" * 50_000
    rows = "".join(f"{number}\t{picture}\twhat?\tit is {number}\n" for number in range(3))
    (tmp_path / "a.tsv").write_text(f"id\timage\task\tsay\n{rows}")
    assert answers(tmp_path, "a.tsv") == {str(number): f"it is {number}" for number in range(3)}


@pytest.mark.parametrize("ending, mark", [("csv", ","), ("tsv", "\t")])
def test_rows_of_a_table_that_do_not_fit_its_head_are_bad_and_not_filled_up(tmp_path: Path, ending: str, mark: str) -> None:
    lines = [["id", "ask", "say"], ["0", "what?", "a"], ["1", "which", " one?", "b"], ["2", "c"], [], ["3", "what?", "d"]]
    lines += [["4", '"what" is it?', "e"], ["5", '"what?"', "f"]]
    (tmp_path / f"a.{ending}").write_text("".join(mark.join(line) + "\n" for line in lines))
    items = source(tmp_path, queries={"file": f"a.{ending}"}, demonstrations=None).open()
    assert {item.id: item.references[0] for item in items.queries} == {"0": "a", "3": "d", "5": "f"}
    assert sorted(f"{problem}" for problem in items.bad) == [
        f"a row of 2 fields, not 3: {tmp_path}/a.{ending}:4",
        f"a row of 4 fields, not 3: {tmp_path}/a.{ending}:3",
        f"text behind a closing quotation mark: {tmp_path}/a.{ending}:7",
    ]


def test_a_table_with_one_name_twice_or_an_open_quote_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,say,say\n0,a,b\n")
    with pytest.raises(SettingError, match=r"^queries: .*a\.csv: two columns are called 'say'"):
        source(tmp_path, queries={"file": "a.csv"}, demonstrations=None).check()
    (tmp_path / "b.tsv").write_text('id\task\tsay\n0\t"what?\ta\n1\twhat?\tb\n')
    with pytest.raises(SettingError, match=r"^queries: .*b\.tsv: a quotation mark that begins a field in line 2 is never closed"):
        source(tmp_path, queries={"file": "b.tsv"}, demonstrations=None).check()


def test_lines_of_text_end_where_lines_end(tmp_path: Path) -> None:
    """Not at the separators that only Python's splitlines() takes for ends of lines: all rows behind would be others."""
    texts = ["one\u2028more", "two\x0bmore", "three\x85more", "", "five"]
    (tmp_path / "a.txt").write_bytes(("\ufeff" + "\r\n".join(texts) + "\r\n").encode())
    shape = {"id": "number", "fields": {"question": "number"}, "references": '"<" ~ text ~ ">"'}
    assert answers(tmp_path, "a.txt", **shape) == {str(number): f"<{text}>" for number, text in enumerate(texts)}


@pytest.mark.parametrize(
    "name, content", [("a.xlsx", b"PK\x03\x04"), ("a.pkl", b"\x80\x04"), ("a.arrow", b"ARROW1"), ("a.jsonl.bz2", b"BZh9")]
)
def test_files_of_other_kinds_are_not_taken_for_lines_of_text(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingError, match=rf"^queries: .*{name}: expected a name that ends in \.json"):
        source(tmp_path, queries={"file": name}, demonstrations=None).check()


def test_text_that_is_no_utf_8_is_reported_at_its_part(tmp_path: Path) -> None:
    for name in ("a.txt", "a.csv"):
        (tmp_path / name).write_bytes("id,ask,say\n0,où?,là\n".encode("latin-1"))
        with pytest.raises(SettingError, match=rf"^queries: .*{name} is not UTF-8"):
            source(tmp_path, queries={"file": name}, demonstrations=None).check()


def pack_as(path: Path, names: str, colour: int) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(30):
            archive.writestr(names.format(number), official_files.jpeg(colour))


def test_of_several_archives_the_one_whose_member_has_more_of_the_name_is_read(folder: Path) -> None:
    pack_as(folder / "one.zip", "{}.jpg", 40)
    pack_as(folder / "two.zip", "val/{}.jpg", 200)
    asked = source(folder, image="val/{id}.jpg", archives=("one.zip", "two.zip"), demonstrations=None).open().queries
    assert {round(item.image.load().mean()) for item in asked if item.image} == {200}


def test_a_name_that_several_archives_have_is_no_picture(folder: Path) -> None:
    """Trained and asked on another picture, nobody would see it."""
    for name, colour in (("train", 40), ("val", 200)):
        pack_as(folder / f"{name}-images.zip", "{}.jpg", colour)
    with pytest.raises(SettingError, match="several images of one name"):
        source(folder, image="val/{id}.jpg", archives=("train-images.zip", "val-images.zip"), demonstrations=None).open()
