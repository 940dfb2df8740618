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
def test_mutants_of_holms_correction_are_noticed_and_those_that_no_test_calls_are_shown(tmp_path: Path) -> None:
    pytest.importorskip("mutmut", reason="pip install '.[mutation]'")
    for folder in ("mm1_ablate", "tests/helpers"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("benchmarks/mutation_sample.py", "tests/conftest.py", TESTS):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / file, tmp_path / file)
    declared = (REPOSITORY / "pyproject.toml").read_text()
    for key, value in (("only_mutate", MODULES), ("pytest_add_cli_args_test_selection", [TESTS, "-k", "holm or hole"])):
        declared, replaced = re.subn(rf"(?ms)^{key} = \[.*?\]$", f"{key} = {value}", declared)
        assert replaced == 1
    (tmp_path / "pyproject.toml").write_text(declared)

    def sample(pattern: str) -> str:
        command = [sys.executable, "benchmarks/mutation_sample.py", "--mutants", "4", "--processes", "1", f"mm1_ablate.report.{pattern}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert re.search(r"(?m)^4 of 4 mutants noticed, of \d+: \{'killed': 4\}$", sample("statistics.holm"))
    shown = sample("formats.percent")
    assert re.search(r"(?m)^0 of 2 mutants noticed, of 2: \{'no tests': 2\}$", shown)
    assert len(re.findall(r"(?m)^-    .*\n\+    ", shown)) == 2
