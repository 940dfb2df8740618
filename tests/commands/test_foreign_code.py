"""Whose code runs when a file is looked at: one's own classes, which are named, or none at all; never that of a model."""

from __future__ import annotations

import builtins
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import call

OWN = """
from pathlib import Path
from typing import Any, Literal

from mm1_ablate.config.connector import Connector

Path(__file__).with_name("ran").touch()


class Own(Connector):
    type: Literal["{name}.Own"] = "{name}.Own"
    slope: float = 1.0

    def build(self, encoder_width: int, grid_side: int, language_width: int) -> Any:
        from mm1_ablate.model.connectors.average_pool import AveragePool

        return AveragePool(image_tokens=self.image_tokens).build(encoder_width, grid_side, language_width)
"""


@pytest.fixture
def foreign(tiny_sweep: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A sweep with a connector of its author's own beside it, in a module that leaves a mark when it is run."""
    module = f"foreign_{abs(hash(request.node.name))}"
    (tiny_sweep.parent / f"{module}.py").write_text(OWN.format(name=module))
    own = f"  own:\n    alter: {{model.connector: {{type: {module}.Own, image_tokens: 4}}}}\n"
    tiny_sweep.write_text(tiny_sweep.read_text().replace("compare:", f"{own}compare:"))
    before = list(sys.path)
    yield tiny_sweep
    sys.path[:] = before
    sys.modules.pop(module, None)


def test_without_imports_a_file_is_read_and_no_code_of_its_author_is_run(foreign: Path) -> None:
    done = call("validate", foreign, "--no-import")
    assert done.exit_code == 0, done.stderr
    assert not (foreign.parent / "ran").exists()
    assert "nothing wrong, as far as that can be said without importing" in done.stdout and "is not imported here" in done.stdout
    assert f"{foreign}:" in done.stdout and "foreign_" in done.stdout
    told = json.loads(call("validate", foreign, "--no-import", "--json").stdout)
    assert told["valid"] and told["files"][0]["not_expanded"] and len(told["files"][0]["warnings"]) == 1

    foreign.write_text(foreign.read_text().replace("shot_0/average]", "shot_0/averag]").replace("seeds: [0, 1]", "seeds: [0, many]"))
    done = call("validate", foreign, "--no-import")
    assert done.exit_code == 2 and "expected a whole number" in done.stderr and not (foreign.parent / "ran").exists()


def test_without_imports_a_file_that_names_no_own_class_is_checked_as_ever(tiny_sweep: Path) -> None:
    assert call("validate", tiny_sweep, "--no-import").stdout == call("validate", tiny_sweep).stdout
    experiment = tiny_sweep.parent.parent / "experiments" / "tiny.yaml"
    experiment.write_text(experiment.read_text().replace("type: average_pool", "type: no_such_module.Pool"))
    done = call("validate", tiny_sweep, "--no-import")
    assert done.exit_code == 0 and "'no_such_module.Pool' is a class of your own that is not imported here" in done.stdout
    assert call("validate", tiny_sweep).exit_code == 2


def test_the_plan_names_the_classes_that_were_imported_and_their_files(foreign: Path, tmp_path: Path) -> None:
    done = call("plan", foreign, "--store", tmp_path / "store", COLUMNS="300")
    assert done.exit_code == 0, done.stderr
    assert (foreign.parent / "ran").exists()
    (module,) = foreign.parent.glob("foreign_*.py")
    assert f"imported, with all that it does: {module.stem}.Own ({module})" in done.stdout
    told = json.loads(call("plan", foreign, "--store", tmp_path / "store", "--json").stdout)
    assert told["imported"] == {f"{module.stem}.Own": str(module)}


def test_models_that_bring_code_are_refused_and_nobody_is_asked(tiny_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model"
    model.mkdir()
    code = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    for name in ("configuration_foreign", "modeling_foreign", "tokenization_foreign"):
        (model / f"{name}.py").write_text(code)
    classes = {"AutoConfig": "configuration_foreign.Config", "AutoModelForCausalLM": "modeling_foreign.Model"}
    (model / "config.json").write_text(json.dumps({"model_type": "foreign", "auto_map": classes}))
    tokenizers = {"AutoTokenizer": ["tokenization_foreign.Tokenizer", None]}
    (model / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Tokenizer", "auto_map": tokenizers}))
    asked: list[str] = []
    monkeypatch.setattr(builtins, "input", lambda prompt="": asked.append(prompt) or "y")
    experiment = tiny_sweep.parent.parent / "experiments" / "tiny.yaml"
    text = experiment.read_text()
    for changed in (f"name: {model}", f"tokenizer: {model}"):
        begin, _, rest = text.partition("  language_model:\n")
        if changed.startswith("name"):
            section = f"    {changed}\n    tokenizer: {model}\n"
            following = rest[rest.index("training:") :]
            experiment.write_text(f"{begin}  language_model:\n{section}{following}")
        else:
            experiment.write_text(f"{begin}  language_model:\n    {changed}\n" + rest.replace("    tokenizer: miniature\n", ""))
        done = call("validate", tiny_sweep)
        assert done.exit_code == 2 and isinstance(done.exception, SystemExit), (done.exception, done.stdout)
        assert "custom code" in done.stderr or "refused" in done.stderr, done.stderr
        assert not asked and not (tmp_path / "ran").exists()
