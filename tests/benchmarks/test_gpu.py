"""The GPU benchmark's code on a CPU: it runs, what it compares is equal, and without a GPU it measures nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(BENCHMARK), *words], capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_without_a_gpu_nothing_is_measured() -> None:
    done = run()
    assert done.returncode == 2 and "no GPU" in done.stderr and not done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="Lightning would take the GPU")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_toy_goes_through_all_of_it(precision: str, tmp_path: Path) -> None:
    few = ["--rows", "2", "--micro-batches", "2", "--warm-up", "1", "--steps", "2", "--items", "4", "--shots", "0", "2"]
    done = run("--tiny", "--device", "cpu", "--peak", "1e12", "--precision", precision, *few, "--json", str(tmp_path / "numbers.json"))
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    step, attention = numbers["step"], numbers["attention"]
    assert step["tokens"] > 256 and step["images"] == 64 and step["seconds"] > 0
    assert 0 < step["utilisation"] == pytest.approx(step["model_flops"] / step["seconds"] / 1e12)
    assert attention["packed_from_alone"] < (1e-4 if precision == "32-true" else 0.1)
    assert [row["shots"] for row in numbers["few_shot"]] == [0, 2]
    if precision == "32-true":
        assert all(row["equal_answers"] == 1 for row in numbers["few_shot"])
    assert "these numbers mean nothing" in done.stdout and "| model FLOPs utilisation | " in done.stdout
