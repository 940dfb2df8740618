"""Pictures that lie beside documents: what each is looked up by, which files are none, and what is said of them."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from tar_files import picture, plain_tar

from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.documents import Unreadable
from mm1_ablate.data.readers.image_index import (
    ImageIndex,
    check_pictures,
    contents_of,
    images_of,
    looked_up_by,
    lost_pictures,
    name_in_index,
    url_in,
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path_factory.mktemp("cache")))


def shade(index: ImageIndex, name: str) -> int:
    return int(index.find(name, "asked").load()[0, 0, 0])


def why(index: ImageIndex, name: str) -> str:
    with pytest.raises(Unreadable) as error:
        index.find(name, "asked")
    return str(error.value)


@pytest.mark.parametrize(
    ("path", "by", "name"),
    [
        ("a/./b/X.PNG", "path", "a/b/X.png"),
        ("X.a.PNG", "path", "X.a.png"),
        ("a/b/X.PNG", "base_name", "X.png"),
        ("a/none", "base_name", "none"),
        ("a/ABC.JPG", "url_sha256", "ABC"),
        ("a/ABC", "url_sha256", "ABC"),
        ("a/ABC.json", "url_sha256", ""),
        ("a/ABC.seg.png", "url_sha256", ""),
    ],
)
def test_a_picture_is_looked_up_by_a_part_of_its_path(path: str, by: str, name: str) -> None:
    assert name_in_index(path, by) == name  # type: ignore[arg-type]


def test_what_a_document_says_of_a_picture_is_brought_to_the_same_form() -> None:
    url = "https://a.example/b/X.PNG?width=6"
    assert [looked_up_by(url, by) for by in ("url", "base_name", "path")] == [url, "X.png", "b/X.png"]  # type: ignore[arg-type]
    assert looked_up_by(url, "url_sha256") == sha256(url.encode()).hexdigest()
    assert looked_up_by("/b/X.png", "path") == "b/X.png"


def test_the_image_of_a_sample_is_its_declared_entry_or_those_with_an_images_extension() -> None:
    members = ("txt", "png", "seg.png", "jpg", "1.2.png")
    assert images_of(members) == ["jpg", "png"]
    assert images_of(members, "seg.png") == ["seg.png"] and images_of(members, "webp") == []


@pytest.mark.parametrize(
    ("content", "url"), [(b'{"url": "u"}', "u"), (b'{"url": 7}', ""), (b"{}", ""), (b'["url"]', ""), (b"{", ""), (None, "")]
)
def test_the_url_beside_a_picture_is_a_text_or_none(content: bytes | None, url: str) -> None:
    assert url_in(None if content is None else lambda: content) == url


def test_pictures_in_files_and_tars_are_found_together_and_two_of_one_name_are_none(tmp_path: Path) -> None:
    for name, level in (("a/1.PNG", 1), ("b/2.png", 2), ("b/both.png", 3), ("a/both.png", 4)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture(level))
    plain_tar(tmp_path / "c.tar", [("x/5.png", picture(5)), ("x/5.txt", b"text"), ("x/6.seg.png", picture(6)), ("2.png", picture(7))])
    patterns = [f"{tmp_path}/*/*.*", f"{tmp_path}/c.tar"]
    index = ImageIndex(patterns, "base_name")
    assert [shade(index, name) for name in ("1.png", "elsewhere/1.PNG", "5.png", "6.seg.png")] == [1, 1, 5, 6]
    assert [why(index, name) for name in ("2.png", "both.png", "9.png", "5.txt")] == [
        "several images of one name: asked",
        "several images of one name: asked",
        "missing image: asked",
        "missing image: asked",
    ]
    index = ImageIndex(patterns, "path")
    assert [shade(index, name) for name in ("a/1.png", "b/2.png", "b/both.png", "a/both.png", "x/5.png", "2.png")] == [1, 2, 3, 4, 5, 7]
    assert why(index, "1.png") == "missing image: asked"


def test_one_url_has_one_picture_however_often_it_was_downloaded(tmp_path: Path) -> None:
    members = []
    for number, url in enumerate(("u", "v", "u")):
        members += [(f"{number}.png", picture(number + 1)), (f"{number}.json", json.dumps({"url": url}).encode())]
    plain_tar(tmp_path / "a.tar", [*members, ("3.png", picture(9)), ("4.json", b'{"url": "w"}')])
    index = ImageIndex([f"{tmp_path}/a.tar"], "url")
    assert [shade(index, url) for url in ("u", "v")] == [1, 2] and why(index, "w") == "missing image: asked"
    assert index.find("u", "asked").key != index.find("v", "asked").key


def test_files_that_are_no_pictures_are_told_and_as_few_as_there_are(tmp_path: Path) -> None:
    for name, content in (
        ("0.png", picture(1)),
        ("1.png", b""),
        ("2.jpg", b"<html>"),
        ("3.7z", b"7z\xbc\xaf\x27\x1c"),
        ("4.png", picture(2)),
    ):
        (tmp_path / name).write_bytes(content)
    (losses,) = lost_pictures([f"{tmp_path}/*"])
    assert (losses.field, losses.of, losses.files, losses.there) == ("image_files", "pictures", 5, 2)
    assert [(lost.what, lost.reason, lost.documents) for lost in losses.lost] == [
        ("1.png", "a file of 0 bytes", 1),
        ("2.jpg", "an HTML page, such as a server's error; download the file again", 1),
        ("3.7z", "a 7z archive; unpack it", 1),
    ]
    check_pictures([f"{tmp_path}/*"])
    assert lost_pictures([f"{tmp_path}/[04].png"]) == []
    expected = "; expected pictures, or tars (.tar, .tgz) of pictures"
    for pattern, message in (
        (f"{tmp_path}/1.png", f"{tmp_path}/1.png: a file of 0 bytes{expected}"),
        (f"{tmp_path}/[123].*", f"{tmp_path}/1.png: a file of 0 bytes (nor can any other of the 3 files be used){expected}"),
    ):
        with pytest.raises(SettingError) as refused:
            check_pictures([pattern])
        assert (refused.value.at, refused.value.message) == ("image_files", message)


def test_contents_of_pictures_change_with_a_name_or_a_size_and_not_with_the_folder(tmp_path: Path) -> None:
    digests = []
    for folder, name, size in (("a", "1.png", 3), ("b", "1.png", 3), ("c", "2.png", 3), ("d", "1.png", 4)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(bytes(size))
        digests.append(contents_of([f"{tmp_path}/{folder}/*.png"]))
    assert digests[0] == digests[1] and len(set(digests)) == 3
