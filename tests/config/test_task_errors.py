"""Mistakes in the record of a task are told at their line and column, by key and with what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from config_files import EXPERIMENT, pointed_at, write_experiment

from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.yaml_file import FileErrors, FileProblem
from mm1_ablate.evaluation.protocols import load_task

RECORD = """\
task: colours
family: image
kind: generate
items:
  type: records
  folder: data
  id: name
  fields: {question: text}
  references: answers | map(attribute="answer")
  queries:
    file: test.jsonl
    join: {more: {file: more.jsonl, on: name}}
    image: "{name}.jpg"
  demonstrations:
    - file: [train.jsonl, train-2.jsonl]
      where: usable
      image: "{name}.jpg"
    - file: older.jsonl
      image: "{name}.jpg"
  development: {file: dev.jsonl, image: "{name}.jpg", count: 10}
prompt: |-
  {image} Look.
  Question: {question}
  Answer: {answer}
separator: "\\n"
stop: ["\\n", "Question"]
max_new_tokens: 4
metrics: [exact_match]
protocols:
  openflamingo:
    prompt: "{image}Question:{question} Short answer:{answer}"
"""


def problems_of_record(folder: Path, old: str, new: str) -> list[FileProblem]:
    assert old in RECORD
    path = folder / "colours.yaml"
    path.write_text(RECORD.replace(old, new))
    with pytest.raises(FileErrors) as caught:
        load_task(str(path))
    return caught.value.problems


def test_the_record_itself_is_right(tmp_path: Path) -> None:
    (tmp_path / "colours.yaml").write_text(RECORD)
    assert load_task(str(tmp_path / "colours.yaml")).task == "colours"


OF_A_PART = "expected one of id, group, fields, references, choices, correct, image, image_key, file, rows, join, where, merge, count"


@pytest.mark.parametrize(
    ("old", "new", "at", "path", "message"),
    [
        # One part, written without its list.
        ("    file: test", "    files: test", "files: test", "items.queries.files", f"unknown key; {OF_A_PART} (did you mean 'file'?)"),
        (
            "    file: test.jsonl\n",
            "    merge: false\n",
            "queries:",
            "items.queries.file",
            "is missing; expected text, or a list, not empty, of texts",
        ),
        ("file: test.jsonl", "file: 5", "5", "items.queries.file", "expected text, or a list, not empty, of texts, not 5"),
        ("file: test.jsonl", "file: []", "[]", "items.queries.file", "expected text, or a list, not empty, of texts, not an empty list"),
        ("file: test.jsonl", "file: ['']", "'']", "items.queries.file[0]", "expected text"),
        ('    image: "{name}.jpg"\n  dem', "    image: 5\n  dem", "5", "items.queries.image", "expected text, or null, not 5"),
        ("on: name", "on: 5", "5}", "items.queries.join.more.on", "expected text, not 5"),
        ("on: name", "un: name", "un:", "items.queries.join.more.un", "unknown key; expected one of file, rows, on, to"),
        ("{more: {file: more.jsonl, on: name}}", "more.jsonl", "more.jsonl", "items.queries.join", "expected a mapping, not 'more.jsonl'"),
        ("count: 10", "count: 0", "0}", "items.development.count", "expected a whole number above 0, or null, not 0"),
        ("count: 10", "cuont: 10", "cuont", "items.development.cuont", "unknown key"),
        ("count: 10", "merge: 3", "3}", "items.development.merge", "expected true or false, not 3"),
        ("count: 10", "fields: {question: 5}", "5}", "items.development.fields.question", "expected text, not 5"),
        (
            '{file: dev.jsonl, image: "{name}.jpg", count: 10}',
            "5",
            "5",
            "items.development",
            "expected a mapping with file, or a list, not empty, of",
        ),
        ('{file: dev.jsonl, image: "{name}.jpg", count: 10}', "[]", "[]", "items.development", "not an empty list"),
        # Parts in a list.
        ("      where: usable", "      were: usable", "were", "items.demonstrations[0].were", f"unknown key; {OF_A_PART}"),
        ("where: usable", "where: [usable]", "[usable]", "items.demonstrations[0].where", "expected text, or null, not a list"),
        ("train-2.jsonl", "5", "5]", "items.demonstrations[0].file[1]", "expected text, not 5"),
        (
            '    - file: older.jsonl\n      image: "{name}.jpg"',
            "    - older.jsonl",
            "older",
            "items.demonstrations[1]",
            "expected a mapping with file",
        ),
        # Expressions.
        (
            "where: usable",
            "where: usable |",
            "usable |",
            "items.demonstrations[0].where",
            "expected a Jinja expression over the fields of a row",
        ),
        ("where: usable", "where: usable | nosuch", "usable |", "items.demonstrations[0].where", "nosuch"),
        (
            "where: usable",
            "where: |\n        usable\n        and (",
            "and (",
            "items.demonstrations[0].where",
            "expected a Jinja expression",
        ),
        ("question: text}", "question: 'text['}", "'text['", "items.fields.question", "expected a Jinja expression"),
        ("fields: {question: text}", "fields: {question: 5}", "5}", "items.fields.question", "expected text, not 5"),
        ('"{name}.jpg"\n  dem', '"{name.jpg"\n  dem', '"{name.jpg', "items.queries.image", "expected a name with fields in braces"),
        ('  references: answers | map(attribute="answer")\n', "", "file: test", "items.queries", "has neither 'references' nor 'choices'"),
        # Templates.
        ("{answer}\nsep", "answer\nsep", "|-", "prompt", "expected {answer} once, found it 0 times"),
        ("{question}\n", "{question!r}\n", "Question: {", "prompt", "expected a plain field such as {answer}, found {question!r}"),
        ("{question}\n", "{question\n", "Question: {", "prompt", "a '{' without its '}'"),
        ("Answer: {answer}", "Answer: {answer} }", "Answer: {", "prompt", "a '}' without its '{'"),
        ("{question}\n", "{questoin}\n", "Question: {", "prompt", "no item has a field 'questoin'; expected image, answer or question"),
        ("{question}\n", "{choice}\n", "Question: {", "prompt", "only a task of kind choose can name {choice}"),
        ("{image} Look", "Look", "|-", "prompt", "expected {image} in a task of the image family"),
        ('separator: "\\n"', 'separator: "{answer}"', '"{answer}"', "separator", "may name the item's own fields only"),
        ('separator: "\\n"', 'separator: "{colour}"', '"{colour}"', "separator", "no item has a field 'colour'"),
        ('"Question"]', '"{0}"]', '"{0}"', "stop[1]", "expected a plain field"),
        ('"Question"]', "5]", "5]", "stop[1]", "expected text, not 5"),
        ("{question} Short", "{question Short", '"{image}', "protocols.openflamingo.prompt", "a '{' without its '}'"),
        ("Short answer:{answer}", "Short answer:", '"{image}', "protocols.openflamingo.prompt", "expected {answer} once, found it 0 times"),
        # The rest.
        ("[exact_match]", "[exact_match, exact_match]", "exact_match]", "metrics[1]", "occurs twice"),
        ("[exact_match]", "[choice_accuracy]", "choice_accuracy", "metrics[0]", "scores tasks of kind choose"),
        ("[exact_match]", "[exact_mach]", "exact_mach", "metrics[0]", "there is no type 'exact_mach'"),
        ("type: records", "type: recods", "recods", "items.type", "there is no type 'recods'"),
        ("metrics:", "fewest_shots: -1\nmetrics:", "-1", "fewest_shots", "expected a whole number of at least 0"),
        ("family: image", "family: picture", "picture", "family", "expected 'image' or 'text', not 'picture'"),
    ],
)
def test_a_mistake_in_a_record_is_reported_at_its_key_with_what_was_expected(
    tmp_path: Path, old: str, new: str, at: str, path: str, message: str
) -> None:
    problems = problems_of_record(tmp_path, old, new)
    problem = next((problem for problem in problems if problem.path == path), problems[0])
    assert problem.path.removesuffix(".type") == path.removesuffix(".type") and pointed_at(problem).startswith(at), str(problem)
    assert message in problem.message + f" ({problem.hint})"


def test_a_mistake_in_a_record_is_reported_where_the_task_is_named_with_its_place_in_the_record(tmp_path: Path) -> None:
    (tmp_path / "colours.yaml").write_text(RECORD.replace("{question}\n", "{questoin}\n"))
    path = write_experiment(tmp_path, EXPERIMENT.replace("[miniature_attributes", "[colours.yaml"))
    with pytest.raises(FileErrors) as caught:
        load_study(path, "nowhere")
    (problem,) = caught.value.problems
    assert pointed_at(problem).startswith("colours.yaml") and f"{tmp_path}/colours.yaml:23:3: prompt: " in problem.message


def test_a_task_that_no_number_of_shots_would_ask_is_reported_where_it_is_named(tmp_path: Path) -> None:
    tree = yaml.safe_load(EXPERIMENT)
    tree["evaluation"] |= {"tasks": ["miniature_vqa", "miniature_attributes"], "shots": [0]}
    with pytest.raises(FileErrors) as caught:
        load_study(write_experiment(tmp_path, yaml.safe_dump(tree)), "nowhere")
    (problem,) = caught.value.problems
    assert pointed_at(problem).startswith("miniature_attributes")
    assert problem.message == "'miniature_attributes' is asked from 1 shots on, and evaluation.shots has 0"


def test_what_is_wrong_with_the_files_of_a_record_is_reported_with_its_place_in_the_record(tmp_path: Path) -> None:
    (tmp_path / "colours.yaml").write_text(RECORD)
    path = write_experiment(tmp_path, EXPERIMENT.replace("[miniature_attributes", "[colours.yaml"))
    with pytest.raises(FileErrors) as caught:
        load_study(path)
    (problem,) = caught.value.problems
    assert pointed_at(problem).startswith("colours.yaml") and f"{tmp_path}/colours.yaml:11:" in problem.message


def test_an_override_that_is_no_template_is_reported_at_its_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mm1_ablate.evaluation.preflight import unaskable_tasks

    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    overrides = '  overrides:\n    miniature_vqa:\n      items: 5\n      prompt: "{image} {question"\n'
    path = write_experiment(tmp_path, EXPERIMENT + overrides)
    with pytest.raises(FileErrors) as caught:
        load_study(path, "check", [unaskable_tasks])
    (problem,) = caught.value.problems
    assert pointed_at(problem).startswith('"{image} {question"') and "a '{' without its '}'" in problem.message
