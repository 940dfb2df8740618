"""All in which an arm differs from its baseline is told, and nothing else: by every command, in words and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from config_files import EXPERIMENT, load_experiment, study_of, write_experiment, write_sweep
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made_up import scores
from typer.testing import CliRunner

from mm1_ablate.cli import app
from mm1_ablate.config.data import DataType
from mm1_ablate.config.errors import validated
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import DataSnapshot
from mm1_ablate.config.paths import Node, plain
from mm1_ablate.config.settings import component_names
from mm1_ablate.config.study import Identity, Study
from mm1_ablate.config.sweep.differences import changes_of, in_words, leaves
from mm1_ablate.config.sweep.overrides import Edit, altered
from mm1_ablate.report.comparison import compare
from mm1_ablate.report.html import html
from mm1_ablate.report.markdown import markdown
from mm1_ablate.report.text import print_comparison

EXPERIMENTS = sorted(Path("experiments").rglob("*.yaml"))


# ------------------------------------------------------------- these and nothing else
def flat(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Single settings of a dump; where there is nothing there is no setting."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from flat(value, f"{path}.{key}" if path else key)
    elif tree is not None:
        yield path, tree


def dumped(experiment: Experiment) -> dict[str, Any]:
    return dict(flat(experiment.model_dump(mode="json", by_alias=True)))


@cache
def shipped(path: Path) -> Experiment:
    return load_experiment(path, "nowhere")


def other_values(path: str, value: Any) -> st.SearchStrategy[Any]:
    """Values that may be right in a setting's place."""
    if path.endswith("connector.type"):
        return st.sampled_from(component_names("mm1_ablate.model.connectors"))
    if path.endswith("optimizer.type"):
        return st.sampled_from(["adamw", "muon"])
    if isinstance(value, bool):
        return st.just(not value)
    if isinstance(value, int):
        return st.sampled_from([1, 2, 4, 16, 64, value + 1, 2 * value])
    if isinstance(value, float):
        return st.sampled_from([value / 2, 0.5, 1e-5, 3])
    return st.sampled_from(["mm1", "per_query", "tokens", "development", "fan_in", "openflamingo", value])


def nested(edit: Edit, depth: int) -> Edit:
    """The same, written as a mapping in a mapping from some depth on."""
    parts = edit.path.split(".")
    depth = min(depth, len(parts))
    value = edit.value
    for part in reversed(parts[depth:]):
        value = {part: value}
    return Edit(".".join(parts[:depth]), value)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=[path.stem for path in EXPERIMENTS])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_an_arm_differs_from_its_baseline_in_what_is_listed_and_in_nothing_else(path: Path, data: st.DataObject) -> None:
    with DataSnapshot("nowhere", path.parent).active():
        check(path, data)


def check(path: Path, data: st.DataObject) -> None:
    baseline = shipped(path)
    tree = plain(baseline)
    node = Node(Experiment, tree)
    before = dumped(baseline)
    single = [place for place in before if "sources." not in place and "tasks" not in place and place != "experiment"]
    # Of types those of connectors and optimisers; what an unknown type does to the paths below it is another matter.
    single = [place for place in single if not place.endswith(".type") or place.split(".")[-2] in ("connector", "optimizer")]
    edits = []
    for place in data.draw(st.lists(st.sampled_from(single), min_size=1, max_size=4, unique=True)):
        edits.append(Edit(place, data.draw(other_values(place, before[place]))))
    if data.draw(st.booleans()):
        edits.append(Edit("model.sub_images", {"at_most": 3}))
    removable = [f"data.mixture.{one}" for one in get_args(DataType) if one in node.find("data.mixture").value]
    taken = [edit.path for edit in edits]
    removals = [Edit(one, removed=True) for one in data.draw(st.lists(st.sampled_from(removable), max_size=1)) if one not in taken]
    written = [nested(edit, data.draw(st.integers(1, 4))) for edit in edits]

    result = altered(tree, [*edits, *removals])
    by_mapping = altered(tree, [*written, *removals])
    arm, found = (None, result.diagnostics) if result.diagnostics else validated(Experiment, result.tree, path.parent)
    same, _ = (None, []) if by_mapping.diagnostics else validated(Experiment, by_mapping.tree, path.parent)
    assert same == arm, "a mapping does what the paths into it do"
    assume(arm is not None and not found)

    changes = changes_of(leaves(baseline), leaves(arm), by_mapping.edits, by_mapping.consequences)
    patched = dict(before)
    for change in changes:
        assert change.removed or change.old != change.new, change
        for place in [place for place in patched if place == change.path or (change.removed and place.startswith(f"{change.path}."))]:
            del patched[place]
        if change.new not in (None, {}):
            patched[change.path] = change.new
    assert patched == dumped(arm)
    assert len({change.path for change in changes}) == len(changes)
    if not changes:
        assert Identity.of(arm) == Identity.of(baseline)
    if not any(edit.path.endswith((".type", ".protocol")) for edit in edits):
        assert all(change.declared for change in changes), changes
    assert {change.path for change in changes if change.declared} <= {
        *(edit.path for edit in (*edits, *removals)),
        *("model.sub_images.at_least", "model.sub_images.at_most", "model.sub_images.overview"),
        *by_mapping.consequences,
    }


# ------------------------------------------------------------- in words
def test_a_setting_that_is_equal_in_both_arms_is_not_named(tmp_path: Path) -> None:
    study = study_of(tmp_path, "a: {alter: {training.optimizer.rest.learning_rate: 1e-4}}")
    assert in_words(study.arm("a")) == "training.optimizer.rest.learning_rate 0.003 → 0.0001"
    assert compared(study).row("a").also_changed == ()


def test_what_follows_from_a_setting_is_named_as_it_is_resolved(tmp_path: Path) -> None:
    write_experiment(tmp_path, EXPERIMENT + "  demonstrations: per_query\n")
    study = study_of(tmp_path, "a: {alter: {evaluation.protocol: openflamingo}}")
    assert in_words(study.arm("a")) == ("evaluation.protocol mm1 → openflamingo; also changed: added evaluation.zero_shot: text_only 2")


def test_long_values_are_cut_so_that_the_difference_is_seen(tmp_path: Path) -> None:
    long = "a" * 60
    write_experiment(tmp_path, EXPERIMENT.replace("experiment: small", f"experiment: small\ndescription: {long}x{long}"))
    study = study_of(tmp_path, f"a: {{alter: {{description: {long}y{long}, training.steps: 90}}}}")
    (description, _) = study.arm("a").changes
    assert (description.old, description.new) == (f"{long}x{long}", f"{long}y{long}")
    told, _, steps = in_words(study.arm("a")).partition("; ")
    assert steps == "training.steps 500 → 90"
    assert told.startswith("description …a") and "x" in told.split(" → ")[0] and "y" in told.split(" → ")[1] and len(told) < 110


def test_a_section_that_is_added_or_removed_is_reported_as_one(tmp_path: Path) -> None:
    study = study_of(
        tmp_path, "a: {alter: {model.sub_images: {at_most: 9}}}\nb: {remove: model.image_encoder.preparation}\nc: {seeds: [7]}"
    )
    assert in_words(study.arm("a")) == "added model.sub_images: at_least 1, at_most 9, overview first"
    assert in_words(study.arm("b")) == "removed model.image_encoder.preparation"
    (removed,) = study.arm("b").changes
    assert removed.old["source"]["content"] == "synthetic_captions" and removed.new is None
    assert in_words(study.arm("c")) == "only its seeds: 7"


# ------------------------------------------------------------- everywhere it is looked for
ABLATIONS = """
longer: {alter: {training: {steps: 3000}}}
adamw: {alter: {training: {optimizer: {type: adamw}}}}
without: {remove_each: [data.mixture.text]}
"""
LONGER = {"path": "training.steps", "old": 400, "new": 3000, "removed": False, "declared": True, "dropped": False}
MOMENTUM = {"path": "training.optimizer.momentum", "old": 0.95, "new": None, "removed": False, "declared": False, "dropped": True}
TEXT = {"path": "data.mixture.text", "old": 10, "new": None, "removed": True, "declared": True, "dropped": False}
STEPS = {"path": "training.steps", "old": 500, "new": 400, "removed": False, "declared": True, "dropped": False}
WORDS = (
    "longer: training.steps 400 → 3000",
    "adamw: training.optimizer.type muon → adamw; dropped with the type: training.optimizer.momentum 0.95, training.optimizer.rest",
    "without/text: removed data.mixture.text",
    "baseline: everywhere: training.steps 500 → 400",
)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path, ABLATIONS, "everywhere: {training: {steps: 400}}\nseeds: [0, 1, 2]")


def call(*arguments: object) -> str:
    done = CliRunner(env={"COLUMNS": "80"}).invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_validate_and_plan_tell_what_each_arm_changes(sweep: Path, tmp_path: Path, command: str) -> None:
    store = ["--store", tmp_path / "store"] if command == "plan" else []
    told = call(command, sweep, *store)
    in_one_line = " ".join(told.split())
    assert all(words in in_one_line for words in WORDS), told
    assert "what each arm changes in 'baseline':\n" in told
    lines = told[told.index("what each arm") :].splitlines()
    assert all(len(line) <= 80 for line in lines[: len(WORDS) + 5])
    assert not any(line.endswith(("→", " →")) or line.strip().startswith("→") for line in lines)

    content = json.loads(call(command, sweep, "--json", *store))
    known = content["files"][0] if command == "validate" else content["arms"]["small"]
    assert list(known["differences"]) == ["longer", "adamw", "without/text"]
    assert known["differences"]["longer"] == [LONGER] and known["differences"]["without/text"] == [TEXT]
    assert MOMENTUM in known["differences"]["adamw"]
    assert known["everywhere"] == {"baseline": [STEPS]}


def test_arms_are_reported_under_the_baseline_that_they_are_compared_with(tmp_path: Path) -> None:
    write_experiment(tmp_path, EXPERIMENT.replace("steps: 500", "steps: 700"), "other.yaml")
    path = write_sweep(tmp_path, "a: {alter: {training.steps: 90}}\nb: {alter: {training.steps: 90}, experiment: other.yaml}")
    told = call("validate", path).splitlines()[1:]
    assert told == [
        "what each arm changes in 'baseline':",
        "  a: training.steps 500 → 90",
        "what each arm changes in 'b/baseline':",
        "  b: training.steps 700 → 90",
    ]


def compared(study: Study) -> Any:
    return compare(study, scores(study, {arm.name: [50.0, 51, 52][: len(study.sweep.seeds)] for arm in study.arms}))


def test_the_report_tells_what_each_arm_changes_and_what_it_drops(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from mm1_ablate.config.sweep.expand import load_study

    comparison = compared(load_study(sweep))
    arms = {arm["name"]: arm for arm in comparison.to_json()["arms"]}
    assert arms["longer"]["differences"] == [LONGER] and MOMENTUM in arms["adamw"]["differences"]
    assert arms["adamw"]["brought_along"] == [
        "dropped with the type: training.optimizer.momentum 0.95, training.optimizer.rest",
        "training.optimizer.learning_rate 0.015 → mm1",
        "training.optimizer.weight_decay 0 → mm1",
        "training.optimizer.betas none → [0.9, 0.95]",
    ]
    print_comparison(comparison, Console(width=100))
    for text in (capsys.readouterr().out, markdown(comparison), html(comparison)):
        in_one_line = " ".join(text.split())
        for words in ("training.steps 400 → 3000", "training.optimizer.type muon → adamw", "everywhere: training.steps 500 → 400"):
            assert words in in_one_line
        assert "dropped with the type: training.optimizer.momentum 0.95, training.optimizer.rest" in in_one_line
