"""The site builds without a warning, its reference pages are those of today, and every setting in them has what a reader looks for."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import TypeAdapter

from mm1_ablate.config.paths import declared

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def made() -> ModuleType:
    """The module that makes the reference pages."""
    sys.path.insert(0, str(DOCS))
    try:
        return importlib.import_module("reference_pages")
    finally:
        sys.path.remove(str(DOCS))


def build(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-d",
        str(out / "doctrees"),
        "-c",
        str(DOCS),
        str(source),
        str(out),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_site_builds_without_a_warning_and_leads_to_every_page(tmp_path: Path) -> None:
    built = build(DOCS, tmp_path)
    assert built.returncode == 0, built.stderr
    for page in DOCS.rglob("*.md"):
        assert (tmp_path / page.relative_to(DOCS).with_suffix(".html")).is_file(), f"{page} is not on the site"
    shown = (tmp_path / "reference" / "experiment.html").read_text()
    assert 'href="#data-packing"' in shown and "Nominal length of a packed row" in shown
    assert "A data format" in (tmp_path / "contributing.html").read_text(), "the site has the file of the repository"


@pytest.mark.parametrize("wrong", ["[a page](missing.md)", "[a section](index.md#missing)", "```{toctree}\nmissing\n```"])
def test_a_page_that_leads_nowhere_is_refused(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "index.md").write_text(f"# One page\n\n{wrong}\n")
    built = build(tmp_path / "pages", tmp_path / "site")
    assert built.returncode != 0 and "missing" in built.stderr


@pytest.mark.parametrize("name", ["sweep.md", "experiment.md", "task.md", "commands.md"])
def test_the_reference_pages_are_those_of_today(made: ModuleType, name: str) -> None:
    assert (DOCS / "reference" / name).read_text() == made.pages()[name], "run: python docs/reference_pages.py"


@pytest.mark.parametrize("kind", ["sweep", "experiment", "task"])
def test_every_setting_has_meaning_type_default_and_example(made: ModuleType, kind: str) -> None:
    rows = re.findall(r"^\| (`.*) \|$", made.page_of(kind), re.MULTILINE)
    cells = [re.split(r"(?<!\\) \| ", row) for row in rows]
    assert len(cells) > 20 and {len(row) for row in cells} == {5}
    for setting, told, takes, _, default in cells:
        meaning, _, example = told.partition(" Example: ")
        assert meaning and takes and default, setting
        assert example.strip("`'\"").startswith(setting.strip("`")), (setting, example)


def test_every_number_that_a_file_declares_has_a_unit_or_counts_what_its_description_says(made: ModuleType) -> None:
    for kind, root in made.ROOTS.items():
        for settings in made.sections(root):
            if settings.__module__.startswith("mm1_ablate.config"):
                numbers = [name for name in settings.model_fields if "number" in made.type_in_words(settings, name)]
                assert set(numbers) <= set(made.UNITS), f"{kind}: {settings.__name__}; name its unit in docs/reference_details.py"


def test_the_examples_of_the_reference_are_accepted(made: ModuleType) -> None:
    classes = {settings.__name__: settings for root in made.ROOTS.values() for settings in made.sections(root)}
    classes |= {kind.__name__: kind for settings in list(classes.values()) for kind in settings.__mro__ if hasattr(kind, "model_fields")}
    for (name, field), example in made.EXAMPLES.items():
        if (name, field) != ("Experiment", "starts_from"):  # the path of a file, which is read before
            TypeAdapter(declared(classes[name].model_fields[field])).validate_python(example)


def test_every_section_has_a_heading_of_its_own(made: ModuleType) -> None:
    for kind in made.ROOTS:
        headings = re.findall(r"^## (.*)$", made.page_of(kind), re.MULTILINE)
        assert len(set(headings)) == len(headings)
        linked = set(re.findall(r"\]\(#([^)]*)\)", made.page_of(kind)))
        assert linked <= {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
