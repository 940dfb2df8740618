"""The rooms of CONTRIBUTING.md: imports go downwards only, no module is part of a circle, and heavy libraries stay in their rooms.

Every import counts: inside functions, for type checkers alone, and by string: a text that is the name of a module, such as what is given to
`importlib.import_module` or `ComponentOf`, the target of a job ("module:function") or what `python -m` runs.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mm1_ablate"
BELOW = {
    "config": (),
    "miniature": ("data.documents", "data.counter_based_random"),
    "data": ("miniature", "config"),
    "model": ("data", "config"),
    "evaluation": ("model", "data", "config"),
    "training": ("evaluation", "model", "data", "config"),
    "store": ("training", "evaluation", "model", "data", "config"),
    "report": ("evaluation", "data", "config"),
    "plan": ("report", "store", "training", "evaluation", "model", "data", "config"),
    "run": ("plan", "report.terminal", "store", "training", "evaluation", "model", "data", "config"),
    "tracking": ("run", "store", "config"),
    "commands": ("tracking", "run", "plan", "report", "store", "training", "evaluation", "model", "data", "config"),
}
"""Which rooms, or single modules of a room, a room may import from."""
COMPONENTS = {"data.sources", "data.items", "model.connectors", "evaluation.metrics"}
"""Folders of components, which users extend by classes of their own. A setting of config names such a folder, and what a file says by
`type` is imported from there when it is validated: so a new component takes one file and no registration. Config has the base class of
each, and needs nothing else of the folder."""
TRAINS = {"torch", "torchvision", "lightning", "transformers", "timm"}
NOT_IN = {room: {"ray", "mlflow"} for room in BELOW}
NOT_IN["config"] |= {*TRAINS, "pandas"}
NOT_IN["run"] = {"mlflow"}
NOT_IN["tracking"] = {"ray"}


def modules() -> dict[str, Path]:
    """All modules of the package by name."""
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imported(text: str, known: set[str]) -> Iterator[str]:
    """Full names of what a module imports: of its own package the modules, of others whatever is written."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in known else str(node.module)


def named(text: str, known: set[str]) -> Iterator[str]:
    """Modules that a module names in a string, alone or with something of theirs: "mm1_ablate.run.trial:run_trial"."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[\w.]+(:\w+)?", node.value):
            name = node.value.partition(":")[0]
            if name in known or (name := name.rpartition(".")[0]) in known:
                yield name


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """By module all that it imports, components aside."""
    known = modules()
    found = {}
    for name, path in known.items():
        text = path.read_text()
        # The name of the package alone is a key in checkpoints.
        by_string = {
            other for other in named(text, set(known) - {"mm1_ablate"}) if not (room(name) == "config" and below(other) in COMPONENTS)
        }
        found[name] = {*imported(text, set(known)), *by_string}
    return found


def room(module: str) -> str:
    return module.split(".")[1] if module.startswith("mm1_ablate.") else ""


def below(module: str) -> str:
    return module.removeprefix("mm1_ablate.")


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules each of which imports all others of its set, if only by way of them."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph.get(waiting.pop(), set()) - found
            found |= new
            waiting += new
        return found

    reach = {module: reached(module) for module in graph}
    sets = {frozenset(other for other in reach[module] if module in reach.get(other, ())) for module in graph if module in reach[module]}
    return sorted(map(set, sets), key=sorted)


@pytest.mark.parametrize("name", BELOW)
def test_a_room_imports_from_rooms_below_it_only(imports: dict[str, set[str]], name: str) -> None:
    allowed = {name, "version", *BELOW[name]}
    ours = {module: names for module, names in imports.items() if room(module) == name}
    wrong = [
        f"{module} imports {other}"
        for module, names in ours.items()
        for other in sorted(names)
        if room(other) not in {"", *allowed} and below(other) not in allowed
    ]
    assert ours and not wrong


def test_no_module_is_part_of_a_circle(imports: dict[str, set[str]]) -> None:
    ours = {module: {other for other in names if other in imports and other != module} for module, names in imports.items()}
    assert circles(ours) == []


def test_what_is_imported_from_the_package_exists() -> None:
    """Also inside functions, which a type checker that ignores missing imports does not see."""
    known = modules()
    ours = [*PACKAGE.rglob("*.py"), *PACKAGE.parent.glob("tests/**/*.py"), *PACKAGE.parent.glob("benchmarks/*.py")]
    wrong = [
        f"{path.relative_to(PACKAGE.parent)} imports {other}"
        for path in ours
        for other in imported(path.read_text(), set(known))
        if other.partition(".")[0] == "mm1_ablate" and other not in known
    ]
    assert wrong == []


@pytest.mark.parametrize("name", NOT_IN)
def test_a_room_leaves_heavy_libraries_to_those_above_it(imports: dict[str, set[str]], name: str) -> None:
    wrong = [
        f"{module} imports {other}"
        for module, names in imports.items()
        for other in sorted(names)
        if room(module) == name and other.partition(".")[0] in NOT_IN[name]
    ]
    assert wrong == []


def test_object_storage_is_used_only_inside_the_store() -> None:
    """Not for types alone either, nor by a string."""
    outside = {name: path.read_text() for name, path in modules().items() if room(name) != "store"}
    assert [name for name, text in outside.items() if "store.bucket" in text or "store import bucket" in text] == []


def test_what_computes_a_comparison_imports_nothing_that_shows_it(imports: dict[str, set[str]]) -> None:
    """All that the comparison needs, near and far, is free of rich, jinja2 and matplotlib."""
    needed, waiting = set(), ["mm1_ablate.report.comparison", "mm1_ablate.report.aa_check", "mm1_ablate.report.statistics"]
    while waiting:
        module = waiting.pop()
        if module not in needed:
            needed.add(module)
            waiting += [other for other in imports[module] if room(other) == "report" and other in imports]
    shows = {"rich", "jinja2", "matplotlib"}
    wrong = [f"{module} imports {other}" for module in sorted(needed) for other in imports[module] if other.partition(".")[0] in shows]
    assert wrong == []


@pytest.mark.parametrize(
    "line",
    [
        "def f():\n    from mm1_ablate.b import g\n",
        "if TYPE_CHECKING:\n    from mm1_ablate.b import g\n",
        "b = importlib.import_module('mm1_ablate.b')\n",
        "b = ComponentOf('mm1_ablate.b')\n",
        "JOB = 'mm1_ablate.b:main'\n",
        "run([sys.executable, '-m', 'mm1_ablate.b'])\n",
    ],
)
def test_whatever_way_a_module_is_imported_a_circle_is_found(line: str) -> None:
    known = {"mm1_ablate.a", "mm1_ablate.b"}
    texts = {"mm1_ablate.a": line, "mm1_ablate.b": "import mm1_ablate.a\n"}
    assert circles({name: {*imported(text, known), *named(text, known)} for name, text in texts.items()}) == [known]
    assert circles({name: {*imported(text, known), *named(text, known)} for name, text in texts.items() if name.endswith("a")}) == []
