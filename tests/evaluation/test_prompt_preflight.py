"""Tasks that are asked otherwise than the model was trained are warned of before anything is trained, at the place that asks so."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_files import EXPERIMENT, write_experiment, write_sweep
from interleaved_files import write_mmc4, write_obelics, write_pictures
from official_files import IMAGE_TASKS, jpeg, write_lines
from typer.testing import CliRunner

from mm1_ablate.cli import app
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.yaml_file import FileProblem
from mm1_ablate.data.joining import segments, spelled
from mm1_ablate.data.packing import tokenise
from mm1_ablate.data.sources._interleaved import InterleavedFiles
from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.evaluation.preflight_items import wrong_items
from mm1_ablate.plan.preflight import CHECKS, preflight

CAPTIONS = ["A dog runs on grass.", "Two men ride a horse.", " The red house by the sea\n"]
CORPUS = [*CAPTIONS, "Question: What colour is it? Short answer: red\n", "A photo of a scene."]
ITEMS = {
    "type": "records",
    "folder": ".",
    "id": "name",
    "fields": {"question": "ask"},
    "references": "say",
    "image": "{name}.jpg",
    "queries": {"file": "test.jsonl"},
    "demonstrations": {"file": "train.jsonl"},
}
RECORD: dict[str, Any] = {
    "task": "mine",
    "family": "image",
    "kind": "generate",
    "items": ITEMS,
    "prompt": "{image}Question: {question} Short answer: {answer}",
    "separator": "\n",
    "stop": ["\n"],
    "max_new_tokens": 12,
    "metrics": ["exact_match"],
}


def byte_level(folder: Path, begin: bool = False, special: Sequence[str] = ()) -> Path:
    """A byte-level tokenizer, learnt here, as transformers writes it.

    Args:
        begin: whether it places a token before a text, as Llama's does.
        special: further special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    names = ["<|endoftext|>", "<s>", *special]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([text for text in CORPUS for _ in range(5)], trainer)
    if begin:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    named = {"bos_token": "<s>"} if begin else {}
    further = {"additional_special_tokens": list(special)} if special else {}
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", **named, **further).save_pretrained(folder)
    return folder


def write_captions(path: Path, captions: Sequence[str] = CAPTIONS) -> None:
    with tarfile.open(path, "w") as tar:
        for number, caption in enumerate(captions * 10):
            for extension, content in (("jpg", jpeg(number)), ("txt", caption.encode())):
                entry = tarfile.TarInfo(f"{number:05}.{extension}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Captions in a tar, a task of one's own, a byte-level tokenizer, and an experiment on them."""
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MM1_ABLATE_BENCHMARKS", str(tmp_path / "benchmarks"))
    write_captions(tmp_path / "captions.tar")
    byte_level(tmp_path / "tokenizer")
    for number in range(40):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    write_task(tmp_path)
    declare(tmp_path)
    return tmp_path


def write_task(folder: Path, question: str = "What colour is it?", answers: Sequence[str] = ("red", "dark red"), **changes: Any) -> None:
    rows = [{"name": str(number), "ask": question, "say": [answers[number % len(answers)]]} for number in range(40)]
    write_lines(folder / "test.jsonl", rows[:20])
    write_lines(folder / "train.jsonl", rows[20:])
    (folder / "mine.yaml").write_text(yaml.safe_dump({**RECORD, **changes}, sort_keys=False))


def declare(folder: Path, source: str = "{type: webdataset, files: captions.tar}", **changes: Any) -> Path:
    tree = yaml.safe_load(EXPERIMENT)
    own = yaml.safe_load(source)
    data_type = own.get("data_type", "interleaved" if own["type"] in ("obelics", "mmc4") else "captioned")
    tree["data"]["mixture"], tree["data"]["sources"] = {data_type: 1}, {"own": own}
    tree["model"]["language_model"]["tokenizer"] = "./tokenizer"
    tree["model"]["language_model"]["configuration"] |= {"vocab_size": 512, "num_attention_heads": 4, "max_position_embeddings": 4096}
    del tree["model"]["image_encoder"]["preparation"]
    tree["evaluation"] = {"tasks": ["mine.yaml"], "shots": [0, 4], **changes}
    return write_experiment(folder, yaml.safe_dump(tree, sort_keys=False))


def warned(folder: Path, look: Any = "check") -> list[FileProblem]:
    others = [check for check in CHECKS if check is not wrong_items]  # which has tests of its own
    return list(load_study(folder / "experiment.yaml", look, others).warnings)


def messages(folder: Path) -> str:
    return "\n".join(map(str, warned(folder)))


COMPARE = "compare: {primary: shot_4/average, metrics: [shot_4/average]}"
SPACED = "{image} Question: {question} Short answer: {answer}"


# ---------------------------------------------------------------- after images
def test_a_space_after_the_image_that_training_never_has_is_warned_of(folder: Path) -> None:
    assert not warned(folder)
    write_task(folder, prompt=SPACED)
    (warning,) = warned(folder)
    assert warning.path == "evaluation.tasks[0]" and warning.line > 1 and warning.file.endswith("experiment.yaml")
    assert f"{folder / 'mine.yaml'}:16:9: task mine: prompt: after an image '{SPACED}' continues with a space" in warning.message
    assert "texts after images in training begin with no white space" in warning.message
    assert warning.hint == "write the prompt with no white space after {image}"


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_commands_warn_of_it_and_end_well(folder: Path, command: str) -> None:
    write_task(folder, prompt=SPACED)
    path = write_sweep(folder, "fewer: {alter: {training.steps: 400}}", COMPARE)
    store = ["--store", str(folder / "store")] if command == "plan" else []
    done = CliRunner(env={"COLUMNS": "400"}).invoke(app, [command, str(path), *store])
    assert done.exit_code == 0, done.output
    assert done.output.count("continues with a space") == 1


def test_a_tokenizer_that_sees_no_spaces_is_not_warned_of(folder: Path) -> None:
    path = write_experiment(folder)  # the miniature's own: its tasks have a space after the image, and its tokenizer takes words
    assert not preflight(path).warnings


def test_without_data_there_is_no_warning_about_it(folder: Path) -> None:
    write_task(folder, prompt=SPACED)
    assert not warned(folder, "nowhere")


def test_text_that_follows_images_with_a_space_wants_a_prompt_with_a_space(folder: Path) -> None:
    write_obelics(folder / "pages.parquet", [["I0", " one two"], ["I1", " three", "I2", " four"]])
    declare(folder, "{type: obelics, files: pages.parquet}")
    assert "continues with no white space, and texts after images in training begin with a space" in messages(folder)
    write_task(folder, prompt=SPACED)
    assert not warned(folder)


def test_line_ends_that_begin_with_one_token_are_alike_however_many_there_are(folder: Path) -> None:
    from mm1_ablate.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(str(folder / "tokenizer"))
    assert tokenizer.ids("\n\nthree")[0] == tokenizer.ids("\none")[0] != tokenizer.ids("one")[0]
    write_obelics(folder / "pages.parquet", [["I0", "\n\nthree four"], ["I1", "\n\ntwo", "I2", "\n\nfour"]])
    declare(folder, "{type: obelics, files: pages.parquet}")
    write_task(folder, prompt="{image}\nQuestion: {question} Short answer: {answer}", stop=[";"], separator=";")
    assert "after an image" not in messages(folder)
    write_task(folder, prompt="{image} Question: {question} Short answer: {answer}")
    assert "after an image" in messages(folder) and "texts after images in training begin with a line end" in messages(folder)


def test_what_any_stage_or_source_has_after_images_is_no_cause_for_a_warning(folder: Path) -> None:
    write_pages(folder)
    declare(folder, "{type: obelics, files: pages.parquet}")
    assert not warned(folder)
    write_task(folder, prompt=SPACED)
    assert not warned(folder)


def write_pages(folder: Path) -> None:
    write_obelics(folder / "pages.parquet", [["before", "I0", " one two"], ["I1", "three", "I2", "four"]])


@pytest.mark.parametrize("place", ["before", "after"])
def test_pages_of_mmc4_are_looked_at_as_training_reads_them(folder: Path, place: str) -> None:
    write_mmc4(folder / "pages.jsonl", [["I0", " one", "two"], ["I1", " three", "four"]])
    pattern, images_by = write_pictures(folder / "pictures", "path")
    pictures = f"image_files: '{pattern}', images_by: {images_by}, image_place: {place}"
    declare(folder, f"{{type: mmc4, files: pages.jsonl, {pictures}}}")
    told = messages(folder)
    assert ("begin with a space" in told) == (place == "before"), told


@pytest.mark.parametrize("place", ["obelics", "before", "after"])
@pytest.mark.parametrize("switches", [{}, {"interleaving": False}, {"images": False}])
def test_texts_after_images_are_those_of_the_documents(folder: Path, place: str, switches: dict[str, bool]) -> None:
    from mm1_ablate.data.documents import after_images
    from mm1_ablate.data.sources.mmc4 import Mmc4
    from mm1_ablate.data.sources.obelics import Obelics

    source: InterleavedFiles
    if place == "obelics":
        source = Obelics(files=(str(write_obelics(folder / "pages.parquet")),), **switches)
    else:
        pattern, _ = write_pictures(folder / "pictures", "path")
        more: Any = {"image_files": pattern, "images_by": "base_name", "image_place": place, **switches}
        source = Mmc4(files=(str(write_mmc4(folder / "pages.jsonl")),), **more)
    opened = source.open()
    read = [text for index in range(len(opened)) for text in after_images(opened[index].parts)]
    found = source.texts_after_images(100)
    assert len(found) == len(read) == (0 if "images" in switches else len(read))
    # Sentences that stand side by side are one text, of which the first matters.
    assert all(text.startswith(first) for first, text in zip(found, read, strict=True))


@pytest.mark.parametrize("kind", ["generate", "choose"])
def test_an_answer_that_follows_the_image_directly_is_compared_too(folder: Path, kind: str) -> None:
    choosing = {"kind": kind, "items": {**ITEMS, "choices": '["red", "blue"]', "correct": "0"}, "metrics": ["choice_accuracy"]}
    other = choosing if kind == "choose" else {}
    write_task(folder, prompt="{image} {answer}", **other)
    assert "after an image '{image} {answer}' continues with a space" in messages(folder)
    declare(folder, shots=[0])
    assert ("continues with a space" in messages(folder)) == (kind == "choose")  # nothing is read after the image, and answers begin freely
    write_task(folder, prompt="{image}{answer}", **other)
    declare(folder)
    assert not warned(folder)


def test_an_earlier_stage_counts_as_training(folder: Path) -> None:
    write_obelics(folder / "pages.parquet", [["I0", " one two"], ["I1", " three", "I2", " four"]])
    first = declare(folder, "{type: obelics, files: pages.parquet}")
    first.rename(folder / "first.yaml")
    path = declare(folder)
    path.write_text(path.read_text() + "starts_from: first.yaml\n")
    assert not warned(folder)
    write_task(folder, prompt=SPACED)
    assert not warned(folder)
    write_task(folder, prompt=SPACED.replace("} Q", "}\nQ"))
    assert "continues with a line end" in messages(folder)


def test_captions_of_tables_and_recaptions_are_looked_at(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [jpeg(1), jpeg(2)], "caption": [" A dog ", "A cat"]}), folder / "captions.parquet")
    write_task(folder, prompt=SPACED)
    declare(folder, "{type: image_text_table, files: captions.parquet}")
    assert "continues with a space" in messages(folder)
    write_lines(folder / "new.jsonl", [{"key": "00000", "caption": " A dog "}])
    recaptioned = "{type: recaptioned, images: {type: webdataset, files: captions.tar}, captions: new.jsonl, data_type: captioned}"
    declare(folder, recaptioned)
    assert "continues with a space" in messages(folder)


def test_an_override_that_asks_so_is_warned_of_at_its_line(folder: Path) -> None:
    declare(folder, overrides={"mine": {"prompt": SPACED}})
    (warning,) = warned(folder)
    assert warning.path == "evaluation.overrides.mine.prompt" and warning.message.startswith("task mine: prompt: after an image")


def test_an_arm_that_asks_so_is_warned_of_at_its_edit(folder: Path) -> None:
    path = write_sweep(
        folder,
        f"spaced: {{alter: {{evaluation.overrides.mine.prompt: '{SPACED}'}}}}",
        COMPARE,
    )
    (warning,) = preflight(path).warnings
    assert warning.file.endswith("sweep.yaml") and "spaced" in warning.path


def test_what_training_shows_is_kept_and_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mm1_ablate.data.sources.webdataset import WebDataset

    read: list[int] = []
    texts = WebDataset.texts_after_images
    monkeypatch.setattr(WebDataset, "texts_after_images", lambda self, most: read.append(most) or texts(self, most))
    for _ in range(2):
        warned(folder)
    assert len(read) == 1 and read[0] <= 256
    write_captions(folder / "captions.tar", ["another caption"])
    warned(folder)
    assert len(read) == 2


@pytest.mark.parametrize("name", IMAGE_TASKS)
@pytest.mark.parametrize("protocol", ["mm1", "openflamingo"])
def test_shipped_records_put_no_white_space_after_an_image(folder: Path, name: str, protocol: str) -> None:
    IMAGE_TASKS[name](folder / "benchmarks")
    declare(folder, tasks=[name], protocol=protocol, items=4)
    told = [warning.message for warning in warned(folder)]
    assert not [message for message in told if "after an image" in message]
    if protocol == "mm1":
        assert not told


# ---------------------------------------------------------------- special tokens
@pytest.mark.parametrize(
    "mark", ["<|im_start|>", "[INST]", "<start_of_turn>", "[SYSTEM_PROMPT]", "<image_soft_token>", "<image>", "<turn_1>"]
)
def test_chat_tokens_of_a_prompt_are_warned_of(folder: Path, mark: str) -> None:
    byte_level(folder / "tokenizer", special=["<turn_1>"])
    write_task(folder, prompt="{image}" + mark + "{question} Short answer: {answer}")
    (warning,) = warned(folder)
    assert f"prompt: '{mark}' is read as plain text, not as a special token" in warning.message
    written_anyhow = warned(folder, "nowhere")
    assert len(written_anyhow) == (mark != "<turn_1>")


def test_the_marks_of_openflamingo_are_warned_of_once_for_all_tasks_at_the_protocol(folder: Path) -> None:
    for name in ("vqav2", "coco"):
        IMAGE_TASKS[name](folder / "benchmarks")
    declare(folder, tasks=["coco", "vqav2"], protocol="openflamingo", items=4)
    told = {warning.message.partition(": ")[2]: warning for warning in warned(folder)}
    separator = next(
        warning for message, warning in told.items() if message.startswith("separator: '<|endofchunk|>' is read as plain text")
    )
    assert separator.path == "evaluation.protocol" and separator.message.startswith("tasks coco, vqav2: ")


def test_chat_tokens_in_the_items_are_warned_of(folder: Path) -> None:
    write_task(folder, question="<image>\nWhat colour is it?")
    assert "items: the field 'question' of items holds '<image>'" in messages(folder)


def test_a_published_model_whose_tokenizer_places_a_begin_token_is_warned_of(folder: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = folder / "model"
    GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=16, n_layer=1, n_head=2, n_positions=4096)).save_pretrained(model)
    byte_level(model, begin=True)
    tree = yaml.safe_load((folder / "experiment.yaml").read_text())
    tree["model"]["language_model"] = {"name": "./model"}
    write_experiment(folder, yaml.safe_dump(tree, sort_keys=False))
    (warning,) = warned(folder)
    assert warning.path == "model.language_model.name" and "adds '<s>' before a text" in warning.message
    assert not warned(folder, "nowhere")
    # What the model was trained with is said by its own tokenizer, whichever is used here.
    byte_level(folder / "tokenizer")
    tree["model"]["language_model"]["tokenizer"] = "./tokenizer"
    write_experiment(folder, yaml.safe_dump(tree, sort_keys=False))
    (warning,) = warned(folder)
    assert warning.path == "model.language_model.name"
    byte_level(model)
    byte_level(folder / "tokenizer", begin=True)
    assert not warned(folder)


def test_a_model_trained_from_nothing_needs_no_begin_token(folder: Path) -> None:
    byte_level(folder / "tokenizer", begin=True)
    assert not warned(folder)


# ---------------------------------------------------------------- answers
@pytest.mark.parametrize(
    "changes, told",
    [
        ({"stop": ["."], "separator": "."}, None),
        (
            {"answers": ["3.5 metres"], "stop": ["\n", "."]},
            "stop: 20 of 20 items have only references that a stop string cuts",
        ),
        ({"answers": ["red."], "stop": ["\n", "."]}, None),
        ({"prompt": "{image}Question: {question}\n{answer}"}, "prompt: the white space before {answer} holds the stop string '\\n'"),
        ({"separator": ";"}, "separator: a demonstration ends with ';', which holds no stop string ('\\n')"),
        ({"separator": ""}, "separator: a demonstration has no end"),
        ({"max_new_tokens": 2, "answers": ["a long answer of many words"]}, "max_new_tokens: 20 of 20 items have only references of more"),
        ({"question": "What colour is it? "}, "items: 24 of 24 items have a space at an end of 'question' beside the space of the prompt"),
        ({"answers": [" red"]}, "items: 24 of 24 items have a space at an end of 'answer'"),
    ],
)
def test_answers_that_cannot_be_right_as_asked_are_warned_of(folder: Path, changes: dict[str, Any], told: str | None) -> None:
    write_task(folder, **changes)
    found = messages(folder)
    assert told in found if told else not found, found


def test_a_stop_string_that_the_tokenizer_cannot_write_is_warned_of(folder: Path) -> None:
    tree = yaml.safe_load(EXPERIMENT)
    tree["evaluation"] = {"tasks": ["miniature_vqa"], "overrides": {"miniature_vqa": {"stop": ["\n", "."]}}}
    path = write_experiment(folder, yaml.safe_dump(tree))
    (warning,) = preflight(path).warnings
    assert warning.path == "evaluation.overrides.miniature_vqa.stop" and "the stop string '\\n' never appears" in warning.message


def test_an_answer_that_grows_together_with_its_question_is_warned_of(folder: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    letters = {letter: number for number, letter in enumerate(sorted({*"Question: What colour is it? Short answer: red dark\n"}))}
    merged = models.BPE({**letters, ":r": len(letters), "<|endoftext|>": len(letters) + 1}, [(":", "r")])
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(merged), eos_token="<|endoftext|>").save_pretrained(folder / "tokenizer")
    write_task(folder, prompt="{image}Question: {question} Short answer:{answer}", max_new_tokens=40)
    assert (
        "prompt: in 10 of 20 items the tokenizer merges the end of the question and the beginning of the answer into one token"
        in messages(folder)
    )


# ---------------------------------------------------------------- the rule
def test_a_prompt_and_a_document_of_the_same_parts_are_the_same_tokens(folder: Path) -> None:
    from mm1_ablate.data.documents import Document, Image
    from mm1_ablate.evaluation import prompts

    tokenizer = load_tokenizer(str(folder / "tokenizer"))
    image = Image("a", lambda: None)  # type: ignore[arg-type, return-value]
    parts = ("before ", image, " A dog", image, image, "Two men\n")
    trained = tokenise(Document("a", "own", "interleaved", parts), tokenizer, 4)
    asked = prompts.tokenise(parts, tokenizer)
    assert trained.segments[:-1] == asked.segments[:-1] and trained.segments[-1] == (*asked.segments[-1], tokenizer.end)  # type: ignore[misc]
    told = spelled(segments(parts, tokenizer), tokenizer)
    assert told.startswith("[b]") and "[␣] <image> [␣" in told and "<image> <image> [T" in told and told.endswith("[⏎]")


def test_data_shows_how_documents_and_prompts_are_joined(folder: Path) -> None:
    write_task(folder, prompt=SPACED)
    arguments = ["data", str(folder / "experiment.yaml"), "--to", str(folder / "page.html")]
    done = CliRunner(env={"COLUMNS": "400"}).invoke(app, arguments)
    assert done.exit_code == 0, done.output
    line = next(line for line in done.stdout.splitlines() if line.startswith("own: <image> ["))
    assert line.endswith("<end of document>") and "<image> [␣" not in line
    assert any(line.startswith("task mine: <image> [␣") for line in done.stdout.splitlines())
    page = (folder / "page.html").read_text()
    assert "&lt;end of document&gt;" in page and "task mine" in page
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert found["sources"]["own"]["joined"].startswith("<image> [") and found["asked"]["mine"].startswith("<image> [␣")
