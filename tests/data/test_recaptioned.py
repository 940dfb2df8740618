"""Recaptions: a table of other captions joined to tars and tables of images, by key or by url."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import ValidationError
from tar_files import as_img2dataset_writes, documents, picture, plain_tar

from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.filters import open_source
from mm1_ablate.data.sources.recaptioned import Recaptioned


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tars of ten samples, and recaptions of every second one from number 4 on, as parquet and as JSON lines."""
    for shard in range(2):
        as_img2dataset_writes(tmp_path / f"{shard}.tar", shard * 10, 10)
    numbers = list(range(4, 24, 2))[::-1]
    rows = [
        {"id": f"{number:09}", "url": f"https://images/{number}", "vecap": f"a picture of {number}", "clip": number / 100}
        for number in numbers
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "vecap.parquet")
    (tmp_path / "vecap.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def declared(folder: Path, more: str = "") -> Recaptioned:
    text = f"images: {{type: webdataset, files: '*.tar'}}\ncaptions: vecap.parquet\ncaption: vecap\nkey: id\n{more}"
    return Recaptioned.model_validate(yaml.safe_load(text), context={"folder": folder})


def altered(folder: Path, **settings: Any) -> Recaptioned:
    return Recaptioned.model_validate(declared(folder).model_dump() | settings, context={"folder": folder})


@pytest.mark.parametrize("captions", ["vecap.parquet", "vecap.jsonl"])
@pytest.mark.parametrize(("joined_by", "key"), [("key", "id"), ("url", None)])
def test_samples_with_a_recaption_are_the_documents_in_the_order_of_the_images(
    folder: Path, captions: str, joined_by: str, key: str | None
) -> None:
    source = altered(folder, captions=captions, joined_by=joined_by, key=key)
    source.check()
    opened = source.open(name="vecap")
    assert [opened[index].text for index in range(len(opened))] == [f"a picture of {number}" for number in range(4, 20, 2)]
    document = opened[3]
    assert (document.key, document.source, document.data_type) == ("1.tar/000000010", "vecap", "synthetic_captioned")
    alt_text = source.images.open()[10]
    assert (alt_text.text, alt_text.images[0].key) == ("image 10", document.images[0].key)
    assert opened.unmatched == {"samples without a row": 12, "rows without a sample": 2}


def test_recaptions_may_be_a_share_of_the_captioned_documents(folder: Path) -> None:
    assert altered(folder, data_type="captioned").open()[0].data_type == "captioned"


def test_images_of_a_table_are_joined_by_any_column(folder: Path) -> None:
    rows = [{"key": number, "image": picture(number), "caption": "alt"} for number in range(8)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "images.parquet")
    captions = [{"key": str(number), "caption": f"new {number}"} for number in (5, 3)]
    (folder / "new.jsonl").write_text("\n".join(map(json.dumps, captions)))
    text = "images: {type: image_text_table, files: images.parquet}\ncaptions: new.jsonl"
    source = Recaptioned.model_validate(yaml.safe_load(text), context={"folder": folder})
    source.check()
    opened = source.open()
    assert [(opened[index].text, int(opened[index].images[0].load()[0, 0, 0])) for index in range(2)] == [("new 3", 3), ("new 5", 5)]


def test_an_empty_alt_text_does_not_stand_in_the_way_of_a_recaption_and_an_empty_recaption_is_bad(tmp_path: Path) -> None:
    plain_tar(tmp_path / "0.tar", [(f"{key}.{end}", picture(1) if end == "png" else b"") for key in "abc" for end in ("png", "txt")])
    captions = [{"key": "a", "caption": "new"}, {"key": "b", "caption": " "}, {"key": "b", "caption": "too late"}, {"caption": "no key"}]
    (tmp_path / "new.jsonl").write_text("\n".join([*map(json.dumps, captions), "{broken"]))
    source = Recaptioned.model_validate(
        {"images": {"type": "webdataset", "files": f"{tmp_path}/0.tar"}, "captions": f"{tmp_path}/new.jsonl"}
    )
    source.check()
    opened = source.open()
    good, bad = documents(opened)  # type: ignore[arg-type]
    assert ([document.text for document in good], bad) == (["new"], ["empty caption"])
    assert opened.unmatched == {"samples without a row": 1, "rows without a key": 2, "rows whose key an earlier row has": 1}


def test_damaged_tars_are_counted_here_as_well(folder: Path) -> None:
    data = (folder / "1.tar").read_bytes()
    (folder / "1.tar").write_bytes(data[: data.index(b"\xff\xd8", data.index(b"000000014.jpg")) + 100])
    good, bad = documents(declared(folder).open())  # type: ignore[arg-type]
    assert ([document.key[-2:] for document in good], bad) == (["04", "06", "08", "10", "12"], ["truncated tar"])


def test_what_is_kept_depends_on_columns_of_the_table_and_of_the_images(folder: Path) -> None:
    def kept(columns: dict[str, Any]) -> list[str]:
        source = altered(folder, keep={"columns": columns})
        source.check()
        return [document.key[-2:] for document in documents_kept(open_source(source))]

    def documents_kept(opened: Any) -> list[Any]:
        from mm1_ablate.data.documents import LeftOut

        found = []
        for index in range(len(opened)):
            try:
                found.append(opened[index])
            except LeftOut:
                continue
        return found

    assert kept({"clip": {"at_least": 0.11}}) == ["12", "14", "16", "18"]
    assert kept({"clip": {"at_least": 0.11}, "similarity": {"at_most": 0.14}}) == ["12", "14"]
    with pytest.raises(SettingError, match="no column 'beauty'") as error:
        kept({"beauty": {}})
    assert error.value.at == "keep.columns.beauty"


def test_the_join_is_made_once_and_anew_when_either_side_changes(folder: Path) -> None:
    def steps() -> list[str]:
        told: list[str] = []
        declared(folder).make_ready(lambda what, done, in_all: told.append(what))
        return [what for what in dict.fromkeys(told) if what.startswith("reading keys")]

    both = ["reading keys of images", "reading keys of captions"]
    before = declared(folder).contents()
    assert (steps(), steps()) == (both, [])
    pq.write_table(pa.table({"id": ["000000001", "000000030"], "vecap": ["one", "thirty"]}), folder / "vecap.parquet")
    assert (steps(), len(declared(folder).open())) == (both, 1)
    as_img2dataset_writes(folder / "2.tar", 30, 1)
    assert (steps(), len(declared(folder).open())) == (both, 2)
    assert len({before, declared(folder).contents()}) == 2


@pytest.mark.parametrize(
    ("change", "at", "says"),
    [
        ({"captions": "nowhere.parquet"}, "captions", "no file matches"),
        ({"captions": "0.tar"}, "captions", "neither JSON lines nor parquet"),
        ({"caption": "vecaption"}, "caption", r"no column 'vecaption' \(did you mean 'vecap'\?\)"),
        ({"key": "key"}, "key", "no column 'key'"),
        ({"joined_by": "uid", "key": "id"}, "joined_by", "the images have no 'uid'; they have caption, key, similarity, status, url"),
        ({"images": {"type": "webdataset", "files": "nowhere/*.tar"}}, "images.files", "no file matches"),
        ({"images": {"type": "miniature", "content": "alt_text", "data_type": "captioned"}}, "images", "cannot be joined to captions"),
    ],
)
def test_what_is_not_as_declared_is_an_error_of_the_plan_at_its_field(folder: Path, change: dict[str, Any], at: str, says: str) -> None:
    with pytest.raises(SettingError, match=says) as error:
        altered(folder, **change).check()
    assert error.value.at == at


def test_a_column_without_a_caption_is_named(folder: Path) -> None:
    (folder / "blank.jsonl").write_text("".join(json.dumps({"id": f"{number:09}", "vecap": " "}) + "\n" for number in range(3)))
    with pytest.raises(SettingError, match="column 'vecap' holds no captions: empty caption in ") as error:
        altered(folder, captions="blank.jsonl").check()
    assert error.value.at == "caption"


def test_a_key_that_several_samples_have_names_none_of_them(folder: Path) -> None:
    """Writers that begin every shard anew at 0: nobody knows which of the pictures the caption is of."""
    for shard in range(2):
        members = [(name, content) for number in (0, 10 * shard + 1) for name, content in _sample(number)]
        plain_tar(folder / f"again{shard}.tar", members)
    rows = [{"key": f"{number:05}", "caption": f"new {number}"} for number in (0, 1, 11)]
    (folder / "again.jsonl").write_text("\n".join(map(json.dumps, rows)))
    images = {"type": "webdataset", "files": "again*.tar"}
    source = Recaptioned.model_validate({"images": images, "captions": "again.jsonl"}, context={"folder": folder})
    opened = source.open()
    assert [opened[index].text for index in range(len(opened))] == ["new 1", "new 11"]
    assert opened.unmatched == {"samples whose key others have": 2, "rows without a sample": 1}
    # A url that was downloaded twice has one picture, so both are of its caption.
    by_url = Recaptioned.model_validate({"images": images, "captions": "urls.jsonl", "joined_by": "url"}, context={"folder": folder})
    (folder / "urls.jsonl").write_text(json.dumps({"url": "https://images/0", "caption": "nought"}) + "\n")
    assert [document.text for document in documents(by_url.open())[0]] == ["nought", "nought"]


def _sample(number: int) -> list[tuple[str, bytes]]:
    metadata = json.dumps({"url": f"https://images/{number}"}).encode()
    return [(f"{number:05}.png", picture(number)), (f"{number:05}.txt", b"alt"), (f"{number:05}.json", metadata)]


def test_keys_that_never_match_are_an_error_that_shows_both(folder: Path) -> None:
    with pytest.raises(
        SettingError, match="'key' of the images is, for example, '000000000', 'url' of the table 'https://images/22'"
    ) as error:
        altered(folder, key="url").make_ready()
    assert error.value.at == "joined_by"


def test_what_is_kept_is_declared_once(folder: Path) -> None:
    with pytest.raises(ValidationError, match="expected beside 'images', not in it"):
        altered(folder, images={"type": "webdataset", "files": "*.tar", "keep": {"images": {"at_least": 1}}})


def test_rows_and_samples_without_a_partner_are_counted_by_what_they_lack(folder: Path) -> None:
    keys = ["000000003", "000000003", None, "", "000000019", "no such", "000000004"]
    rows = [{"id": key, "vecap": f"row {number}"} for number, key in enumerate(keys)]
    (folder / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    opened = altered(folder, captions="more.jsonl").open()
    assert [opened[index].text for index in range(len(opened))] == [
        "row 0",
        "row 6",
        "row 4",
    ]  # the first of a key
    assert opened.unmatched == {
        "samples without a row": 17,
        "rows without a sample": 1,
        "rows without a key": 3,  # the line that is no JSON as well
        "rows whose key an earlier row has": 1,
    }
