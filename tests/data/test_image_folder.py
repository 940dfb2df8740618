"""Images of benchmarks by name: which file or archive is read, and what is said where it cannot be."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from mm1_ablate.data.documents import Unreadable
from mm1_ablate.data.files import find_files
from mm1_ablate.data.readers import image_folder
from mm1_ablate.data.readers.image_folder import ImageFolder


def zipped(path: Path, **members: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a folder/", b"")
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, **members: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def read(folder: Path, name: str, *archives: Path) -> bytes:
    return ImageFolder(str(folder), find_files(map(str, archives)) if archives else ()).find(name)()


def test_an_image_is_read_from_the_nearest_of_the_places_where_it_may_be(tmp_path: Path) -> None:
    name, places = "coco/val/x.jpg", []
    further = zipped(tmp_path / "further.zip", **{name: b"further"})
    places.append(further)
    assert read(tmp_path, name, further) == b"further"
    for archive, pack, member in (
        ("coco.tar", tarred, "./x.jpg"),
        ("coco.zip", zipped, "./val/x.jpg"),
        ("coco/val.tar", tarred, "./coco/val/x.jpg"),
        ("coco/val.zip", zipped, "./val/x.jpg"),
    ):
        pack(tmp_path / archive, **{member: archive.encode()})
        assert read(tmp_path, name, further) == archive.encode()
    (tmp_path / "coco/val").mkdir()
    (tmp_path / "coco/val/x.jpg").write_bytes(b"a file")
    assert read(tmp_path, name, further) == b"a file"


def test_of_one_archive_the_member_with_most_of_the_path_is_the_image(tmp_path: Path) -> None:
    zipped(tmp_path / "a/b.zip", **{"x.jpg": b"base name", "b/x.jpg": b"two parts", "a/b/x.jpg": b"all", "c/x.jpg": b"another"})
    assert read(tmp_path, "a/b/x.jpg") == b"all"
    zipped(tmp_path / "a/b.zip", **{"x.jpg": b"base name", "b/x.jpg": b"two parts"})
    os.utime(tmp_path / "a/b.zip", (1, 1))
    assert read(tmp_path, "a/b/x.jpg") == b"two parts"


def test_what_is_nowhere_or_in_several_further_archives_is_told_by_its_name(tmp_path: Path) -> None:
    one, two = zipped(tmp_path / "one.zip", **{"x.jpg": b"1"}), tarred(tmp_path / "two.tar", **{"x.jpg": b"2", "val/y.jpg": b"3"})
    with pytest.raises(Unreadable) as missing:
        read(tmp_path, "val/z.jpg", one, two)
    with pytest.raises(Unreadable) as ambiguous:
        read(tmp_path, "val/x.jpg", one, two)
    assert [(error.value.reason, error.value.what) for error in (missing, ambiguous)] == [
        ("image is missing", "val/z.jpg"),
        ("several images of one name", "val/x.jpg"),
    ]
    assert read(tmp_path, "val/y.jpg", one, two) == b"3" and read(tmp_path, "x.jpg", one) == b"1"


def test_an_archive_beside_the_images_has_to_be_called_as_their_folder(tmp_path: Path) -> None:
    zipped(tmp_path / "values.zip", **{"val/x.jpg": b"x"})
    zipped(tmp_path / "val.zip.part", **{"val/x.jpg": b"x"})
    with pytest.raises(Unreadable, match=r"^image is missing: val/x\.jpg$"):
        read(tmp_path, "val/x.jpg")
    with pytest.raises(Unreadable, match=r"^image is missing: x\.jpg$"):
        read(tmp_path, "x.jpg")


def test_a_member_that_is_damaged_is_named_with_its_archive(tmp_path: Path) -> None:
    path = zipped(tmp_path / "val.zip", **{"./x.jpg": b"the first picture", "y.jpg": b"the other picture"})
    path.write_bytes(path.read_bytes().replace(b"first", b"worst"))
    assert read(tmp_path, "val/y.jpg") == b"the other picture"
    with pytest.raises(Unreadable) as damaged:
        read(tmp_path, "val/x.jpg")
    assert damaged.value.reason == "image cannot be read"
    assert damaged.value.what == f"{path}: ./x.jpg: Bad CRC-32 for file './x.jpg'"


def test_a_member_may_be_as_large_as_a_picture_may_be_and_no_larger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "val.zip", **{"x.jpg": bytes(2000), "y.jpg": bytes(2001)})
    monkeypatch.setattr(image_folder, "LARGEST_IMAGE", 2000)
    assert read(tmp_path, "val/x.jpg") == bytes(2000)
    with pytest.raises(Unreadable) as large:
        read(tmp_path, "val/y.jpg")
    assert (large.value.reason, large.value.what) == ("image cannot be read", f"{path}: y.jpg: 2,001 bytes")


def test_what_is_no_archive_holds_no_image_and_a_tar_those_before_its_end(tmp_path: Path) -> None:
    (tmp_path / "val.zip").write_bytes(b"no zip at all")
    with pytest.raises(Unreadable, match=r"^image is missing: val/x\.jpg$"):
        read(tmp_path, "val/x.jpg")
    whole = tarred(tmp_path / "val.tar", **{"x.jpg": bytes([7] * 100), "y.jpg": bytes([8] * 100)}).read_bytes()
    (tmp_path / "val.tar").write_bytes(whole[: 512 + 512 + 512 + 100])  # to the last byte of y.jpg
    assert (read(tmp_path, "val/x.jpg"), read(tmp_path, "val/y.jpg")) == (bytes([7] * 100), bytes([8] * 100))
    (tmp_path / "val.tar").write_bytes(whole[: 512 + 512 + 512 + 99])
    os.utime(tmp_path / "val.tar", (1, 1))
    assert read(tmp_path, "val/x.jpg") == bytes([7] * 100)
    with pytest.raises(Unreadable, match=r"^image is missing: val/y\.jpg$"):
        read(tmp_path, "val/y.jpg")


def test_a_file_that_goes_after_it_was_found_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"x")
    found = ImageFolder(str(tmp_path)).find("x.jpg")
    (tmp_path / "x.jpg").unlink()
    with pytest.raises(Unreadable) as gone:
        found()
    assert gone.value.reason == "image cannot be read"
    assert gone.value.what.startswith(f"{tmp_path}/x.jpg: [Errno 2]")
