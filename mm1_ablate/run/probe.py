"""`plan --probe`: times a few training steps of two arms, on this machine or on a node of a Ray cluster, in a process of their own.

In: a plan and a store. Out: measurements in the store (`plan/estimate.py`), and nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.sweep.declaration import Resources
from mm1_ablate.plan.estimate import MeasuredStep, Measurements, step_key
from mm1_ablate.plan.memory import in_gib, micro_batch_rows, training_memory
from mm1_ablate.plan.model_statistics import ModelStatistics
from mm1_ablate.plan.plan import Plan
from mm1_ablate.plan.trials import PlanRow
from mm1_ablate.run.child_process import share_of_machine
from mm1_ablate.run.cluster import connected
from mm1_ablate.store.store import Store

STEPS, WARM_UP = 5, 2
"""Steps that are timed (twice as many where a step has several micro-batches), and steps before them that are not."""
LAST_WORDS = 500
"""Characters shown of a failed probe's last line."""


class ProbeFailed(Exception):
    """The steps could not be run; says why."""


def measure_arms(planned: Plan, store: Store, address: str | None, made_up: bool, say: Callable[[str], None]) -> list[MeasuredStep]:
    """Measure the cheapest and the most expensive arm that is to be trained, by operations of a step.

    Args:
        address: of a Ray cluster; None: this machine.
        made_up: whether random documents replace the data.
        say: gets a line for display before each measurement.

    Raises:
        ProbeFailed: with the reason.
        ConnectionError: there is no such cluster.
    """
    rows = sorted((row for row in planned.rows if row.to_train), key=_step_flops)
    if not rows:
        return []
    sizes, measurements, found = ModelStatistics(), Measurements(store.root, store.write_json), []
    for row in {row.fingerprint: row for row in (rows[0], rows[-1])}.values():
        trial, resources = row.trial, row.resources
        say(f"measuring {STEPS} steps of {row.name}" + (f" on {address}" if address else " on this machine"))
        request = {
            "experiment": trial.experiment.model_dump(mode="json"),
            "workers": resources.workers,
            "made_up": made_up,
            "steps": STEPS,
            "warm_up": WARM_UP,
        }
        alone = _in_one_process(trial.experiment, resources.workers)
        with trial.snapshot.active():
            parts = sizes.profile(trial.experiment)
        expected = training_memory(alone, parts).total
        answer = _on_cluster(address, request, resources) if address else _here(request, resources, expected)
        measured = MeasuredStep(
            name=row.name,
            flops_per_step=_step_flops(row),
            expected_bytes=expected,
            made_up_data=made_up,
            **answer,
        )
        measurements.add(step_key(trial.experiment, resources.workers), measured)
        found.append(measured)
    return found


def _step_flops(row: PlanRow) -> float:
    """Operations of one worker in one step."""
    return row.flops / row.trial.experiment.training.steps / row.resources.workers


def _in_one_process(experiment: Experiment, workers: int) -> Experiment:
    """What is really run: a worker's rows as one process's."""
    rows = micro_batch_rows(experiment, workers)
    own = max(rows, experiment.training.batch_rows // workers)
    return experiment.model_copy(update={"training": experiment.training.model_copy(update={"batch_rows": own, "micro_batch_rows": rows})})


def _here(request: dict[str, Any], resources: Resources, expected: float) -> dict[str, Any]:
    """On this machine: on its GPU where the sweep asks for one."""
    if not resources.gpus:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if expected > free:
            needed = f"it needs about {in_gib(expected)} of memory, and {in_gib(free)} are free here"
            raise ProbeFailed(f"{needed}; --address measures on a cluster")
    return in_process(request, share_of_machine(resources.worker_cpus, resources.worker_gpus)[1])


def in_process(request: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """The answer of `probe_step.py` in a process of its own."""
    paths = [path for path in sys.path if path]
    environment = os.environ | environment | {"PYTHONPATH": os.pathsep.join(paths)}
    with tempfile.TemporaryDirectory(prefix="mm1-ablate-probe-") as folder:
        asked, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps(request))
        command = [sys.executable, "-m", "mm1_ablate.run.probe_step", str(asked), str(answer)]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if ended.returncode < 0:
            raise ProbeFailed(f"killed by signal {-ended.returncode}; often: out of memory")
        if ended.returncode:
            lines = [line for line in ended.stderr.strip().splitlines() if line.strip()]
            raise ProbeFailed(lines[-1][:LAST_WORDS] if lines else f"exit code {ended.returncode}")
        measured: dict[str, Any] = json.loads(answer.read_text())
        return measured


def _on_cluster(address: str, request: dict[str, Any], resources: Resources) -> dict[str, Any]:
    """On a node of a Ray cluster that has what a worker needs."""
    import ray

    with connected(address):
        try:
            share = {"num_cpus": resources.worker_cpus, "num_gpus": resources.worker_gpus, "max_retries": 0}
            reference = ray.remote(_in_worker).options(**share).remote(request, resources.worker_cpus, resources.worker_gpus)
            answer: dict[str, Any] = ray.get(reference)
            return answer
        except ray.exceptions.RayTaskError as error:
            raise ProbeFailed(str(error.cause)) from error
        except ray.exceptions.RayError as error:
            raise ProbeFailed(f"its worker was lost: {type(error).__name__}") from error


def _in_worker(request: dict[str, Any], cpus: float, gpus: float) -> dict[str, Any]:
    """Runs in a Ray worker, which sees the GPU that it was given."""
    return in_process(request, share_of_machine(cpus, gpus)[1])
