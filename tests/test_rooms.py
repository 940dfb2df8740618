"""The rooms of CONTRIBUTING.md: imports go downwards only, no module is part of a circle, and heavy libraries stay in their rooms.

Imports inside functions count, as they make a circle too; those for type checkers alone do not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
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
    "run": ("plan", "store", "training", "evaluation", "model", "data", "config"),
    "tracking": ("run", "store", "config"),
    "commands": ("tracking", "run", "plan", "report", "store", "training", "evaluation", "model", "data", "config"),
}
"""Which rooms, or single modules of a room, a room may import from."""
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

    def below(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                for other in child.orelse:
                    yield other
                    yield from below(other)
                continue
            yield child
            yield from below(child)

    for node in below(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in known else str(node.module)


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    known = modules()
    return {name: set(imported(path.read_text(), set(known))) for name, path in known.items()}


def room(module: str) -> str:
    return module.split(".")[1] if module.startswith("mm1_ablate.") else ""


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import one another, the first also as the last; empty where there are none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


@pytest.mark.parametrize("name", BELOW)
def test_a_room_imports_from_rooms_below_it_only(imports: dict[str, set[str]], name: str) -> None:
    allowed = {name, *BELOW[name]}
    ours = {module: names for module, names in imports.items() if room(module) == name}
    wrong = [
        f"{module} imports {other}"
        for module, names in ours.items()
        for other in sorted(names)
        if room(other) not in {"", *allowed} and other.removeprefix("mm1_ablate.") not in allowed
    ]
    assert ours and not wrong


def test_no_module_is_part_of_a_circle(imports: dict[str, set[str]]) -> None:
    ours = {module: {other for other in names if other in imports and other != module} for module, names in imports.items()}
    assert circle(ours) == []


@pytest.mark.parametrize("name", NOT_IN)
def test_a_room_leaves_heavy_libraries_to_those_above_it(imports: dict[str, set[str]], name: str) -> None:
    wrong = [
        f"{module} imports {other}"
        for module, names in imports.items()
        for other in sorted(names)
        if room(module) == name and other.partition(".")[0] in NOT_IN[name]
    ]
    assert wrong == []


def test_object_storage_is_known_to_nobody_outside_the_store() -> None:
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


def test_a_circle_through_a_function_is_found_and_one_for_types_is_not() -> None:
    known = {"a", "b"}
    late = {"a": set(imported("def f():\n    from b import g\n", known)), "b": set(imported("import a\n", known))}
    types = {"a": set(imported("if TYPE_CHECKING:\n    from b import g\n", known)), "b": set(imported("import a\n", known))}
    assert set(circle(late)) == known
    assert circle(types) == []
