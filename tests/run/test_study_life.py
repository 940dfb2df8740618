"""The life of a study over months: edits and renames, data that comes in mid-run, other code, a module of one's own that changes. Only
what has to run runs, nothing is taken for what it is not, and all of it is told."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import call
from lines_files import LINES, WORDS, write_data
from tiny import TINY, tiny_experiment

from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.run.remaining_work import remaining_work
from mm1_ablate.run.trial import run_trial
from mm1_ablate.store.store import Store

CONNECTOR = """\
from mm1_ablate.model.connectors.average_pool import AveragePool
import helper_of_life
class Own(AveragePool):
    type: str = "connector_of_life.Own"
"""


class Life:
    """A study in a folder, edited and run again and again. What a run does on its workers is done here, trial after trial."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.sweep = folder, folder / "sweep.yaml"
        self.store = Store(folder / "ablations")
        (folder / "connector_of_life.py").write_text(CONNECTOR)
        (folder / "helper_of_life.py").write_text("SCALE = 1\n")
        write_data(folder / "data", first=WORDS)
        experiment: dict[str, Any] = tiny_experiment(TINY | {"training.steps": 2}).model_dump(mode="json")
        experiment["model"]["connector"] = {"type": "connector_of_life.Own", "image_tokens": 4}
        experiment["data"]["sources"]["text"] = LINES
        self.experiment = experiment
        self.arms: dict[str, Any] = {"longer": {"training.steps": 3}}
        self.write()

    def write(self, name: str = "life") -> Path:
        (self.folder / "experiment.yaml").write_text(yaml.safe_dump(self.experiment))
        groups = {arm: {"alter": changes} for arm, changes in self.arms.items()}
        compare = {"primary": "shot_0/average", "metrics": ["shot_0/average"]}
        sweep = {"sweep": name, "experiment": "experiment.yaml", "seeds": [0, 1], "ablations": groups, "compare": compare}
        path = self.sweep.with_stem("sweep" if name == "life" else name)
        path.write_text(yaml.safe_dump(sweep, sort_keys=False))
        return path

    def run(self, meanwhile: Callable[[], object] = lambda: None) -> dict[str, str]:
        """Do what is missing; something happens after the first trial. Says how each trial stands."""
        self.write()
        study = load_study(self.sweep)
        self.store.write_study(study)
        self.store.register_trials(study)
        remaining = remaining_work(study, self.store, False)
        remaining.write_manifests(self.store, study.snapshot)
        self.did = [work.trials[0].name for work in remaining.trials]
        for number, work in enumerate(remaining.trials):
            run_trial(str(self.store.root), work.fingerprint, work.evaluations)
            if number == 0:
                meanwhile()
        return {trial.name: self.store.status(trial).status for trial in study.trials}

    def plan(self, path: Path | None = None) -> dict[str, Any]:
        if path is None:
            self.write()
        told: dict[str, Any] = json.loads(call("plan", path or self.sweep, "--store", self.store.root, "--json").stdout)
        return told

    def reasons(self) -> dict[str, str]:
        return {trial["name"]: trial["reason"] for trial in self.plan()["trials"]}

    def also_changed(self, arm: str) -> list[str]:
        report = json.loads(call("report", self.sweep, "--store", self.store.root, "--json").stdout)
        (row,) = (row for row in report["arms"] if row["name"] == arm)
        return [line for line in row["brought_along"] if line.startswith("code")]

    def held_constant(self) -> set[str]:
        report = json.loads(call("report", self.sweep, "--store", self.store.root, "--json").stdout)
        return {title for title in report["held_constant"] if title.startswith("code")}


@pytest.fixture
def life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Life:
    torch.set_num_threads(1)
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return Life(tmp_path)


def test_the_life_of_a_study(life: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(life.run().values()) == {"done"} and len(life.did) == 4
    files = {"connector_of_life.py", "helper_of_life.py"}
    trained = {"code", *(f"code of {file}" for file in (*files, "lines_source.py"))}
    evaluated = {f"code that {did}{file}" for did in ("predicted", "scored") for file in ("", *(f": {file}" for file in files))}
    assert life.held_constant() == trained | evaluated

    # An arm goes by another name: it is the same, and nothing runs.
    life.arms = {"slower": {"training.steps": 3}}
    assert set(life.run().values()) == {"done"} and life.did == []

    # It is trained otherwise: that is told beside how it was trained before, and what it was is not lost from sight.
    life.arms = {"slower": {"training.steps": 4}}
    planned = life.plan()
    reasons = {trial["name"]: trial["reason"] for trial in planned["trials"]}
    assert reasons["slower/seed-0"] == "never run; trained before with training.steps 3, now 4"
    assert [gone["name"] for gone in planned["no_longer_named"]] == ["slower/seed-0", "slower/seed-1"]
    assert "no longer in the file, not touched: slower/seed-1" in call("plan", life.sweep, "--store", life.store.root).stdout

    # What the own connector imports changes before its trials are run.
    (tmp_path / "helper_of_life.py").write_text("SCALE = 2\n")
    assert set(life.run().values()) == {"done"} and life.did == ["slower/seed-0", "slower/seed-1"]
    changed = life.also_changed("slower")
    assert len(changed) == 3 and changed[0].startswith("code of helper_of_life.py "), changed
    assert "code" in life.held_constant()

    # Another version evaluates what the first has trained.
    monkeypatch.setattr("mm1_ablate.store.status.code_version", lambda: "9.9.9+00000000")
    life.arms = {"slower": {"training.steps": 4}, "asked": {"evaluation.items": 3}}
    life.run()
    assert life.did == ["asked/seed-0", "asked/seed-1"]
    told = life.also_changed("asked")
    assert any(line.startswith("code that predicted ") and line.endswith("→ 9.9.9+00000000") for line in told), told
    assert not any(line.startswith("code ") for line in told if not line.startswith(("code that", "code of")))

    # Data comes in mid-run: no trial reads other data than its study was planned with.
    life.arms = {"slower": {"training.steps": 5}}
    states = life.run(meanwhile=lambda: write_data(tmp_path / "data", second=WORDS))
    assert states == {"baseline/seed-0": "done", "baseline/seed-1": "done", "slower/seed-0": "done", "slower/seed-1": "failed"}
    reasons = life.reasons()
    assert reasons["baseline/seed-0"] == "never run; trained before with other data in data.sources.text"
    assert set(life.run().values()) == {"done"} and len(life.did) == 4

    # A study of the same trials, that trains none itself, knows what leaves its file too.
    other = life.write("other")
    assert call("run", other, "--store", life.store.root).exit_code == 0
    other.write_text(other.read_text().replace("training.steps: 5", "training.steps: 6"))
    assert [gone["name"] for gone in life.plan(other)["no_longer_named"]] == ["slower/seed-0", "slower/seed-1"]
