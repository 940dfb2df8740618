"""How much is lost with files that cannot be read, and how that weighs among what was drawn."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tar_files import documents, picture, plain_tar

from mm1_ablate.config.data import Data
from mm1_ablate.data.accounting import Accounting, SourceCounts, TooMuchBadData
from mm1_ablate.data.documents import KnownLoss, LeftOut, Unreadable
from mm1_ablate.data.files import find_files
from mm1_ablate.data.lost_documents import FileRead, Losses, Lost, limited_sources, losses_of, share_of, what_to_say
from mm1_ablate.data.packing import open_packed_rows
from mm1_ablate.data.readers.quick_check import lost_lines
from mm1_ablate.data.sources.webdataset import WebDataset
from mm1_ablate.data.tokenizer import load_tokenizer


def whole(name: str, documents: int = 100, size: int = 10_000) -> FileRead:
    return FileRead(name, size, documents, size)


def broken(name: str = "bad", size: int = 0, documents: int = 0, read: int = 0, known: int | None = None) -> FileRead:
    return FileRead(name, size, documents, read, "a file of 0 bytes", known)


@pytest.mark.parametrize(
    ("file", "documents"),
    [
        (broken(), 100),  # as many as the median file holds
        (broken(size=30_000), 300),  # as many as a file of its size
        (broken(size=1_000), 100),
        (broken(size=1_000, known=7), 7),  # as many as it says itself
        (broken(size=10_000, documents=60, read=6_000), 40),
        (broken(size=6_000, documents=60, read=6_000), 40),  # it breaks off where it ends
        (broken(size=20_000, documents=200, read=20_000), 1),
    ],
)
def test_a_lost_file_is_as_many_documents_as_it_should_have_given(file: FileRead, documents: int) -> None:
    (losses,) = losses_of([whole("a"), whole("b", 50, 5_000), whole("c"), file])
    assert losses.documents == documents
    assert losses.share == pytest.approx(documents / (250 + file.documents + documents))
    assert losses.bytes == max(0, file.size - file.read)


def test_nothing_lost_is_no_loss_and_nothing_but_loss_is_all_of_it() -> None:
    assert losses_of([whole("a")]) == [] and share_of([]) == 0
    assert share_of(losses_of([broken("a"), broken("b", 500)])) == 1


def test_words_name_files_bytes_documents_and_the_first_of_them() -> None:
    files = [whole("a"), *(broken(f"{number}.tar") for number in range(4)), broken("part.tar", 10_000, 60, 6_000)]
    (losses,) = losses_of(files)
    assert losses.in_words() == (
        "4 of 6 files cannot be read and 1 of 6 files can be read only in part; lost are 4.0 kB of 20.0 kB, about 440 of 600 documents"
        " (73.3%). The first: 0.tar: a file of 0 bytes; 1.tar: a file of 0 bytes; 2.tar: a file of 0 bytes; and 2 more"
    )


def test_an_account_has_the_numbers_and_the_first_names() -> None:
    lost = (Lost("a.tar", "broken", 10, 5), Lost("b.tar", "broken", 20, 6, "part"), Lost("c.tar", "links", 30, 7, "entries"))
    told = Losses(lost, 9, 1000, 82.0).to_json()
    assert {name: told[name] for name in told if name not in ("first", "in_words")} == {
        "of": "documents", "files": 2, "of_files": 9, "bytes": 60, "documents": 18, "share": pytest.approx(0.18),
    }  # fmt: skip
    assert told["first"] == ["a.tar: broken", "b.tar: broken", "c.tar: links"]
    assert told["in_words"] == (
        "1 of 9 files cannot be read and 1 of 9 files can be read only in part and entries of 9 files are not read; lost are 60 bytes of "
        "1.0 kB, about 18 of 100 documents (18.0%). a.tar: broken; b.tar: broken; c.tar: links"
    )


def test_more_than_is_allowed_is_an_error_and_less_a_warning() -> None:
    losses = losses_of([*(whole(str(number)) for number in range(9)), broken()])
    (error,) = what_to_say(losses, ("data", "sources", "web"), 0.05)
    assert (error.path, error.warning) == (("data", "sources", "web", "files"), False) and "data.sources.web.max_bad_share" in error.hint
    (warning,) = what_to_say(losses, ("data", "sources", "web"), 0.1)
    assert warning.warning and "10.0% may be lost" in warning.message
    words = "1 of 10 files cannot be read; lost are 0 bytes of 90.0 kB, about 100 of 1,000 documents (10.0%). bad: a file of 0 bytes"
    assert (error.message, error.hint) == (
        f"{words}. At most 5.0% may be lost (max_bad_share)",
        "repair or remove these files, or allow more with data.sources.web.max_bad_share",
    )
    assert (warning.message, warning.hint, warning.path) == (
        f"{words}. They are left out: 10.0% may be lost (max_bad_share)",
        "repair or remove these files",
        error.path,
    )


def test_the_greatest_loss_is_told_first_and_at_its_own_field() -> None:
    few, many = Losses((Lost("a", "x", 0, 1),), 9, 9, 99.0), Losses((Lost("b", "x", 0, 9),), 9, 9, 91.0, "images.files")
    told = what_to_say([few, many], ("data", "sources", "web"), 0.1)  # 1 % and 9 %: together no more than is allowed
    assert [(one.path[3:], one.warning) for one in told] == [(("images", "files"), True), (("files",), True)]
    assert share_of([few, many]) == pytest.approx(0.1) and share_of([many] * 20) == 1.0
    assert not any(one.warning for one in what_to_say([few, many, few], ("web",), 0.1))


def test_one_file_is_told_as_one_and_a_fourth_is_only_counted() -> None:
    (one,) = losses_of([broken("a.tar")])
    assert one.in_words() == (
        "1 of 1 file cannot be read; lost are 0 bytes of 0 bytes, about 1 of 1 documents (100.0%). a.tar: a file of 0 bytes"
    )
    names = "0.tar: a file of 0 bytes; 1.tar: a file of 0 bytes; 2.tar: a file of 0 bytes"
    three, four = (losses_of([broken(f"{number}.tar") for number in range(count)])[0] for count in (3, 4))
    assert three.in_words().endswith(f"(100.0%). {names}")
    assert four.in_words().endswith(f"(100.0%). The first: {names}; and 1 more")
    many = Losses((Lost("a.jpg", "x", 2_000_000, 1_500),), 1_234, 5_000_000, 1_500.4, of="pictures")
    assert many.in_words().startswith("1 of 1,234 files cannot be read; lost are 2.0 MB of 5.0 MB, about 1,500 of 3,000 pictures (50.0%).")
    assert many.to_json()["pictures"] == 1_500 and many.to_json()["of"] == "pictures"


def test_losses_of_pairs_are_rounded_up_and_keep_their_share() -> None:
    pages = Losses((Lost("a", "x", 10, 3), Lost("b", "y", 20, 1)), 5, 100, 40.0)
    pairs = pages.scaled(1.5)
    assert [lost.documents for lost in pairs.lost] == [5, 2] and pairs.there == 60.0
    assert (pairs.field, pairs.files, pairs.size, pairs.bytes) == ("files", 5, 100, 30)
    assert pages.scaled(1, "captions") == Losses(pages.lost, 5, 100, 40.0, "captions")


def test_what_a_file_should_have_held_goes_by_the_bytes_of_those_that_were_read() -> None:
    # 300 documents of 100 bytes: of the file that breaks off 50 bytes are left, half a document; at least one is lost.
    (losses,) = losses_of([whole("a", 100), whole("b", 200, 20_000), FileRead("c", 2_050, 20, 2_000, "broken", 20)])
    assert losses.lost == (Lost("c", "broken", 50, 1, "part"),) and losses.there == 320
    (losses,) = losses_of([whole("a", 100)], [Lost("b: 1.png", "link", 0, 4, "entries")], "captions")
    assert (losses.documents, losses.files, losses.size, losses.field) == (4, 1, 10_000, "captions")
    assert losses.in_words().startswith("entries of 1 file are not read; lost are 0 bytes of 10.0 kB, about 4 of 104 documents (3.8%).")


def test_what_is_lost_with_files_and_what_was_drawn_add_up_to_one_share() -> None:
    losses = losses_of([*(whole(str(number)) for number in range(99)), broken()])
    accounting = Accounting({"web": 9900}, {"web": 0.02}, {"web": losses})
    accounting.check()
    accounting["web"].drawn, accounting["web"].bad_documents = 9900, 90
    accounting.check()
    accounting["web"].bad_documents = 110
    with pytest.raises(TooMuchBadData, match=r"2\.1% of source 'web' .* 1 of 100 files cannot be read"):
        accounting.check()
    assert accounting.account()["web"]["bad_share"] == pytest.approx(0.01 + 110 / 9900)
    assert accounting.account()["web"]["lost"][0]["documents"] == 100 and accounting.anew().account()["web"]["lost"]


def test_beyond_chance_is_judged_by_what_the_lost_files_leave() -> None:
    counts = SourceCounts(drawn=1000, bad_documents=18)
    assert not counts.is_too_bad(0.01, 10**6)
    assert counts.is_too_bad(0.01, 10**6, lost=0.009) and SourceCounts().is_too_bad(0.01, 10**6, lost=0.011)
    assert not SourceCounts().is_too_bad(0.01, 10**6, lost=0.01) and not counts.is_too_bad(1.0, 10**6, lost=1.0)


def tars(folder: Path) -> None:
    """Nine tars of ten samples, and one of nothing."""
    for number in range(9):
        members = [
            (f"{number}{place}.{end}", picture(place) if end == "png" else b"red card") for place in range(10) for end in ("png", "txt")
        ]
        plain_tar(folder / f"{number}.tar", members)
    (folder / "9.tar").write_bytes(b"")


def declared(folder: Path, **changes: object) -> Data:
    source = {"type": "webdataset", "files": f"{folder}/*.tar", **changes}
    return Data.model_validate({"mixture": {"captioned": 1}, "sources": {"web": source}, "packing": {"row_tokens": 200}})


def test_too_much_lost_stops_before_the_first_document(tmp_path: Path) -> None:
    tars(tmp_path)
    with pytest.raises(
        TooMuchBadData, match=r"10\.0% of source 'web' cannot be read \(of 0 documents drawn\), more than the 1\.0% allowed"
    ):
        open_packed_rows(declared(tmp_path), load_tokenizer(), 0)
    with pytest.raises(TooMuchBadData):  # also behind `keep`
        open_packed_rows(declared(tmp_path, keep={"text_characters": {"at_least": 1}}), load_tokenizer(), 0)


def test_a_lost_file_changes_neither_the_order_of_documents_nor_is_it_counted_twice(tmp_path: Path) -> None:
    tars(tmp_path)
    rows = open_packed_rows(declared(tmp_path, max_bad_share=0.2), load_tokenizer(), 0)
    for _ in range(40):
        next(rows)
    account = rows.accounting.account()["web"]
    assert account["drawn"] > 91 and account["bad"] == {} and account["bad_share"] == pytest.approx(0.1)
    opened = declared(tmp_path).sources["web"].open(0, "web")
    assert len(opened) == 91
    with pytest.raises(KnownLoss):
        opened[90]


def test_entries_that_are_links_count_once_for_each_sample_and_never_with_it(tmp_path: Path) -> None:
    import tarfile

    from tar_files import add

    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for number in range(20):
            add(tar, f"{number}.png", picture(1))
            add(tar, f"{number}.txt", b"fine")
        add(tar, "a.png", type=tarfile.SYMTYPE, linkname="0.png")
        add(tar, "a.txt", type=tarfile.SYMTYPE, linkname="0.txt")
        add(tar, "b.png", picture(1))
        add(tar, "b.txt", type=tarfile.SYMTYPE, linkname="0.txt")
    opened = WebDataset(files=(f"{tmp_path}/0.tar",)).open(name="web")
    assert opened.losses[0].documents == 1  # a; b is a document without a caption
    bad = []
    for index in range(len(opened)):
        try:
            opened[index]
        except KnownLoss:
            continue
        except (Unreadable, LeftOut) as error:
            bad.append(str(error))
    assert bad == ["no caption: 0.tar/b"]
    assert len(documents(opened)[0]) == 20


def test_zeros_where_a_tar_should_go_on_are_a_loss(tmp_path: Path) -> None:
    """As a download leaves a file that was given its size before it was written."""
    path = plain_tar(tmp_path / "0.tar", [(f"{number}.png", np.random.default_rng(number).bytes(60_000)) for number in range(10)])
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size * 10)
    opened = WebDataset(files=(f"{tmp_path}/0.tar",)).open(name="web")
    (losses,) = opened.losses
    assert "zeros where its end should be" in losses.lost[0].reason and 85 <= losses.documents <= 95
    (tmp_path / "1.tar").write_bytes(bytes(4 << 20))
    (tmp_path / "2.tar").write_bytes(bytes(10_240))  # what tar makes of nothing
    wrong = [lost.what for one in WebDataset(files=(f"{tmp_path}/[12].tar",)).losses() for lost in one.lost]
    assert wrong == ["1.tar"]


def test_limits_are_those_of_the_stage_that_reads_a_source() -> None:
    from tiny import tiny_experiment

    experiment = tiny_experiment({"data.max_bad_share": 0.3, "data.sources.text.max_bad_share": 0.5})
    limits = {place: limit for place, _, limit in limited_sources(experiment)}
    assert limits["data", "sources", "text"] == 0.5 and limits["data", "sources", "interleaved"] == 0.3
    assert {limit for place, limit in limits.items() if place[0] != "data"} <= {0.01}


def test_damaged_pages_and_their_pictures_are_losses_also_of_pairs(tmp_path: Path) -> None:
    from interleaved_files import write_obelics

    from mm1_ablate.data.sources.obelics import Obelics

    for number in range(4):
        write_obelics(tmp_path / f"{number}.parquet")
    data = (tmp_path / "3.parquet").read_bytes()
    (tmp_path / "3.parquet").write_bytes(data[: len(data) // 2])
    source = Obelics(files=(f"{tmp_path}/*.parquet",))
    assert [one.documents for one in source.losses()] == [4] == [one.documents for one in source.open().losses]
    pairs = Obelics(files=(f"{tmp_path}/*.parquet",), interleaving=False).open()
    (lost,) = pairs.losses
    assert share_of(pairs.losses) == pytest.approx(0.25, abs=0.05) and lost.documents > 4


def test_recaptions_lose_with_either_side(tmp_path: Path) -> None:
    from tar_files import as_img2dataset_writes

    from mm1_ablate.data.sources.recaptioned import Recaptioned

    for number in range(4):
        as_img2dataset_writes(tmp_path / f"{number}.tar", 10 * number, 10)
    for number in range(2):
        rows = [{"key": f"{place:09}", "caption": "new"} for place in range(20 * number, 20 * number + 20)]
        (tmp_path / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"images": {"type": "webdataset", "files": f"{tmp_path}/*.tar"}, "captions": f"{tmp_path}/*.jsonl"}
    source = Recaptioned.model_validate(settings)
    assert source.losses() == [] and source.open().losses == []
    (tmp_path / "3.tar").write_bytes(b"")
    (tmp_path / "2.jsonl").write_bytes(b"")
    source = Recaptioned.model_validate(settings)
    assert [(one.field, one.lost[0].what) for one in source.losses()] == [("images.files", "3.tar"), ("captions", "2.jsonl")]
    opened = {one.field: one.share for one in source.open().losses}
    assert opened["images.files"] == pytest.approx(0.25, abs=0.03) and opened["captions"] == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_lines_of_a_file_are_reckoned_from_its_beginning(tmp_path: Path, suffix: str) -> None:
    from mm1_ablate.data.files import find_files
    from mm1_ablate.data.readers.json_lines import head_of_lines

    packed = {"": bytes, ".gz": gzip.compress, ".zst": lambda content: pa.compress(content, "zstd", asbytes=True)}[suffix]
    noise = np.random.default_rng(0)
    content = b"".join(json.dumps({"text": noise.bytes(40).hex()}).encode() + b"\n" for _ in range(20_000))
    (tmp_path / f"a.jsonl{suffix}").write_bytes(packed(content))
    (file,) = find_files([f"{tmp_path}/a*"])
    head = head_of_lines(file)
    assert head.columns == {"text": "text"} and file.size / head.bytes_of_one == pytest.approx(20_000, rel=0.2)
    (tmp_path / f"b.jsonl{suffix}").write_bytes(packed(b'{"text": "one word"}\n' * 100_000))
    (file,) = find_files([f"{tmp_path}/b*"])
    assert file.size / head_of_lines(file).bytes_of_one == pytest.approx(100_000, rel=0.6)


def test_lines_that_lack_the_field_are_lost_with_their_file_and_what_they_have_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n' * 50)
    (tmp_path / "b.jsonl").write_text('{"words": "one", "id": 1}\n' * 50)
    (losses,) = lost_lines(find_files([f"{tmp_path}/*.jsonl"]), ["text"])
    assert losses.in_words().endswith("b.jsonl: no field 'text' in its first lines; they have words, id")
    assert (losses.documents, losses.files, losses.bytes) == (pytest.approx(80, abs=2), 2, 50 * 26)
    assert losses.there == pytest.approx(50)
