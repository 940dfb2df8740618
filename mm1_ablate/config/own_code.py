"""The code that a user wrote: modules of components of their own, and what these import from beside them. Nothing is run.

In: settings that name components by `module.Class`, or a module. Out: by file, such as `helper.py` or `my_lab/connectors.py`, a digest of
what it says. Imports inside functions count; those of packages that are installed do not, unless the component is of that package itself.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mm1_ablate.config.settings import Component, Settings

PACKAGE = __name__.partition(".")[0]


def own_modules(settings: Settings) -> set[str]:
    """The modules of a user's own components that settings hold, at any depth."""
    found: set[str] = set()

    def collect(value: Any) -> None:
        if isinstance(value, Settings):
            if isinstance(value, Component) and type(value).__module__.partition(".")[0] != PACKAGE:
                found.add(type(value).__module__)
            for name in type(value).model_fields:
                collect(getattr(value, name))
        elif isinstance(value, dict):
            for each in value.values():
                collect(each)
        elif isinstance(value, list | tuple):
            for each in value:
                collect(each)

    collect(settings)
    return found


def own_code(modules: Iterable[str]) -> dict[str, str]:
    """By file as seen from where its package begins, the first 8 hex digits of the SHA-256 of what it says: modules, and all that they
    import from beside them."""
    return {name: hashlib.sha256(content).hexdigest()[:8] for name, content in own_sources(modules).items()}


def own_sources(modules: Iterable[str]) -> dict[str, bytes]:
    """The same files, and what they say. A module that is written in no file, such as a notebook's, has none."""
    found: dict[str, bytes] = {}
    for module in sorted(modules):
        file = _file_of(module)
        if file is None:
            continue
        root = file.parents[module.count(".") + (file.name == "__init__.py")]
        top = module.partition(".")[0] if _is_installed(root) else None
        waiting, seen = [(module, file)], {file}
        while waiting:
            name, file = waiting.pop()
            content = file.read_bytes()
            found[file.relative_to(root).as_posix()] = content
            for imported in _imported(name, file, content):
                beside = _beside(imported, root) if top in (None, imported.partition(".")[0]) else None
                if beside is not None and beside not in seen:
                    seen.add(beside)
                    waiting.append((imported, beside))
    return dict(sorted(found.items()))


def _file_of(module: str) -> Path | None:
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    if loaded is None:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            return None
        file = spec.origin if spec else None
    path = Path(file) if file else None
    return path.resolve() if path is not None and path.suffix == ".py" and path.is_file() else None


def _is_installed(root: Path) -> bool:
    """Whether a folder is one of Python's, which holds all packages there are."""
    paths = sysconfig.get_paths()
    return any(root == Path(paths[name]).resolve() for name in ("purelib", "platlib", "stdlib", "platstdlib"))


def _imported(module: str, file: Path, content: bytes) -> Iterator[str]:
    """Names of modules that a module may import, each package above them included; some are names of what is in a module."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    yield from _with_packages(package)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_packages(alias.name)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level and package else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield from _with_packages(f"{base}.{alias.name}" if base else alias.name)


def _with_packages(name: str) -> Iterator[str]:
    parts = name.split(".")
    yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1) if name)


def _beside(module: str, root: Path) -> Path | None:
    if module.partition(".")[0] == PACKAGE:
        return None
    path = root.joinpath(*module.split("."))
    for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
        if file.is_file():
            return file
    return None
