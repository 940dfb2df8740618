"""Files by pattern, what their contents are called after a move or a change, and the cache that keeps what is made once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mm1_ablate.config.settings import Settings, is_identity
from mm1_ablate.data.cache import NotEnoughSpace, build_once, cache_folder
from mm1_ablate.data.files import DataFile, Files, NoFiles, digest_files, find_files


class Reads(Settings):
    """A field of patterns."""

    files: Files


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Twelve files of 200,000 different bytes, in two folders."""
    for number in range(12):
        path = tmp_path / "shards" / ("a" if number < 6 else "b") / f"{number:05}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * 200_000)
    return tmp_path / "shards"


def names(*patterns: str | Path) -> list[str]:
    return [file.name for file in find_files([str(pattern) for pattern in patterns])]


def test_braces_are_ranges_with_leading_zeros_and_alternatives(shards: Path) -> None:
    assert names(shards / "a/{00002..00004}.bin") == ["00002.bin", "00003.bin", "00004.bin"]
    assert names(shards / "{a/00001,b/00010}.bin") == ["a/00001.bin", "b/00010.bin"]


def test_globs_go_through_folders_in_the_order_of_names(shards: Path) -> None:
    assert names(shards / "*/*.bin") == sorted(f"{'a' if number < 6 else 'b'}/{number:05}.bin" for number in range(12))
    assert names(shards / "**/*0.bin") == ["a/00000.bin", "b/00010.bin"]
    assert names(shards / "a/0000[12].bin") == ["00001.bin", "00002.bin"]


def test_a_file_that_two_patterns_match_is_read_once(shards: Path) -> None:
    assert names(shards / "a/00001.bin", shards / "a/*.bin") == [f"{number:05}.bin" for number in range(6)]


def test_a_name_that_looks_like_a_glob_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "part[1].bin").write_bytes(b"x")
    assert names(tmp_path / "part[1].bin") == ["part[1].bin"]


def test_variables_of_the_environment_and_home_are_filled_in(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDS", str(shards))
    monkeypatch.setenv("HOME", str(shards))
    assert names("${SHARDS}/a/00003.bin") == names("~/a/00003.bin") == ["00003.bin"]
    with pytest.raises(NoFiles, match=r"NOWHERE.*export it first"):
        find_files(["${NOWHERE}/*.bin"])


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("a/{00003..00007}.bin", "a/00006.bin' .of '.*a/{00003..00007}.bin'.; the nearest folder that exists is .*shards/a$"),
        ("c/d/*.bin", "no file matches '.*c/d/[*].bin'; the nearest folder that exists is .*shards$"),
        ("a", "is a folder, not files; write which of its files"),
        ("a/{00001.bin", "brace without its partner"),
        ("nowhere://a/*.bin", "cannot be looked up: .*nowhere"),
    ],
)
def test_a_pattern_without_files_says_where_the_path_ends(shards: Path, pattern: str, says: str) -> None:
    with pytest.raises(NoFiles, match=says):
        find_files([pattern if "://" in pattern else f"{shards}/{pattern}"])


def test_relative_patterns_start_at_the_folder_of_the_file_that_declares_them(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Reads.model_validate({"files": "a/*.bin"}, context={"folder": shards}).files == (f"{shards}/a/*.bin",)
    monkeypatch.chdir(shards)
    assert Reads(files=("a/*.bin",)).files == (f"{shards}/a/*.bin",)
    untouched = ("s3://bucket/{0..3}.bin", "${SHARDS}/*.bin", "/data/*.bin")
    assert Reads(files=untouched).files == untouched


def test_a_field_of_patterns_is_a_string_or_a_list_and_not_identity() -> None:
    schema = Reads.model_json_schema()["properties"]["files"]
    assert [kind["type"] for kind in schema["anyOf"]] == ["string", "array"]
    assert not is_identity(Reads.model_fields["files"])
    for nothing in ([], "", [""]):
        with pytest.raises(ValidationError):
            Reads.model_validate({"files": nothing})


# ---------------------------------------------------------------- contents
def test_a_moved_folder_has_the_same_digest(shards: Path, tmp_path: Path) -> None:
    before = digest_files(find_files([f"{shards}/**/*.bin"]))
    shutil.move(shards, tmp_path / "elsewhere")
    assert digest_files(find_files([f"{tmp_path}/elsewhere/*/*.bin"])) == before


@pytest.mark.parametrize("place", [0, 70_000, 199_999])
def test_a_changed_file_has_another_digest_as_far_as_its_ends_show(shards: Path, place: int) -> None:
    before = digest_files(find_files([f"{shards}/a/*.bin"]))
    with (shards / "a/00003.bin").open("r+b") as file:
        file.seek(place)
        file.write(b"!")
    after = digest_files(find_files([f"{shards}/a/*.bin"]))
    # 64 KiB from each end are read: the middle of a large shard is not.
    assert (after != before) == (place != 70_000)


def test_a_file_of_another_size_or_name_or_one_less_is_another_digest(shards: Path) -> None:
    digests = {digest_files(find_files([f"{shards}/a/*.bin"]))}
    (shards / "a/00003.bin").write_bytes(b"\3" * 199_999)
    digests.add(digest_files(find_files([f"{shards}/a/*.bin"])))
    (shards / "a/00003.bin").rename(shards / "a/00030.bin")
    digests.add(digest_files(find_files([f"{shards}/a/*.bin"])))
    (shards / "a/00000.bin").unlink()
    digests.add(digest_files(find_files([f"{shards}/a/*.bin"])))
    assert len(digests) == 4


def test_what_a_file_holds_is_remembered_until_it_changes(shards: Path) -> None:
    files = find_files([f"{shards}/a/*.bin"])
    digest = digest_files(files)
    status = (shards / "a/00003.bin").stat()
    (shards / "a/00003.bin").write_bytes(b"!" * 200_000)
    os.utime(shards / "a/00003.bin", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digest_files(find_files([f"{shards}/a/*.bin"])) == digest  # its stamp says that nothing changed, so nobody looks
    os.utime(shards / "a/00003.bin")
    assert digest_files(find_files([f"{shards}/a/*.bin"])) != digest


# ---------------------------------------------------------------- reading
@given(data=st.data())
def test_reading_gives_the_bytes_of_the_middle(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = data.draw(st.binary(max_size=200))
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes(content)
    offset, length = data.draw(st.integers(0, 220)), data.draw(st.integers(0, 220))
    file = find_files([str(path)])[0]
    assert (file.size, file.read(offset, length)) == (len(content), content[offset : offset + length])


def test_many_threads_read_more_files_than_may_be_open(tmp_path: Path) -> None:
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from concurrent.futures import ThreadPoolExecutor
from mm1_ablate.data.files import find_files
files = find_files(["{tmp_path}/*.bin"])
with ThreadPoolExecutor(8) as pool:
    right = list(pool.map(lambda turn: files[turn * 37 % 100].read(0, 3) == b"%03d" % (turn * 37 % 100), range(2000)))
assert len(right) == 2000 and all(right)
"""
    for number in range(100):
        (tmp_path / f"{number:03}.bin").write_bytes(b"%03d" % number)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_remote_file_is_found_and_read_like_a_local_one() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for number in range(8):
        memory.pipe_file(f"/kept/{number}.bin", b"0123456789")
    files = find_files(["memory://kept/{0..5}.bin"])
    assert files == find_files(["memory://kept/[0-5].bin"])
    assert [file.name for file in files] == [f"{number}.bin" for number in range(6)]
    assert (files[0].read(3, 4), files[0].read(8, 4), files[0].read(0, 0)) == (b"3456", b"89", b"")
    with files[1].open() as opened:
        assert opened.read() == b"0123456789"
    with pytest.raises(NoFiles, match=r"kept/8\.bin"):
        find_files(["memory://kept/{0..9}.bin"])
    assert len(digest_files(files)) == 64


# ---------------------------------------------------------------- the cache
def test_what_two_processes_want_at_once_is_made_once(tmp_path: Path) -> None:
    code = f"""
import time
from mm1_ablate.data.cache import build_once
def build(folder, report):
    with open("{tmp_path}/builds", "a") as file:
        file.write("built\\n")
    (folder / "half").write_text("1")
    time.sleep(1)
    (folder / "whole").write_text("1")
print(sorted(path.name for path in build_once("things", "one", 10, build).iterdir()))
"""
    surroundings = os.environ | {"MM1_ABLATE_CACHE": str(tmp_path / "cache")}
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=surroundings) for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0].strip() for process in processes]
    assert outputs == ["['half', 'whole']"] * 2
    assert (tmp_path / "builds").read_text() == "built\n"


def test_threads_of_one_process_make_it_once_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path))
    builds: list[Path] = []
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: build_once("things", "one", 10, lambda folder, report: builds.append(folder)), range(8)))
    assert len(builds) == len(folders) == 1


def test_what_failed_halfway_is_not_there_and_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path))

    def fails(folder: Path, report: object) -> None:
        (folder / "half").write_text("1")
        raise RuntimeError("the power went out")

    with pytest.raises(RuntimeError):
        build_once("things", "one", 10, fails)
    folder = build_once("things", "one", 10, lambda folder, report: (folder / "whole").write_text("1") and None)
    assert [path.name for path in folder.iterdir()] == ["whole"]


def test_what_does_not_fit_on_the_disk_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(NotEnoughSpace, match=r"needs about 1.0 EB.* are free; free some space, or set MM1_ABLATE_CACHE") as refused:
        build_once("tables", "large", 10**18, lambda folder, report: pytest.fail("nothing may be written"))
    assert refused.value.needed == 10**18 > refused.value.free
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MM1_ABLATE_CACHE", "~/somewhere")
    assert cache_folder() == Path.home() / "somewhere"
    monkeypatch.delenv("MM1_ABLATE_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "mm1-ablate"


def test_a_file_is_named_by_place_and_not_by_address(shards: Path) -> None:
    assert find_files([f"{shards}/a/00001.bin"]) == [
        DataFile(f"{shards}/a/00001.bin", "00001.bin", 200_000, str((shards / "a/00001.bin").stat().st_mtime_ns))
    ]
