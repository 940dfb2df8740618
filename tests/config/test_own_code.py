"""Which files of a user's own a component is made of: its module, and what that imports from beside it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mm1_ablate.config.own_code import own_code


def digests(folder: Path, monkeypatch: pytest.MonkeyPatch, module: str, files: dict[str, str]) -> dict[str, str]:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == module.partition(".")[0]]:
        monkeypatch.delitem(sys.modules, name)
    return own_code([module])


def test_what_a_module_imports_from_beside_it_counts_also_inside_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "own_mean.py": "import own_helper\nimport torch, json\n",
        "own_helper.py": "def build():\n    from own_layers import Layer\n    return Layer\n",
        "own_layers.py": "Layer = 1\n",
        "own_other.py": "",
    }
    found = digests(tmp_path, monkeypatch, "own_mean", files)
    assert list(found) == ["own_helper.py", "own_layers.py", "own_mean.py"]
    changed = digests(tmp_path, monkeypatch, "own_mean", {"own_layers.py": "Layer = 2\n"})
    assert {name for name in found if found[name] != changed[name]} == {"own_layers.py"}


def test_a_package_counts_with_its_relative_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "own_lab/__init__.py": "",
        "own_lab/connectors/__init__.py": "from . import mean\n",
        "own_lab/connectors/mean.py": "from ..layers import norm\nfrom .parts import *\n",
        "own_lab/connectors/parts.py": "",
        "own_lab/layers.py": "norm = 1\n",
        "own_lab/unused.py": "",
    }
    found = digests(tmp_path, monkeypatch, "own_lab.connectors.mean", files)
    expected = ["__init__.py", "connectors/__init__.py", "connectors/mean.py", "connectors/parts.py", "layers.py"]
    assert list(found) == [f"own_lab/{name}" for name in expected]


def test_of_what_is_installed_only_the_package_itself_counts() -> None:
    files = own_code(["yaml.nodes"])
    assert "yaml/nodes.py" in files and all(name.startswith("yaml/") for name in files)
