"""docs/model.md: the experiments that it shows are valid, its table is complete, and its connector trains under `run`, by two workers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from config_files import EXPERIMENT, pointed_at, write_experiment
from tiny import tiny_experiment

from mm1_ablate.config.model import Model
from mm1_ablate.config.paths import plain
from mm1_ablate.config.settings import component_types
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.yaml_file import FileErrors

DOCUMENT = (Path(__file__).parents[2] / "docs" / "model.md").read_text()
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)]
(CONNECTOR,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)


def test_the_models_of_the_document_are_valid() -> None:
    first, second, _ = BLOCKS
    model = Model.model_validate({**first["model"], "connector": {"type": "c_abstractor"}})
    assert model.language_model.tokenizer == model.language_model.name == "EleutherAI/pythia-1.4b"
    large = Model.model_validate({**first["model"], **second["model"], "connector": {"type": "c_abstractor"}})
    assert large.sub_images is not None and large.image_tokens_at_most == 5 * 144


def test_every_connector_has_a_row() -> None:
    rows = {name for row in re.findall(r"^\| (`.*?) \|", DOCUMENT, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert set(component_types("mm1_ablate.model.connectors")) <= rows


@pytest.fixture
def name(tmp_path: Path) -> str:
    """The module of the document beside a sweep, under a name that no other test has imported."""
    name = f"connectors_{abs(hash(str(tmp_path)))}"
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / f"{name}.py").write_text(CONNECTOR)
    return name


def sweep(folder: Path, name: str, experiment: str, more: str = "", arms: int = 2) -> Path:
    write_experiment(folder, experiment)
    own = {"connector": {"grid": {"model.connector": BLOCKS[2]["ablations"]["connector"]["grid"]["model.connector"][:arms]}}}
    grid = yaml.safe_dump({"ablations": own}).replace("our_connectors", name)
    path = folder / "sweeps" / "sweep.yaml"
    path.write_text(f"sweep: own\nexperiment: ../experiment.yaml\nseeds: [0]\n{more}\n{grid}")
    return path


def test_a_connector_beside_the_sweep_is_checked_like_any_other(name: str, tmp_path: Path) -> None:
    path = sweep(tmp_path, name, EXPERIMENT)
    study = load_study(path)
    assert len({trial.fingerprint for trial in study.trials}) == 3
    text = path.read_text()
    for right, wrong, at, message in (
        ("hidden: 64", "hidden: 4", "4", "8"),
        ("hidden: 64", "hiden: 64", "hiden", "unknown key"),
        ("image_tokens: 4", "image_tokens: 9", "9", "no stride makes 9 tokens of a grid of 4 x 4"),
        (f"type: {name}.Strided", f"type: {name}.Stridden", f"{name}.Stridden", "cannot import"),
    ):
        path.write_text(text.replace(right, wrong, 1))
        with pytest.raises(FileErrors) as caught:
            load_study(path)
        problem = caught.value.problems[0]
        assert message in problem.message and Path(problem.file) == path and pointed_at(problem).startswith(at)


def test_a_connector_beside_the_sweep_trains_under_run_by_two_workers(name: str, tmp_path: Path) -> None:
    experiment = plain(tiny_experiment({"training.steps": 2, "evaluation.items": 2, "evaluation.tasks": ["miniature_facts"]}))
    path = sweep(tmp_path, name, yaml.safe_dump(experiment), "resources: {workers: 2, cpus_per_worker: 1}", 1)
    (tmp_path / "elsewhere").mkdir()
    command = [sys.executable, "-m", "mm1_ablate", "run", str(path), "--store", str(tmp_path / "store"), "--cpus", "2"]
    done = subprocess.run(command, cwd=tmp_path / "elsewhere", capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    plan = subprocess.run([*command[:3], "plan", *command[4:7], "--json"], cwd=tmp_path / "elsewhere", capture_output=True, text=True)
    trials = json.loads(plan.stdout)["trials"]
    assert len(trials) == 2 and {trial["status"] for trial in trials} == {"done"}
