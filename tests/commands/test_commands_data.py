"""`mm1-ablate data`: what a user looks at before a long run."""

from __future__ import annotations

import base64
import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from command_line import call
from config_files import EXPERIMENT, write_experiment, write_sweep
from PIL import Image

import mm1_ablate


@pytest.fixture
def own_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An experiment whose captions come from a tar of 40 samples, of which one is no image and three have small ones."""
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for number in range(40):
            picture = io.BytesIO()
            side = 20 if number in (3, 4, 5) else 64
            Image.new("RGB", (2 * side, side), (number, 0, 0)).save(picture, "PNG")
            members = {"png": b"no image" if number == 7 else picture.getvalue(), "txt": b"small red circle"}
            for extension, content in members.items():
                entry = tarfile.TarInfo(f"{number:05}.{extension}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    own = "alt_text: {type: webdataset, files: '0000*.tar', keep: {image_side: {at_least: 30}}}"
    text = EXPERIMENT.replace("alt_text: {type: miniature, data_type: captioned, content: alt_text}", own)
    return write_experiment(tmp_path, text)


def test_the_table_says_what_each_source_holds(own_captions: Path, tmp_path: Path):
    done = call("data", own_captions, "--to", tmp_path / "page.html", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    source = found["sources"]["alt_text"]
    assert source["documents"] == source["sampled"] == 40
    assert source["usable"] == 36  # neither the three small ones nor what is no image, whose size cannot be told
    assert source["left_out"] == {"image side below 30 pixels": 3}
    assert source["bad"] == {"not an image": 1} and source["examples"] == {"not an image": ["00000.tar/00007"]}
    assert source["bad_share"] == pytest.approx(1 / 40)
    assert source["text_tokens"]["mean"] == 3 and source["images_per_document"]["mean"] == 1
    assert source["sides"] == {"128 x 64": 36}
    assert source["text_tokens_in_all"] == pytest.approx(36 * 3)


def test_epochs_are_those_that_the_training_would_read(tmp_path: Path):
    few = "text: {type: miniature, data_type: text, content: text, documents: 50}"
    counted = EXPERIMENT.replace("text: {type: miniature, data_type: text, content: text}", few)
    path = write_experiment(tmp_path, counted)
    found = json.loads(call("data", path, "--to", tmp_path / "page.html", "--json").stdout)

    from config_files import load_experiment

    from mm1_ablate.data.packing import open_packed_rows
    from mm1_ablate.data.tokenizer import load_tokenizer

    rows = open_packed_rows(load_experiment(path).data, load_tokenizer(), seed=0)
    for _ in range(500 * 8):
        next(rows)
    assert found["sources"]["text"]["epochs"] == pytest.approx(rows.accounting.account()["text"]["epochs"], rel=0.1)
    assert found["fill"] == pytest.approx(rows.fill, abs=0.02)


def test_repeated_data_and_too_much_bad_data_are_reported(own_captions: Path, tmp_path: Path):
    told = " ".join(call("data", own_captions, "--to", tmp_path / "page.html").stdout.split())
    assert re.search(r"Read more than once in this training: .*alt_text \(\d+\.\d\d times\)", told)
    assert "A run would stop: 2.5 % of alt_text cannot be read, 1.0 % is allowed (1 not an image (first: 00000.tar/00007))" in told


def test_the_page_shows_documents_at_the_size_that_the_encoder_sees(own_captions: Path, tmp_path: Path):
    page = tmp_path / "folder" / "page.html"
    assert call("data", own_captions, "--documents", 12, "--to", page).exit_code == 0
    text = page.read_text()
    assert text.count('<article class="document">') == 12
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert pictures
    assert {Image.open(io.BytesIO(base64.b64decode(picture))).size for picture in pictures} == {(48, 48)}


def test_an_arm_of_a_sweep_is_looked_at_by_name(tmp_path: Path):
    sweep = write_sweep(tmp_path, "without: {remove_each: [data.mixture.text, data.mixture.captioned]}")
    found = json.loads(call("data", sweep, "--arm", "without/text", "--sample", 20, "--to", tmp_path / "page.html", "--json").stdout)
    assert set(found["sources"]) == {"alt_text", "synthetic_captions", "interleaved"}
    wrong = call("data", sweep, "--arm", "without/txt", "--to", tmp_path / "page.html")
    assert wrong.exit_code == 2 and "without/captioned" in wrong.stderr


def test_the_same_seed_draws_the_same_sample(tmp_path: Path):
    path = write_experiment(tmp_path)
    pages = []
    for seed in (0, 0, 1):
        call("data", path, "--sample", 30, "--seed", seed, "--to", tmp_path / "page.html")
        pages.append((tmp_path / "page.html").read_text())
    assert pages[0] == pages[1] != pages[2]


def test_a_source_that_feeds_nothing_is_left_alone(own_captions: Path, tmp_path: Path):
    text = own_captions.read_text()
    own_captions.write_text(re.sub(r"captioned: [0-9.]+", "captioned: 0", text).replace("0000*.tar", "nowhere/*.tar"))
    done = call("data", own_captions, "--to", tmp_path / "page.html", "--json")
    assert done.exit_code == 0, done.output
    assert "alt_text" not in json.loads(done.stdout)["sources"]


def test_captions_without_a_picture_and_pictures_without_a_caption_are_reported(own_captions: Path, tmp_path: Path):
    rows = [{"key": f"{number:05}", "caption": "small blue circle"} for number in range(10, 60)]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = own_captions.read_text()
    own = "alt_text: {type: webdataset, files: '0000*.tar', keep: {image_side: {at_least: 30}}}"
    assert own in text
    joined = "alt_text: {type: recaptioned, data_type: captioned, images: {type: webdataset, files: '0000*.tar'}, captions: new.jsonl}"
    own_captions.write_text(text.replace(own, joined))
    page = tmp_path / "page.html"
    told = "alt_text was joined without 10 samples without a row, 20 rows without a sample."
    assert told in " ".join(call("data", own_captions, "--to", page).stdout.split())
    assert told in page.read_text()
    found = json.loads(call("data", own_captions, "--to", page, "--json").stdout)
    assert found["sources"]["alt_text"]["unmatched"] == {"samples without a row": 10, "rows without a sample": 20}


@pytest.mark.parametrize("steps", [500, 6])
def test_data_that_does_not_last_for_the_training_is_reported(tmp_path: Path, steps: int):
    text = re.sub(r"content: (\w+)}", r"content: \1, documents: 40, max_epochs: 2}", EXPERIMENT)
    assert text.count("max_epochs") >= 3
    path = write_experiment(tmp_path, re.sub(r"warmup_steps: \d+", "warmup_steps: 2", re.sub(r"\bsteps: 500", f"steps: {steps}", text)))
    told = " ".join(call("data", path, "--to", tmp_path / "page.html").stdout.split())
    found = json.loads(call("data", path, "--to", tmp_path / "page.html", "--json").stdout)
    assert ("A run would stop: the data is used up" in told) == (steps == 500)
    assert "the other sources take over" not in told
    assert found["rows_packed"] == min(found["rows_that_the_data_makes"] or 10**6, steps * 8)
    if steps == 500:
        assert f"used up at step {found['rows_that_the_data_makes'] // 8 + 1} of 500" in told


# ---------------------------------------------------------------- as it is trained
def with_sub_images(path: Path) -> None:
    text = path.read_text()
    connector = "  connector: {type: average_pool, image_tokens: 4}\n"
    assert connector in text
    path.write_text(text.replace(connector, connector + "  sub_images: {at_most: 4, overview: first}\n"))


def test_with_sub_images_the_page_shows_the_crops_and_overviews_that_training_gets(own_captions: Path, tmp_path: Path):
    from mm1_ablate.config.model import SubImages
    from mm1_ablate.data.decoding import decode
    from mm1_ablate.data.sub_images import views_of

    with_sub_images(own_captions)
    text = re.sub(r"mixture: {[^}]*}", "mixture: {captioned: 1}", own_captions.read_text())
    own_captions.write_text(text.replace("    synthetic_", "    # "))
    page = tmp_path / "page.html"
    done = call("data", own_captions, "--documents", 3, "--to", page, "--json")
    assert done.exit_code == 0, done.output
    text = page.read_text()
    shown = [
        (article, [decode(base64.b64decode(picture)) for picture in re.findall(r'src="data:image/png;base64,([^"]+)"', article)])
        for article in re.findall(r'<article class="document">.*?</article>', text, re.DOTALL)
    ]
    assert len(shown) == 3
    for article, views in shown:
        (number,) = re.findall(r"00000\.tar/(\d+)", article)
        picture = np.asarray(Image.new("RGB", (128, 64), (int(number), 0, 0)))
        expected = views_of(picture, 48, SubImages(at_most=4))
        assert len(views) == len(expected) > 2 and all(np.array_equal(*pair) for pair in zip(views, expected, strict=True))
        assert f"{4 * len(expected)} image tokens" in article


def test_with_sub_images_the_tokens_of_the_training_are_those_of_its_images_own_crops(own_captions: Path, tmp_path: Path):
    from config_files import load_experiment

    from mm1_ablate.data.images import ImagePipeline
    from mm1_ablate.data.loader import BatchLoader
    from mm1_ablate.data.tokenizer import load_tokenizer

    with_sub_images(own_captions)
    text = re.sub(r"mixture: {[^}]*}", "mixture: {captioned: 9, text: 1}", own_captions.read_text())
    own_captions.write_text(text.replace("at_most: 4", "at_most: 9").replace("packing: {", "max_bad_share: 1.0\n  packing: {"))
    found = json.loads(call("data", own_captions, "--to", tmp_path / "page.html", "--json").stdout)
    experiment = load_experiment(own_captions)
    pipeline = ImagePipeline.of(experiment.model)
    loader = BatchLoader(experiment.data, load_tokenizer(), 4, pipeline, seed=0, steps=16, batch_rows=8)
    tokens = sum(len(micro.tokens) for step in loader for micro in step)
    assert found["tokens"] == pytest.approx(tokens * 500 / 16, rel=0.05)


@pytest.mark.parametrize("kind", ["pairs", "key"])
def test_epochs_are_counted_whatever_keys_end_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    from interleaved_files import png, write_obelics

    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    if kind == "pairs":
        write_obelics(tmp_path / "pages.parquet", [["I0", "small red circle", "I1", "small blue circle"]] * 20)
        own = "interleaved: {type: obelics, files: pages.parquet, interleaving: false}"
    else:
        with tarfile.open(tmp_path / "00000.tar", "w") as tar:
            for number in range(40):
                for extension, content in {"png": png(number), "txt": b"small red circle"}.items():
                    entry = tarfile.TarInfo(f"page{number}#7.{extension}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
        own = "alt_text: {type: webdataset, files: 00000.tar}"
    name = own.partition(":")[0]
    text = re.sub(rf"    {name}: .*", f"    {own}", EXPERIMENT)
    path = write_experiment(tmp_path, text)
    found = json.loads(call("data", path, "--to", tmp_path / "page.html", "--json").stdout)

    from config_files import load_experiment

    from mm1_ablate.data.packing import open_packed_rows
    from mm1_ablate.data.tokenizer import load_tokenizer

    rows = open_packed_rows(load_experiment(path).data, load_tokenizer(), seed=0)
    for _ in range(500 * 8):
        next(rows)
    epochs = rows.accounting.account()[name]["epochs"]
    assert epochs > 1 and found["sources"][name]["epochs"] == pytest.approx(epochs, rel=0.1)


@pytest.mark.parametrize("counted", ["documents", "tokens"])
def test_a_source_too_rare_for_the_rows_that_are_packed_is_not_reported_as_never_read(tmp_path: Path, counted: str):
    text = re.sub(r"mixture: {[^}]*}", "mixture: {captioned: 100000, text: 1}", EXPERIMENT)
    path = write_experiment(tmp_path, text.replace("  packing:", f"  count: {counted}\n  packing:"))
    few = "text: {type: miniature, data_type: text, content: text, documents: 2}"
    path.write_text(path.read_text().replace("text: {type: miniature, data_type: text, content: text}", few))
    sources = json.loads(call("data", path, "--to", tmp_path / "page.html", "--json").stdout)["sources"]
    captions = sum(source["read_documents"] for name, source in sources.items() if name != "text")
    each = 1 if counted == "documents" else 5 / 20
    assert 0.2 * each < sources["text"]["epochs"] * 2 / (captions / 100000) < 5 * each


def test_one_place_says_how_images_reach_a_model():
    """Written out in several, one of them forgot the sub-images."""
    package = Path(mm1_ablate.__file__).parent
    made = [path.relative_to(package).as_posix() for path in sorted(package.rglob("*.py")) if "ImagePipeline(" in path.read_text()]
    assert made == []
