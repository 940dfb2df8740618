"""What looks like a pair of image and caption and is none: never trained on, and told by name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from interleaved_files import png, switched, write_obelics, write_pictures
from pydantic import ValidationError
from tar_files import documents, picture, plain_tar, source

from mm1_ablate.config.data import Source
from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.documents import LeftOut, Unreadable
from mm1_ablate.data.readers.image_index import ImageIndex
from mm1_ablate.data.sources.image_text_table import ImageTextTable
from mm1_ablate.data.sources.obelics import Obelics
from mm1_ablate.data.sources.recaptioned import Recaptioned
from mm1_ablate.data.sources.webdataset import WebDataset

JPG = picture(7)


def web(path: Path, **settings: object) -> WebDataset:
    return WebDataset.model_validate({"files": str(path), **settings})


# ---------------------------------------------------------------- tars
def test_where_the_image_is_missing_its_mask_does_not_take_its_place(tmp_path: Path) -> None:
    members = [("0.jpg", picture(0)), ("0.seg.png", b"mask"), ("0.txt", b"zero"), ("1.seg.png", picture(1)), ("1.txt", b"one")]
    opened = source(plain_tar(tmp_path / "a.tar", members))
    good, bad = documents(opened)
    assert [document.text for document in good] == ["zero"] and bad == ["no image"]
    with pytest.raises(Unreadable, match=r"a\.tar/1"):
        opened[1]


def test_a_picture_with_a_number_is_not_the_image_of_another_caption(tmp_path: Path) -> None:
    members = [("cat.png", picture(0)), ("cat.txt", b"a cat"), ("dog.2.png", picture(1)), ("dog.txt", b"a dog")]
    good, bad = documents(source(plain_tar(tmp_path / "a.tar", members)))
    assert [document.text for document in good] == ["a cat"] and bad == ["no image"]


def test_names_with_dots_before_the_extension_are_refused_with_the_rule(tmp_path: Path) -> None:
    members = [member for number in range(5) for member in ((f"photo.{number}.png", picture(number)), (f"photo.{number}.txt", b"words"))]
    with pytest.raises(SettingError, match=r"^files: .*no image.*0.png.*first dot.*Rename the files.*image_field"):
        web(plain_tar(tmp_path / "a.tar", members)).check()


def test_an_image_of_a_longer_extension_is_read_where_it_is_named(tmp_path: Path) -> None:
    members = [("0.rgb.png", picture(3)), ("0.depth.png", picture(9)), ("0.txt", b"zero"), ("1.depth.png", picture(8)), ("1.txt", b"one")]
    path = plain_tar(tmp_path / "a.tar", members)
    web(path, image_field="rgb.png").check()
    good, bad = documents(source(path, image_field="rgb.png"))
    assert [document.images[0].load()[0, 0, 0] for document in good] == [3] and bad == ["no image"]
    with pytest.raises(SettingError, match=r"^image_field: no 'rgb.jpg': .*rgb.png"):
        web(path, image_field="rgb.jpg").check()
    with pytest.raises(ValidationError, match="image_field"):
        web(path, image_field="txt")


def test_of_several_images_the_declared_one_is_read_and_otherwise_none(tmp_path: Path) -> None:
    """A .png beside a .jpg is a mask as often as not, and where the .jpg is missing it would take its place."""
    members = [("0.jpg", picture(0)), ("0.png", picture(9)), ("0.txt", b"zero"), ("1.png", picture(8)), ("1.txt", b"one")]
    path = plain_tar(tmp_path / "a.tar", members)
    with pytest.raises(
        SettingError, match=r"^image_field: samples have several images \(jpg, png\); name one of them, as image_field: jpg"
    ):
        web(path).check()
    assert documents(source(path))[1] == ["several images"]
    web(path, image_field="jpg").check()
    good, bad = documents(source(path, image_field=".JPG"))
    assert [document.text for document in good] == ["zero"] and bad == ["no image"]


def test_a_new_setting_of_tars_leaves_trials_what_they_are(tmp_path: Path) -> None:
    from mm1_ablate.config.identity.fingerprint import canonical

    path = plain_tar(tmp_path / "a.tar", [("0.jpg", JPG), ("0.txt", b"zero")])
    assert "image_field" not in canonical(web(path)) and canonical(web(path, image_field="jpg"))["image_field"] == "jpg"


@pytest.mark.parametrize("field", ["syn.json", "SYN.JSON", ".syn.json"])
def test_an_entry_of_json_is_no_caption(tmp_path: Path, field: str) -> None:
    path = plain_tar(tmp_path / "a.tar", [("0.jpg", JPG), ("0.txt", b"zero"), ("0.syn.json", b'{"caption": "a dog"}')])
    with pytest.raises(ValidationError, match=r"caption_field(?s:.*)expected .*json.NAME"):
        web(path, caption_field=field)


@pytest.mark.parametrize(
    "content, found",
    [
        (b'{"caption": "a dog"}', "JSON"),
        (b'["a dog", "an animal"]', "JSON"),
        (b"\xff\xfe\x00\x01", "invalid UTF-8"),
        (b"  \n", "empty caption"),
        (JPG, "invalid UTF-8"),
    ],
)
def test_entries_that_hold_no_captions_are_refused_when_a_plan_is_made(tmp_path: Path, content: bytes, found: str) -> None:
    members = [member for number in range(9) for member in ((f"{number}.jpg", JPG), (f"{number}.cap", content))]
    path = plain_tar(tmp_path / "a.tar", members)
    with pytest.raises(SettingError, match=rf"^caption_field: 'cap' holds no captions: .*{found}"):
        web(path, caption_field="cap").check()
    _, bad = documents(source(path, caption_field="cap"))
    assert len(bad) == 9 and found in bad[0]


@pytest.mark.parametrize(
    "value, kind", [(["a dog"], "lists of text"), ({"en": "a dog"}, "objects"), (7, "numbers"), (True, "truth values")]
)
def test_a_field_of_the_json_that_is_no_text_is_refused_with_what_it_is(tmp_path: Path, value: object, kind: str) -> None:
    path = plain_tar(tmp_path / "a.tar", [("0.jpg", JPG), ("0.json", json.dumps({"caption": value, "alt": "a dog"}).encode())])
    with pytest.raises(SettingError, match=rf"^caption_field: 'json.caption' holds {kind}; expected text"):
        web(path, caption_field="json.caption").check()
    web(path, caption_field="json.alt").check()


def test_a_field_of_the_json_may_be_called_anything(tmp_path: Path) -> None:
    path = plain_tar(tmp_path / "a.tar", [("0.jpg", JPG), ("0.json", json.dumps({"Alt.json": "a dog", "alt.json": "a cat"}).encode())])
    web(path, caption_field="JSON.Alt.json").check()
    assert source(path, caption_field=".json.Alt.json")[0].text == "a dog"


def test_one_caption_that_is_json_is_bad_among_good_ones(tmp_path: Path) -> None:
    members = [member for number in range(3) for member in ((f"{number}.jpg", JPG), (f"{number}.txt", b"[blue] {words}"))]
    path = plain_tar(tmp_path / "a.tar", [*members, ("3.jpg", JPG), ("3.txt", b'{"caption": "a dog"}')])
    web(path).check()
    good, bad = documents(source(path))
    assert [document.text for document in good] == ["[blue] {words}"] * 3 and bad == ["JSON in place of a caption"]


# ---------------------------------------------------------------- pictures beside documents
def test_a_mask_is_not_found_under_the_url_of_a_picture(tmp_path: Path) -> None:
    from hashlib import sha256

    url = "https://a.example/1.jpg"
    name = sha256(url.encode()).hexdigest()
    plain_tar(tmp_path / "a.tar", [("0.seg.png", picture(1)), ("0.json", json.dumps({"url": url}).encode())])
    plain_tar(tmp_path / "b.tar", [(f"{name}.seg.png", picture(1))])
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / f"{name}.seg.png").write_bytes(picture(1))
    (tmp_path / "c" / f"{name}.json").write_bytes(b"{}")
    for files, by in (("a.tar", "url"), ("b.tar", "url_sha256"), ("c/*", "url_sha256")):
        with pytest.raises(Unreadable, match="missing image"):
            ImageIndex([f"{tmp_path}/{files}"], by).find(url, "it")  # type: ignore[arg-type]
    (tmp_path / "c" / f"{name}.png").write_bytes(picture(5))
    assert ImageIndex([f"{tmp_path}/c/*"], "url_sha256").find(url, "it").load()[0, 0, 0] == 5


# ---------------------------------------------------------------- parquet
def table(path: Path, status: list[object], image: list[bytes | None] | None = None) -> ImageTextTable:
    columns = {
        "image": pa.array(image or [png(place) for place in range(len(status))], pa.binary()),
        "caption": [f"picture {place}" for place in range(len(status))],
        "status": status,
    }
    pq.write_table(pa.table(columns), path)
    return ImageTextTable(files=str(path))


@pytest.mark.parametrize("status", [["ok", "checked", None], [200, 200, 404], ["failed_to_download"] * 3])
def test_a_row_that_has_its_image_is_read_whatever_its_status(tmp_path: Path, status: list[object]) -> None:
    opened = table(tmp_path / "a.parquet", status).open()
    assert [opened[place].text for place in range(3)] == ["picture 0", "picture 1", "picture 2"]
    assert [opened.with_caption(place, "new").text for place in range(3)] == ["new"] * 3


def test_only_img2datasets_own_words_say_that_an_image_was_not_downloaded(tmp_path: Path) -> None:
    status = ["success", "failed_to_download", "failed_to_resize", "rejected", "success", None]
    opened = table(tmp_path / "a.parquet", status, [png(0), None, None, None, None, None]).open()
    found = []
    for place in range(len(status)):
        try:
            found.append(opened[place].text)
        except (Unreadable, LeftOut) as error:
            found.append(f"{type(error).__name__}: {error.reason}")
    assert found == ["picture 0", *["LeftOut: not downloaded"] * 2, *["Unreadable: no image"] * 3]


def test_a_caption_column_of_json_is_refused_when_a_plan_is_made(tmp_path: Path) -> None:
    content = {"image": [png(0)] * 3, "caption": ['{"en": "a dog"}'] * 3, "alt": ["a dog", '["a"]', "a cat"]}
    pq.write_table(pa.table(content), tmp_path / "a.parquet")
    with pytest.raises(SettingError, match=r"^caption: column 'caption' holds no captions: .*JSON"):
        ImageTextTable(files=f"{tmp_path}/a.parquet").check()
    alt = ImageTextTable(files=f"{tmp_path}/a.parquet", caption="alt")
    alt.check()
    with pytest.raises(Unreadable, match="JSON in place of a caption"):
        alt.open()[1]


def test_what_is_refused_names_the_first_place(tmp_path: Path) -> None:
    path = plain_tar(tmp_path / "a.tar", [("0.jpg", JPG), ("0.cap", b"{}")])
    with pytest.raises(SettingError) as error:
        web(path, caption_field="cap").check()
    assert re.search(r"a\.tar.*0", error.value.message)


# ---------------------------------------------------------------- what is ignored is said before a run
def warned(source: Source) -> list[tuple[str, str]]:
    source.check()
    return [(warning.at, warning.message) for warning in source.warnings()]


def test_a_status_of_another_meaning_is_warned_of(tmp_path: Path) -> None:
    own = table(tmp_path / "a.parquet", ["success", "failed_to_download", None], [png(0), None, None])
    assert warned(own) == []
    ((at, message),) = warned(table(tmp_path / "b.parquet", ["success", "rejected", "ok"]))
    assert at == "files" and "'status'" in message and "'rejected'" in message and "b.parquet, row 2" in message and "ignored" in message
    recaptions = tmp_path / "r.jsonl"
    recaptions.write_text('{"status": "ok", "caption": "a dog"}\n')
    joined = Recaptioned.model_validate(
        {"images": {"type": "image_text_table", "files": f"{tmp_path}/b.parquet"}, "captions": str(recaptions), "joined_by": "status"}
    )
    assert [at for at, _ in warned(joined)] == ["images.files"]


def test_where_several_columns_could_be_meant_the_choice_is_reported(tmp_path: Path) -> None:
    rows = {"image": [png(0)], "jpg": [png(1)], "caption": ["a dog"], "text": ["an essay"]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    assert warned(ImageTextTable(files=f"{tmp_path}/a.parquet")) == [
        ("image", "columns image and jpg could all be the image; 'image' is read. Name the intended one"),
        ("caption", "columns caption and text could all be the caption; 'caption' is read. Name the intended one"),
    ]
    assert warned(ImageTextTable(files=f"{tmp_path}/a.parquet", image="jpg", caption="text")) == []
    # As img2dataset writes it: one caption under two names.
    pq.write_table(pa.table({"key": ["0"], "jpg": [png(1)], "caption": ["a dog"], "txt": ["a dog"]}), tmp_path / "b.parquet")
    assert warned(ImageTextTable(files=f"{tmp_path}/b.parquet")) == []


def test_numbered_pictures_of_one_key_are_reported_as_not_read(tmp_path: Path) -> None:
    members = [("dog.jpg", JPG), ("dog.txt", b"a dog"), ("dog.2.jpg", JPG), ("dog.2.txt", b"a dog"), ("cat.jpg", JPG), ("cat.txt", b"cat")]
    ((at, message),) = warned(web(plain_tar(tmp_path / "a.tar", members)))
    assert at == "files" and "2.jpg, 2.txt" in message and "not read" in message and "first dot" in message
    masks = [("dog.jpg", JPG), ("dog.txt", b"a dog"), ("dog.seg.png", JPG)]
    assert warned(web(plain_tar(tmp_path / "b.tar", masks))) == []


def test_picture_files_beside_pages_that_hold_their_pictures_are_reported_as_not_read(tmp_path: Path) -> None:
    pattern, _ = write_pictures(tmp_path / "b", "img2dataset")
    inside = Obelics(files=str(write_obelics(tmp_path / "a.parquet")), image_files=pattern)
    assert warned(inside) == [("image_files", "is not read: the documents contain their pictures")]
    assert warned(Obelics(files=str(write_obelics(tmp_path / "c.parquet", images="url")), image_files=pattern)) == []
    assert warned(switched(inside, images=False)) == []
