"""Interleaved documents of files: OBELICS and MMC4 with pictures inside or beside, what is bad in them, and their identity."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from interleaved_files import LAYOUTS, PAGES, png, read, switched, url, write_mmc4, write_obelics, write_pictures, written

from mm1_ablate.config.identity.fingerprint import fingerprint
from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.documents import Unreadable
from mm1_ablate.data.sources._interleaved import InterleavedSource
from mm1_ablate.data.sources.miniature import Miniature
from mm1_ablate.data.sources.mmc4 import Mmc4
from mm1_ablate.data.sources.obelics import Obelics


# ---------------------------------------------------------------- OBELICS
@pytest.mark.parametrize("images", ["bytes", "struct"])
def test_obelics_with_its_images_inside(tmp_path: Path, images: str):
    source = Obelics(
        files=str(write_obelics(tmp_path / "a.parquet", images=images, clip=[0.1, 0.2, 0.3, 0.4])), keep={"columns": {"clip": {}}}
    )
    source.check()
    assert read(source) == [["I0", "one\n\ntwo", "I1", "I2", "three"], *PAGES[1:]]
    document = source.open(name="pages")[1]
    assert (document.source, document.data_type, document.columns, document.damage) == ("pages", "interleaved", {"clip": 0.2}, ())
    keys = [image.key for index in range(4) for image in source.open()[index].images]
    assert len(set(keys)) == len(keys) == 6


@pytest.mark.parametrize("how", LAYOUTS)
def test_obelics_with_its_images_beside(tmp_path: Path, how: str):
    documents = write_obelics(tmp_path / "a.parquet", images="url")
    pattern, by = write_pictures(tmp_path / "beside", how)
    source = Obelics(files=str(documents), image_files=pattern, images_by=by)
    source.check()
    assert read(source) == [["I0", "one\n\ntwo", "I1", "I2", "three"], *PAGES[1:]]
    opened = source.open()
    assert opened[1].images[0].size() == (6, 4)
    assert len({image.key for index in range(4) for image in opened[index].images if image.key}) == 6


@pytest.mark.parametrize("how", LAYOUTS)
def test_missing_pictures_are_named_and_the_text_stays(tmp_path: Path, how: str):
    documents = write_obelics(tmp_path / "a.parquet", images="url")
    pattern, by = write_pictures(tmp_path / "beside", how, [0, 2, 5])
    source = Obelics(files=str(documents), image_files=pattern, images_by=by)
    assert read(source) == [["I0", "one\n\ntwo", "I2", "three"], ["four\n\nfive"], ["six"], ["seven", "I5"]]
    (damage,) = source.open()[1].damage
    assert damage.reason == "missing image" and url(3) in damage.what and "a.parquet, row 2" in damage.what


def test_a_name_that_several_pictures_have_is_no_picture(tmp_path: Path):
    documents = write_obelics(tmp_path / "a.parquet", images="url")
    pattern, _ = write_pictures(tmp_path / "beside", "base name")
    shutil.copy(tmp_path / "beside" / "part-0" / "0.PNG", tmp_path / "beside" / "part-1")
    page = Obelics(files=str(documents), image_files=pattern, images_by="base_name").open()[0]
    assert [error.reason for error in page.damage] == ["several images of one name"]


def test_a_url_that_was_downloaded_twice_is_one_picture(tmp_path: Path):
    documents = write_obelics(tmp_path / "a.parquet", images="url")
    pattern, by = write_pictures(tmp_path / "beside", "img2dataset", [0, 1, 2, 0])
    assert read(Obelics(files=str(documents), image_files=pattern, images_by=by))[0] == ["I0", "one\n\ntwo", "I1", "I2", "three"]


@pytest.mark.parametrize(
    ("images", "texts"),
    [([None, None], ["a"]), ([b"x", None], ["a", "b"]), ([None, None], ["a", None]), (None, ["a"]), ([None], None)],
)
def test_an_obelics_row_whose_lists_do_not_take_turns_is_bad_and_its_neighbours_are_read(tmp_path: Path, images: Any, texts: Any):
    table = {"images": pa.array([[png(0), None], images, [None]], pa.list_(pa.binary())), "texts": [[None, "fine"], texts, ["fine too"]]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    opened = Obelics(files=f"{tmp_path}/a.parquet").open()
    with pytest.raises(Unreadable, match=r"do not take turns: a\.parquet, row 2"):
        opened[1]
    assert [written(opened[index]) for index in (0, 2)] == [["I0", "fine"], ["fine too"]]


@pytest.mark.parametrize(
    ("images", "texts", "reason"),
    [
        (["a"], ["b"], "images and texts do not take turns"),
        ([[[b"x"], None]], [[None, "b"]], "missing image"),
        ([[3, None]], [[None, "b"]], "missing image"),
        ([[b"x", None]], [[None, 5]], "no text"),
        ([{"a": 1}], [{"b": 2}], "images and texts do not take turns"),
    ],
)
def test_a_shard_of_another_shape_is_bad_data_and_no_crash(tmp_path: Path, images: list, texts: list, reason: str):
    write_obelics(tmp_path / "a.parquet", [["I0", "fine"]])
    pq.write_table(pa.table({"images": images, "texts": texts}), tmp_path / "b.parquet")
    for switches in ({}, {"interleaving": False}):
        source = Obelics(files=f"{tmp_path}/?.parquet", **switches)
        source.check()
        opened = source.open()
        assert written(opened[0]) == ["I0", "fine"]
        try:
            assert [damage.reason for damage in opened[1].damage] == [reason]
        except Unreadable as error:
            assert error.reason == reason
    source = Obelics(files=f"{tmp_path}/?.parquet", images=False)
    with suppress(Unreadable):
        source.open()[1]


def test_an_empty_page_is_bad(tmp_path: Path):
    opened = Obelics(files=str(write_obelics(tmp_path / "a.parquet", [["one"], [], ["", "  "]]))).open()
    for index in (1, 2):
        with pytest.raises(Unreadable, match="empty document"):
            opened[index]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"texts": [["a"]]}, "files: the data has no column 'images'; it has texts"),
        ({"images": [[b"x"]], "text": [["a"]]}, r"files: the data has no column 'texts' \(did you mean 'text'\?\)"),
        ({"images": [b"x"], "texts": [["a"]]}, "files: column 'images' holds bytes; expected lists of bytes"),
        ({"images": [["http://x/1.png"]], "texts": [["a"]]}, "image_files: the documents only reference their pictures"),
    ],
)
def test_obelics_of_the_wrong_shape_is_refused(tmp_path: Path, table: dict, said: str):
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    with pytest.raises(SettingError, match=f"^{said}"):
        Obelics(files=f"{tmp_path}/a.parquet").check()
    if said.startswith("image_files"):
        Obelics(files=f"{tmp_path}/a.parquet", images=False).check()
        with pytest.raises(SettingError, match=r"^image_files: no file matches"):
            Obelics(files=f"{tmp_path}/a.parquet", image_files=f"{tmp_path}/nowhere/*").check()


def test_a_page_of_nothing_but_missing_pictures_is_bad(tmp_path: Path):
    documents = write_obelics(tmp_path / "a.parquet", [["I9"], ["one"]], images="url")
    pattern, by = write_pictures(tmp_path / "beside", "img2dataset")
    with pytest.raises(Unreadable, match="missing image"):
        Obelics(files=str(documents), image_files=pattern, images_by=by).open()[0]


# ---------------------------------------------------------------- MMC4
@pytest.mark.parametrize("how", LAYOUTS)
def test_mmc4_images_stand_before_the_sentence_that_they_match(tmp_path: Path, how: str):
    pattern, by = write_pictures(tmp_path / "beside", how)
    if by == "path":  # MMC4 names pictures without a folder
        pattern = f"{tmp_path}/beside/pictures/*"
    source = Mmc4(files=str(write_mmc4(tmp_path / "a.jsonl")), image_files=pattern, images_by=by)
    source.check()
    assert read(source) == [["I0", "one two", "I1", "I2", "three"], ["four", "I3", "five"], ["six"], ["I4", "I5", "seven"]]


def test_mmc4_images_may_stand_after_their_sentence(tmp_path: Path):
    pattern, _ = write_pictures(tmp_path / "beside", "base name")
    source = Mmc4(files=str(write_mmc4(tmp_path / "a.jsonl")), image_files=pattern, image_place="after")
    assert read(source)[:2] == [["one", "I0", "two three", "I1", "I2"], ["four five", "I3"]]


def test_mmc4_images_are_kept_by_similarity_and_sentences_stay(tmp_path: Path):
    pattern, _ = write_pictures(tmp_path / "beside", "base name")
    source = Mmc4(files=str(write_mmc4(tmp_path / "a.jsonl")), image_files=pattern, similarity={"at_least": 0.215, "at_most": 0.245})
    assert read(source) == [["one two", "I2", "three"], ["four", "I3", "five"], ["six"], ["I4", "seven"]]
    assert not source.open()[0].damage


def test_mmc4_damage_of_every_kind_is_named_and_the_rest_stays(tmp_path: Path):
    pattern, _ = write_pictures(tmp_path / "beside", "base name")
    fine = {"image_name": "1.png", "matched_text_index": 0, "matched_sim": 0.3}
    infos = [
        fine,
        {**fine, "matched_text_index": 2},
        {**fine, "matched_text_index": -1},
        {**fine, "matched_text_index": None},
        "no object",
        {**fine, "matched_sim": None},
        {**fine, "image_name": "9.png"},
        {"matched_text_index": 1, "matched_sim": 0.3},
    ]
    rows = [
        {"text_list": ["a", "b"], "image_info": infos},
        {"text_list": "a", "image_info": []},
        {"text_list": ["a", 3]},
        {"text_list": ["a"]},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    opened = Mmc4(files=f"{tmp_path}/a.jsonl", image_files=pattern, similarity={"at_least": 0.1}).open()
    assert written(opened[0]) == ["I1", "a b"]
    unmatched, similarity, missing = "image that matches no sentence", "image without similarity", "missing image"
    assert [error.reason for error in opened[0].damage] == [unmatched] * 4 + [similarity, missing, missing]
    with pytest.raises(Unreadable, match=r"no list of sentences or of images: a\.jsonl, line 2"):
        opened[1]
    with pytest.raises(Unreadable, match="no text"):
        opened[2]
    assert written(opened[3]) == ["a"]


def test_mmc4_without_a_place_for_its_pictures_is_refused_unless_they_are_removed(tmp_path: Path):
    path = write_mmc4(tmp_path / "a.jsonl")
    with pytest.raises(SettingError, match=r"^image_files: the documents only reference their pictures"):
        Mmc4(files=str(path)).check()
    source = Mmc4(files=str(path), images=False)
    source.check()
    assert read(source) == [["one two three"], ["four five"], ["six"], ["seven"]]


# ---------------------------------------------------------------- identity
def test_contents_see_a_changed_picture_and_not_a_moved_folder(tmp_path: Path):
    def source(folder: Path) -> Mmc4:
        return Mmc4(files=f"{folder}/a.jsonl", image_files=f"{folder}/b/**/*.PNG", interleaving=False)

    (tmp_path / "here").mkdir()
    write_mmc4(tmp_path / "here" / "a.jsonl")
    write_pictures(tmp_path / "here" / "b", "base name")
    before = source(tmp_path / "here")
    digest, keys, pages = before.contents(), [image.key for image in before.open()[0].images], read(before)
    shutil.move(tmp_path / "here", tmp_path / "there")
    after = source(tmp_path / "there")
    assert (after.contents(), [image.key for image in after.open()[0].images], read(after)) == (digest, keys, pages)
    (tmp_path / "there" / "b" / "part-1" / "3.PNG").unlink()
    assert after.contents() != digest
    assert ["four five"] in read(after)


def test_pairs_are_counted_again_after_an_edit_in_the_middle_of_a_file(tmp_path: Path):
    pattern, _ = write_pictures(tmp_path / "beside", "base name")
    filler = [["x" * 90_000]]  # so that the ends, which contents cover, stay as they are
    path = write_mmc4(tmp_path / "a.jsonl", [*filler, ["I0", "one", "I1", "two"], *filler])
    source = Mmc4(files=str(path), image_files=pattern, interleaving=False)
    contents, before = source.contents(), read(source)
    path.write_text(path.read_text().replace('"matched_text_index": 1', '"matched_text_index": 0'))
    assert source.contents() == contents
    assert before[1:3] == [["I0", "one"], ["I1", "two"]] and read(source)[1:2] == [["I0", "I1", "one two"]]


def test_where_files_are_is_not_what_a_trial_is(tmp_path: Path):
    here, there = (Obelics(files=f"{tmp_path}/{place}/*", image_files=f"{tmp_path}/{place}/*.tar") for place in ("here", "there"))
    assert fingerprint(here) == fingerprint(there) != fingerprint(switched(here, images=False))


def test_the_miniature_shares_the_switches_and_keeps_its_identity():
    assert issubclass(Miniature, InterleavedSource)
    plain: Mapping[str, Any] = {"type": "miniature", "content": "interleaved", "data_type": "interleaved"}
    version = {"version": Miniature.version}
    assert fingerprint(Miniature(**plain)) == fingerprint({**plain, **version})
    assert fingerprint(Miniature(**plain, interleaving=False)) == fingerprint({**plain, **version, "interleaving": False})


@pytest.mark.parametrize(("place", "expected"), [("before", ["one", None]), ("after", ["one", None])])
def test_blank_sentences_of_mmc4_have_no_place_but_their_pictures_do(place: str, expected: list[str | None]):
    row = {"text_list": ["one", " ", None, 3], "image_info": [{"matched_text_index": 1}, {"matched_text_index": 9}, "no picture"]}
    source = Mmc4(files="a.jsonl", image_files="b.tar", image_place=place)
    assert source.places_of(row) == expected
    assert source.places_of({"text_list": "one", "image_info": []}) == source.places_of({}) == []
