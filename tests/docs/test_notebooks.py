"""The notebooks run from start to end, each in a kernel of its own, and what is committed with them is what they made."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from command_line import call
from scored_study import Said, write_scores
from tiny import tiny_experiment

from mm1_ablate.config.study import Trial
from mm1_ablate.config.task_record import Task
from mm1_ablate.data.documents import Item

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
MACHINE_PATH = re.compile(r"(?<![\w.~/:])(/(home|work|tmp|root|Users|var|opt|mnt|private)/|[A-Z]:\\)")
SWEEP = """\
sweep: noted
experiment: tiny.yaml
seeds: [0, 1, 2]
ablations:
  without:
    remove_each: [data.mixture.interleaved, data.mixture.text]
paper:
  table: figure5b_text_only
  rows: {baseline: interleaved + text, without/text: interleaved}
expect:
  - {arm: without/text, metric: 8-shot, is: below, because: this is a test}
"""
Notebook = Any
Run = Callable[..., Notebook]


def answer(trial: Trial, task: Task, shots: int, place: int, item: Item) -> Said:
    """The baseline is right on most questions, the arms on one or two; which depends on the seed."""
    right = place < (5 if "baseline" in trial.arms else 1) + trial.seed % 2
    if task.kind == "choose":
        return [-0.5 if (number == item.correct) == right else -4.0 - number for number in range(len(item.choices))]
    return item.references[0] if right else f"not {item.references[0]}"


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a kernel: a study whose trials have made-up answers and curves, which MLflow shows."""
    folder = tmp_path_factory.mktemp("notebooks")
    evaluation = {"evaluation.shots": [0, 4, 8], "evaluation.items": 6}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny_experiment(evaluation).model_dump(mode="json")))
    (folder / "sweep.yaml").write_text(SWEEP)
    study, store = write_scores(folder / "sweep.yaml", folder / "store", answer)
    for trial in study.trials:
        points = [{"step": step, "loss": 3.0 / step, "learning_rate": 1e-3, "seconds": step} for step in range(1, 5)]
        (store.trial_folder(trial) / "curve.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    assert call("run", folder / "sweep.yaml", "--store", folder / "store").exit_code == 0
    return {"SWEEP": str(folder / "sweep.yaml"), "MM1_ABLATE_STORE": str(folder / "store"), "QUICK": "1", "TMPDIR": str(folder)}


@pytest.fixture(scope="module")
def run() -> Run:
    """`execute` of notebooks/execute.py."""
    spec = importlib.util.spec_from_file_location("execute", NOTEBOOKS[0].with_name("execute.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.execute


def texts(notebook: Notebook) -> str:
    """All that its cells put out, without pictures."""
    told = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            told += [output.get("text", ""), *(text for kind, text in output.get("data", {}).items() if kind.startswith("text/"))]
    return "\n".join(told)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_it_runs_from_start_to_end(path: Path, surroundings: dict[str, str], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    own = path.stem == "your_own_connector"
    if own:
        monkeypatch.chdir(surroundings["TMPDIR"])
    kept = {name: value for name, value in surroundings.items() if not (own and name == "MM1_ABLATE_STORE")}
    told = texts(run(path, kept))
    for expected in SHOWN[path.stem]:
        assert expected in told


SHOWN = {
    "read_a_study": ["without/interleaved better, % of questions", "removed data.mixture.text", "not "],
    "mm1_tables": ["figure5b_text_only", "25.8", "interleaved + text"],
    "design_a_sweep": ["compared arms", "detectable, by the plan"],
    "your_own_connector": ["model.connector.type average_pool → my_connectors.EveryOther", "every-other/seed-0 done", "8-shot difference"],
    "query_mlflow": ["mm1-ablate/noted", "without/text/seed-0", "4 points; loss 3.00 at step 1, 0.75 at step 4"],
}
"""What a notebook shows of the study of this test."""


def test_every_notebook_is_described() -> None:
    page = (NOTEBOOKS[0].parents[1] / "docs" / "python_api.md").read_text()
    assert set(SHOWN) == set(NAMES) and all(f"../notebooks/{name}.ipynb" in page for name in NAMES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_it_is_committed_with_the_output_that_it_made(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run at once, from start to end"
    kinds = {output.get("name", output.output_type) for cell in cells for output in cell.outputs}
    assert "error" not in kinds and "stderr" not in kinds and "execute_result" in kinds
    assert not MACHINE_PATH.search(texts(notebook) + "".join(cell.source for cell in notebook.cells))
