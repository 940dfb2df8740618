"""How one piece of a run's work is done on whatever node it lands. In: a fingerprint. Out: in the store, what came of it.

Travels from the driver to the Ray workers, which ask their node's fork server for a child and wait for its end.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mm1_ablate.study import child
from mm1_ablate.study.fork_server import PRELOADED
from mm1_ablate.study.store import HELD, Store

RUN_TRIAL = "mm1_ablate.study.trial:run_trial"
RUN_PREPARATION = "mm1_ablate.study.trial:run_preparation"


@dataclass(frozen=True)
class Placement:
    """How the work of one run is done on any node. Travels to the workers."""

    store_root: str
    server_folder: Path
    cpus: float
    gpus: float
    run_trial: str = RUN_TRIAL
    run_preparation: str = RUN_PREPARATION
    preload: tuple[str, ...] = PRELOADED
    directory: str = field(default_factory=os.getcwd)
    import_paths: tuple[str, ...] = field(default_factory=lambda: tuple(path for path in sys.path if path))

    def do(self, function: str, folder: Path, arguments: dict[str, Any]) -> None:
        """Do a piece of work in a child. If the child could not say itself why it failed, that is said here."""
        threads, environment = child.share_of_machine(self.cpus, self.gpus)
        log, arguments = str(folder / "log.txt"), {"store_root": self.store_root} | arguments
        job = child.Job(function, arguments, log, threads, environment, self.directory, self.import_paths)
        ended = child.run(self.server_folder, job, self.preload)
        store = Store(self.store_root)
        if ended.signal is not None:
            hint = "; often: out of memory" if ended.signal == signal.SIGKILL else ""
            store.fail(folder, f"killed by {signal.Signals(ended.signal).name}{hint}")
        elif ended.code not in (0, HELD) and store.recorded(folder) != "failed":
            store.fail(folder, f"ended with exit code {ended.code}; see {log}")

    def prepare(self, fingerprint: str, folder: Path) -> None:
        self.do(self.run_preparation, folder, {"fingerprint": fingerprint})

    def train_and_evaluate(self, fingerprint: str, evaluations: list[str]) -> None:
        folder = Store(self.store_root).trial_folder(fingerprint)
        self.do(self.run_trial, folder, {"fingerprint": fingerprint, "evaluations": evaluations})
