"""The JSON Schemas that editors read accept the files that are shipped, and refuse what mm1-ablate refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_files import EXPERIMENT
from jsonschema import Draft202012Validator

from mm1_ablate.commands import init
from mm1_ablate.config.yaml_file import read_tree

REPOSITORY = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted((REPOSITORY / "experiments").glob("*.yaml"))
SWEEPS = sorted((REPOSITORY / "sweeps").glob("*.yaml"))
TASKS = sorted((REPOSITORY / "mm1_ablate" / "evaluation" / "tasks").glob("*.yaml"))

experiment_schema, sweep_schema, task_schema = map(cache, (init.experiment_schema, init.sweep_schema, init.task_schema))


def errors(schema: dict[str, Any], tree: Any) -> list[str]:
    Draft202012Validator.check_schema(schema)
    return [error.message for error in Draft202012Validator(schema).iter_errors(tree)]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_shipped_experiments_are_valid(path: Path) -> None:
    assert errors(experiment_schema(), yaml.safe_load(path.read_text())) == []
    assert path.read_text().startswith("# yaml-language-server: $schema=../schemas/experiment.schema.json\n")


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_shipped_sweeps_are_valid(path: Path) -> None:
    assert errors(sweep_schema(), yaml.safe_load(path.read_text())) == []
    assert path.read_text().startswith("# yaml-language-server: $schema=../schemas/sweep.schema.json\n")


@pytest.mark.parametrize("path", sorted((REPOSITORY / "sweeps").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_sweep_is_valid_with_its_paths(path: Path) -> None:
    assert errors(sweep_schema(), yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_shipped_records_of_tasks_are_valid(path: Path) -> None:
    record = read_tree(path)[0]
    assert errors(task_schema(), record) == []
    assert errors(task_schema(), {**record, "promt": ""}) and errors(task_schema(), {**record, "metrics": ["acuracy"]})


def test_a_task_of_ones_own_may_name_classes_of_ones_own() -> None:
    record = read_tree(TASKS[0])[0]
    assert errors(task_schema(), {**record, "items": {"type": "my_lab.Items", "folder": 3}, "metrics": [{"type": "my_lab.Score"}]}) == []


def test_paths_into_experiments_are_completed_and_explained_where_a_sweep_takes_them() -> None:
    schema = sweep_schema()
    group = schema["$defs"]["AblationGroup"]["properties"]

    def completed(place: dict[str, Any]) -> dict[str, Any]:
        branches = place.get("anyOf", [place])
        (reference,) = (entry["$ref"] for branch in branches for entry in branch.get("allOf", ()))
        return schema["$defs"][reference.rpartition("/")[2]]["properties"]

    places = (group["alter"], group["replace"], group["grid"], group["except"]["items"], schema["properties"]["everywhere"])
    for place in places:
        paths = completed(place)
        assert paths["training.gradient_clip"]["description"].startswith("Largest norm of the gradient")
        assert {"data.mixture.text", "model.connector.hidden", "model.image_encoder.preparation.steps", "evaluation.shots"} <= set(paths)
        assert not {"experiment", "starts_from", "starts_from.training.steps"} & set(paths)
    assert completed(group["alter"])["training.precision"]["enum"] == ["32-true", "bf16-mixed"]
    for place in (group["remove"], group["remove_each"]):
        assert json.dumps(place).count('{"$ref": "#/$defs/Path"}') == 2, "one path, and each of several"
    assert "model.sub_images" in schema["$defs"]["Path"]["anyOf"][0]["enum"]


@pytest.mark.parametrize(
    ("ablation", "right"),
    [
        ({"alter": {"training.precision": "bf16-mixed"}}, True),
        ({"alter": {"training.precision": "float16"}}, False),
        ({"alter": {"data.sources.pages.weight": 2, "model.connector": {"type": "mlp"}, "training": {"steps": 3}}}, True),
        ({"alter": {"model.connector.type": "my_lab.connectors.Mixer", "model.connector.depth": "deep"}}, True),
        ({"grid": {"training.steps": [10, 20], "sizes": {"small": {"model.image_encoder.width": 8}}}}, True),
        ({"grid": {"training.steps": [10, "many"]}}, False),
        ({"remove": "data.sources.pages"}, True),
        ({"remove_each": ["data.mixture.text", "model.sub_images"]}, True),
    ],
)
def test_values_at_paths_are_checked_as_in_an_experiment(ablation: dict[str, Any], right: bool) -> None:
    sweep = {"sweep": "small", "experiment": "e.yaml", "ablations": {"a": ablation}}
    assert (errors(sweep_schema(), sweep) == []) == right


def test_the_schema_knows_the_settings_of_every_component() -> None:
    tree = yaml.safe_load(EXPERIMENT)
    assert errors(experiment_schema(), tree) == []
    for connector, right in [
        ({"type": "c_abstractor", "image_tokens": 9, "hidden": 8}, True),
        ("c_abstractor", True),
        ({"type": "my_lab.connectors.Mixer", "anything": 3}, True),
        ({"type": "c_abstractor", "hiden": 8}, False),
        ({"type": "c_abstracter"}, False),
        ("c_abstracter", False),
        ({"image_tokens": 4}, False),
    ]:
        tree["model"]["connector"] = connector
        assert (errors(experiment_schema(), tree) == []) == right, connector


def test_the_schema_of_sweeps_knows_their_keys() -> None:
    sweep = {
        "sweep": "small",
        "experiment": "e.yaml",
        "ablations": {"a": {"remove": "data.mixture.text", "when_removed": {"fill_with": "text"}}},
    }
    assert errors(sweep_schema(), sweep) == []
    assert errors(sweep_schema(), {**sweep, "ablations": {"a": {"grid": {"x": [1]}, "except": [{"x": 1}]}}}) == []
    assert errors(sweep_schema(), {**sweep, "sedes": [1]})
    assert errors(sweep_schema(), {**sweep, "ablations": {"a": {"removes": []}}})
    assert errors(sweep_schema(), {"sweep": "small"})


def without_description(node: Any, place: str = "") -> list[str]:
    """Where a schema declares a setting and does not say what it is."""
    if isinstance(node, list):
        return [found for index, entry in enumerate(node) for found in without_description(entry, f"{place}/{index}")]
    if not isinstance(node, dict):
        return []
    found = [found for key, entry in node.items() for found in without_description(entry, f"{place}/{key}")]
    if "properties" in node and place.rpartition("/")[2] not in ("properties", "default"):
        found += [f"{place}/{name}" for name, setting in node["properties"].items() if not setting.get("description", "").strip()]
    return found


@pytest.mark.parametrize("schema", [experiment_schema, sweep_schema, task_schema])
def test_every_setting_says_what_it_is(schema: Callable[[], dict[str, Any]]) -> None:
    whole = schema()
    assert without_description(whole) == []
    assert [name for name, settings in whole["$defs"].items() if name != "JsonValue" and not settings.get("description")] == []
    assert without_description({"properties": {"a": {"description": " "}, "b": {"description": "of b"}}}) == ["/a"]


def test_schemas_explain_the_fields() -> None:
    steps = experiment_schema()["$defs"]["Packing"]["properties"]["row_tokens"]
    assert steps["description"] == "Nominal length of a packed row, in tokens."


def test_schemas_are_written_where_the_files_look_for_them(tmp_path: Path) -> None:
    paths = init.write_schemas(tmp_path / "schemas")
    assert [path.name for path in paths] == ["experiment.schema.json", "sweep.schema.json", "task.schema.json"]
    assert [json.loads(path.read_text())["title"] for path in paths] == ["Experiment", "Sweep", "Task"]


@pytest.mark.parametrize("name", ["experiment", "sweep", "task"])
def test_the_shipped_schemas_are_those_of_today(tmp_path: Path, name: str) -> None:
    init.write_schemas(tmp_path)
    shipped = REPOSITORY / "schemas" / f"{name}.schema.json"
    assert json.loads(shipped.read_text()) == json.loads((tmp_path / shipped.name).read_text()), "run: mm1-ablate schema schemas"
