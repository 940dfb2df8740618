"""The test suite itself: what tests share is in helpers, and what is said of files is said of files that exist."""

from __future__ import annotations

import ast
from pathlib import Path

from conftest import SLOW_FILES

TESTS = Path(__file__).parent


def test_no_test_file_imports_another() -> None:
    """Children of tests do, by name; what tests share is in tests/helpers."""
    imported: list[str] = []
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [one.name for one in node.names] if isinstance(node, ast.Import) else []
            imported += [f"{path.relative_to(TESTS)} imports {name}" for name in names if name.startswith("test_")]
    assert not imported


def test_files_that_begin_first_exist() -> None:
    assert not [name for name in SLOW_FILES if not (TESTS / name).is_file()]
