"""Small files in the shapes in which the benchmarks are published, under the names that the task records expect."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SCENES = 40
"""Training pictures and rows of each benchmark."""


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_lines(path: Path, rows: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)


def jpeg(colour: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((6, 8, 3), colour, dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()


def write_image(path: Path, colour: int = 128) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(colour))


def pack(folder: Path, ending: str) -> None:
    """A folder becomes the .zip or .tar of its name, as it is downloaded."""
    if ending == ".zip":
        with zipfile.ZipFile(folder.with_suffix(ending), "w") as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, f"{folder.name}/{path.name}")
    else:
        with tarfile.open(folder.with_suffix(ending), "w") as archive:
            archive.add(folder, folder.name)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


# ---------------------------------------------------------------- images
def coco(root: Path) -> None:
    images = []
    for number in range(SCENES + 6):
        split = "test" if number < 4 else "val" if number < 6 else ("train" if number % 3 else "restval")
        folder = "train2014" if split == "train" else "val2014"
        name = f"COCO_{folder}_{100 + number:012d}.jpg"
        write_image(root / "coco" / folder / name, number)
        sentences = [{"raw": f"A scene {number} .\n", "tokens": [], "imgid": number}, {"raw": f"Scene {number}, again."}]
        images.append({"filepath": folder, "filename": name, "cocoid": 100 + number, "split": split, "sentences": sentences})
    write_json(root / "coco/dataset_coco.json", {"images": images, "dataset": "coco"})


def nocaps(root: Path) -> None:
    coco(root)
    images = [{"id": number, "file_name": f"{number:016x}.jpg", "domain": "near-domain"} for number in range(4)]
    captions = [{"image_id": number % 4, "id": number, "caption": f"Caption {number} of {number % 4}."} for number in range(12)]
    write_json(root / "nocaps/nocaps_val_4500_captions.json", {"images": images, "annotations": captions})
    for image in images:
        write_image(root / "nocaps/val" / image["file_name"])


def textcaps(root: Path) -> None:
    for split, count, first in (("val", 4, 900), ("train", SCENES, 0)):
        rows = [
            {
                "image_id": f"{first + number:016x}",
                "caption_str": f"A sign that says {number}, seen {time}",
                "caption_id": 10 * number + time,
                "reference_strs": [],
                "image_path": f"train/{first + number:016x}.jpg",
            }
            for time in range(3)
            for number in range(count)
        ]
        write_json(root / f"textcaps/TextCaps_0.1_{split}.json", {"dataset_name": "textcaps", "data": rows})
        for number in range(count):
            write_image(root / f"textvqa/train_images/{first + number:016x}.jpg")


def _answers(number: int) -> list[str]:
    return ["red"] * 3 + [f"colour {number}"] * 5 + ["blue", "grey"]


def _vqa(root: Path, name: Callable[[str, str], str]) -> None:
    for split, count, first in (("val2014", 4, 100), ("train2014", SCENES, 500)):
        questions, annotations = [], []
        for number in range(count):
            image_id = first + number // 2
            question_id = 1000 * image_id + number
            questions.append({"image_id": image_id, "question": f"What colour is it, {number}?", "question_id": question_id})
            answers = [{"answer": answer, "answer_id": place} for place, answer in enumerate(_answers(number))]
            annotations.append({"question_id": question_id, "image_id": image_id, "answers": answers})
            write_image(root / f"coco/{split}/COCO_{split}_{image_id:012d}.jpg")
        write_json(root / name(split, "questions"), {"questions": questions, "task_type": "Open-Ended"})
        write_json(root / name(split, "annotations"), {"annotations": list(reversed(annotations))})


def vqav2(root: Path) -> None:
    _vqa(root, lambda split, kind: f"vqav2/v2_{'OpenEnded_' if kind == 'questions' else ''}mscoco_{split}_{kind}.json")


def okvqa(root: Path) -> None:
    _vqa(root, lambda split, kind: f"okvqa/{'OpenEnded_' if kind == 'questions' else ''}mscoco_{split}_{kind}.json")


def textvqa(root: Path) -> None:
    for split, count, first in (("val", 4, 900), ("train", SCENES, 0)):
        rows = [
            {
                "question_id": first + number,
                "image_id": f"{first + number:016x}",
                "question": f"what does {number} say?",
                "answers": _answers(number),
            }
            for number in range(count)
        ]
        write_json(root / f"textvqa/TextVQA_0.5.1_{split}.json", {"dataset_type": split, "data": rows})
        for row in rows:
            write_image(root / f"textvqa/train_images/{row['image_id']}.jpg")


def vizwiz(root: Path) -> None:
    for split, count in (("val", 4), ("train", SCENES)):
        rows = []
        for number in range(count):
            image = f"VizWiz_{split}_{number:08d}.jpg"
            answers = [{"answer": answer, "answer_confidence": "yes"} for answer in _answers(number)]
            rows.append(
                {"image": image, "question": f"What is this, {number}?", "answers": answers, "answer_type": "other", "answerable": 1}
            )
            write_image(root / f"vizwiz/{split}/{image}")
        write_json(root / f"vizwiz/{split}.json", rows)


def gqa(root: Path) -> None:
    for split, count, first in (("testdev", 4, 0), ("train", SCENES, 100)):
        rows = {}
        for number in range(first, first + count):
            rows[f"20{number:06d}"] = {
                "imageId": f"n{number}",
                "question": f"Is it {number}?",
                "answer": "yes",
                "fullAnswer": "Yes, it is.",
            }
            write_image(root / f"gqa/images/n{number}.jpg")
        write_json(root / f"gqa/{split}_balanced_questions.json", rows)


IMAGE_TASKS: dict[str, Callable[[Path], None]] = {
    "coco": coco, "nocaps": nocaps, "textcaps": textcaps, "vqav2": vqav2, "okvqa": okvqa, "textvqa": textvqa, "vizwiz": vizwiz, "gqa": gqa,
}  # fmt: skip
"""Task to what writes its files."""

# ---------------------------------------------------------------- texts
ARC = [
    {
        "id": "MCAS_1",
        "question": "Which one melts?",
        "choices": {"text": ["ice", "rock", "air"], "label": ["A", "B", "C"]},
        "answerKey": "A",
    },
    {"id": "MCAS_2", "question": "Which one burns?", "choices": {"text": ["ice", "wood"], "label": ["1", "2"]}, "answerKey": "2"},
]
PIQA = [
    {"goal": "Open a jar", "sol1": "turn the lid", "sol2": "turn  the jar upside down"},
    {"goal": "Dry", "sol1": "wet it", "sol2": "hang it"},
]
PIQA_LABELS = [0, 1]
HELLASWAG = [
    {
        "ind": 4,
        "activity_label": "Baking cookies",
        "ctx_a": "[header] How to bake [title] Mix the dough.",
        "ctx_b": "the DOUGH is",
        "ctx": "",
        "split": "val",
        "split_type": "indomain",
        "label": "1",
        "endings": [" thrown  away.", "baked. [substeps] Wait.", "eaten [title] raw.", "red."],
        "source_id": "activitynet~v_1",
    }
]
WINOGRANDE = [
    {"sentence": "The trophy does not fit because _ is too  big.", "option1": "the trophy", "option2": "the case", "answer": "1"},
    {"sentence": "_ was late, so Ann left.", "option1": "Bob", "option2": "Ann", "answer": "2"},
]
SCIQ = [
    {
        "question": "What melts?",
        "distractor1": "a",
        "distractor2": "b",
        "distractor3": "c",
        "correct_answer": "ice",
        "support": "\n Ice melts.",
    }
]
LAMBADA = [{"text": "He opened the door and saw\nthe dog, the big dog"}]
TRIVIAQA = [
    {
        "question": "Who wrote Emma?",
        "question_id": "tc_1",
        "question_source": "http://www.triviacountry.com/",
        "answer": {
            "aliases": ["Jane Austen", "Austen"],
            "normalized_aliases": ["austen"],
            "value": "Jane Austen",
            "type": "WikipediaEntity",
        },
    }
]
WEBQS = [{"url": "http://freebase.com/jamaica", "question": "what do jamaican people speak?", "answers": ["Jamaican English", "Patois"]}]


def _original_arc(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "id": row["id"],
            "question": {
                "stem": row["question"],
                "choices": [{"text": text, "label": label} for text, label in zip(*row["choices"].values(), strict=True)],
            },
            "answerKey": row["answerKey"],
        }
        for row in rows
    ]


def _original_triviaqa(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    data = [
        {"Question": row["question"], "QuestionId": row["question_id"], "Answer": {"Aliases": row["answer"]["aliases"], "Value": ""}}
        for row in rows
    ]
    return {"Data": data, "Domain": "Web", "VerifiedEval": False}


def _original_webqs(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    def value(answers: Sequence[str]) -> str:
        said = (json.dumps(answer) if " " in answer else answer for answer in answers)
        return f"(list {' '.join(f'(description {answer})' for answer in said)})"

    return [{"url": row["url"], "utterance": row["question"], "targetValue": value(row["answers"])} for row in rows]


def _labels(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{label}\n" for label in PIQA_LABELS))


def write_parquet_texts(root: Path) -> None:
    """All text tasks as Hugging Face publishes them."""
    shard = "00000-of-00001.parquet"
    for name in ("ARC-Easy", "ARC-Challenge"):
        write_parquet(root / f"arc/{name}/test-{shard}", ARC)
    write_parquet(root / f"piqa/validation-{shard}", [{**row, "label": label} for row, label in zip(PIQA, PIQA_LABELS, strict=True)])
    write_parquet(root / f"hellaswag/validation-{shard}", HELLASWAG)
    write_parquet(root / f"winogrande/winogrande_xl/validation-{shard}", WINOGRANDE)
    write_parquet(root / f"sciq/test-{shard}", SCIQ)
    write_parquet(root / f"lambada/test-{shard}", LAMBADA)
    write_parquet(root / f"triviaqa/rc.nocontext/validation-{shard}", TRIVIAQA)
    write_parquet(root / f"webqs/test-{shard}", WEBQS)


def write_original_texts(root: Path) -> None:
    """All text tasks as their authors publish them."""
    for name in ("ARC-Easy", "ARC-Challenge"):
        write_lines(root / f"arc/{name}/{name}-Test.jsonl", _original_arc(ARC))
    write_lines(root / "piqa/valid.jsonl", PIQA)
    _labels(root / "piqa/valid-labels.lst")
    write_lines(root / "hellaswag/hellaswag_val.jsonl", [{**row, "label": int(row["label"])} for row in HELLASWAG])
    write_lines(root / "winogrande/dev.jsonl", [{"qID": f"3D{place}", **row} for place, row in enumerate(WINOGRANDE)])
    write_json(root / "sciq/test.json", SCIQ)
    write_lines(root / "lambada/lambada_test.jsonl", LAMBADA)
    for domain in ("web", "wikipedia"):
        write_json(root / f"triviaqa/qa/{domain}-dev.json", _original_triviaqa(TRIVIAQA if domain == "web" else []))
    write_json(root / "webqs/webquestions.examples.test.json", _original_webqs(WEBQS))
