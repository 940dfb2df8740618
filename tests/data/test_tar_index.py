"""The index of a tar, number by number: where members lie, what is bad, how far it was read."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mm1_ablate.data.files import find_files
from mm1_ablate.data.readers import tar_index
from mm1_ablate.data.readers.tar_headers import DamagedTar, tar_entries
from mm1_ablate.data.readers.tar_index import index_of, refused_for


def tar(path: Path, *members: tuple[str, int], kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar of members of so many bytes; its content."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, size in members:
            entry = tarfile.TarInfo(name)
            entry.size, entry.type = size, kind
            archive.addfile(entry, io.BytesIO(bytes([7]) * size))
    return path.read_bytes()


def indexed(path: Path) -> dict[str, Any]:
    (file,) = find_files([str(path)])
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in index_of(file).items()}


def lost(index: dict[str, Any]) -> Sequence[Any]:
    return index["tar"]["entries"]


def test_members_of_each_sample_are_where_the_tar_has_them(tmp_path: Path) -> None:
    content = tar(tmp_path / "a.tar", ("x/1.PNG", 600), ("readme", 5), (".hidden.txt", 5), ("x/1.seg.png", 3), ("2.txt", 0), ("é.txt", 512))
    index = indexed(tmp_path / "a.tar")
    assert index == {
        "first_member": [0, 2, 3, 4],
        "key_end": [3, 4, 6],
        "keys": list("x/12é".encode()),
        "offset": (512, 4096, 5120, 5632),
        "size": (600, 3, 0, 512),
        "extension": (0, 1, 2, 2),
        "extensions": ["png", "seg.png", "txt"],
        "bad": [],
        "tar": {"samples": 3, "read": len(content), "damage": "", "entries": []},
    }


def test_a_tar_that_breaks_off_keeps_the_samples_before_and_says_after_which(tmp_path: Path) -> None:
    members = [(f"{number}.{end}", 600) for number in range(3) for end in ("png", "txt")]  # 3 blocks each
    content = tar(tmp_path / "a.tar", *members)
    path = tmp_path / "b.tar"
    path.write_bytes(content[: 5 * 1536 + 512 + 599])  # within the last member
    index = indexed(path)
    assert index["first_member"] == [0, 2, 4] and index["bad"] == [("truncated tar", " after 1")]
    assert index["tar"] == {"samples": 2, "read": 3 * 1536 + 512 + 600, "damage": "truncated tar", "entries": []}
    path.write_bytes(content[: 5 * 1536])  # the last sample lacks what the others have
    assert indexed(path)["tar"]["samples"] == 2
    path.write_bytes(content[: 5 * 1536 + 512 + 600])  # its bytes are all there
    assert indexed(path)["tar"]["samples"] == 3 and indexed(path)["bad"] == [("truncated tar", " after 2")]
    path.write_bytes(content[: 2 * 1536])  # nothing says that there should be more
    assert indexed(path)["tar"]["samples"] == 1
    path.write_bytes(b"x" * 2000)
    assert indexed(path)["bad"] == [("not a tar", "")] and indexed(path)["tar"]["read"] == 0


@pytest.mark.parametrize(
    ("behind", "damage"),
    [
        (b"", ""),
        (bytes(1024), ""),
        (bytes(1024) + b"\1", "bytes after its end that are not read, as in concatenated tars"),
        (bytes(1023) + b"\1", "bytes after its end that are not read, as in concatenated tars"),
        (bytes(3000), "zeros where its end should be, as an unfinished download leaves"),
        (bytes(3000) + b"\1", "bytes after its end that are not read, as in concatenated tars"),
    ],
)
def test_what_follows_the_end_of_a_tar_is_zeros_and_not_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behind: bytes, damage: str
) -> None:
    monkeypatch.setattr(tar_index, "LONGEST_PADDING", 2048)
    content = tar(tmp_path / "a.tar", ("1.txt", 600))[: 1536 + 1024]  # its end in its smallest form
    (tmp_path / "a.tar").write_bytes(content + behind)
    index = indexed(tmp_path / "a.tar")
    assert index["tar"]["damage"] == damage and index["tar"]["samples"] == 1
    assert index["tar"]["read"] == (512 + 600 if damage else len(content + behind))


def test_entries_that_are_not_read_are_counted_with_the_first_of_them(tmp_path: Path) -> None:
    content = b"".join(
        tar(tmp_path / "part.tar", *members, kind=kind)[: sum(512 + -(-size // 512) * 512 for _, size in members)]
        for members, kind in (
            ([("a.png", 9), ("a.txt", 9)], tarfile.REGTYPE),
            ([("folder", 0)], tarfile.DIRTYPE),
            ([(f"{name}.png", 0) for name in ("a", "b", "c", "d", "e")], tarfile.SYMTYPE),
            ([("f.png", 0)], tarfile.LNKTYPE),
            ([("g.png", 0)], tarfile.FIFOTYPE),
            ([("/h.png", 5), ("x/../i.png", 5), ("../j.png", 5), ("x/k..l.png", 5)], tarfile.REGTYPE),
        )
    )
    (tmp_path / "a.tar").write_bytes(content + bytes(1024))
    index = indexed(tmp_path / "a.tar")
    assert lost(index) == [
        ["link in a tar", ["a.png", "b.png", "c.png"], 6, 5],  # a has other members
        ["special file in a tar", ["g.png"], 1, 1],
        ["tar entry that points outside", ["/h.png", "x/../i.png", "../j.png"], 3, 3],
    ]
    assert index["bad"][0] == ("link in a tar", "/a.png") and len(index["bad"]) == 10
    assert index["tar"]["samples"] == 2 and bytes(index["keys"]).decode() == "ax/k"


def test_samples_that_come_again_are_as_many_as_their_members_came_again(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", *[(f"{name}.{end}", 5) for name in ("a", "b", "a", "a", "c", "b") for end in ("png", "txt")])
    index = indexed(tmp_path / "a.tar")
    assert lost(index) == [["member twice in a tar", ["a.png", "a.txt", "a.png"], 6, 3]]
    assert index["offset"] == (512, 1536, 2560, 3584, 8704, 9728) and index["tar"]["samples"] == 3


def test_a_sample_that_begins_anew_with_other_members_takes_none_of_them_along(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", ("a.png", 1), ("b.png", 2), ("a.json", 3), ("a.png", 4), ("a.txt", 5))
    index = indexed(tmp_path / "a.tar")
    assert [index["extensions"][place] for place in index["extension"]] == ["png", "png"] and index["size"] == (1, 2)
    assert lost(index) == [["member twice in a tar", ["a.json", "a.png", "a.txt"], 3, 1]]


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("a.png", b"0", ""),
        ("a.png", b"1", "link in a tar"),
        ("a.png", b"2", "link in a tar"),
        ("a.png", b"3", "special file in a tar"),
        ("a.png", b"6", "special file in a tar"),
        ("/a.png", b"0", "tar entry that points outside"),
        ("x/..", b"0", "tar entry that points outside"),
        ("x/..a/b..", b"0", ""),
    ],
)
def test_links_and_what_leads_outside_are_not_read(name: str, kind: bytes, reason: str) -> None:
    assert refused_for(name, kind) == reason


# ---------------------------------------------------------------- headers
def entries(content: bytes) -> tuple[list[tuple[str, bytes, int, int]], str]:
    """The entries of a tar, and how it is damaged."""
    found: list[tuple[str, bytes, int, int]] = []
    try:
        for entry in tar_entries(lambda offset, length: content[offset : offset + length], len(content)):
            found.append(tuple(entry))
    except DamagedTar as error:
        return found, error.reason
    return found, ""


def header(name: str = "a.png", size: int = 0, kind: bytes = b"0", **changes: Any) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, kind
    return entry.tobuf(tarfile.USTAR_FORMAT)


def pax(*records: tuple[str, str]) -> bytes:
    content = b""
    for key, value in records:
        line = f" {key}={value}\n".encode()
        length = next(number for number in range(len(line), len(line) + 9) if number == len(line) + len(str(number)))
        content += str(length).encode() + line
    return header("pax", len(content), b"x") + content.ljust(-(-len(content) // 512) * 512, b"\0")


END = bytes(1024)


@pytest.mark.parametrize(
    ("content", "found", "damage"),
    [
        (END, [], ""),
        (header(size=3) + b"abc".ljust(512, b"\0") + END, [("a.png", b"0", 512, 3)], ""),
        (header(size=512) + bytes([1] * 512) + header("b") + END, [("a.png", b"0", 512, 512), ("b", b"0", 1536, 0)], ""),
        (header(size=3) + b"abc", [("a.png", b"0", 512, 3)], "truncated tar"),  # its end is missing
        (header(size=3) + b"ab", [("a.png", b"0", 512, 3)], "truncated tar"),
        (header(size=0), [("a.png", b"0", 512, 0)], "truncated tar"),
        (header()[:511], [], "truncated tar"),
        (b"x" * 512, [], "not a tar"),
        (header() + b"x" * 512, [("a.png", b"0", 512, 0)], "damaged tar"),
        # Links and folders have no bytes, whatever size they give; a name that ends in a slash is a folder's.
        (header("l", 9, b"2") + header("b") + END, [("l", b"2", 512, 9), ("b", b"0", 1024, 0)], ""),
        (header("f/", 0, b"\0") + header("g", 0, b"7") + END, [("f/", b"5", 512, 0), ("g", b"0", 1024, 0)], ""),
        (header("x" * 50 + "/" + "y" * 80) + END, [("x" * 50 + "/" + "y" * 80, b"0", 512, 0)], ""),
        (pax(("path", "é.png"), ("size", "2")) + header("b") + b"ab".ljust(512, b"\0") + END, [("é.png", b"0", 1536, 2)], ""),
        (pax(("size", "x")) + header("b") + END, [], "damaged tar"),
        (pax(("size", str(1 << 60))) + header("b") + END, [("b", b"0", 1536, 1 << 60)], "truncated tar"),
        (pax(("size", str((1 << 60) + 1))) + header("b") + END, [], "damaged tar"),
        (pax(("GNU.sparse.major", "1")) + header("b") + END, [], "sparse file in a tar"),
        (pax(("path", "c")) + header("b") + header("d") + END, [("c", b"0", 1536, 0), ("d", b"0", 2048, 0)], ""),
        (header("s", 0, b"S") + END, [], "sparse file in a tar"),
        (header("long", 5, b"L") + b"e.png".ljust(512, b"\0") + header() + END, [("e.png", b"0", 1536, 0)], ""),
        (header("long", (1 << 20) + 1, b"L") + bytes(2 << 20) + END, [], "damaged tar"),
        (header("long", 600, b"L") + b"e" * 100, [], "truncated tar"),
        (header("pax", 9, b"x") + b"99 path=a".ljust(512, b"\0") + header() + END, [], "damaged tar"),
        (header("pax", 9, b"x") + b"xx path=a".ljust(512, b"\0") + header() + END, [], "damaged tar"),
    ],
)
def test_headers_are_read_as_the_standard_says_and_damage_is_told(content: bytes, found: list[Any], damage: str) -> None:
    assert entries(content) == (found, damage)
