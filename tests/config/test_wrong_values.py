"""Wrong values, each chosen by hand, put at one place of files that are right: each is told at its line with what was expected.

A case is a line of a file in `wrong_values/`: `place | what is written there | what the message holds`. `-` in the middle: the key is left
out. `ok` at the end: it is right.
A message that begins with `@` is told at the place that follows instead, such as a value that does not go together with another.
"""

from __future__ import annotations

import re
from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.yaml_file import FileErrors, read_tree
from mm1_ablate.evaluation.protocols import load_task

EXPERIMENT = """
experiment: small
description: a small one
data:
  mixture: {captioned: 45, interleaved: 45, text: 10}
  sources:
    pairs: {type: miniature, data_type: captioned, content: alt_text, weight: 2, keep: {text_characters: {at_least: 3, at_most: 900}}}
    pages: {type: miniature, data_type: interleaved, content: interleaved, images: true}
    text: {type: text, data_type: text, files: texts/*.txt}
    tars: {type: webdataset, data_type: captioned, files: [a.tar]}
  count: tokens
  packing: {row_tokens: 128, nominal_image_tokens: 4, max_images: 16, policy: best_fit, long_documents: split, buffer_documents: 8}
  when_removed: renormalise
  max_bad_share: 0.1
model:
  image_encoder:
    type: vision_transformer
    image_size: 48
    patches_per_side: 4
    width: 96
    depth: 3
    heads: 4
    feature_layer: -1
    preparation: {source: {type: miniature, data_type: captioned, content: synthetic_captions}, steps: 3, objective: contrastive}
  connector: {type: attention_pool, image_tokens: 4, heads: 4}
  language_model:
    model_type: phi
    configuration: {hidden_size: 96, num_hidden_layers: 3, num_attention_heads: 4, num_key_value_heads: 2}
    initialisation: fan_in
    preparation: {source: {type: miniature, data_type: text, content: text}, optimizer: {type: muon}}
  sub_images: {at_least: 1, at_most: 4, overview: first}
  preparation_seed: 3
training:
  steps: 500
  batch_rows: 8
  warmup_steps: 30
  final_learning_rate: 0.1
  gradient_clip: 1.0
  precision: 32-true
  optimizer: {type: muon, learning_rate: 0.01, momentum: 0.9, rest: {type: adamw, betas: [0.9, 0.95]}}
evaluation:
  tasks: [miniature_attributes, miniature_vqa, miniature_text_qa]
  shots: [0, 4]
  items: 10
  seed: 0
  seeds: [1, 2]
  split: report
  protocol: mm1
  demonstrations: {sets: 2}
  zero_shot: {text_only: 2}
  overrides: {miniature_vqa: {items: 3, stop: [x], max_new_tokens: 2}}
  groups: {both: {tasks: [miniature_attributes, miniature_vqa], weights: {miniature_vqa: 2}}}
  losses: {text: {source: {type: miniature, data_type: text, content: text}, first: 10, documents: 5}}
"""
SWEEP = """
sweep: small
description: what matters
experiment: experiment.yaml
seeds: [0, 1]
everywhere: {training.steps: 400, model.preparation_seed: 0}
ablations:
  less: {remove: [data.mixture.text], when_removed: renormalise}
  each: {remove_each: [data.mixture.captioned, data.mixture.text]}
  other: {alter: {training.steps: 300, model.connector.type: average_pool}, description: another}
  grid:
    grid: {model.connector.image_tokens: [9, 16], size: [{training.batch_rows: 4}, {training.batch_rows: 2}]}
    except: [{training.batch_rows: 4, model.connector.image_tokens: 9}]
  named: {grid: {size: {small: {training.batch_rows: 4}, large: {training.batch_rows: 16}}}}
  chance: {seeds: [7, 8]}
  own: {experiment: experiment.yaml, alter: {training.steps: 200}}
compare: {primary: shot_4/average, metrics: [shot_4/average, text_core/average], confidence: 0.9, smallest_difference_of_interest: 2}
expect: [{arm: other, than: less, metric: shot_4/average, is: below, by: 2, because: so it was}]
resources: {gpus: 0, cpus: 2, workers: 2}
budget: {cpu_hours: 5}
"""
RECORD = """
task: colours
family: text
kind: choose
items:
  type: records
  fields: {question: text}
  choices: labels
  correct: right
  queries: {file: test.jsonl, rows: a.b, join: {more: {on: name}}, merge: false, count: 5}
prompt: "{question} {answer}"
separator: x
stop: [x]
max_new_tokens: 3
metrics: [choice_accuracy]
protocols: {openflamingo: {prompt: "Q: {question} {answer}", stop: [y]}}
"""


def cases(name: str) -> list[tuple[str, str, str]]:
    table = (Path(__file__).resolve().parents[1] / "wrong_values" / f"{name}.txt").read_text()
    return [tuple(part.strip() for part in line.split(" | ", 2)) for line in table.splitlines()]  # type: ignore[misc]


def parts_of(tree: Any, place: str) -> list[str]:
    """The keys that a place names; some hold dots themselves."""
    parts = place.split(".")
    head = next((".".join(parts[:length]) for length in range(len(parts), 0, -1) if ".".join(parts[:length]) in tree), None)
    if head is None:
        return [place]
    rest = place[len(head) + 1 :]
    return [head, *(parts_of(tree[head], rest) if rest else [])]


@cache
def tree_of(text: str) -> Any:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "base.yaml"
        path.write_text(text)
        return read_tree(path)[0]


def changed(text: str, place: str, value: str) -> str:
    """A file in which something else stands at a place."""
    tree = deepcopy(tree_of(text))
    *above, key = parts_of(tree, place)
    mapping = tree
    for part in above:
        mapping = mapping[part]
    if value == "-":
        del mapping[key]
    else:
        mapping[key] = "@@"
    written = yaml.dump(tree, Dumper=yaml.CSafeDumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=1000)
    return written.replace("'<<': '@@'", "<<: '@@'").replace("'@@'", value)


def problems_of(path: Path, record: bool = False) -> list[Any]:
    try:
        if record:
            load_task(str(path))
        else:
            load_study(path, "nowhere")
    except FileErrors as errors:
        assert errors.problems
        return errors.problems
    return []


def check(path: Path, base: str, case: tuple[str, str, str], record: bool = False) -> None:
    place, value, message = case
    path.write_text(changed(base, place, value))
    problems = problems_of(path, record)
    told = "\n".join(map(str, problems))
    if message == "ok":
        assert not problems, told
        return
    if message.startswith("@"):
        place, _, message = message.removeprefix("@").partition(" ")
    right = [problem for problem in problems if message in f"{problem.message} ({problem.hint})"]
    assert right, f"expected {message!r}\n{told}"
    if value != "-" and case[2] == message:
        line = path.read_text().splitlines()[right[0].line - 1]
        keys = {part for part in re.split(r"[.\[\]]", place) if part} | {place}
        assert any(key in line for key in keys) or value.split("\n")[0] in line, f"told at {line!r}\n{told}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wrong_values")
    (place / "experiment.yaml").write_text(EXPERIMENT)
    for name, text in (("changed.yaml", EXPERIMENT), ("sweep.yaml", SWEEP)):
        (place / name).write_text(text)
        assert not problems_of(place / name)
    (place / "record.yaml").write_text(RECORD)
    assert not problems_of(place / "record.yaml", record=True)
    return place


@pytest.mark.parametrize("case", cases("experiments"), ids=" ".join)
def test_a_wrong_value_of_an_experiment_is_reported_with_what_was_expected(folder: Path, case: tuple[str, str, str]) -> None:
    name = "experiment.yaml" if "starts from itself" in case[2] else "changed.yaml"
    try:
        check(folder / name, EXPERIMENT, case)
    finally:
        (folder / "experiment.yaml").write_text(EXPERIMENT)


@pytest.mark.parametrize("case", cases("sweeps"), ids=" ".join)
def test_a_wrong_value_of_a_sweep_is_reported_with_what_was_expected(folder: Path, case: tuple[str, str, str]) -> None:
    check(folder / "sweep.yaml", SWEEP, case)


@pytest.mark.parametrize("case", cases("records"), ids=" ".join)
def test_a_wrong_value_of_a_task_record_is_reported_with_what_was_expected(folder: Path, case: tuple[str, str, str]) -> None:
    check(folder / "record.yaml", RECORD, case, record=True)
