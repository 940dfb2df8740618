"""Studies on a real Ray of this machine: what fails stops nobody else, what is done stays done, and nothing outlives the run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from study_helpers import quick_trial, study

from mm1_ablate.config.preparation import preparations_of
from mm1_ablate.run import child_process, signals
from mm1_ablate.run.scheduler import Outcome, ResourcesMissing, RunOptions, run_study
from mm1_ablate.run.trial import ProgressFile
from mm1_ablate.store.store import Store

HERE = Path(__file__).parent
QUICK = {"run_trial": "study_helpers:quick_trial", "run_preparation": "study_helpers:quick_preparation", "preload": ("pandas",)}
IMPORTS = (
    "from study_helpers import study; from mm1_ablate.store.store import Store; from mm1_ablate.run.scheduler import RunOptions, run_study;"
)


def attempts(store: Store, trial) -> list[str]:
    return (store.trial_folder(trial) / "attempts").read_text().split("\n")[:-1]


@pytest.mark.usefixtures("shared_ray")
def test_failures_are_distinguished_stop_no_other_trial_and_only_they_are_retried(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.root.mkdir()
    for told in ("fail-11", "kill-12", "fail-preparation"):
        (store.root / told).touch()
    tiny = study(arms=("baseline", "failing", "killed", "prepared"), seeds=(0, 1), prepared=("prepared",))
    tiny = replace(tiny, trials=(tiny.trials[0], *tiny.trials[2::2]))
    events: list[str] = []
    outcome = run_study(tiny, store, RunOptions(cpus=2, **QUICK), on_event=events.append)
    good, failing, killed, prepared = tiny.trials
    assert outcome == Outcome(done=(good.name,), failed=(failing.name, killed.name, prepared.name), started=4)
    assert store.status(failing).reason == "ArithmeticError: no trial of 11 steps ever works"
    assert "SIGKILL" in store.status(killed).reason
    assert "no images" in store.status(prepared).reason
    assert "threads 1 gpus ''" in (store.trial_folder(good) / "log.txt").read_text()
    assert [event.split()[0] for event in events][:2] == ["starting", "preparing"]
    assert not any("failed" in event for event in events), "the table says so"
    assert not (store.root / "ray").exists()

    for told in ("fail-11", "kill-12", "fail-preparation"):
        (store.root / told).unlink()
    assert run_study(tiny, store, RunOptions(**QUICK)).failed == (failing.name, killed.name, prepared.name), "without --retry"
    more = study(arms=("baseline",), tasks=("miniature_facts",)).trials[0]
    edited = replace(tiny, trials=(*tiny.trials, replace(more, name="other-tasks")))
    outcome = run_study(edited, store, RunOptions(cpus=2, retry=True, **QUICK))
    assert len(outcome.done) == 5 and not outcome.failed
    assert [len(attempts(store, trial)) for trial in (good, failing, killed, prepared)] == [2, 2, 2, 1]
    assert (store.trial_folder(good) / "trainings").read_text() == "once\n", "another evaluation trains nothing"
    assert all(store.preparation_status(part).status == "done" for part in preparations_of(prepared.experiment, 0))
    children = {line.split()[0] for trial in tiny.trials for line in attempts(store, trial)}
    assert len(children) == 8 - 1, "each attempt in a process of its own"


def test_with_nothing_to_do_ray_and_torch_are_not_even_imported(tmp_path: Path) -> None:
    store, tiny = Store(tmp_path / "store"), study()
    for trial in tiny.trials:
        store.write_trial(trial)
        quick_trial(str(store.root), trial.fingerprint, [trial.evaluation_fingerprint])
    program = (
        f"import sys; {IMPORTS} outcome = run_study(study(), Store({str(store.root)!r}));"
        "assert len(outcome.done) == 2 and outcome.started == 0; assert not {'ray', 'torch', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], env=environment(), check=True, timeout=60)


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *(path for path in sys.path if path)])}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_a_run_that_is_ended_and_its_trials_can_go_on(tmp_path: Path, how: signal.Signals) -> None:
    store, tiny = Store(tmp_path / "store"), study()
    store.root.mkdir()
    for told in ("wait-10", "wait-11"):
        (store.root / told).touch()
    program = f"{IMPORTS} print(run_study(study(), Store({str(store.root)!r}), RunOptions(cpus=2, **{QUICK!r})).interrupted)"
    driver = subprocess.Popen([sys.executable, "-c", program], env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 300
        progress = [store.trial_folder(trial) / "progress.json" for trial in tiny.trials]
        while not all(file.exists() for file in progress) and time.monotonic() < until:
            time.sleep(0.1)
        assert all(store.status(trial).status == "running" for trial in tiny.trials)
        pids = [int(pid) for trial in tiny.trials for line in attempts(store, trial) for pid in line.split()]
        assert len(pids) == 4 and all(child_process.is_alive(pid) for pid in pids)
        driver.send_signal(how)
        told_to_end = time.monotonic()
        said, _ = driver.communicate(timeout=300)
        assert how == signal.SIGKILL or said.split()[-1] == "True"
    finally:
        driver.kill()
        driver.wait()
    while any(child_process.is_alive(pid) for pid in pids) and time.monotonic() < told_to_end + 30:
        time.sleep(0.05)
    assert not any(child_process.is_alive(pid) for pid in pids)
    assert [store.status(trial).status for trial in tiny.trials] == ["interrupted", "interrupted"]
    assert store.status(tiny.trials[0]).reason == "stopped at train 1 of 10"


def test_a_trial_that_no_node_can_hold_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    tiny = study()
    greedy = replace(tiny, sweep=tiny.sweep.model_copy(update={"resources": tiny.sweep.resources.model_copy(update={"cpus": 64.0})}))
    with pytest.raises(ResourcesMissing, match="64 cpus"):
        run_study(greedy, Store(tmp_path), RunOptions(cpus=1, **QUICK))


def test_a_study_is_trained_and_scored_for_real(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    tiny = study(arms=("baseline", "longer"), prepared=("longer",))
    outcome = run_study(tiny, store, RunOptions(cpus=2))
    errors = [store.error(store.trial_folder(trial)) for trial in tiny.trials]
    assert len(outcome.done) == 2, (outcome, errors, store.holes(tiny))
    results = store.results(tiny)
    assert {"shot_0/average", "shot_8/average"} <= set(results["metric"]) and results["value"].between(0, 100).all()
    assert (store.trial_folder(tiny.trials[0]) / "model.pt").exists()
    assert set(store.curves(tiny)["step"]) >= {10, 11}
    assert len(store.items(tiny.trials[0])) > 0


def test_progress_is_written_now_and_then_and_at_every_end_of_a_stage(tmp_path: Path) -> None:
    from mm1_ablate.config.training import Progress
    from mm1_ablate.data.atomic_files import read_json

    report = ProgressFile(tmp_path)
    for step in range(1, 100):
        report(Progress("train", step, 100, 2.0))
    assert read_json(tmp_path / "progress.json")["step"] == 1
    report(Progress("train", 100, 100, 1.0))
    assert read_json(tmp_path / "progress.json")["step"] == 100
    report(Progress("evaluate", 0, 8))
    assert read_json(tmp_path / "progress.json")["stage"] == "evaluate"


def test_what_killed_runs_of_this_host_left_behind_is_removed(tmp_path: Path) -> None:
    store, tiny = Store(tmp_path), study(arms=("baseline",))
    do_here = (str(store.root), tiny.trials[0].fingerprint, [tiny.trials[0].evaluation_fingerprint])
    store.write_trial(tiny.trials[0])
    quick_trial(*do_here)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = socket.gethostname()
    for name in (f"{here}-{gone.pid}-aaaaaaaa", f"{here}-{os.getpid()}-bbbbbbbb", f"not-{here}-{gone.pid}-cccccccc"):
        (tmp_path / "ray" / name / "trials").mkdir(parents=True)
    run_study(tiny, store, RunOptions(**QUICK))
    assert sorted(path.name[-8:] for path in (tmp_path / "ray").iterdir()) == ["bbbbbbbb", "cccccccc"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_is_swallowed_where_it_lands_is_raised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "RAISE_AGAIN_AFTER", 0.1)

    class Finalised:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)  # Python only prints what is raised here

    before = signal.getsignal(signal.SIGINT)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), signals.interruptible():
        Finalised()
        time.sleep(300)
    assert time.monotonic() - began < 150
    assert signal.getsignal(signal.SIGINT) is before and signal.getitimer(signal.ITIMER_REAL)[0] == 0
