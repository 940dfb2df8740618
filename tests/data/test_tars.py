"""Tars of captioned images: read as webdataset and img2dataset write them, and what is damaged in them counted rather than hidden."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tar_files import add, as_img2dataset_writes, documents, picture, plain_tar, source

from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.cache import NotEnoughSpace
from mm1_ablate.data.documents import Unreadable
from mm1_ablate.data.files import find_files
from mm1_ablate.data.readers.tar import TarSamples, open_tars
from mm1_ablate.data.readers.tar_headers import tar_entries
from mm1_ablate.data.sources.webdataset import WebDataset


def read_all(samples: TarSamples) -> list[tuple[str, dict[str, bytes]]]:
    return [
        (sample.key, {name: read() for name, read in sample.members.items()})
        for sample in (samples[index] for index in range(len(samples)))
    ]


def reasons(samples: TarSamples) -> list[str]:
    return [bad.reason for bad in samples.bad]


# ---------------------------------------------------------------- formats
def test_img2dataset_tars_are_documents_of_an_image_and_its_caption(tmp_path: Path) -> None:
    for shard in range(3):
        as_img2dataset_writes(tmp_path / f"{shard:05}.tar", shard * 10, 10)
    opened = source(f"{tmp_path}/{{00000..00002}}.tar")
    assert len(opened) == 30
    document = opened[23]
    assert (document.key, document.source, document.data_type) == ("00002.tar/000000023", "web", "captioned")
    assert document.parts[1] == "image 23"
    image = document.images[0]
    assert image.size is not None and image.size() == (64, 48)
    assert image.load().shape == (48, 64, 3) and abs(int(image.load()[0, 0, 0]) - 23) <= 2
    assert len({opened[index].key for index in range(30)}) == len({opened[index].images[0].key for index in range(30)}) == 30
    with pytest.raises(IndexError):
        opened[30]


def test_the_caption_may_be_a_field_of_the_json(tmp_path: Path) -> None:
    as_img2dataset_writes(tmp_path / "0.tar", 0, 3)
    assert source(tmp_path / "0.tar", caption_field="json.url")[2].text == "https://images/2"
    documents_of_lists, bad = documents(source(tmp_path / "0.tar", caption_field="json.nowhere"))
    assert (documents_of_lists, bad) == ([], ["no caption"] * 3)


def test_columns_are_read_only_where_something_is_kept_by_them(tmp_path: Path) -> None:
    as_img2dataset_writes(tmp_path / "0.tar", 0, 3)
    assert source(tmp_path / "0.tar")[1].columns == {}
    assert source(tmp_path / "0.tar", keep={"columns": {"similarity": {"at_least": 0.01}}})[1].columns["similarity"] == 0.01


NAMES = st.lists(
    st.tuples(
        st.text(st.characters(codec="utf-8", exclude_characters="./\0"), min_size=1, max_size=90).map(lambda name: "d" + name),
        st.sampled_from(["", "folder/", "./", "a" * 120 + "/", "é" * 80 + "/"]),
        st.binary(max_size=1300),
    ),
    max_size=6,
    unique_by=lambda entry: (entry[1] if entry[1] != "./" else "") + entry[0],
)


@settings(deadline=None)
@given(NAMES, st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]), st.booleans())
def test_headers_say_what_the_standard_library_reads_from_them(files: list[tuple[str, str, bytes]], kind: int, times: bool) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for name, folder, content in files:
            entry = tarfile.TarInfo(f"{folder}{name}.bin")
            entry.size = len(content)
            entry.mtime = 1.5 if times and kind == tarfile.PAX_FORMAT else 1  # a fraction of a second needs a PAX header
            try:
                tar.addfile(entry, io.BytesIO(content))
            except ValueError:
                assert kind == tarfile.USTAR_FORMAT  # which has no room for long names
    data = buffer.getvalue()
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as tar:
        expected = [(entry.name, entry.offset_data, entry.size) for entry in tar]
    found = [(entry.name, entry.offset, entry.size) for entry in tar_entries(lambda at, length: data[at : at + length], len(data))]
    assert found == expected


def test_sizes_beyond_eight_gigabytes_are_read_in_both_ways_of_writing_them() -> None:
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        large = tarfile.TarInfo("large.jpg")
        large.size = 9 << 30
        header = large.tobuf(kind)
        walk = tar_entries(lambda at, length, header=header: header[at : at + length], len(header) + large.size)  # type: ignore[misc]
        entry = next(walk)
        assert (entry.name, entry.offset, entry.size) == ("large.jpg", len(header), 9 << 30)


def test_what_a_truncated_or_overwritten_tar_breaks_off_in_is_one_bad_sample(tmp_path: Path) -> None:
    path = as_img2dataset_writes(tmp_path / "0.tar", 0, 10)
    whole = read_all(open_tars(find_files([str(path)])))
    sample = 7
    data = path.read_bytes()
    cut = data.index(b"\xff\xd8", data.index(b"000000007.jpg")) + 100
    (tmp_path / "cut.tar").write_bytes(data[:cut])
    samples = open_tars(find_files([f"{tmp_path}/cut.tar"]))
    assert read_all(samples) == whole[:sample]
    assert [(bad.reason, bad.what) for bad in samples.bad] == [("truncated tar", "cut.tar after 000000006")]
    good, bad = documents(source(tmp_path / "cut.tar"))
    assert ([document.text for document in good], bad) == ([f"image {number}" for number in range(7)], ["truncated tar"])

    overwritten = bytearray(data)
    begin = data.index(b"000000007.jpg")
    overwritten[begin : begin + 300] = os.urandom(300)
    (tmp_path / "overwritten.tar").write_bytes(overwritten)
    samples = open_tars(find_files([f"{tmp_path}/overwritten.tar"]))
    assert (len(samples), reasons(samples)) == (7, ["damaged tar"])


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_tar_cut_anywhere_keeps_the_samples_before_the_cut(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / "any.tar"
    if not path.exists():
        plain_tar(path, [(f"{number}.{end}", bytes([number]) * 700) for number in range(4) for end in ("jpg", "txt")])
    content = path.read_bytes()
    cut = data.draw(st.integers(2748, 4 * 2 * 1536))  # from where the first sample is complete: others are measured by it
    (folder / "cut.tar").write_bytes(content[:cut])
    samples = open_tars(find_files([f"{folder}/cut.tar"]))
    # Each member is a header of 512 bytes, 700 bytes, and 324 to fill the block, whose loss nobody feels.
    expected = [(str(number), dict.fromkeys(("jpg", "txt"), bytes([number]) * 700)) for number in range((cut + 324) // 3072)]
    found = read_all(samples)
    assert found[: len(expected)] == expected
    # Also where it was cut between two files: a tar says where it ends.
    assert (found[len(expected) :], reasons(samples)) == ([], ["truncated tar"])


def test_entries_that_point_outside_and_links_are_never_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        add(tar, "good", type=tarfile.DIRTYPE)
        add(tar, "good/0.png", picture(1))
        add(tar, "good/0.txt", b"fine")
        add(tar, "/etc/1.png", picture(2))
        add(tar, "good/../../2.png", picture(3))
        add(tar, "good/3.png", picture(4))
        add(tar, "good/3.txt", type=tarfile.SYMTYPE, linkname=str(secret))
        add(tar, "good/4.txt", type=tarfile.LNKTYPE, linkname="../secret.txt")
        add(tar, "good/5.txt", type=tarfile.FIFOTYPE)
    good, bad = documents(source(tmp_path / "0.tar"))
    assert [(document.key, document.text) for document in good] == [("0.tar/good/0", "fine")]
    assert sorted(bad) == [
        "link in a tar",
        "link in a tar",
        "no caption",
        "special file in a tar",
        *["tar entry that points outside"] * 2,
    ]


def test_members_of_a_sample_are_found_wherever_in_the_tar_they_are(tmp_path: Path) -> None:
    members = [("./a.jpg", b"A"), ("b.JPG", b"B"), ("README", b"no sample"), (".hidden.txt", b""), ("a.txt", b"a"), ("b.seg.png", b"mask")]
    samples = open_tars(find_files([str(plain_tar(tmp_path / "0.tar", [*members, ("c.txt", b"c"), ("b.jpg", b"again")]))]))
    assert read_all(samples) == [("a", {"jpg": b"A", "txt": b"a"}), ("b", {"jpg": b"B", "seg.png": b"mask"}), ("c", {"txt": b"c"})]
    assert [(bad.reason, bad.what) for bad in samples.bad] == [("member twice in a tar", "0.tar/b.jpg")]


@pytest.mark.parametrize("order", ["jpg txt", "txt jpg"])
@pytest.mark.parametrize("between", [[], [("b.jpg", b"B"), ("b.txt", b"b")]], ids=["side by side", "apart"])
def test_the_caption_of_another_sample_of_that_name_never_stands_beside_the_picture_of_the_first(
    tmp_path: Path, between: list[tuple[str, bytes]], order: str
) -> None:
    second = [(f"a.{extension}", b"second") for extension in order.split()]
    path = plain_tar(tmp_path / "0.tar", [("a.jpg", b"first"), *between, *second])
    samples = dict(read_all(open_tars(find_files([str(path)]))))
    if order == "txt jpg" and not between:
        assert samples["a"] == {"jpg": b"first", "txt": b"second"}, "side by side these are one sample with its picture twice"
    else:
        assert samples["a"] == {"jpg": b"first"}


def test_a_sample_that_comes_again_whole_leaves_the_first_as_it_is(tmp_path: Path) -> None:
    members = [("a.jpg", b"A"), ("a.txt", b"a")]
    samples = open_tars(find_files([str(plain_tar(tmp_path / "0.tar", [*members, *members, ("b.jpg", b"B"), *members]))]))
    assert dict(read_all(samples))["a"] == {"jpg": b"A", "txt": b"a"}
    assert {bad.reason for bad in samples.bad} == {"member twice in a tar"}


def test_samples_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    members = {
        "empty": {"png": picture(1), "txt": b" \n"},
        "latin": {"png": picture(1), "txt": "gr\xfcn".encode("latin-1")},
        "blind": {"txt": b"no image"},
        "mute": {"png": picture(1)},
        "odd": {"png": picture(1), "txt": b"fine", "json": b"{"},
        "broken": {"png": picture(1)[:30], "txt": b"fine"},
    }
    plain_tar(tmp_path / "0.tar", [(f"{key}.{end}", content) for key, parts in members.items() for end, content in parts.items()])
    opened = source(tmp_path / "0.tar")
    assert documents(opened)[1] == ["empty caption", "invalid UTF-8", "no image", "no caption"]
    assert documents(source(tmp_path / "0.tar", keep={"columns": {"score": {}}}))[1][-2:] == ["not JSON", "no JSON"]
    with pytest.raises(Unreadable, match=r"0\.tar/broken"):
        opened[5].images[0].load()


def test_a_compressed_tar_is_unpacked_once_and_read_like_a_plain_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = as_img2dataset_writes(tmp_path / "0.tar", 0, 20)
    for name in ("1.tgz", "2.tar.gz"):
        (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
    told: list[tuple[str, int, int]] = []
    samples = open_tars(find_files([f"{tmp_path}/1.tgz"]), lambda *step: told.append(step))
    assert read_all(samples) == read_all(open_tars(find_files([f"{tmp_path}/2.tar.gz"]))) == read_all(open_tars(find_files([str(plain)])))
    assert told[-1][0] == "indexing tars" and told[0][0] == "unpacking 1.tgz" and all(done <= in_all for _, done, in_all in told)
    told.clear()
    open_tars(find_files([f"{tmp_path}/1.tgz"]), lambda *step: told.append(step))
    assert told == []


def test_compressed_tars_that_do_not_fit_on_the_disk_are_refused_before_any_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    for name in ("0.tgz", "1.tgz"):
        (tmp_path / name).write_bytes(gzip.compress(plain_tar(tmp_path / "0.tar", [("a.txt", name.encode())]).read_bytes()))
    with (tmp_path / "1.tgz").open("r+b") as file:  # larger than the disk, and of no blocks
        file.truncate(shutil.disk_usage(tmp_path).free * 5 // 4)
    with pytest.raises(
        NotEnoughSpace, match=r"unpacked tars of these files needs about .* are free; free some space, or set MM1_ABLATE_CACHE"
    ):
        open_tars(find_files([f"{tmp_path}/*.tgz"]))
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and "unpacked" in str(path)]


def test_a_compressed_tar_that_breaks_off_keeps_what_comes_before(tmp_path: Path) -> None:
    plain = plain_tar(tmp_path / "0.tar", [(f"{number}.{end}", os.urandom(900)) for number in range(20) for end in ("jpg", "txt")])
    packed = gzip.compress(plain.read_bytes())
    (tmp_path / "1.tgz").write_bytes(packed[: len(packed) // 2])
    samples = open_tars(find_files([f"{tmp_path}/1.tgz"]))
    whole = read_all(open_tars(find_files([str(plain)])))
    assert 5 < len(samples) < 15 and reasons(samples) == ["truncated tar"]
    assert read_all(samples)[:-1] == whole[: len(samples) - 1]


# ---------------------------------------------------------------- the index
def test_a_moved_folder_needs_no_new_index_and_a_changed_shard_only_its_own(tmp_path: Path) -> None:
    (tmp_path / "at_first").mkdir()
    for shard in range(3):
        as_img2dataset_writes(tmp_path / f"at_first/{shard}.tar", shard, 1)
    declared = WebDataset(files=(f"{tmp_path}/at_first/*.tar",))
    before, image_keys = declared.contents(), [declared.open()[index].images[0].key for index in range(3)]
    shutil.move(tmp_path / "at_first", tmp_path / "later")
    moved = WebDataset(files=(f"{tmp_path}/later/*.tar",))
    told: list[tuple[str, int, int]] = []
    moved.make_ready(lambda *step: told.append(step))
    assert (moved.contents(), told) == (before, [])
    assert [moved.open()[index].images[0].key for index in range(3)] == image_keys

    as_img2dataset_writes(tmp_path / "later/1.tar", 50, 4)
    assert moved.contents() != before
    opened = moved.open()
    assert [opened[index].text for index in range(len(opened))] == ["image 0", *(f"image {number}" for number in range(50, 54)), "image 2"]
    assert [opened[index].images[0].key for index in (0, 5)] == [image_keys[0], image_keys[2]]


def test_a_caption_that_changes_in_the_middle_of_a_shard_is_read_as_it_is(tmp_path: Path) -> None:
    """Where the digest does not look, an old index must not be used either."""
    middle = [("b.png", picture(1)), ("b.txt", b"long" * 300)], [("b.txt", b"long" * 300), ("b.png", picture(1))]
    ends = (
        [("a.bin", b"\0" * 70_000), ("a.png", picture(1)), ("a.txt", b"a")],
        [("c.png", picture(1)), ("c.txt", b"c"), ("c.bin", b"\0" * 70_000)],
    )
    path = tmp_path / "0.tar"
    contents = set()
    for members in middle:
        plain_tar(path, [*ends[0], *members, *ends[1]])
        opened = source(path)
        contents.add(opened.settings.contents())
        assert [document.text[:4] for document in documents(opened)[0]] == ["a", "long", "c"]
    assert len(contents) == 1


def test_empty_tars_and_several_tars_of_other_members_are_joined_in_order(tmp_path: Path) -> None:
    plain_tar(tmp_path / "0.tar", [])
    plain_tar(tmp_path / "1.tar", [("x.webp", b"1"), ("x.txt", b"2")])
    plain_tar(tmp_path / "2.tar", [("y.cls", b"3"), ("y.jpg", b"4")])
    (tmp_path / "3.tar").write_bytes(b"<html>not found</html>" * 100)
    (tmp_path / "4.tar").write_bytes(b"")
    samples = open_tars(find_files([f"{tmp_path}/*.tar"]))
    assert read_all(samples) == [("x", {"webp": b"1", "txt": b"2"}), ("y", {"cls": b"3", "jpg": b"4"})]
    assert [(bad.reason, bad.what) for bad in samples.bad] == [("not a tar", "3.tar"), ("truncated tar", "4.tar")]


def test_compressed_tars_of_nothing_are_bad(tmp_path: Path) -> None:
    (tmp_path / "0.tgz").write_bytes(gzip.compress(plain_tar(tmp_path / "0.tar", [("x.jpg", b"1"), ("x.txt", b"2")]).read_bytes()))
    (tmp_path / "1.tgz").write_bytes(b"")
    (tmp_path / "2.tgz").write_bytes(b"<html>not found</html>")
    samples = open_tars(find_files([f"{tmp_path}/*.tgz"]))
    assert (len(samples), [bad.what for bad in samples.bad]) == (1, ["1.tgz", "2.tgz"])


# ---------------------------------------------------------------- what is checked when a plan is made
@pytest.mark.parametrize(
    ("files", "field", "at", "says"),
    [
        ("nowhere/*.tar", "txt", "files", "no file matches .*nowhere"),
        ("empty.tar", "txt", "files", "empty.tar: no samples in it; expected tars of samples such as 000000000.jpg"),
        ("page.tar", "txt", "files", "page.tar: not a tar"),
        ("bad.tgz", "txt", "files", "bad.tgz: not a tar, but an HTML page, such as a server.s error; download the file again"),
        ("text.tar", "txt", "files", "no image .jpg, jpeg, png, webp, gif.: the first samples of .* have txt"),
        (
            "good.tar",
            "caption",
            "caption_field",
            "no 'caption': the first samples of .* have jpg, json, txt; fields of the JSON: json.caption, ",
        ),
        ("good.tar", "json.alt", "caption_field", "json.similarity, json.status, json.url. Name the one with the caption"),
    ],
)
def test_a_source_that_is_not_as_declared_is_an_error_at_the_field_that_is_wrong(
    tmp_path: Path, files: str, field: str, at: str, says: str
) -> None:
    as_img2dataset_writes(tmp_path / "good.tar", 0, 30)
    plain_tar(tmp_path / "empty.tar", [])
    plain_tar(tmp_path / "text.tar", [("a.txt", b"text")])
    (tmp_path / "page.tar").write_bytes(b"<html>" * 100)
    (tmp_path / "bad.tgz").write_bytes(b"<html>" * 100)
    with pytest.raises(SettingError, match=says) as error:
        WebDataset(files=(f"{tmp_path}/{files}",), caption_field=field).check()
    assert error.value.at == at


def test_a_source_that_is_as_declared_passes_although_its_first_sample_is_bad(tmp_path: Path) -> None:
    as_img2dataset_writes(tmp_path / "good.tar", 0, 3)
    plain_tar(tmp_path / "half.tar", [("a.txt", b"no image"), ("b.jpg", b""), ("c.png", picture(1)), ("c.txt", b"")])
    (tmp_path / "good.tgz").write_bytes(gzip.compress((tmp_path / "good.tar").read_bytes()))
    for name in ("good.tar", "half.tar", "good.tgz"):
        WebDataset(files=(f"{tmp_path}/{name}",)).check()
    WebDataset(files=(f"{tmp_path}/good.tar",), caption_field="json.caption").check()


def test_a_source_that_is_as_declared_passes_although_its_first_shards_are_bad(tmp_path: Path) -> None:
    for shard in range(5):
        (tmp_path / f"{shard}.tar").write_bytes(b"")
    as_img2dataset_writes(tmp_path / "5.tar", 0, 3)
    declared = WebDataset(files=(f"{tmp_path}/*.tar",))
    declared.check()
    assert documents(declared.open())[1] == ["truncated tar"] * 5


def test_pixels_are_those_that_were_written(tmp_path: Path) -> None:
    plain_tar(tmp_path / "0.tar", [("a.png", picture(200)), ("a.txt", b"red")])
    pixels = source(tmp_path / "0.tar")[0].images[0].load()
    assert np.array_equal(pixels, np.broadcast_to(np.array([200, 0, 0], np.uint8), (4, 6, 3)))
