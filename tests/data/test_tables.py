"""Captioned images from parquet, as img2dataset and Hugging Face's datasets write it: whole, damaged, and of the wrong shape."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as pil

from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.documents import LeftOut, Unreadable
from mm1_ablate.data.files import find_files
from mm1_ablate.data.readers.parquet import open_parquet
from mm1_ablate.data.sources.image_text_table import ImageTextTable


def png(shade: int, width: int = 6, height: int = 4) -> bytes:
    data = io.BytesIO()
    pil.new("RGB", (width, height), (shade, 0, 0)).save(data, "PNG")
    return data.getvalue()


def rows(count: int, **more: object) -> list[dict]:
    return [{"key": f"{place:05}", "caption": f"picture {place}", "image": png(place), **more} for place in range(count)]


def write(path: Path, content: Sequence[dict], schema: pa.Schema | None = None, **how: object) -> Path:
    pq.write_table(pa.Table.from_pylist(list(content), schema), path, **how)
    return path


def reasons(source: ImageTextTable) -> list[str]:
    opened = source.open()
    found = []
    for index in range(len(opened)):
        try:
            opened[index]
            found.append("")
        except (Unreadable, LeftOut) as error:
            found.append(error.reason)
    return found


# ---------------------------------------------------------------- layouts
@pytest.mark.parametrize("how", [{}, {"row_group_size": 3}, {"compression": "zstd", "use_dictionary": False}, {"data_page_size": 64}])
def test_images_and_captions_are_read_whatever_the_row_groups(tmp_path: Path, how: dict):
    source = ImageTextTable(files=str(write(tmp_path / "a.parquet", rows(11), **how)))
    source.check()
    opened = source.open(name="alt")
    assert len(opened) == 11
    for place in np.random.default_rng(0).permutation(11):
        document = opened[int(place)]
        image, caption = document.parts
        assert (caption, document.source, document.data_type) == (f"picture {place}", "alt", "captioned")
        assert image.size() == (6, 4) and image.load().shape == (4, 6, 3) and image.load()[0, 0].tolist() == [place, 0, 0]
    assert len({opened[place].images[0].key for place in range(11)}) == 11


def test_hugging_face_image_columns_are_read(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    pictures = [pil.new("RGB", (6, 4), (place, 0, 0)) for place in range(5)]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    table = datasets.Dataset.from_dict({"image": pictures, "text": [f"picture {place}" for place in range(5)]}, features=features)
    table.to_parquet(str(tmp_path / "train.parquet"))
    assert pa.types.is_struct(pq.read_schema(tmp_path / "train.parquet").field("image").type)
    source = ImageTextTable(files=f"{tmp_path}/*.parquet")
    source.check()
    opened = source.open()
    assert [(opened[place].text, opened[place].images[0].load()[0, 0, 0]) for place in range(5)] == [(f"picture {i}", i) for i in range(5)]


def test_img2dataset_rows_of_failed_downloads_are_left_out_and_not_bad(tmp_path: Path):
    """Its writer keeps them, without an image, and says so in `status`; the image's column is its encoding."""
    schema = pa.schema(
        [("key", pa.string()), ("status", pa.string()), ("caption", pa.string()), ("jpg", pa.binary()), ("txt", pa.string())]
    )
    content = [
        {"key": "000000000", "status": "success", "caption": "one", "jpg": png(1), "txt": "one"},
        {"key": "000000001", "status": "failed_to_download", "caption": "two", "jpg": None, "txt": None},
        {"key": "000000002", "status": "success", "caption": "three", "jpg": None, "txt": "three"},
    ]
    source = ImageTextTable(files=str(write(tmp_path / "00000.parquet", content, schema)))
    source.check()
    assert reasons(source) == ["", "not downloaded", "no image"]
    assert source.open()[0].images[0].load()[0, 0, 0] == 1


def test_declared_columns_are_used_and_others_are_at_hand(tmp_path: Path):
    content = [{"photo": png(place), "alt": f"  alt {place} ", "clip": place / 10, "image": b"other"} for place in range(4)]
    path = write(tmp_path / "a.parquet", content)
    source = ImageTextTable(files=str(path), image="photo", caption="alt", data_type="synthetic_captioned", keep={"columns": {"clip": {}}})
    source.check()
    document = source.open()[2]
    assert (document.text, document.columns, document.data_type) == ("alt 2", {"clip": 0.2}, "synthetic_captioned")
    assert document.images[0].load()[0, 0, 0] == 2


def test_dictionaries_large_types_and_empty_row_groups_are_read(tmp_path: Path):
    captions = pa.array(["a", "b", "a", "b"]).dictionary_encode()
    table = pa.table({"caption": captions, "image": pa.array([png(place) for place in range(4)], pa.large_binary())})
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema) as writer:
        writer.write_table(table.slice(0, 2))
        writer.write_table(table.slice(0, 0))
        writer.write_table(table.slice(2))
    opened = ImageTextTable(files=f"{tmp_path}/a.parquet").open()
    assert [opened[place].text for place in range(4)] == ["a", "b", "a", "b"]


def test_several_files_are_one_table_and_their_copies_hold_only_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("mm1_ablate.data.readers.parquet.BATCH_BYTES", 256)  # so that copies have several batches
    for shard, count in enumerate([4, 1, 6]):
        write(tmp_path / f"{shard}.parquet", [{"n": 100 * shard + row, "much": "x" * 100_000} for row in range(count)])
    table = open_parquet(find_files([f"{tmp_path}/*.parquet"]), ["n"])
    assert [table[index]["n"] for index in range(len(table))] == [0, 1, 2, 3, 100, 200, 201, 202, 203, 204, 205]
    assert table.place(4) == "1.parquet, row 1"
    assert sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file()) < 50_000
    with pytest.raises(IndexError):
        table[11]


def test_images_without_captions_wait_for_others(tmp_path: Path):
    """Of recaptions, say."""
    source = ImageTextTable(files=str(write(tmp_path / "a.parquet", [{"url": f"u{place}", "image": png(place)} for place in range(3)])))
    source.check_images()
    with pytest.raises(SettingError, match=r"^caption: the data has no column"):
        source.check()
    opened = source.open()
    assert opened.with_caption(1, "new").text == "new" and opened.with_caption(1, "new").images[0].load()[0, 0, 0] == 1
    assert list(opened.values("url")) == ["u0", "u1", "u2"]
    with pytest.raises(Unreadable, match="no caption"):
        opened[0]


# ---------------------------------------------------------------- bad data
def test_a_bad_row_is_named_and_its_neighbours_are_read(tmp_path: Path):
    schema = pa.schema([("caption", pa.binary()), ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])
    image = {"bytes": png(1), "path": None}
    content = [
        {"caption": b"fine", "image": image},
        {"caption": b"  ", "image": image},
        {"caption": None, "image": image},
        {"caption": b"\xff", "image": image},
        {"caption": b"path only", "image": {"bytes": None, "path": "elsewhere.png"}},
        {"caption": b"none", "image": None},
    ]
    source = ImageTextTable(files=str(write(tmp_path / "a.parquet", content, schema)))
    source.check()
    assert reasons(source) == ["", "empty caption", "no caption", "invalid UTF-8", "no image", "no image"]
    with pytest.raises(Unreadable, match=r"a\.parquet, row 2"):
        source.open()[1]


def test_text_that_is_not_utf_8_though_the_column_says_so_is_bad(tmp_path: Path):
    wrong = pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 3], np.int32)), pa.py_buffer(b"a\xff\xfe")])
    pq.write_table(pa.table({"caption": wrong, "image": [png(0), png(1)]}), tmp_path / "a.parquet")
    assert reasons(ImageTextTable(files=f"{tmp_path}/a.parquet")) == ["", "invalid UTF-8"]


def test_an_image_that_cannot_be_decoded_says_which(tmp_path: Path):
    source = ImageTextTable(files=str(write(tmp_path / "a.parquet", [{"caption": "a", "image": b"no image"}])))
    with pytest.raises(Unreadable, match=r"not an image: a\.parquet, row 1"):
        source.open()[0].images[0].load()


def test_broken_files_among_many_are_one_bad_document_each(tmp_path: Path):
    write(tmp_path / "a.parquet", rows(3))
    whole = write(tmp_path / "b.parquet", rows(40), row_group_size=10, compression="none").read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c.parquet").write_bytes(b"")
    write(tmp_path / "d.parquet", [{"url": "x", "image": png(0)}])
    write(tmp_path / "e.parquet", rows(2))
    source = ImageTextTable(files=f"{tmp_path}/?.parquet")
    source.check()
    assert reasons(source) == ["", "", "", "damaged file", "damaged file", "parquet of the wrong shape", "", ""]
    with pytest.raises(Unreadable, match=r"d\.parquet: no column 'caption'; it has url, image"):
        source.open()[5]


@pytest.mark.parametrize("image", ["http://x/1.jpg", 3, [b"x"], {"bytes": "text", "path": "x"}])
def test_a_shard_whose_column_holds_something_else_is_bad_data_and_no_crash(tmp_path: Path, image: object):
    write(tmp_path / "a.parquet", rows(2))
    write(tmp_path / "b.parquet", [{"caption": "a", "image": image}])
    write(tmp_path / "c.parquet", [{"caption": 3, "image": png(0)}, {"caption": 4, "image": png(0)}])
    source = ImageTextTable(files=f"{tmp_path}/?.parquet")
    source.check()
    assert reasons(source) == ["", "", "no image", "no caption", "no caption"]


def test_of_a_damaged_column_the_rows_before_the_damage_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mm1_ablate.data.readers.parquet.BATCH_ROWS", 5)
    path = write(tmp_path / "a.parquet", rows(40), row_group_size=10, compression="zstd", use_dictionary=False)
    group = pq.ParquetFile(path).metadata.row_group(2)
    content = bytearray(path.read_bytes())
    for column in range(group.num_columns):
        if group.column(column).path_in_schema == "caption":
            start = group.column(column).data_page_offset
            content[start : start + 20] = b"\xff" * 20
    path.write_bytes(bytes(content))
    source = ImageTextTable(files=str(path))
    assert reasons(source) == [""] * 20 + ["damaged file"]
    assert source.open()[19].text == "picture 19"


# ---------------------------------------------------------------- what a plan refuses
@pytest.mark.parametrize(
    ("content", "declared", "said"),
    [
        ([{"caption": "a", "photo": b"x"}], {}, "image: the data has no column 'image'; it has caption, photo"),
        ([{"caption": "a", "image": b"x"}], {"image": "images"}, r"image: .*did you mean 'image'\?"),
        ([{"caption": "a", "image": "http://x/y.jpg"}], {}, "image: column 'image' holds text; expected bytes or objects"),
        ([{"caption": 3, "image": b"x"}], {}, "caption: column 'caption' holds numbers; expected text or bytes"),
        ([{"caption": ["a"], "image": b"x"}], {}, "caption: column 'caption' holds lists of text"),
        (
            [{"txt": "a", "image": b"x", "clip": "0.3"}],
            {"keep": {"columns": {"clip": {"at_least": 0.2}}}},
            r"keep\.columns\.clip: .* holds text",
        ),
    ],
)
def test_a_table_of_the_wrong_shape_is_refused_at_the_setting_to_change(tmp_path: Path, content: list[dict], declared: dict, said: str):
    path = write(tmp_path / "a.parquet", content)
    with pytest.raises(SettingError, match=f"^{said}"):
        ImageTextTable(files=str(path), **declared).check()


def test_files_that_are_no_parquet_or_have_no_rows_are_refused(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(SettingError, match="hold no images; expected parquet"):
        ImageTextTable(files=f"{tmp_path}/a.jsonl").check()
    write(tmp_path / "b.parquet", [], pa.schema([("image", pa.binary()), ("caption", pa.string())]))
    with pytest.raises(SettingError, match=r"'b\.parquet' has no rows"):
        ImageTextTable(files=f"{tmp_path}/b.parquet").check()
