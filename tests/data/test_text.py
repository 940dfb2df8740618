"""Text from JSON lines and parquet, packed or not: the same documents from every format, bad lines named and skipped."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.cache import NotEnoughSpace
from mm1_ablate.data.documents import Unreadable
from mm1_ablate.data.sources.text import Text

DOCUMENTS = [{"text": f"Satz {number}: grün\nund blau", "score": number / 10, "lang": "de"} for number in range(25)]
PACKED = {
    "jsonl": bytes,
    "json": bytes,
    "ndjson": bytes,
    "jsonl.zst": zstandard.compress,
    "json.gz": gzip.compress,
    "jsonl.gz": gzip.compress,
}


def lines(documents: Sequence[object]) -> bytes:
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


def write(folder: Path, suffix: str, documents: Sequence[dict] = DOCUMENTS, name: str = "part") -> Path:
    path = folder / f"{name}.{suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(list(documents)), path, row_group_size=7)
    else:
        path.write_bytes(PACKED[suffix](lines(documents)))
    return path


def texts(source: Text) -> list[str]:
    opened = source.open(name="web")
    return [opened[index].text for index in range(len(opened))]


def bad(source: Text) -> list[Unreadable]:
    opened = source.open()
    found = []
    for index in range(len(opened)):
        try:
            opened[index]
        except Unreadable as error:
            found.append(error)
    return found


# ---------------------------------------------------------------- formats
@pytest.mark.parametrize("suffix", [*PACKED, "parquet"])
def test_every_format_gives_the_same_documents(tmp_path: Path, suffix: str):
    source = Text(files=str(write(tmp_path, suffix)), keep={"columns": {"score": {}}})
    source.check()
    assert texts(source) == [document["text"] for document in DOCUMENTS]
    first = source.open(name="web")[3]
    assert (first.source, first.data_type, first.columns, first.parts) == ("web", "text", {"score": 0.3}, (DOCUMENTS[3]["text"],))


def test_a_suffix_in_capitals_is_one_and_several_shards_are_read_in_order_of_name(tmp_path: Path):
    for shard in range(3):
        write(tmp_path, "jsonl", DOCUMENTS[shard * 5 : shard * 5 + 5], f"shard-{shard}").rename(tmp_path / f"shard-{shard}.JSONL")
    source = Text(files=f"{tmp_path}/shard-{{0..2}}.JSONL")
    assert texts(source) == [document["text"] for document in DOCUMENTS[:15]]
    keys = {source.open()[index].key for index in range(15)}
    assert len(keys) == 15


@given(
    contents=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip), min_size=1, max_size=20),
    ends=st.data(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_survives_any_line_ends_and_blank_lines(tmp_path: Path, contents: list[str], ends: st.DataObject):
    data = b"\xef\xbb\xbf" if ends.draw(st.booleans()) else b""
    numbers, number = [], 1
    for place, text in enumerate(contents):
        blank = ends.draw(st.integers(0, 2))
        data += ends.draw(st.sampled_from([b"\n", b"\r\n"])) * blank
        numbers.append(number + blank)
        number += blank + 1
        data += json.dumps({"text": text}, ensure_ascii=False).encode()
        last = place + 1 == len(contents)
        data += ends.draw(st.sampled_from([b"", b"\n", b"\r\n"] if last else [b"\n", b"\r\n"]))
    path = tmp_path / "any.jsonl"
    path.write_bytes(data)
    source = Text(files=str(path))
    assert texts(source) == contents
    assert [source.rows().place(index) for index in range(len(contents))] == [f"any.jsonl, line {number}" for number in numbers]


def test_lines_that_cross_the_blocks_that_are_read_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mm1_ablate.data.readers.compression.CHUNK", 7)
    for suffix in ("jsonl", "jsonl.zst"):
        assert texts(Text(files=str(write(tmp_path, suffix)))) == [document["text"] for document in DOCUMENTS]


def test_gzip_of_several_members_is_read_to_the_end(tmp_path: Path):
    path = tmp_path / "part.json.gz"
    path.write_bytes(gzip.compress(lines(DOCUMENTS[:4])) + gzip.compress(lines(DOCUMENTS[4:9])))
    assert len(texts(Text(files=str(path)))) == 9


@pytest.mark.parametrize("suffix", ["jsonl", "json.gz", "jsonl.zst", "parquet"])
def test_files_are_read_from_any_file_system_that_fsspec_reaches(tmp_path: Path, suffix: str):
    memory = fsspec.filesystem("memory")
    memory.pipe(f"/{tmp_path.name}/part.{suffix}", write(tmp_path, suffix).read_bytes())
    source = Text(files=f"memory://{tmp_path.name}/*.{suffix}")
    source.check()
    assert texts(source) == [document["text"] for document in DOCUMENTS]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_several_threads_may_read_at_once(tmp_path: Path, suffix: str):
    for shard in range(5):
        write(tmp_path, suffix, DOCUMENTS[shard * 5 : shard * 5 + 5], f"{shard}")
    opened = Text(files=f"{tmp_path}/*.{suffix}").open()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: opened[index % 25].text, range(2000)))
    assert found == [DOCUMENTS[index % 25]["text"] for index in range(2000)]


def test_another_field_holds_the_text(tmp_path: Path):
    assert texts(Text(files=str(write(tmp_path, "parquet")), field="lang")) == ["de"] * 25


# ---------------------------------------------------------------- bad data
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b'["a"]', "not a JSON object"),
        (b"7", "not a JSON object"),
        (b'{"text": "\xff\xfe"}', "invalid UTF-8"),
        (b'{"text": "\\ud800"}', "invalid Unicode"),
        (b'{"text": ""}', "empty text"),
        (b'{"text": " \\n "}', "empty text"),
        (b'{"text": null}', "no text"),
        (b'{"text": ["a"]}', "no text"),
        (b'{"other": "a"}', "no text"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_line_is_named_and_its_neighbours_are_read(tmp_path: Path, line: bytes, reason: str):
    path = tmp_path / "part.jsonl"
    path.write_bytes(lines(DOCUMENTS[:2]) + b"\n" + line + b"\n" + lines(DOCUMENTS[2:4]))
    source = Text(files=str(path))
    source.check()
    (error,) = bad(source)
    assert error.reason == reason and error.what.startswith("part.jsonl, line 4")
    opened = source.open()
    assert [opened[index].text for index in (0, 1, 3, 4)] == [document["text"] for document in DOCUMENTS[:4]]


@pytest.mark.parametrize("suffix", ["json.gz", "jsonl.zst"])
def test_of_a_file_that_breaks_off_what_could_be_read_stays_and_one_is_bad(tmp_path: Path, suffix: str):
    many = [{"text": f"{number} {'x' * (number * 7919 % 300)} {number * 2654435761 % 2**32}"} for number in range(20_000)]
    path = write(tmp_path, suffix, many)
    path.write_bytes(path.read_bytes()[:-5_000])
    write(tmp_path, suffix, DOCUMENTS, "whole")
    source = Text(files=f"{tmp_path}/*.{suffix}")
    opened = source.open()
    readable = len(opened) - 1 - len(DOCUMENTS)
    assert 10_000 < readable < 20_000
    assert [opened[index].text for index in range(readable)] == [document["text"] for document in many[:readable]]
    with pytest.raises(Unreadable, match=r"^damaged file: part\.json"):
        opened[readable]
    assert opened[readable + 1].text == DOCUMENTS[0]["text"]


def test_a_file_that_is_not_what_its_name_says_is_one_bad_document_among_others(tmp_path: Path):
    (tmp_path / "a.jsonl.zst").write_bytes(b"this is no zstandard")
    (tmp_path / "b.jsonl.zst").write_bytes(b"")
    write(tmp_path, "jsonl.zst", DOCUMENTS, "c")
    source = Text(files=f"{tmp_path}/*.zst")
    source.check()
    assert [error.reason for error in bad(source)] == ["damaged file", "damaged file"]
    assert len(source.open()) == 2 + len(DOCUMENTS)


# ---------------------------------------------------------------- what a plan refuses
@pytest.mark.parametrize("suffix", ["jsonl", "json.gz", "parquet"])
@pytest.mark.parametrize(
    ("declared", "field", "said"),
    [
        ({"field": "txt"}, "field", r"no column 'txt' \(did you mean 'text'\?\); it has text, score, lang"),
        ({"field": "score"}, "field", "column 'score' holds numbers; expected text or bytes"),
        ({"keep": {"columns": {"scores": {"at_least": 1}}}}, r"keep\.columns\.scores", "did you mean 'score'"),
        ({"keep": {"columns": {"lang": {"at_least": 1}}}}, r"keep\.columns\.lang", "holds text; expected numbers"),
    ],
)
def test_a_field_that_is_not_there_is_refused_at_its_place(tmp_path: Path, suffix: str, declared: dict, field: str, said: str):
    with pytest.raises(SettingError, match=f"^{field}: .*{said}"):
        Text(files=str(write(tmp_path, suffix)), **declared).check()


@pytest.mark.parametrize(
    ("name", "contents", "said"),
    [
        ("a.jsonl", b"", "has no rows"),
        ("a.jsonl", b"\n\n", "has no rows"),
        ("a.json", json.dumps(DOCUMENTS).encode(), "begins like one JSON list"),
        ("a.jsonl", b"just words\n", "expected a JSON object in each line, found 'just words'"),
        ("a.json.gz", b"{}", "'a.json.gz' cannot be used"),
        ("a.parquet", b"PAR1", "'a.parquet' cannot be used"),
        ("a.csv", b"a,b", "'a.csv' is neither JSON lines nor parquet by its name"),
    ],
)
def test_files_that_are_not_text_are_refused(tmp_path: Path, name: str, contents: bytes, said: str):
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(SettingError, match=f"^files: .*{said}"):
        Text(files=str(tmp_path / name)).check()


def test_files_that_are_not_there_and_mixed_formats_are_refused(tmp_path: Path):
    with pytest.raises(SettingError, match=r"^files: no file matches .*nowhere.*nearest folder that exists is"):
        Text(files=f"{tmp_path}/nowhere/*.jsonl").check()
    paths = [str(write(tmp_path, suffix)) for suffix in ("jsonl", "parquet")]
    with pytest.raises(SettingError, match="declare a source for each"):
        Text(files=paths).check()


def test_a_source_of_nothing_but_damage_does_not_open(tmp_path: Path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(SettingError, match=r"none of them can be read; the first: damaged file: a\.parquet"):
        Text(files=f"{tmp_path}/*.parquet").open()


# ---------------------------------------------------------------- contents and cache
@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.zst", "parquet"])
def test_a_moved_folder_is_the_same_and_a_changed_file_is_not(tmp_path: Path, suffix: str):
    write(tmp_path / "here", suffix)
    before = Text(files=f"{tmp_path}/here/*")
    digest, keys = before.contents(), [before.open()[index].key for index in range(25)]
    shutil.move(tmp_path / "here", tmp_path / "there")
    after = Text(files=f"{tmp_path}/there/*")
    assert (after.contents(), [after.open()[index].key for index in range(25)]) == (digest, keys)
    write(tmp_path / "there", suffix, [*DOCUMENTS[:-1], {"text": "another", "score": 0.0, "lang": "de"}])
    assert after.contents() != digest
    assert texts(after)[-1] == "another"


def test_an_edit_in_the_middle_of_a_large_file_is_seen(tmp_path: Path):
    path = tmp_path / "part.jsonl"
    documents = [{"text": f"{number:06}" + "x" * 90} for number in range(4000)]
    path.write_bytes(lines(documents))
    assert len(texts(Text(files=str(path)))) == 4000
    middle = bytearray(path.read_bytes())
    place = middle.index(b"002000")
    middle[place - 11 : place - 10] = b" "  # the end of the line before: two lines become one that is no JSON
    path.write_bytes(bytes(middle))
    assert len(bad(Text(files=str(path)))) == 1


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.zst", "parquet"])
def test_making_ready_says_how_far_it_is_and_is_done_once(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    for shard in range(3):
        write(tmp_path, suffix, [{**document, "text": f"{shard} {document['text']}"} for document in DOCUMENTS], f"{shard}")
    source = Text(files=f"{tmp_path}/*.{suffix}")
    reports: list[tuple[str, int, int]] = []
    source.make_ready(lambda *report: reports.append(report))
    dones = [done for _, done, _ in reports]
    assert dones == sorted(dones) and dones[-1] == reports[-1][2] == sum(path.stat().st_size for path in tmp_path.glob(f"*.{suffix}"))
    again: list[tuple[str, int, int]] = []
    source.make_ready(lambda *report: again.append(report))
    assert not again


@pytest.mark.parametrize(("suffix", "at_least"), [("jsonl.zst", 20_000), ("parquet", 10_000)])
def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    tmp_path: Path, suffix: str, at_least: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    for shard in range(4):  # any one of them would fit
        write(tmp_path, suffix, [{"text": f"{shard} {number:0250}"} for number in range(20)], f"{shard}")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    with pytest.raises(NotEnoughSpace, match="MM1_ABLATE_CACHE") as refused:
        Text(files=f"{tmp_path}/*.{suffix}").make_ready()
    assert at_least < refused.value.needed < 40_000
    assert not [path for path in (tmp_path / "cache").rglob("*.arrow")] + [path for path in (tmp_path / "cache").rglob("*.jsonl")]
