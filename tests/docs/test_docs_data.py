"""docs/data.md: what it declares is declared so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mm1_ablate.config.data import Data, Source
from mm1_ablate.config.settings import component_types
from mm1_ablate.config.sweep.declaration import Sweep

DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)]


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> Data:
    monkeypatch.setenv("DATA", "/data")
    return Data.model_validate(BLOCKS[0]["data"])


def test_the_experiment_of_the_document_is_valid(data: Data):
    assert set(data.shares()) == {"alt_text", "recaptions", "pages", "web", "wiki"}
    assert sum(data.shares().values()) == 1


def test_every_format_has_a_row_and_every_row_a_format():
    rows = re.findall(r"^\|[^|]*\| `(\w+)` \|", DOCUMENT.read_text(), re.MULTILINE)
    assert set(rows) - {"type"} == set(component_types("mm1_ablate.data.sources"))
    assert all(issubclass(settings, Source) for settings in component_types("mm1_ablate.data.sources").values())


def test_every_line_of_the_sweep_makes_another_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from config_files import EXPERIMENT

    from mm1_ablate.config.sweep.expand import load_study

    monkeypatch.setenv("DATA", "/data")
    experiment = yaml.safe_load(EXPERIMENT) | {"data": BLOCKS[0]["data"]}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    sweep = {"sweep": "document", "experiment": "experiment.yaml", "seeds": [0], **BLOCKS[1]}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    study = load_study(tmp_path / "sweep.yaml", "nowhere")
    assert len({trial.fingerprint for trial in study.trials}) == len(study.arms) == 12
    assert isinstance(study.sweep, Sweep)
