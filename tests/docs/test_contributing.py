"""The examples of CONTRIBUTING.md do what the page says, as components of a user's own.

The connector is tried in `tests/model/test_connectors.py`.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
import yaml
from config_files import EXPERIMENT, load_experiment, write_experiment
from official_files import jpeg

from mm1_ablate.config.metric import Prediction
from mm1_ablate.config.settings import find_component
from mm1_ablate.evaluation.protocols import load_task

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()


def shown(heading: str) -> str:
    """The fenced block under a heading."""
    section = TEXT.partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
    (block,) = re.findall(r"```(?:python|yaml)\n(.*?)```", section, re.DOTALL)
    return block


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a user with the examples in it, without the lines that declare a type in this package."""
    for heading, name in (("A data format", "lab_formats.py"), ("A metric", "lab_metrics.py")):
        (tmp_path / name).write_text(re.sub(r"    type: Literal.*\n", "", shown(heading)))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_data_format_reads_images_and_captions(folder: Path):
    pictures = [base64.b64encode(jpeg(shade)).decode() for shade in range(4)]
    (folder / "a.tsv").write_text("".join(f"picture {number}\t{picture}\n" for number, picture in enumerate(pictures)))
    tree = yaml.safe_load(EXPERIMENT)
    tree["data"]["sources"]["alt_text"] = {"type": "lab_formats.Base64Tsv", "files": "a.tsv"}
    source = load_experiment(write_experiment(folder, yaml.safe_dump(tree))).data.sources["alt_text"]
    opened = source.open(name="alt_text")
    assert [opened[index].text for index in range(len(opened))] == [f"picture {number}" for number in range(4)]
    assert opened[2].images[0].load().ndim == 3


def test_the_metric_scores_answers_that_begin_with_a_reference(folder: Path):
    metric = find_component("mm1_ablate.evaluation.metrics", "lab_metrics.PrefixMatch").model_validate({"type": "lab_metrics.PrefixMatch"})
    answers = [Prediction("1", "a red cube", ("red", "a red")), Prediction("2", "a red cube", ("red",))]
    assert metric.score(answers) == [1.0, 0.0]


def test_the_benchmark_is_asked_with_the_metric(folder: Path):
    (folder / "signs").mkdir()
    for name in ("train", "test"):
        rows = [{"number": f"{name}-{n}", "question": "what?", "answers": ["stop"], "file": f"{n}.jpg"} for n in range(8)]
        (folder / "signs" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number in range(8):
        (folder / "signs" / f"{number}.jpg").write_bytes(jpeg(number))
    (folder / "signs.yaml").write_text(shown("A benchmark").replace("prefix_match", "{type: lab_metrics.PrefixMatch}"))
    tree = yaml.safe_load(EXPERIMENT) | {"evaluation": {"tasks": ["signs.yaml"]}}
    experiment = load_experiment(write_experiment(folder, yaml.safe_dump(tree)))
    task = load_task(experiment.evaluation.tasks[0])
    items = task.items.open("report")
    assert [query.references for query in items.queries] == [("stop",)] * 8 and len(items.demonstrations) == 8
    assert items.queries[0].image.load().shape == (6, 8, 3)
    assert task.metrics[0].type == "lab_metrics.PrefixMatch"
