"""Studies for tests of plan, store and run, and what their children do instead of training: write a result, fail, die, wait."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas
from tiny import tiny_experiment

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.fingerprint import evaluation_identity, fingerprint, training_identity
from mm1_ablate.config.study import Arm, Study, Trial
from mm1_ablate.config.sweep.declaration import Sweep
from mm1_ablate.config.training import Progress
from mm1_ablate.data.atomic_files import write_json
from mm1_ablate.run.trial import ProgressFile, recording_failure
from mm1_ablate.store.locks import AlreadyRunning
from mm1_ablate.store.store import HELD, Store


def trial(name: str, seed: int, settings: Experiment, arms: tuple[str, ...] | None = None) -> Trial:
    identity = fingerprint(training_identity(settings, seed))
    evaluation = fingerprint(evaluation_identity(settings, identity))
    return Trial(f"{name}/seed-{seed}", arms or (name,), seed, settings, identity, evaluation)


def study(
    arms: tuple[str, ...] = ("baseline", "longer"),
    seeds: tuple[int, ...] = (0,),
    path: Path = Path("/nowhere/sweep.yaml"),
    tasks: tuple[str, ...] = ("miniature_vqa",),
    prepared: tuple[str, ...] = (),
) -> Study:
    """One arm per name; they differ in their number of steps, 10, 11 and so on. Those named in `prepared` start from prepared parts."""
    experiments = {
        name: tiny_experiment({"training.steps": 10 + index, "evaluation.tasks": list(tasks)}, name in prepared)
        for index, name in enumerate(arms)
    }
    return Study(
        name="test",
        sweep=Sweep(sweep="test", experiment="tiny.yaml", seeds=list(seeds), resources={"cpus": 1}),
        path=path,
        arms=tuple(Arm(name, "group", experiments[name], "baseline") for name in arms),
        trials=tuple(trial(name, seed, experiments[name]) for name in arms for seed in seeds),
    )


def until_decided(arms: tuple[str, ...], at_least: int = 3, at_most: int = 6, first: int = 0) -> Study:
    """As `study`, with seeds that are added until all is decided; differences of less than 5 do not matter."""
    whole = study(arms, tuple(range(first, first + at_most)))
    design = {"at_least": at_least, "at_most": at_most, "until": "decided", "first": first}
    compare = {"smallest_difference_of_interest": 5.0}
    sweep = Sweep(sweep="test", experiment="tiny.yaml", seeds=design, resources={"cpus": 1}, compare=compare)
    return replace(whole, sweep=sweep)


NOISE = {10: (0.0, 1.0, -1.0, 0.5, -0.5, 0.0), 11: (60.0, 61.5, 59.0, 60.5, 59.5, 60.0), 12: (8.0, 1.0, 5.0, 5.5, 3.5, 4.8)}
"""By the steps of an arm, what is added to its score at each seed: the arm of 11 is clear at once, that of 12 is not."""


def noisy_trial(store_root: str, fingerprint: str, evaluations: list[str]) -> int:
    """As `quick_trial`, with scores that vary over seeds."""
    return quick_trial(store_root, fingerprint, evaluations, lambda steps, seed: {"shot_8/average": 20 + NOISE[steps][seed]})


def score(steps: int, seed: int) -> dict[str, float]:
    return {"shot_8/average": steps + seed / 10, "text_core/average": 50.0, "shot_8/miniature_vqa": steps + seed / 10}


def quick_trial(store_root: str, fingerprint: str, evaluations: list[str], scoring: Callable[[int, int], dict[str, float]] = score) -> int:
    """What `trial.run_trial` does, without training. How it goes is told by files in the store: fail-<steps>, kill-<steps>, ..."""
    store = Store(store_root)
    folder = store.trial_folder(fingerprint)
    told = {path.name for path in store.root.glob("*-*")}

    def work() -> None:
        with open(folder / "attempts", "a") as attempts:
            attempts.write(f"{os.getpid()} {os.getppid()}\n")
        store.start(folder, "train")
        settings, seed = store.read_trial(fingerprint)
        steps = settings.training.steps
        print(f"child {os.getpid()} threads {os.environ['OMP_NUM_THREADS']} gpus '{os.environ.get('CUDA_VISIBLE_DEVICES')}'", flush=True)
        report = ProgressFile(folder)
        report(Progress("train", 1, steps, 3.0))
        if f"fail-{steps}" in told:
            raise ArithmeticError(f"no trial of {steps} steps ever works\nsecond line")
        if f"kill-{steps}" in told:
            os.kill(os.getpid(), signal.SIGKILL)
        while f"wait-{steps}" in told:
            time.sleep(0.1)
        if not store.has(folder / "model.pt"):
            points = [{"step": step, "loss": 3 - step / steps, "learning_rate": 1e-3, "seconds": step} for step in range(1, steps + 1)]
            lines = [json.dumps(point) + "\n" for point in points]
            (folder / "curve.jsonl").write_text("".join(lines))
            (folder / "model.pt").write_bytes(b"weights")
            (folder / "trainings").open("a").write("once\n")
        for evaluation in evaluations:
            store.start(folder, "evaluate", evaluation)
            what = {"task": "miniature_vqa", "family": "image", "metric": "vqa_accuracy", "primary": True, "shots": 8}
            items = pandas.DataFrame({"item": ["a", "b"], "score": [0.0, 1.0]}).assign(**what)
            store.write_evaluation(fingerprint, evaluation, items, scoring(steps, seed))

    try:
        with store.hold(folder):
            return recording_failure(store, folder, work)
    except AlreadyRunning:
        return HELD


def quick_preparation(store_root: str, fingerprint: str) -> int:
    """What `trial.run_preparation` does, without training."""
    store = Store(store_root)
    preparation = store.read_preparation(fingerprint)
    folder = store.prepared_folder(preparation)

    def work() -> None:
        store.start(folder, "prepare")
        if (store.root / "fail-preparation").exists():
            raise OSError("no images")
        (folder / "weights.pt").write_bytes(b"weights")

    with store.hold(folder, wait=True):
        return 0 if store.preparation_status(preparation).status == "done" else recording_failure(store, folder, work)


CHECKPOINT_EVERY = 4


def stepping_trial(store_root: str, fingerprint: str, evaluations: list[str]) -> int:
    """A trial that takes its time, and goes on from its last checkpoint; what it has come to hangs on every step. All steps are logged."""
    store = Store(store_root)
    folder = store.trial_folder(fingerprint)

    def work() -> None:
        store.start(folder, "train")
        settings, seed = store.read_trial(fingerprint)
        checkpoint = folder / "last.ckpt"
        store.download(checkpoint)
        step, state = json.loads(checkpoint.read_text()) if checkpoint.exists() else (0, seed)
        while step < settings.training.steps:
            step, state = step + 1, (state * 31 + step) % 1009
            with open(folder / "steps", "a") as steps:
                steps.write(f"{os.getpid()} {step}\n")
            if step % CHECKPOINT_EVERY == 0:
                write_json(checkpoint, [step, state])
            while step == CHECKPOINT_EVERY + 2 and (store.root / "wait-here").exists():
                time.sleep(0.05)
        (folder / "model.pt").write_bytes(b"weights")
        for evaluation in evaluations:
            items = pandas.DataFrame({"task": ["miniature_vqa"], "shots": [8], "item": ["a"], "score": [state / 1009]})
            store.write_evaluation(fingerprint, evaluation, items, score(state, seed))

    try:
        with store.hold(folder):
            return recording_failure(store, folder, work)
    except AlreadyRunning:
        return HELD
