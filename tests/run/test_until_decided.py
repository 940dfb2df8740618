"""Seeds until decided, on a real Ray: a look takes only what is open, a killed run goes on, a failure holds up nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from study_helpers import noisy_trial, until_decided

from mm1_ablate.config.study import Study
from mm1_ablate.plan.until_decided import as_needed
from mm1_ablate.run.scheduler import Outcome, RunOptions
from mm1_ablate.run.until_decided import run_until_decided
from mm1_ablate.store.store import Store

HERE = Path(__file__).parent
OPTIONS = RunOptions(cpus=2, run_trial="study_helpers:noisy_trial", preload=("pandas",))
ARMS = ("baseline", "clear", "slow")


class Looks:
    """What was shown: the trials of each look, and the lines on it."""

    def __init__(self) -> None:
        self.trials: list[list[str]] = []
        self.lines: list[str] = []

    @contextmanager
    def __call__(self, study: Study) -> Iterator[Callable[[str], None]]:
        self.trials.append([trial.name for trial in study.trials])
        yield self.lines.append


def names(**seeds: int) -> list[str]:
    return [f"{arm}/seed-{seed}" for arm, count in seeds.items() for seed in range(count)]


def times_begun(study: Study, store: Store) -> dict[str, int]:
    """How often work on each trial was begun; only those that were."""
    files = {trial.name: store.trial_folder(trial) / "attempts" for trial in as_needed(study, store).trials}
    return {name: len(file.read_text().splitlines()) for name, file in files.items() if file.exists()}


@pytest.mark.usefixtures("shared_ray")
def test_each_look_adds_a_seed_to_what_is_open_and_to_its_baseline(tmp_path: Path) -> None:
    study, store, looks = until_decided(ARMS), Store(tmp_path / "store"), Looks()
    outcome = run_until_decided(study, store, OPTIONS, looks)
    expected = [names(baseline=n, clear=3, slow=n) for n in (3, 4, 5, 6)]
    assert looks.trials == expected[: len(looks.trials)]
    decided_at = len(looks.trials) + 2
    assert 3 < decided_at <= 6
    assert outcome == Outcome(done=tuple(expected[len(looks.trials) - 1]), started=2 * decided_at + 3)
    assert sum(line.startswith("starting Ray") for line in looks.lines) == 1
    never = [one for one in as_needed(study, store).not_run if one.trial.arms == ("clear",)]
    assert {one.reason for one in never} == {"not needed: decided at 3 seeds"} and len(never) == 3

    again = Looks()
    assert run_until_decided(study, store, OPTIONS, again).started == 0
    assert again.trials == looks.trials[-1:] and set(times_begun(study, store).values()) == {1}


@pytest.mark.usefixtures("shared_ray")
def test_a_failed_trial_holds_up_its_comparison_alone_until_it_is_tried_again(tmp_path: Path) -> None:
    study, store = until_decided(ARMS), Store(tmp_path / "store")
    store.root.mkdir()
    (store.root / "fail-11").touch()
    outcome = run_until_decided(study, store, OPTIONS, Looks())
    assert outcome.failed == tuple(names(clear=3)) and "slow/seed-3" in outcome.done
    (store.root / "fail-11").unlink()
    retried = run_until_decided(study, store, RunOptions(**{**vars(OPTIONS), "retry": True}), Looks())
    assert not retried.failed and retried.started == 3
    assert [trial.seed for trial in as_needed(study, store).trials_of("clear")] == [0, 1, 2]


def test_a_run_that_was_killed_in_a_look_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    study, store = until_decided(ARMS), Store(tmp_path / "store")
    for trial in as_needed(study, store).trials:
        store.write_trial(trial)
        noisy_trial(str(store.root), trial.fingerprint, [trial.evaluation_fingerprint])
    (store.root / "wait-12").touch()
    program = (
        "from mm1_ablate.run.scheduler import RunOptions; from mm1_ablate.store.store import Store;"
        "from test_until_decided import Looks, run_until_decided, until_decided;"
        f"run_until_decided(until_decided({ARMS!r}), Store({str(store.root)!r}), {OPTIONS!r}, Looks())"
    )
    paths = os.pathsep.join([str(HERE), *(path for path in sys.path if path)])
    driver = subprocess.Popen([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": paths})
    try:
        fourth = {trial.name: trial for trial in as_needed(study, store).trials}
        until = time.monotonic() + 200
        while store.status(fourth["slow/seed-3"]).status != "running" or store.status(fourth["baseline/seed-3"]).status != "done":
            assert time.monotonic() < until and driver.poll() is None
            time.sleep(0.1)
    finally:
        driver.kill()
        driver.wait()
    (store.root / "wait-12").unlink()
    outcome = run_until_decided(study, store, OPTIONS, Looks())
    assert not outcome.failed and "slow/seed-3" in outcome.done
    begun = times_begun(study, store)
    assert begun.pop("slow/seed-3") == 2 and set(begun.values()) == {1}, "the one that was killed is begun again, and no other"
