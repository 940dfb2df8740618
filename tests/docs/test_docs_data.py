"""docs/data.md: what it declares is declared so."""

from __future__ import annotations

import base64
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from official_files import jpeg
from tiny import tiny_experiment
from typer.testing import CliRunner

from mm1_ablate.config.data import Data, Source
from mm1_ablate.config.experiment import Experiment
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
    sweep = {"sweep": "document", "experiment": "experiment.yaml", "seeds": [0], **BLOCKS[2]}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    study = load_study(tmp_path / "sweep.yaml", "nowhere")
    assert len({trial.fingerprint for trial in study.trials}) == len(study.arms) == 12
    assert isinstance(study.sweep, Sweep)


# ---------------------------------------------------------------- a format of one's own
CAPTIONS = ["a red circle on the left", "a blue square on the right"] * 8


@pytest.fixture
def own_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the document beside an experiment that reads a table with it, one line of which is too short."""
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "base64_tsv", raising=False)
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (tmp_path / "base64_tsv.py").write_text(code)
    lines = [f"{key}\t{text}\t{base64.b64encode(jpeg(8 * key)).decode()}" for key, text in enumerate(CAPTIONS)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.tsv").write_text("\n".join([*lines, "16\ta red circle"]))
    declared = BLOCKS[1]["sources"]["pictures"] | {"max_bad_share": 1.0}
    del declared["keep"]  # the pictures of a test are smaller than those of the document
    tree = tiny_experiment({"data.mixture": {"captioned": 1}, "training.steps": 2}).model_dump(mode="json")
    tree["data"]["sources"] = {"pictures": declared}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return tmp_path


def test_the_format_of_the_document_is_read_with_what_it_lacks_counted(own_format: Path):
    from mm1_ablate.data.documents import Unreadable

    tree = yaml.safe_load((own_format / "experiment.yaml").read_text())
    source: Source = Experiment.model_validate(tree, context={"folder": own_format}).data.sources["pictures"]
    source.check()
    opened = source.open(name="pictures")
    assert len(opened) == 17 and source.texts_after_images(3) == CAPTIONS[:3] and len(source.contents()) == 64
    document = opened[3]
    assert document.text == CAPTIONS[3] and round(document.images[0].load().mean()) == 24 and document.source == "pictures"
    with pytest.raises(Unreadable, match=r"line with too few fields: a\.tsv, record 17"):
        opened[16]


def test_the_format_of_the_document_is_shown_and_trained_on(own_format: Path):
    from mm1_ablate.cli import app
    from mm1_ablate.training.fit import fit

    done = CliRunner().invoke(app, ["data", str(own_format / "experiment.yaml"), "--json", "--to", str(own_format / "data.html")])
    assert done.exit_code == 0, done.output
    pictures = json.loads(done.stdout)["sources"]["pictures"]
    assert (pictures["documents"], pictures["usable"], pictures["bad"]) == (17, 16, {"line with too few fields": 1})
    tree = yaml.safe_load((own_format / "experiment.yaml").read_text())
    experiment = Experiment.model_validate(tree, context={"folder": own_format})
    (own_format / "trial").mkdir()
    fit(experiment, 0, None, None, own_format / "trial", lambda progress: None)
    account = json.loads((own_format / "trial" / "data.json").read_text())
    assert account["pictures"]["images"] > 0
