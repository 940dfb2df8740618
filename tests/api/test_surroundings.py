"""The package's front door: quick to import, errors as exceptions, stores where the commands look for them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import mm1_ablate as mm

HEAVY = ("pandas", "torch", "ray", "mlflow", "matplotlib", "scipy", "typer", "mm1_ablate.api")


def test_importing_the_package_imports_nothing_else() -> None:
    code = f"import sys, json, mm1_ablate; print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_all_that_is_public_is_there_and_documented() -> None:
    for name in mm.__all__:
        assert getattr(mm, name) is not None and name in dir(mm)
    page = (Path(__file__).parents[2] / "docs" / "python_api.md").read_text()
    methods = [name for name in vars(mm.Study) if not name.startswith("_")]
    attributes = [name for name in vars(mm.Plan)["__dataclass_fields__"] if not name.startswith("_")]
    missing = [name for name in (*mm.__all__, *methods, *attributes) if f"`{name}" not in page and f".{name}" not in page]
    assert not missing
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mm.nothing  # noqa: B018


def test_a_wrong_file_raises_all_its_errors(tiny_sweep: Path) -> None:
    tiny_sweep.write_text(tiny_sweep.read_text().replace("seeds: [0, 1]", "seeds: none").replace("remove_each", "remove_all"))
    with pytest.raises(mm.StudyError, match=r"tiny.yaml:3:.*[\s\S]*tiny.yaml:6:.*") as raised:
        mm.Study(tiny_sweep)
    assert raised.value.exit_code == 2
    with pytest.raises(mm.StudyError, match="did you mean"):
        mm.Study(tiny_sweep.with_name("tinny.yaml"))


def test_a_budget_that_is_exceeded_starts_nothing(tiny_sweep: Path, tmp_path: Path) -> None:
    tiny_sweep.write_text(tiny_sweep.read_text() + "budget: {cpu_hours: 0}\n")
    study = mm.Study(tiny_sweep, tmp_path / "store")
    assert study.plan().over_budget
    with pytest.raises(mm.StudyError, match="raise the budget") as raised:
        study.run()
    assert raised.value.exit_code == 3 and not (tmp_path / "store" / "trials").exists()


def test_the_store_is_where_the_commands_look_for_it(tiny_sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mm.Study(tiny_sweep).store == str(Path("ablations").resolve())
    monkeypatch.setenv("MM1_ABLATE_STORE", "elsewhere")
    assert mm.Study(tiny_sweep).store == str(Path("elsewhere").resolve())
    assert mm.Study(tiny_sweep).tracking_uri == f"sqlite:///{Path('elsewhere').resolve()}/mlflow.db"
    with pytest.raises(mm.StudyError, match="is a file"):
        mm.Study(tiny_sweep, tiny_sweep)
