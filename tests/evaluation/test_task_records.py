"""The shipped task records on files of the published shapes: what is asked, word for word, and what is right."""

from __future__ import annotations

import json
import os
import re
import string
import subprocess
import sys
from pathlib import Path

import official_files
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mm1_ablate.config.evaluation import Evaluation
from mm1_ablate.config.task_record import Task
from mm1_ablate.config.tasks import shipped_tasks
from mm1_ablate.data.documents import Item
from mm1_ablate.data.items._expressions import AnnotationRow, evaluate
from mm1_ablate.evaluation.metrics import Metric, Prediction
from mm1_ablate.evaluation.prediction_shards import asked_identity
from mm1_ablate.evaluation.prompts import demonstration, question, shown
from mm1_ablate.evaluation.protocols import load_task

DOCS = Path(__file__).resolve().parents[2] / "docs" / "tasks.md"
TEXT_TASKS = ("arc_easy", "arc_challenge", "piqa", "hellaswag", "winogrande", "sciq", "lambada", "triviaqa", "webqs")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MM1_ABLATE_BENCHMARKS", str(tmp_path))
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def asked(task: Task, item: Item) -> list[tuple[str, str]]:
    """(text before, text whose likelihood is taken) of each choice, or (question, "")."""
    if task.kind == "generate":
        return [(shown(question(task.prompt, item)[0]), "")]
    found = []
    for choice in item.choices:
        if "{choice}" in task.prompt:
            parts, space = question(task.prompt, item, choice)
            found.append((shown(parts), space + item.references[0]))
        else:
            parts, space = question(task.prompt, item)
            found.append((shown(parts), space + choice))
    return found


# ---------------------------------------------------------------- images
FIRST_PROMPTS = {
    "coco": ("103", "<image>A photo of", "<image>A photo of A scene 26 .\n"),
    "nocaps": ("1", "<image>A photo of", "<image>A photo of A scene 26 .\n"),
    "textcaps": ("0000000000000384", "<image>A photo of", "<image>A photo of A sign that says 24, seen 0\n"),
    "vqav2": (
        "101003",
        "<image>Question: What colour is it, 3? Short answer:",
        "<image>Question: What colour is it, 20? Short answer: colour 20\n",
    ),
    "okvqa": (
        "101003",
        "<image>Question: What colour is it, 3? Short answer:",
        "<image>Question: What colour is it, 20? Short answer: colour 20\n",
    ),
    "textvqa": (
        "903",
        "<image>Question: what does 3 say? Short answer:",
        "<image>Question: what does 18 say? Short answer: colour 18\n",
    ),
    "vizwiz": (
        "VizWiz_val_00000000.jpg",
        "<image>Question: What is this, 0? Short answer:",
        "<image>Question: What is this, 6? Short answer: colour 6\n",
    ),
    "gqa": ("20000000", "<image>Question: Is it 0? Short answer:", "<image>Question: Is it 113? Short answer: yes\n"),
}
"""The first query's id and prompt, and the first demonstration, at seed 0."""


@pytest.mark.parametrize("name", official_files.IMAGE_TASKS)
def test_an_image_task_asks_in_the_words_of_mm1(name: str, root: Path) -> None:
    official_files.IMAGE_TASKS[name](root)
    task = load_task(name)
    task.items.check()
    items = task.items.open()
    assert (len(items.queries), items.bad) == (4, [])
    first, solved = items.queries[0], items.demonstrations[0]
    assert (first.id, asked(task, first)[0][0], shown(demonstration(task.prompt, task.separator, solved))) == FIRST_PROMPTS[name]
    assert (
        first.image is not None and first.image.load().shape == (6, 8, 3) and first.image.size is not None and first.image.size() == (8, 6)
    )


@pytest.mark.parametrize("name", official_files.IMAGE_TASKS)
def test_development_questions_report_questions_and_demonstrations_share_no_picture(name: str, root: Path) -> None:
    official_files.IMAGE_TASKS[name](root)
    source = load_task(name).items
    report, development = source.open("report"), source.open("development")

    def pictures(items: list[Item]) -> set[str]:
        return {item.image.key for item in items if item.image}

    assert development.queries and pictures(development.demonstrations) == pictures(report.demonstrations)
    sides = [pictures(report.queries), pictures(development.queries), pictures(report.demonstrations)]
    assert sum(map(len, sides)) == len(set.union(*sides))


def test_references_are_all_answers_of_the_annotators(root: Path) -> None:
    for name in ("coco", "nocaps", "textcaps", "vqav2", "vizwiz", "gqa"):
        official_files.IMAGE_TASKS[name](root)
    references = {
        name: {item.id: item.references for item in load_task(name).items.open().queries}
        for name in FIRST_PROMPTS
        if name not in ("okvqa", "textvqa")
    }
    assert references["coco"]["101"] == ("A scene 1 .", "Scene 1, again.")
    assert references["nocaps"]["2"] == ("Caption 2 of 2.", "Caption 6 of 2.", "Caption 10 of 2.")
    assert references["textcaps"][f"{901:016x}"] == tuple(f"A sign that says 1, seen {time}" for time in range(3))
    ten = ("colour 3",) * 5 + ("red",) * 3 + ("blue", "grey")
    assert references["vqav2"]["101003"] == ten == references["vizwiz"]["VizWiz_val_00000003.jpg"]
    assert references["gqa"]["20000001"] == ("yes",)


def test_captions_are_scored_over_the_tokens_that_published_scores_are_over_and_as_they_are_beside() -> None:
    for name in ("coco", "nocaps", "textcaps"):
        assert [metric.type for metric in load_task(name).metrics] == ["cider_ptb", "cider_raw"]
    references = [
        ("A dog runs in the grass.", "The dog runs."),
        ("Two men ride horses.", "Men on horses."),
        ("A red bus.", "The bus stops."),
    ]
    plain = ["a dog runs in the grass", "two men ride horses", "a red bus"]
    imitated = ["A dog runs in the grass.", "Two men ride horses.", "A red bus."]
    ptb, raw = load_task("coco").metrics

    def score(metric: Metric, captions: list[str]) -> float:
        return metric.aggregate(metric.score([Prediction(text, text, own) for text, own in zip(captions, references, strict=True)]))

    # Who imitates capitals and full stops says nothing more.
    assert score(ptb, plain) == pytest.approx(score(ptb, imitated)) and score(raw, plain) < 0.8 * score(raw, imitated)


@pytest.mark.parametrize(("name", "other"), [("coco", ["cider_raw", "cider_ptb"]), ("textvqa", ["vqa_accuracy"])])
def test_another_rule_scores_kept_answers_again_and_asks_no_model(name: str, other: list[str], root: Path) -> None:
    official_files.IMAGE_TASKS[name](root)
    task = load_task(name)
    changed = Task.model_validate({**{field: getattr(task, field) for field in task.model_fields_set}, "metrics": other})
    evaluation = Evaluation(tasks=[name])
    assert [metric.type for metric in changed.metrics] != [metric.type for metric in task.metrics]
    assert asked_identity(changed, evaluation) == asked_identity(task, evaluation)


def test_every_rule_of_a_benchmark_is_reported_in_the_guide() -> None:
    guide = DOCS.read_text()
    rules = guide[guide.index("## Scoring rules") : guide.index("## One of your own")]
    for name in shipped_tasks():
        task = load_task(name)
        if task.items.type == "records":
            assert all(f"`{metric.type}`" in rules for metric in task.metrics), name


def test_a_picture_has_one_key_in_all_tasks_that_show_it(root: Path) -> None:
    for write in official_files.IMAGE_TASKS.values():
        write(root)
    keys = {
        name: {item.image.key for item in [*items.queries, *items.demonstrations] if item.image}
        for name in official_files.IMAGE_TASKS
        for items in [load_task(name).items.open()]
    }
    assert keys["vqav2"] == keys["okvqa"] and keys["vqav2"] & keys["coco"] == {"coco/100", "coco/101"}
    assert keys["textvqa"] & keys["textcaps"]
    assert not keys["gqa"] & set.union(*(keys[name] for name in keys if name != "gqa"))


# ---------------------------------------------------------------- texts
HELLASWAG = "Baking cookies: How to bake. Mix the dough. The dough is"
RIGHT_WORDS = {
    "arc_easy": {
        "MC_1": ([("Question: Which one melts?\nAnswer:", f" {choice}") for choice in ("ice", "rock", "air")], 0),
        "MC_2": ([("Question: Which one burns?\nAnswer:", f" {choice}") for choice in ("ice", "wood")], 1),
    },
    "piqa": {
        0: ([("Question: Dry\nAnswer:", " wet it"), ("Question: Dry\nAnswer:", " hang it")], 1),
        1: ([("Question: Open a jar\nAnswer:", f" turn {rest}") for rest in ("the lid", " the jar upside down")], 0),
    },
    "hellaswag": {0: ([(HELLASWAG, f" {ending}") for ending in ("thrown away.", "baked. Wait.", "eaten. raw.", "red.")], 1)},
    "winogrande": {
        0: ([(f"The trophy does not fit because {option}", " is too  big.") for option in ("the trophy", "the case")], 0),
        1: ([(option, " was late, so Ann left.") for option in ("Bob", "Ann")], 1),
    },
    "sciq": {0: ([("Ice melts.\nQuestion: What melts?\nAnswer:", f" {choice}") for choice in ("a", "b", "c", "ice")], 3)},
    "lambada": {0: ([("He opened the door and saw\nthe dog, the big", " dog")], 0)},
    "triviaqa": {0: ([("Question: Who wrote Emma??\nAnswer:", "")], None)},
    "webqs": {0: ([("Question: what do jamaican people speak?\nAnswer:", "")], None)},
}
"""Of each item what stands before and what is scored, as lm-evaluation-harness 0.4.13 has it, and which choice is right."""
RIGHT_WORDS["arc_challenge"] = RIGHT_WORDS["arc_easy"]


@pytest.mark.parametrize("shape", ["parquet", "original"])
@pytest.mark.parametrize("name", TEXT_TASKS)
def test_a_text_task_asks_in_the_words_of_lm_evaluation_harness(name: str, shape: str, root: Path) -> None:
    (official_files.write_parquet_texts if shape == "parquet" else official_files.write_original_texts)(root)
    task = load_task(name)
    task.items.check()
    items = task.items.open()
    assert not items.bad and not items.demonstrations and task.family == "text"
    by_question = sorted(((asked(task, item), item.correct) for item in items.queries), key=repr)
    assert by_question == sorted(RIGHT_WORDS[name].values(), key=repr)


def test_aliases_are_references_in_both_shapes(root: Path) -> None:
    expected = {"triviaqa": ("Jane Austen", "Austen"), "webqs": ("Jamaican English", "Patois")}
    for folder, write in (("a", official_files.write_parquet_texts), ("b", official_files.write_original_texts)):
        os.environ["MM1_ABLATE_BENCHMARKS"] = str(root / folder)  # the fixture puts it back
        write(root / folder)
        assert {name: load_task(name).items.open().queries[0].references for name in expected} == expected


def _harness_preprocess(text: str) -> str:
    """lm_eval/tasks/hellaswag/utils.py, 0.4.13."""
    text = text.strip()
    text = text.replace(" [title]", ". ")
    text = re.sub("\\[.*?\\]", "", text)
    return text.replace("  ", " ")


@given(st.lists(st.text(alphabet=f"{string.ascii_letters}  [].\n", max_size=30), min_size=4, max_size=4))
@example([" [title] a  [b]", "x [title]  y", "[a] [b]", "   "])
def test_hellaswags_texts_are_cleaned_as_the_harness_cleans_them(texts: list[str]) -> None:
    source = load_task("hellaswag").items
    label, first, second, ending = texts
    row = AnnotationRow({"activity_label": label, "ctx_a": first, "ctx_b": second, "endings": [ending, label]}, 0)
    assert evaluate(source.fields["context"], row, "") == _harness_preprocess(f"{label}: {first} {second.capitalize()}")
    assert evaluate(source.choices, row, "") == [_harness_preprocess(ending), _harness_preprocess(label)]


def test_reading_the_records_imports_nothing_heavy() -> None:
    code = (
        "import sys; from mm1_ablate.evaluation.protocols import load_task; from mm1_ablate.config.tasks import shipped_tasks;"
        "[load_task(name) for name in shipped_tasks()];"
        "heavy = {'torch', 'pyarrow', 'fsspec', 'PIL', 'transformers'} & set(sys.modules); assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


# ---------------------------------------------------------------- the guide
def test_every_shipped_benchmark_is_in_the_guide_with_the_files_that_its_record_reads() -> None:
    guide = DOCS.read_text()
    for name in sorted(shipped_tasks()):
        task = load_task(name)
        if task.items.type == "records":
            row = next(line for line in guide.splitlines() if line.startswith(f"| `{name}` |"))
            for part in task.items.queries:
                for file in part.file:
                    pattern = re.escape(file).replace("val", r"(val|\{train,val\})").replace("testdev", r"(testdev|\{testdev,train\})")
                    assert re.search(pattern, row), f"{file} is not in the guide's row of {name}"


def test_the_record_of_the_guide_is_all_that_a_task_of_ones_own_needs(tmp_path: Path) -> None:
    blocks = dict(re.findall(r"```(json|yaml)\n(.*?)```", DOCS.read_text(), flags=re.DOTALL))
    row = json.loads(blocks["json"])
    folder = tmp_path / "doodles"
    official_files.write_lines(folder / "test.jsonl", [row])
    official_files.write_lines(folder / "train.jsonl", [{**row, "name": f"{number}.png", "labels": [f"a {number}"]} for number in range(8)])
    for name in [row["name"], *(f"{number}.png" for number in range(8))]:
        official_files.write_image(folder / "pictures" / name)
    record = folder / "doodles.yaml"
    record.write_text(blocks["yaml"])
    assert len(blocks["yaml"].splitlines()) <= 20
    task = load_task(str(record))
    task.items.check()
    items = task.items.open()
    assert asked(task, items.queries[0]) == [("<image>Question: What is drawn? Short answer:", "")]
    assert items.queries[0].references == ("a cat", "cat")
    shown_first = {shown(demonstration(task.prompt, task.separator, item)) for item in items.demonstrations}
    assert shown_first <= {f"<image>Question: What is drawn? Short answer: a {number}\n" for number in range(8)} and len(shown_first) > 4
