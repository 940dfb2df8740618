"""What the beginnings of files say, and how it is told: which files are looked into, what their columns are, what is wrong with them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tar_files import picture, plain_tar

from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.documents import Unreadable
from mm1_ablate.data.files import DataFile, find_files
from mm1_ablate.data.readers import json_lines
from mm1_ablate.data.readers.file_signatures import describe_format, without_compression
from mm1_ablate.data.readers.json_lines import columns_of_lines, head_of_lines, kind_of
from mm1_ablate.data.readers.open_files import are_tables, check_columns, columns_of, first_rows, first_values, sampled
from mm1_ablate.data.readers.parquet import footer_of
from mm1_ablate.data.readers.quick_check import lost_lines, lost_tables, lost_tars, wrong_tar

PAGE = "an HTML page, such as a server's error; download the file again"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path_factory.mktemp("cache")))


def written(folder: Path, **contents: object) -> list[DataFile]:
    """Files of JSON lines (`a_jsonl`) or parquet (`a_parquet`), or of bytes, in order of name."""
    paths = []
    for called, content in contents.items():
        path = folder / ".".join(called.split("_"))
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif path.suffix == ".parquet":
            pq.write_table(content if isinstance(content, pa.Table) else pa.Table.from_pylist(content), path)
        else:
            path.write_text("".join(f"{json.dumps(row)}\n" for row in content))
        paths.append(str(path))
    return find_files(paths)


def numbered(first: int, count: int) -> list[dict[str, int]]:
    return [{"n": number} for number in range(first, first + count)]


# ---------------------------------------------------------------- which files
@pytest.mark.parametrize(
    ("files", "chosen"),
    [(1, [0]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (5, [0, 1, 2, 3]), (10, [0, 2, 5, 7]), (1000, [0, 250, 500, 750])],
)
def test_four_files_evenly_spaced_are_looked_into(files: int, chosen: list[int]) -> None:
    local = [DataFile(f"/data/{number}.jsonl", f"{number}.jsonl", 1) for number in range(files)]
    assert sampled(local) == [local[number] for number in chosen]


def test_of_files_on_a_network_one_is_looked_into() -> None:
    local = [DataFile(f"/data/{number}.jsonl", f"{number}.jsonl", 1) for number in range(3)]
    remote = [DataFile(f"s3://data/{number}.jsonl", f"{number}.jsonl", 1) for number in range(3)]
    assert sampled(remote) == remote[:1] and sampled([*local, remote[0]]) == local[:1]


def test_first_rows_come_from_all_that_are_looked_into_and_not_from_broken_ones(tmp_path: Path) -> None:
    lines = written(tmp_path, **{f"{name}_jsonl": numbered(10 * place, 9) for place, name in enumerate("abcd")})
    assert [row["n"] for row in first_rows(lines, ["n"], 8)] == [0, 1, 10, 11, 20, 21, 30, 31]
    assert [row["n"] for row in first_rows(lines, ["n"], 2)] == [0, 10, 20, 30]
    tables = written(tmp_path, a_parquet=numbered(0, 9), b_parquet=b"PAR1 and no more", c_parquet=numbered(20, 9))
    assert first_rows(tables, ["n"], 6) == [{"n": 0}, {"n": 1}, {"n": 20}, {"n": 21}]


def test_first_values_are_those_of_the_first_file_that_has_any_with_their_places(tmp_path: Path) -> None:
    lines = written(tmp_path, a_jsonl_gz=b"<html>", b_jsonl=[], c_jsonl=[{"n": 3}, {"m": 4}, {"n": 5}], d_jsonl=numbered(7, 1))
    assert first_values(lines, "n", 3) == [(3, "c.jsonl, row 1"), (None, "c.jsonl, row 2"), (5, "c.jsonl, row 3")]
    assert len(first_values(lines, "n", 2)) == 2 and first_values(lines[:2], "n") == []
    tables = written(tmp_path, a_parquet=b"PAR1", b_parquet=numbered(0, 30))
    assert first_values(tables, "n") == [(number, f"b.parquet, row {number + 1}") for number in range(20)]
    assert first_values(tables, "m") == []


def test_a_name_says_whether_a_file_is_a_table_or_lines() -> None:
    def named(*names: str) -> list[DataFile]:
        return [DataFile(f"/{name}", name, 1) for name in names]

    assert are_tables(named("a.parquet", "b.PQ")) is True
    assert are_tables(named("a.jsonl", "b.ndjson.gz", "c.json.zst", "d.JSONL.ZSTD")) is False
    with pytest.raises(SettingError) as unknown:
        are_tables(named("a.parquet", "b.csv", "c.txt"))
    assert (unknown.value.at, unknown.value.message) == (
        "files",
        "'b.csv' is neither JSON lines nor parquet by its name; expected a name that ends in .jsonl, .ndjson, .json (also .gz, .zst) or "
        ".parquet, .pq",
    )
    with pytest.raises(SettingError) as both:
        are_tables(named("a.jsonl", "b.parquet"))
    assert (both.value.at, both.value.message) == ("files", "'b.parquet' is parquet and 'a.jsonl' is JSON lines; declare a source for each")
    assert [without_compression(name) for name in ("A.JSON.GZ", "b.zst", "c.zstd", "d.gz.txt")] == ["a.json", "b", "c", "d.gz.txt"]


# ---------------------------------------------------------------- columns
def test_columns_are_those_that_half_of_the_rows_have_with_the_kind_that_most_hold(tmp_path: Path) -> None:
    tables = written(
        tmp_path,
        a_parquet=[{"text": "x", "half": 1, "kind": "x", "less": 1}] * 2,
        b_parquet=[{"text": "x", "half": 1, "kind": 1}] * 3,
        c_parquet=[{"text": None, "kind": None}] * 5,
        d_parquet=b"no parquet",
    )
    assert columns_of(tables) == {"text": "text", "half": "numbers", "kind": "numbers"}
    lines = written(tmp_path, a_jsonl=[{"a": 1, "b": None}], b_jsonl=[{"a": "x", "b": 2}] * 9, c_jsonl=[{"a": 1, "c": []}], d_jsonl=b"")
    assert columns_of(lines) == {"a": "numbers", "b": "numbers"}


def test_files_without_columns_are_refused_with_the_first_reason(tmp_path: Path) -> None:
    pages = written(tmp_path, a_jsonl=b"<html>\n", b_jsonl=b"<html>\n")
    page = f"expected a JSON object in each line, found {PAGE}"
    for files, message in (
        (pages, f"'a.jsonl' cannot be used (nor is any other of the 2 files): {page}"),
        (pages[:1], f"'a.jsonl' cannot be used: {page}"),
        (written(tmp_path, c_jsonl=b""), "'c.jsonl' has no rows"),
        (written(tmp_path, c_jsonl=b"", d_jsonl=b"\n\n"), "none of the 2 files has a row"),
        (written(tmp_path, e_jsonl=b'"x"\n"y"\n'), "'e.jsonl' cannot be used: expected a JSON object in each line, found '\"x\"'"),
        (
            written(tmp_path, f_jsonl=b'[{"a": 1},\n {"a": 2}]\n'),
            "'f.jsonl' cannot be used: it begins like one JSON list; expected an object in each line (convert it with `jq -c '.[]'`)",
        ),
    ):
        with pytest.raises(SettingError) as refused:
            columns_of(files)
        assert (refused.value.at, refused.value.message) == ("files", message)


def test_columns_that_settings_name_are_looked_for_and_the_nearest_is_told() -> None:
    columns = {"caption": "text", "score": "numbers", "empty": "nulls"}
    check_columns(columns, {"a": ("caption", ("bytes", "text")), "b": ("empty", ("numbers",))})
    for has, needed, message in (
        (columns, ("captions", ("text",)), "the data has no column 'captions' (did you mean 'caption'?); it has caption, score, empty"),
        (columns, ("url", ("text",)), "the data has no column 'url'; it has caption, score, empty"),
        ({}, ("url", ("text",)), "the data has no column 'url'; it has none"),
        (columns, ("score", ("text", "bytes")), "column 'score' holds numbers; expected text or bytes"),
    ):
        with pytest.raises(SettingError) as refused:
            check_columns(has, {"fine": ("caption", ("text",)), "setting": needed} if has else {"setting": needed})
        assert (refused.value.at, refused.value.message) == ("setting", message)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "nulls"),
        (True, "truth values"),
        (1, "numbers"),
        (1.5, "numbers"),
        ("x", "text"),
        ({}, "objects"),
        ([], "nulls"),
        ([None, 2], "lists of numbers"),
        ([["x"]], "lists of lists of text"),
        ([[]], "lists of nulls"),
    ],
)
def test_kinds_of_values_have_names(value: Any, kind: str) -> None:
    assert kind_of(value) == kind


def test_kinds_of_columns_of_tables_have_names(tmp_path: Path) -> None:
    columns = {
        "text": (pa.array(["x"]), "text"),
        "large": (pa.array(["x"], pa.large_string()), "text"),
        "coded": (pa.array(["x"]).dictionary_encode(), "text"),
        "bytes": (pa.array([b"x"]), "bytes"),
        "large bytes": (pa.array([b"x"], pa.large_binary()), "bytes"),
        "int": (pa.array([1]), "numbers"),
        "float": (pa.array([1.5]), "numbers"),
        "objects": (pa.array([{"a": 1}]), "objects"),
        "nulls": (pa.nulls(1), "nulls"),
        "truth": (pa.array([True]), "truth values"),
        "lists": (pa.array([[b"x"]]), "lists of bytes"),
        "large lists": (pa.array([["x"]], pa.large_list(pa.string())), "lists of text"),
        "dates": (pa.array([1], pa.date32()), "values of type date32[day]"),
    }
    (file,) = written(tmp_path, a_parquet=pa.table({name: values for name, (values, _) in columns.items()}))
    footer = footer_of(file)
    assert footer.columns == {name: kind for name, (_, kind) in columns.items()}
    assert (footer.rows, footer.empty, footer.damage) == (1, ["nulls"], "")


# ---------------------------------------------------------------- beginnings of lines
def test_the_beginning_of_lines_says_their_columns_and_bytes(tmp_path: Path) -> None:
    row = b'{"text": "abc"}\n'  # 16 bytes
    (file,) = written(tmp_path, a_jsonl=b"\xef\xbb\xbf" + row + b"\n" + row + b'{"n": 1}')
    head = head_of_lines(file)
    assert (head.columns, head.damage) == ({"text": "text", "n": "numbers"}, "")
    assert head.bytes_of_one == pytest.approx((3 + 16 + 1 + 16 + 8) / 3)
    (long,) = written(tmp_path, b_jsonl=row * 5000)  # longer than what is looked at: the line that does not end there is none
    assert head_of_lines(long).bytes_of_one == 65536 / 4096
    (unended,) = written(tmp_path, c_jsonl=b'{"text": "' + b"x" * 70_000 + b'"}\n')
    assert head_of_lines(unended) == json_lines.Head()


@pytest.mark.parametrize(
    ("content", "damage"),
    [
        (b"", "a file of 0 bytes"),
        (b"[1,\n2]\n", "it begins like one JSON list; expected an object in each line (convert it with `jq -c '.[]'`)"),
        (b"<!DOCTYPE html>\n<p>", PAGE),
        (b"PAR1....", "parquet"),
        (b"7\n8\n", "no JSON object in its first lines, but '7'"),
        (b"x" * 100, f"no JSON object in its first lines, but '{'x' * 60}'"),
    ],
)
def test_the_beginning_of_what_is_no_lines_says_what_it_is(tmp_path: Path, content: bytes, damage: str) -> None:
    (file,) = written(tmp_path, a_jsonl=content)
    assert head_of_lines(file).damage == damage and head_of_lines(file).columns == {}


def test_columns_are_looked_for_in_the_first_lines_and_what_is_null_at_first_has_its_later_kind(tmp_path: Path) -> None:
    (file,) = written(tmp_path, a_jsonl=[{"a": None}, 7, {"a": "x", "b": 1}, *[{"a": 1}] * 60, {"late": 1}, {"later": 1}])
    assert columns_of_lines(file) == {"a": "text", "b": "numbers", "late": "numbers"}


def test_a_first_line_that_never_ends_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "LONGEST_LINE", 3 << 20)
    (file,) = written(tmp_path, a_jsonl=b'{"text": "' + b"x" * (5 << 20) + b'"}\n')
    with pytest.raises(Unreadable) as refused:
        columns_of_lines(file)
    assert refused.value.reason == "its first line does not end in 3 MiB; expected an object in each line, as `jq -c` writes them"
    (ends,) = written(tmp_path, b_jsonl=b'{"text": "' + b"x" * (2 << 20) + b'"}\n' + b'{"n": 1}\n' * 700_000)
    assert columns_of_lines(ends) == {"text": "text", "n": "numbers"}


# ---------------------------------------------------------------- what cannot be read
def test_tables_without_what_is_needed_are_lost_with_the_reason(tmp_path: Path) -> None:
    whole = [{"text": "x", "n": 1}]
    files = written(
        tmp_path,
        a_parquet=whole * 4,
        b_parquet=[{"words": "x", "n": 1}] * 2,
        c_parquet=[{"text": 7, "n": 1}] * 3,
        d_parquet=pa.table({"text": pa.array([None] * 1000, pa.string()), "n": [1] * 1000}),
        e_parquet=b"<html>",
        f_parquet=b"",
        g_parquet=pa.table({"other": pa.array([], pa.string())}),
        h_parquet=b"PAR1 and no more",
    )
    (losses,) = lost_tables(files, {"n": ("numbers",), "text": ("text", "bytes")}, "captions")
    assert (losses.field, losses.files, losses.there, losses.of) == ("captions", 8, 4, "documents")
    reasons = {lost.what: lost.reason for lost in losses.lost}
    assert reasons.pop("h.parquet").startswith("parquet that cannot be read: ")
    assert reasons == {
        "b.parquet": "no column 'text'; it has words, n",
        "c.parquet": "column 'text' holds numbers; expected text or bytes",
        "d.parquet": "column 'text' has no value in any of its 1,000 rows",
        "e.parquet": f"not parquet, but {PAGE}",
        "f.parquet": "a file of 0 bytes",
    }
    known = {lost.what: lost.documents for lost in losses.lost}
    assert (known["b.parquet"], known["c.parquet"], known["d.parquet"], known["f.parquet"]) == (2, 3, 1000, 4)


def test_columns_that_are_nowhere_filled_are_empty_and_names_beside_bytes_do_not_fill_them(tmp_path: Path) -> None:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {
            "named": pa.array([{"bytes": None, "path": "x.jpg"}] * 3, image),
            "filled": pa.array([{"bytes": None, "path": None}, {"bytes": b"x", "path": None}, None], image),
            "text": pa.array([None, None, "x"]),
            "none": pa.array([None] * 3, pa.string()),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    (file,) = find_files([f"{tmp_path}/a.parquet"])
    assert footer_of(file).empty == ["named", "none"]


def test_lines_without_what_is_needed_are_lost_in_the_field_that_names_them(tmp_path: Path) -> None:
    files = written(tmp_path, a_jsonl=[{"text": "x", "n": 1}] * 10, b_jsonl=[{"n": 1}], c_jsonl=b"")
    (losses,) = lost_lines(files, ["n", "text"], "captions")
    assert losses.field == "captions" and losses.there == 10
    assert [(lost.what, lost.reason, lost.documents) for lost in losses.lost] == [
        ("b.jsonl", "no field 'text' in its first lines; they have n", 10),
        ("c.jsonl", "a file of 0 bytes", 10),
    ]
    assert lost_lines(files[:1], ["n", "text"]) == []


def test_the_first_and_last_bytes_of_a_tar_say_what_is_wrong_with_it(tmp_path: Path) -> None:
    whole = plain_tar(tmp_path / "whole.tar", [("0.png", picture(1)), ("0.txt", b"red")]).read_bytes()
    contents = {
        "whole.tar": (whole, ""),
        "odd.tar": (whole + b"\0", "truncated tar"),
        "cut.tar": (whole[: 2 * 512 + 512 + 3], "truncated tar"),
        "nothing.tar": (b"", "a file of 0 bytes"),
        "empty.tar": (bytes(10_240), ""),
        "zeros.tar": (bytes(10_752), "not a tar, but all zeros, as an unfinished download leaves"),
        "page.tar": (b"<html>" + bytes(2000), f"not a tar, but {PAGE}"),
        "other.tar": (b"x" * 5000, "not a tar"),
        "packed.tgz": (gzip.compress(whole), ""),
        "page.tgz": (
            gzip.compress(b"<html>" + b" " * 600),
            "not a tar, but an HTML page, such as a server's error; download the file again",
        ),
        "short.tgz": (gzip.compress(b"<html>"), ""),
        "damaged.tgz": (gzip.compress(whole)[:10] + b"\xff" * 600, "a compressed tar that cannot be unpacked"),
    }
    for name, (content, wrong) in contents.items():
        (tmp_path / name).write_bytes(content)
        (file,) = find_files([f"{tmp_path}/{name}"])
        assert wrong_tar(file) == wrong, name


def test_samples_of_lost_tars_are_reckoned_from_the_first_samples_of_a_whole_one(tmp_path: Path) -> None:
    # A header and 600 bytes, padded to two blocks, and a header and a block: 2,560 bytes of each sample.
    members = [(f"{number}.{end}", bytes([1] * size)) for number in range(40) for end, size in (("png", 600), ("txt", 3))]
    size = plain_tar(tmp_path / "a.tar", members).stat().st_size
    (tmp_path / "b.tar").write_bytes(b"")
    (tmp_path / "c.tar").write_bytes((tmp_path / "a.tar").read_bytes()[: 2560 * 10 + 100])
    (tmp_path / "d.tar").write_bytes(b"x" * 2560 * 100)
    (losses,) = lost_tars(find_files([f"{tmp_path}/*.tar"]))
    assert losses.there == pytest.approx((size + 25_700) / 2560)
    assert [(lost.what, lost.reason, lost.documents, lost.is_what) for lost in losses.lost] == [
        ("b.tar", "a file of 0 bytes", round(size / 2560), "file"),
        ("c.tar", "truncated tar", round((size - 25_700) / 2560), "part"),
        ("d.tar", "not a tar", 100, "file"),
    ]


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"", ""),
        (b"some text", ""),
        (b"\0" * 20, "all zeros, as an unfinished download leaves"),
        (b"\xef\xbb\xbf \n<HTML>", PAGE),
        (b"<head>", PAGE),
        (b"<?xml version", "an XML page, such as a store's error; download the file again"),
        (b"<Error>", "an XML page, such as a store's error; download the file again"),
        (
            b"version https://git-lfs.github.com/spec/v1",
            "a git-lfs pointer instead of the file; fetch the file with `git lfs pull`",
        ),
        (b"PK\x03\x04", "a zip archive; unpack it"),
        (b"\x89PNG\r\n", "a PNG image"),
        (b"\x1f\x8b\x08", "compressed with gzip; unpack it"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it"),
        (b"\xfd7zXZ\0", "compressed with xz; unpack it"),
        (b"BZh9", "compressed with bzip2; unpack it"),
        (b"x" * 257 + b"ustar\0", "a tar"),
    ],
)
def test_first_bytes_say_what_a_file_is_and_what_to_do(head: bytes, said: str) -> None:
    assert describe_format(head or b"x", 100) == said
    assert describe_format(head, 0) == "a file of 0 bytes"


def test_ends_of_files_far_away_are_the_same_as_of_near_ones(tmp_path: Path) -> None:
    from mm1_ablate.data.readers.file_signatures import head_and_tail

    content = bytes(range(256)) * 5
    (tmp_path / "a.bin").write_bytes(content)
    memory = fsspec.filesystem("memory")
    memory.pipe(f"/{tmp_path.name}/a.bin", content)
    for address in (f"{tmp_path}/a.bin", f"memory://{tmp_path.name}/a.bin"):
        (file,) = find_files([address])
        assert head_and_tail(file) == head_and_tail(file) == (content[:512], content[-512:])
    (tmp_path / "b.bin").write_bytes(b"short")
    assert head_and_tail(*find_files([f"{tmp_path}/b.bin"])) == (b"short", b"short")
