"""Files that cannot be read, wholly or in part: named with files, bytes and documents before a run, and held to `max_bad_share`."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from command_line import call
from tar_files import picture, plain_tar
from tiny import SWEEP, TINY, tiny_experiment

PAGE = b"<!DOCTYPE html><html><body>403 Forbidden</body></html>" * 20
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 123456\n"


def captioned_tar(path: Path, count: int, first: int = 0) -> Path:
    members = []
    for number in range(first, first + count):
        members += [(f"{number:06}.png", picture(number % 250)), (f"{number:06}.txt", b"small red circle")]
    return plain_tar(path, members)


def with_source(folder: Path, source: dict[str, Any], name: str = "synthetic_captions", **data: Any) -> Path:
    """The tiny sweep, one of its sources another one."""
    tree: dict[str, Any] = tiny_experiment(TINY).model_dump(mode="json")
    tree["data"]["sources"][name] = source
    tree["data"].update(data)
    (folder / "experiments").mkdir(exist_ok=True)
    (folder / "experiments" / "tiny.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    (folder / "sweeps").mkdir(exist_ok=True)
    (folder / "sweeps" / "tiny.yaml").write_text(SWEEP)
    return folder / "sweeps" / "tiny.yaml"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    return tmp_path


TARS = {"type": "webdataset", "data_type": "captioned", "files": "../data/*.tar"}


def twenty_tars(folder: Path, broken: int = 10, samples: int = 200) -> None:
    (folder / "data").mkdir()
    for number in range(20):
        captioned_tar(folder / "data" / f"{number:02}.tar", samples, number * samples)
    for number in range(broken):
        (folder / "data" / f"{number:02}.tar").write_bytes(PAGE if number % 2 else b"")


@pytest.mark.parametrize("command", ["validate", "plan", "run"])
def test_half_of_the_tars_lost_is_refused_at_the_source_before_anything_starts(folder: Path, command: str):
    twenty_tars(folder)
    sweep = with_source(folder, TARS)
    store = () if command == "validate" else ("--store", folder / "store")
    done = call(command, sweep, *store)
    said = " ".join(done.stderr.split())
    assert done.exit_code == 2, done.output
    assert re.search(r"tiny\.yaml:\d+:\d+: data\.sources\.synthetic_captions\.files: 10 of 20 files cannot be read", said), said
    assert re.search(r"about 2,0\d\d of 4,\d\d\d documents \(50\.0%\)", said), said
    assert "00.tar: a file of 0 bytes; 01.tar: not a tar, but an HTML page" in said and "and 7 more" in said
    assert "At most 1.0% may be lost (max_bad_share)" in said and "data.sources.synthetic_captions.max_bad_share" in said
    assert not (folder / "store" / "trials").exists()


def test_what_may_be_lost_is_a_warning_and_is_named_everywhere(folder: Path):
    twenty_tars(folder, broken=2)
    sweep = with_source(folder, {**TARS, "max_bad_share": 0.2})
    done = call("validate", sweep)
    told = r"2 of 20 files cannot be read; lost are .* about 4\d\d of 4,\d\d\d documents \(10\.0%\)"
    assert done.exit_code == 0 and re.search(told, " ".join(done.output.split())), done.output
    (report,) = json.loads(call("validate", sweep, "--json").stdout)["files"]
    (warning,) = report["warnings"]
    assert warning["path"] == "data.sources.synthetic_captions.files" and warning["line"]
    planned = json.loads(call("plan", sweep, "--json", "--store", folder / "store").stdout)
    assert re.search(told, planned["warnings"][0]["message"]), planned["warnings"]
    shown = call("data", folder / "experiments" / "tiny.yaml", "--to", folder / "page.html")
    assert re.search(told, " ".join(shown.stdout.split())), shown.output
    assert "2 of 20 files cannot be read" in (folder / "page.html").read_text()
    source = json.loads(call("data", folder / "experiments" / "tiny.yaml", "--json", "--to", folder / "page.html").stdout)["sources"][
        "synthetic_captions"
    ]
    (lost,) = source["lost"]
    assert (lost["files"], lost["of_files"], lost["documents"]) == (2, 20, 400) and source["bad_share"] == pytest.approx(0.1)


def test_a_run_writes_down_what_was_lost_with_files_and_the_report_and_mlflow_say_so(folder: Path):
    from mlflow import MlflowClient

    from mm1_ablate.config.sweep.expand import load_study
    from mm1_ablate.store.store import Store
    from mm1_ablate.tracking.mlflow_runs import track
    from mm1_ablate.tracking.server import tracking_uri
    from mm1_ablate.training.fit import fit

    twenty_tars(folder, broken=2)
    sweep = with_source(folder, {**TARS, "max_bad_share": 0.2})
    study = load_study(sweep)
    trial = study.trials[0]
    fit(trial.experiment, 0, None, None, folder / "trained", lambda progress: None)
    account = json.loads((folder / "trained" / "data.json").read_text())["synthetic_captions"]
    (lost,) = account["lost"]
    assert (lost["files"], lost["of_files"], lost["documents"], lost["share"]) == (2, 20, 400, pytest.approx(0.1))
    assert account["bad"] == {} and account["bad_share"] == pytest.approx(0.1)
    store = Store(folder / "store")
    _finish(store, study, account)
    said = r"2 of 20 files cannot be read; lost are .* about 400 of 4,000 documents \(10\.0%\)"
    report = call("report", sweep, "--store", store.root)
    assert re.search(said, " ".join(report.stdout.split())), report.output
    assert re.search(said, (store.study_folder(study) / "report" / "report.md").read_text())
    losses = json.loads(call("report", sweep, "--store", store.root, "--json").stdout)["data_losses"]
    assert [(loss["kind"], loss["count"]) for loss in losses] == [("lost with files", 400)]
    status = call("status", sweep, "--store", store.root, COLUMNS="400")
    assert "about 400 documents lost with files of synthetic_captions" in status.stdout, status.stdout
    tracked = track(study, store)
    run = MlflowClient(tracking_uri(store)).get_run(tracked.trial_runs[trial.evaluation_fingerprint])
    assert re.search(said, run.data.tags["lost data"])


def test_data_shows_what_a_run_would_refuse(folder: Path):
    twenty_tars(folder)
    with_source(folder, TARS)
    shown = call("data", folder / "experiments" / "tiny.yaml", "--to", folder / "page.html")
    said = " ".join(shown.stdout.split())
    assert shown.exit_code == 0, shown.output
    assert "10 of 20 files cannot be read" in said and "A run would stop: 50.0 % of synthetic_captions cannot be read" in said, said


def _finish(store: Any, study: Any, account: dict[str, Any]) -> None:
    import pandas

    for trial in study.trials:
        folder = store.write_trial(trial)
        with store.hold(folder):
            store.start(folder, "train")
            (folder / "model.pt").touch()
            items = {"task": ["miniature_vqa"], "family": ["image"], "shots": [0], "item": ["a"], "metric": ["exact"], "score": [1.0]}
            store.write_evaluation(trial.fingerprint, trial.evaluation_fingerprint, pandas.DataFrame(items), {"shot_0/average": 1.0})
            store.finish(folder)
        (folder / "data.json").write_text(json.dumps({"synthetic_captions": account}))


def test_what_only_an_index_tells_stops_a_run_before_its_first_trial(folder: Path):
    """A header in the middle of every second tar is overwritten: sizes, first and last bytes are as they should be."""
    twenty_tars(folder, broken=0, samples=50)
    for number in range(0, 20, 2):
        path = folder / "data" / f"{number:02}.tar"
        data = bytearray(path.read_bytes())
        begin = data.index(f"{number * 50 + 10:06}.png".encode())
        data[begin : begin + 200] = b"\xff" * 200
        path.write_bytes(data)
    sweep = with_source(folder, TARS)
    assert call("validate", sweep).exit_code == 0
    done = call("run", sweep, "--store", folder / "store")
    said = " ".join(done.stderr.split())
    assert done.exit_code == 2, done.output
    assert "10 of 20 files can be read only in part" in said and re.search(
        r"about 4[0-2]\d of 1,0[0-2]\d documents \(4[01]\.\d%\)", said
    ), said
    assert "nothing was started" in said and not list((folder / "store").glob("trials/*/model.pt"))
    # The index is there now, so the next look knows.
    again = call("validate", sweep)
    assert again.exit_code == 2 and "10 of 20 files can be read only in part" in " ".join(again.stderr.split())


def test_a_pointer_instead_of_a_file_says_what_to_do(folder: Path):
    (folder / "data").mkdir()
    (folder / "data" / "0.tar").write_bytes(POINTER)
    done = call("validate", with_source(folder, TARS))
    said = " ".join(done.stderr.split())
    assert done.exit_code == 2 and "0.tar: not a tar, but a git-lfs pointer" in said and "git lfs pull" in said, said


PAGES = [["I0", "red", "blue", "I1", "I2", "green"], ["small", "I3", "circle"], ["square"], ["I4", "the goat", "I5"]]
"""In words that the miniature tokenizer knows."""


def lines(count: int, field: str = "text") -> bytes:
    return b"".join(json.dumps({field: f"the goat is in the barn {number % 7}"}).encode() + b"\n" for number in range(count))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (gzip.compress(b"")[:9] + b"\xff" * 400, "cannot be decompressed"),
        (PAGE, "an HTML page"),
        (b"", "a file of 0 bytes"),
        (gzip.compress(lines(300, "body")), "no field 'text' in its first lines; they have body"),
        (gzip.compress(json.dumps([{"text": "the goat"}] * 300).encode()), "one JSON list"),
        (POINTER, "git lfs pull"),
    ],
    ids=["broken gzip", "page", "empty", "other field", "list", "pointer"],
)
def test_text_of_which_half_of_the_files_cannot_be_used_is_refused(folder: Path, wrong: bytes, says: str):
    (folder / "data").mkdir()
    for number in range(6):
        (folder / "data" / f"{number}.jsonl.gz").write_bytes(wrong if number % 2 else gzip.compress(lines(300)))
    sweep = with_source(folder, {"type": "text", "files": "../data/*.gz"}, "text")
    done = call("validate", sweep)
    said = " ".join(done.stderr.split())
    assert done.exit_code == 2 and "data.sources.text.files: 3 of 6 files cannot be read" in said and says in said, done.output
    documents = re.search(r"about ([\d,]+) of ([\d,]+) documents", said)
    assert documents is not None, said
    # As many as the median file holds, or a file of their size.
    lost, in_all = (int(number.replace(",", "")) for number in documents.groups())
    assert lost >= 900 and in_all == lost + 900


def rows(count: int, **more: Any) -> pa.Table:
    values = {"image": [picture(number % 250) for number in range(count)], "caption": ["small red circle"] * count}
    return pa.table({name: value for name, value in {**values, **more}.items() if value is not None})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"caption": None}, "no column 'caption'"),
        ({"caption": pa.nulls(50, pa.string())}, "column 'caption' has no value in any of its 50 rows"),
        ({"caption": list(range(50))}, "column 'caption' holds numbers"),
        ({"image": [{"bytes": None, "path": "a.png"}] * 50}, "column 'image' has no value"),
    ],
)
def test_parquet_shards_without_what_is_needed_are_refused_by_their_footers(folder: Path, wrong: dict[str, Any], says: str):
    (folder / "data").mkdir()
    for number in range(4):
        pq.write_table(rows(50, **(wrong if number > 1 else {})), folder / "data" / f"{number}.parquet")
    source = {"type": "image_text_table", "data_type": "captioned", "files": "../data/*.parquet"}
    done = call("validate", with_source(folder, source))
    said = " ".join(done.stderr.split())
    assert done.exit_code == 2 and "2 of 4 files cannot be read" in said and "about 100 of 200 documents (50.0%)" in said, done.output
    assert says in said, said


def test_a_duplicated_sample_is_one_bad_document_and_stops_nothing(folder: Path):
    from mm1_ablate.data.lost_documents import share_of
    from mm1_ablate.data.sources.webdataset import WebDataset

    members = []
    for number in [*range(150), 3]:
        metadata = json.dumps({"number": number}).encode()
        members += [(f"{number:06}.png", picture(number)), (f"{number:06}.txt", b"a"), (f"{number:06}.json", metadata)]
    plain_tar(folder / "0.tar", members)
    opened = WebDataset(files=(f"{folder}/0.tar",)).open(name="web")
    (lost,) = opened.losses
    assert lost.documents == 1 and share_of(opened.losses) == pytest.approx(1 / 151)


def test_a_damaged_tar_that_was_renamed_is_reported_by_its_new_name(folder: Path):
    from mm1_ablate.data.files import find_files
    from mm1_ablate.data.readers.tar import open_tars

    path = captioned_tar(folder / "old.tar", 10)
    path.write_bytes(path.read_bytes()[:9000])
    assert [bad.what for bad in open_tars(find_files([str(path)])).bad] == ["old.tar after 000003"]
    path = path.rename(folder / "new.tar")
    samples = open_tars(find_files([str(path)]))
    assert [bad.what for bad in samples.bad] == ["new.tar after 000003"] and samples.losses[0].lost[0].what == "new.tar"


def test_tars_laid_end_to_end_lose_what_is_after_the_first_and_say_so(folder: Path):
    from mm1_ablate.data.sources.webdataset import WebDataset

    first, second = captioned_tar(folder / "a.tar", 20), captioned_tar(folder / "b.tar", 20, 20)
    (folder / "both.tar").write_bytes(first.read_bytes() + second.read_bytes())
    opened = WebDataset(files=(f"{folder}/both.tar",)).open(name="web")
    (lost,) = opened.losses
    assert len(opened) == 20 and "concatenated tars" in lost.lost[0].reason and 18 <= lost.documents <= 32


def test_pictures_beside_pages_that_cannot_be_read_are_lost_pictures(folder: Path):
    from interleaved_files import write_mmc4, write_pictures

    (folder / "data").mkdir()
    write_mmc4(folder / "data" / "pages.jsonl", PAGES)
    write_pictures(folder / "data" / "pictures", "base name")
    source = {"type": "mmc4", "files": "../data/pages.jsonl", "image_files": "../data/pictures/**/*"}
    assert call("validate", with_source(folder, source, "interleaved")).exit_code == 0
    for path in sorted((folder / "data" / "pictures").rglob("*.PNG"))[:3]:
        path.write_bytes(b"" if path.stem == "0" else POINTER)
    done = call("validate", with_source(folder, source, "interleaved"))
    said = " ".join(done.stderr.split())
    assert done.exit_code == 2 and "data.sources.interleaved.image_files: 3 of 6 files cannot be read" in said, done.output
    assert "about 3 of 6 pictures (50.0%)" in said and "git lfs pull" in said


def test_an_archive_of_pictures_that_is_not_read_is_refused_by_what_it_is(folder: Path):
    import zipfile

    from interleaved_files import write_mmc4

    (folder / "data").mkdir()
    write_mmc4(folder / "data" / "pages.jsonl", PAGES)
    with zipfile.ZipFile(folder / "data" / "images.zip", "w") as archive:
        archive.writestr("0.png", picture(0))
    source = {"type": "mmc4", "files": "../data/pages.jsonl", "image_files": "../data/images.zip"}
    done = call("validate", with_source(folder, source, "interleaved"))
    said = " ".join(done.stderr.split())
    assert done.exit_code == 2 and "data.sources.interleaved.image_files" in said, done.output
    assert "images.zip: a zip archive; unpack it" in said and "expected pictures, or tars" in said


def test_files_are_what_their_first_bytes_say(folder: Path):
    """gzip called .tar, .TGZ in capitals, a plain tar called .tgz; gzip called .jsonl, plain lines called .jsonl.gz."""
    from tar_files import documents, source

    from mm1_ablate.data.sources.text import Text

    plain = captioned_tar(folder / "plain.tar", 5).read_bytes()
    for name, content in {"a.tar": gzip.compress(plain), "b.TGZ": gzip.compress(plain), "c.tgz": plain}.items():
        (folder / name).write_bytes(content)
        opened = source(folder / name)
        opened.settings.check()
        assert len(documents(opened)[0]) == 5 and not opened.losses
    for name, content in {"a.jsonl": gzip.compress(lines(5)), "b.jsonl.gz": lines(5), "c.JSONL.GZ": gzip.compress(lines(5))}.items():
        (folder / name).write_bytes(content)
        text = Text(files=(f"{folder}/{name}",))
        text.check()
        assert len(text.open()) == 5 and not text.losses() and text.open()[4].text == "the goat is in the barn 4"


@pytest.mark.parametrize("name", ["0.tgz", "0.TGZ", "0.tar.gz", "0.tar"])
def test_compressed_tars_that_are_well_lose_nothing_before_there_is_an_index(folder: Path, name: str):
    (folder / "data").mkdir()
    (folder / "data" / name).write_bytes(gzip.compress(captioned_tar(folder / "plain", 5).read_bytes()))
    done = call("validate", with_source(folder, {**TARS, "files": f"../data/{name}"}))
    assert done.exit_code == 0 and "warning" not in done.output, done.output


def test_many_names_full_of_dots_are_read(folder: Path):
    from mm1_ablate.data.files import find_files
    from mm1_ablate.data.readers.tar import open_tars

    count = 66_000
    path = plain_tar(folder / "0.tar", [(f"image.{number}.jpg", b"") for number in range(count)])
    samples = open_tars(find_files([str(path)]))
    assert len(samples) == 1 and len(samples[0].members) == count
    assert f"{count - 1}.jpg" in samples[0].members


def test_a_byte_order_mark_is_no_part_of_a_text(folder: Path):
    from tar_files import documents, source

    from mm1_ablate.data.sources.mmc4 import Mmc4
    from mm1_ablate.data.sources.text import Text

    mark = b"\xef\xbb\xbf"
    plain_tar(folder / "0.tar", [("a.png", picture(1)), ("a.txt", mark + b"red"), ("b.png", picture(1)), ("b.txt", mark)])
    good, bad = documents(source(folder / "0.tar"))
    assert [document.text for document in good] == ["red"] and bad == ["empty caption"]
    # Files that were concatenated tars, and a mark inside the text.
    (folder / "a.jsonl").write_bytes(mark + b'{"text": "one"}\n' + mark + b'{"text": "two"}\n{"text": "\\ufeffthree"}\n')
    opened = Text(files=(f"{folder}/a.jsonl",)).open()
    pages = [{"text_list": ["\ufeff", "\ufefffour"], "image_info": []}]
    (folder / "pages.jsonl").write_text("".join(json.dumps(page) + "\n" for page in pages))
    assert Mmc4(files=(f"{folder}/pages.jsonl",), images=False).open()[0].text == "four"
    assert [opened[index].text for index in range(3)] == ["one", "two", "three"]


def test_a_first_line_that_is_very_long_is_read_or_refused_for_what_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch):
    from mm1_ablate.config.settings import SettingError
    from mm1_ablate.data.sources.text import Text

    (folder / "long.jsonl").write_bytes(json.dumps({"text": "a " * (3 << 20)}).encode() + b"\n" + lines(2))
    Text(files=(f"{folder}/long.jsonl",)).check()
    (folder / "list.json").write_bytes(b"[" + json.dumps({"text": "a " * (3 << 20)}).encode() + b"]")
    with pytest.raises(SettingError, match=r"it begins like one JSON list.*jq -c '\.\[\]'"):
        Text(files=(f"{folder}/list.json",)).check()
    monkeypatch.setattr("mm1_ablate.data.readers.json_lines.LONGEST_LINE", 4 << 20)
    with pytest.raises(SettingError, match="its first line does not end in 4 MiB; expected an object in each line"):
        Text(files=(f"{folder}/long.jsonl",)).check()


def test_captions_that_are_lists_are_refused_when_a_plan_is_made(folder: Path):
    from mm1_ablate.config.settings import SettingError
    from mm1_ablate.data.sources.webdataset import WebDataset

    metadata = json.dumps({"captions": ["a", "b"]}).encode()
    plain_tar(folder / "0.tar", [("a.png", picture(1)), ("a.json", metadata)])
    with pytest.raises(SettingError, match=r"'json\.captions' holds lists of text; expected text") as error:
        WebDataset(files=(f"{folder}/0.tar",), caption_field="json.captions").check()
    assert error.value.at == "caption_field"
    plain_tar(folder / "1.tar", [("a.png", picture(1)), ("a.json", b'["a caption"]')])
    with pytest.raises(SettingError, match=r"the JSON beside the images holds lists of text, not an object with fields"):
        WebDataset(files=(f"{folder}/1.tar",), caption_field="json.captions").check()


def test_images_of_which_there_is_only_a_path_are_refused_when_a_plan_is_made(folder: Path):
    from mm1_ablate.config.settings import SettingError
    from mm1_ablate.data.sources.image_text_table import ImageTextTable
    from mm1_ablate.data.sources.obelics import Obelics

    for value in ({"bytes": None, "path": "a.png"}, {"path": "a.png"}):
        kind = pa.struct([(name, pa.binary() if name == "bytes" else pa.string()) for name in value])
        table = {"image": pa.array([value] * 3, kind), "caption": ["a"] * 3}
        pq.write_table(pa.table(table), folder / "a.parquet")
        with pytest.raises(SettingError, match="only the paths of images, not their bytes") as error:
            ImageTextTable(files=(f"{folder}/a.parquet",)).check()
        assert error.value.at == "image"
        pages = {"images": pa.array([[value, None]], pa.list_(kind)), "texts": [[None, "a"]]}
        pq.write_table(pa.table(pages), folder / "pages.parquet")
        with pytest.raises(SettingError, match="the documents only reference their pictures") as error:
            Obelics(files=(f"{folder}/pages.parquet",)).check()
        assert error.value.at == "image_files"
