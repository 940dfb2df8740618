"""`mm1-ablate examples`: what a user looks at to understand a difference between two arms."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import call
from official_files import vqav2
from PIL import Image
from scored_study import Said, write_scores

from mm1_ablate.config.study import Trial
from mm1_ablate.config.task_record import Task
from mm1_ablate.data.documents import Item, Unreadable

FIRST, SECOND = "baseline", "without/text"
LIKELY, UNLIKELY = -0.5, -4.0


def answer(trial: Trial, task: Task, shots: int, place: int, item: Item) -> Said:
    """The baseline errs on the items 1 and 2, the other arms on 3 to 6 as well; nobody can be asked item 7."""
    wrong = {1, 2} if FIRST in trial.arms else {3, 4, 5, 6}
    if place == 7:
        return Unreadable("truncated JPEG", item.id)
    if task.kind == "choose":
        right = place not in wrong
        return [LIKELY if (number == item.correct) == right else UNLIKELY - number for number in range(len(item.choices))]
    return f"not {item.references[0]}" if place in wrong else item.references[0]


@pytest.fixture
def sweep(tiny_sweep: Path, tmp_path: Path) -> Path:
    """Twelve items of an image task at 0 and 2 shots and of a text task, all arms evaluated."""
    experiment = tmp_path / "experiments" / "tiny.yaml"
    text = experiment.read_text().replace("items: 4", "items: 12").replace("- miniature_vqa", "- miniature_vqa\n  - miniature_facts")
    experiment.write_text(re.sub(r"shots:\n(\s+)- 0", r"shots:\n\1- 0\n\1- 2", text))
    write_scores(tiny_sweep, tmp_path / "store", answer)
    return tiny_sweep


def examples(sweep: Path, *arguments: object) -> tuple[dict[str, Any], str]:
    """The JSON and the page."""
    folder = sweep.parent.parent
    done = call("examples", sweep, FIRST, SECOND, "--store", folder / "store", "--to", folder / "out" / "page.html", "--json", *arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), (folder / "out" / "page.html").read_text()


def test_it_counts_on_how_many_items_each_arm_is_better(sweep: Path):
    found, _ = examples(sweep)
    counted = {(one["task"], one["shots"]): one for one in found["counts"]}
    assert set(counted) == {("miniature_vqa", 0), ("miniature_vqa", 2), ("miniature_facts", 0)}
    for one in counted.values():
        assert (one["items"], one["first_better"], one["equal"], one["second_better"], one["not_judged"]) == (11, 4, 5, 2, 1)
        assert one["first_score"] == pytest.approx(100 * 9 / 11) and one["second_score"] == pytest.approx(100 * 7 / 11)


def test_equally_many_are_shown_in_both_directions_as_far_as_there_are(sweep: Path):
    for number, expected in ((4, (2, 2)), (12, (6, 6)), (15, (9, 6)), (100, (12, 6))):
        found, _ = examples(sweep, "--number", number)
        gains = [one["first"]["score"] > one["second"]["score"] for one in found["examples"]]
        assert (sum(gains), len(gains) - sum(gains)) == expected
        assert gains == sorted(gains, reverse=True)
        places = {int(one["item"].rpartition("/")[2]) for one in found["examples"]}
        assert places <= {1, 2, 3, 4, 5, 6}
    first, again = examples(sweep, "--number", 4), examples(sweep, "--number", 4)
    assert first == again


def test_an_item_without_demonstrations_is_one_however_many_evaluation_seeds_there_are(sweep: Path, tmp_path: Path):
    experiment = tmp_path / "experiments" / "tiny.yaml"
    experiment.write_text(experiment.read_text().replace("  seeds: null", "  seeds: [0, 1]"))
    write_scores(sweep, tmp_path / "store", answer)
    found, _ = examples(sweep, "--number", 100)
    counted = {(one["task"], one["shots"]): one["items"] for one in found["counts"]}
    assert counted == {("miniature_vqa", 0): 11, ("miniature_vqa", 2): 22, ("miniature_facts", 0): 11}
    shown = [(one["task"], one["shots"], one["item"]) for one in found["examples"] if not one["first"]["demonstrations"]]
    assert shown and len(set(shown)) == len(shown)


def test_largest_differences_come_first(tiny_sweep: Path, tmp_path: Path):
    experiment = tmp_path / "experiments" / "tiny.yaml"
    experiment.write_text(experiment.read_text().replace("items: 4", "items: 9").replace("miniature_vqa", "miniature_captions"))

    def captions(trial: Trial, task: Task, shots: int, place: int, item: Item) -> Said:
        words = item.references[0].split()
        return " ".join(words) if FIRST in trial.arms else " ".join(words[: len(words) - place])

    write_scores(tiny_sweep, tmp_path / "store", captions)
    found, _ = examples(tiny_sweep, "--number", 5)
    gains = [one["first"]["score"] - one["second"]["score"] for one in found["examples"]]
    assert len(gains) == 5 and gains == sorted(gains, reverse=True) and gains[0] > gains[-1]
    everything, _ = examples(tiny_sweep, "--number", 9)
    most = sorted((one["first"]["score"] - one["second"]["score"] for one in everything["examples"]), reverse=True)
    assert gains == most[:5]


def test_the_page_shows_image_question_both_answers_and_what_is_right(sweep: Path):
    found, page = examples(sweep, "--task", "miniature_vqa", "--shots", 2)
    assert {(one["task"], one["shots"]) for one in found["examples"]} == {("miniature_vqa", 2)} and len(found["examples"]) == 6
    assert page.count('<article class="card pictured">') == 6
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert {Image.open(io.BytesIO(base64.b64decode(one))).size for one in pictures} == {(48, 48)} and len(set(pictures)) == 6
    for one in found["examples"]:
        assert one["first"]["prompt"].startswith("<image>") and one["first"]["prompt"].removeprefix("<image>").strip() in page
        for part in (one["item"], one["first"]["text"], one["second"]["text"], f"<b>{one['references'][0]}</b>"):
            assert part in page
        assert len(one["first"]["demonstrations"]) == 2 and ", ".join(one["first"]["demonstrations"]) in page
    assert "Trials of seed 0" in page and "2 shots" in page and "1 not judged" in page
    assert "http:" not in page and "https:" not in page and "<script" not in page


def test_choices_are_shown_with_their_likelihoods_and_the_margin_of_the_right_one(sweep: Path):
    found, page = examples(sweep, "--task", "miniature_facts", "--number", 1)
    (one,) = found["examples"]
    assert page.count('<table class="choices">') == 1 and "<img" not in page
    right, wrong = one["first"]["log_likelihoods"], one["second"]["log_likelihoods"]
    assert max(right) == LIKELY and max(wrong) == LIKELY
    assert one["first"]["text"] == one["references"][0] != one["second"]["text"]
    cells = re.search(r"most likely wrong choice</td>(.*?)</tr>", page, re.DOTALL)
    assert cells is not None
    shown = [float(number.replace("−", "-")) for number in re.findall(r"<td>([^<]+)</td>", cells[1])]
    place = right.index(LIKELY)
    margins = [own[place] - max(own[:place] + own[place + 1 :]) for own in (right, wrong)]
    assert shown == [pytest.approx(one, abs=0.06) for one in margins] and shown[0] > 0 > shown[1]


def test_a_seed_names_the_trials(sweep: Path):
    found, page = examples(sweep, "--seed", 1)
    assert found["seeds"] == [1, 1] and "Trials of seed 1" in page


def test_people_get_the_counts_and_the_place_of_the_page(sweep: Path, tmp_path: Path):
    done = call("examples", sweep, FIRST, SECOND, "--store", tmp_path / "store", "--to", tmp_path / "page.html")
    assert done.exit_code == 0, done.output
    assert "without/text better" in done.stdout and f"18 items that they answered differently: {tmp_path / 'page.html'}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((FIRST, "without/txt"), "there is no arm 'without/txt'; did you mean 'without/text'?"),
        (
            (FIRST, SECOND, "--task", "miniature_vqs"),
            "no task 'miniature_vqs' that both arms were evaluated on; did you mean 'miniature_vqa'?",
        ),
        ((FIRST, SECOND, "--shots", 4), "no number of shots '4' that both arms were evaluated on; there are: 0, 2"),
        ((FIRST, SECOND, "--seed", 5), "baseline has no seed 5; its seeds are 0, 1"),
        ((FIRST, SECOND, "--to", "/proc/page.html"), "name an .html file that can be written with --to"),
    ],
)
def test_what_is_not_there_is_named(sweep: Path, tmp_path: Path, arguments: tuple[object, ...], told: str):
    done = call(
        "examples", sweep, *arguments, "--store", tmp_path / "store", *([] if "--to" in arguments else ["--to", tmp_path / "p.html"])
    )
    assert done.exit_code == 2 and told in done.stderr, done.output


def test_without_scores_it_says_what_to_run(tiny_sweep: Path, tmp_path: Path):
    write_scores(tiny_sweep, tmp_path / "store", answer, arms=[FIRST])
    done = call("examples", tiny_sweep, FIRST, SECOND, "--store", tmp_path / "store", "--to", tmp_path / "page.html")
    assert done.exit_code == 1 and not (tmp_path / "page.html").exists()
    assert "without/text has no scores yet (without/text/seed-0: missing, never run" in done.stderr
    assert f"first: mm1-ablate run {tiny_sweep} --store {tmp_path / 'store'}" in done.stderr


def test_photographs_are_shown_smaller_and_one_that_is_gone_is_named(tiny_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "benchmarks"
    vqav2(root)
    monkeypatch.setenv("MM1_ABLATE_BENCHMARKS", str(root))
    images = sorted((root / "coco" / "val2014").glob("*.jpg"))
    Image.effect_noise((1600, 1200), 50).convert("RGB").save(images[0])
    experiment = tmp_path / "experiments" / "tiny.yaml"
    experiment.write_text(experiment.read_text().replace("miniature_vqa", "vqav2"))

    def said(trial: Trial, task: Task, shots: int, place: int, item: Item) -> Said:
        return item.references[0] if FIRST in trial.arms else "red"

    write_scores(tiny_sweep, tmp_path / "store", said)
    images[1].write_bytes(b"")
    found, page = examples(tiny_sweep)
    assert len(found["examples"]) == 4 and {one["first"]["score"] for one in found["examples"]} == {100.0}
    assert "colour 0 (5 times)" in page and "red (3 times)" in page
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == 2 and Image.open(io.BytesIO(base64.b64decode(pictures[0]))).size == (420, 315)
    assert page.count("its image cannot be shown") == 2


def test_neither_torch_nor_ray_nor_mlflow_is_imported(sweep: Path, tmp_path: Path):
    program = "import sys; from mm1_ablate.cli import app; app(standalone_mode=False)\n"
    program += "sys.exit(', '.join({'torch', 'ray', 'mlflow', 'transformers', 'timm'} & set(sys.modules)) or None)"
    arguments = ["examples", sweep, FIRST, SECOND, "--store", tmp_path / "store", "--to", tmp_path / "page.html"]
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / "page.html").exists(), done.stderr
