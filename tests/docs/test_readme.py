"""README, changelog, citation and package metadata agree with what is there, in the repository and on a package index."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.version import Version

from mm1_ablate import __version__
from mm1_ablate.commands.init import sweep_schema
from mm1_ablate.config.sweep.declaration import Sweep

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
RELATIVE = re.compile(r"!?\[[^\]]*\]\((?!https?:)([^)]+)\)")


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    """The hook that makes the package's metadata."""
    sys.path.insert(0, str(REPOSITORY))
    try:
        return importlib.import_module("hatch_build")
    finally:
        sys.path.remove(str(REPOSITORY))


def metadata(folder: Path) -> Any:
    """What pip and a package index are told, as hatchling computes it."""
    from hatchling.metadata.core import ProjectMetadata
    from hatchling.plugin.manager import PluginManager

    return ProjectMetadata(str(folder), PluginManager()).core


def test_links_of_the_readme_lead_to_files_of_the_repository() -> None:
    links = RELATIVE.findall(README)
    assert len(links) > 20
    assert [link for link in links if not (REPOSITORY / link.partition("#")[0]).exists()] == []


def test_the_sweep_of_the_readme_is_valid() -> None:
    from jsonschema import Draft202012Validator

    (text,) = (block for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if "sweep:" in block)
    tree = yaml.safe_load(text)
    assert len(Sweep.model_validate(tree).ablations) == 4
    assert list(Draft202012Validator(sweep_schema()).iter_errors(tree)) == []


def test_on_an_index_links_lead_to_the_files_of_this_version(hook: ModuleType) -> None:
    shown = hook.readme_for_an_index(README, "https://host/owner/mm1-ablate", "1.2.3")
    assert RELATIVE.findall(shown) == []
    assert "(https://host/owner/mm1-ablate/blob/v1.2.3/docs/tutorial.md)" in shown
    assert "](https://host/owner/mm1-ablate/raw/v1.2.3/docs/quickstart.png)" in shown
    assert "https://arxiv.org/abs/2403.09611" in shown


def test_without_an_address_an_index_shows_names_of_files_and_no_dead_links(hook: ModuleType) -> None:
    shown = hook.readme_for_an_index(README, "", "1.2.3")
    assert RELATIVE.findall(shown) == [] and "![" not in shown
    assert "your data (`docs/data.md`)" in shown and "`CHANGELOG.md`" in shown
    assert hook.addresses("", "1.2.3") == {}


def test_the_package_has_the_readme_and_the_address_that_is_declared_once(tmp_path: Path) -> None:
    for name in ("README.md", "pyproject.toml", "hatch_build.py", "LICENSE", "mm1_ablate/version.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((REPOSITORY / name).read_text())
    before = metadata(tmp_path)
    assert RELATIVE.findall(before.readme) == [] and before.readme_content_type == "text/markdown"
    assert before.authors and {"Operating System :: POSIX :: Linux", "Typing :: Typed"} <= set(before.classifiers)
    declared = (tmp_path / "pyproject.toml").read_text()
    assert len(re.findall(r"^repository = ", declared, re.MULTILINE)) == 1
    (tmp_path / "pyproject.toml").write_text(
        re.sub(r'^repository = ".*"', 'repository = "https://host/a/b/"', declared, flags=re.MULTILINE)
    )
    after = metadata(tmp_path)
    assert after.urls["Repository"] == "https://host/a/b"
    assert (
        f"https://host/a/b/blob/v{__version__}/docs/index.md" == after.urls["Documentation"] and after.urls["Documentation"] in after.readme
    )


def test_version_changelog_and_citation_agree() -> None:
    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    first, *others = re.findall(r"^## (\S+)", changelog, re.MULTILINE)
    version = Version(__version__)
    if first == "Unreleased":
        assert version.is_devrelease and version > Version(others[0]), "what is not released is a development version of the next one"
    else:
        assert Version(first) == version
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["cff-version"] and citation["title"] and citation["authors"] and citation["license"] == "Apache-2.0"
    assert citation["version"] == __version__ and f"version = {{{__version__}}}" in (REPOSITORY / "docs" / "citing.md").read_text()
