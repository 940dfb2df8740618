"""The sample of mutants, tried on a copy of two small modules and of the tests that belong to one of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MODULES, TESTS = ["mm1_ablate/report/statistics.py", "mm1_ablate/report/formats.py"], "tests/report/test_statistics.py"


@pytest.mark.slow
def test_mutants_that_tests_notice_are_counted_and_those_that_no_test_calls_are_shown(tmp_path: Path) -> None:
    pytest.importorskip("mutmut", reason="pip install '.[mutation]'")
    for folder in ("mm1_ablate", "tests/helpers"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("benchmarks/mutation_sample.py", "tests/conftest.py", TESTS):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / file, tmp_path / file)
    declared = (REPOSITORY / "pyproject.toml").read_text()
    for key, value in (("only_mutate", MODULES), ("pytest_add_cli_args_test_selection", [TESTS, "-k", "hochberg"])):
        declared, replaced = re.subn(rf"(?ms)^{key} = \[.*?\]$", f"{key} = {value}", declared)
        assert replaced == 1
    (tmp_path / "pyproject.toml").write_text(declared)

    patterns = ["mm1_ablate.report.statistics.benjamini_hochberg", "mm1_ablate.report.formats.percent"]
    command = [sys.executable, "benchmarks/mutation_sample.py", "--mutants", "100", "--processes", "1", *patterns]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"(?m)^(\d+) of (\d+) mutants noticed, of \2: \{.*'no tests': 2\b.*\}$", done.stdout)
    assert found and 8 < int(found[1]) <= int(found[2]) - 2, done.stdout
    assert len(re.findall(r"(?m)^== no tests: mm1_ablate\.report\.formats\.x_percent__", done.stdout)) == 2
    assert 'return f"{100 / confidence:g} %"' in done.stdout
