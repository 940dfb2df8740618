"""How one piece of a run's work is done on the node where it is placed. In: a fingerprint. Out: in the store, its result.

Travels from the driver to the Ray workers, which ask their node's fork server for a child, or for a child for each worker of a trial,
and wait for the end. The workers of a trial that are on other nodes are asked for by Ray tasks in the trial's placement group; they meet
where the first of them is.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mm1_ablate.config.passwords import VARIABLE, known_addresses
from mm1_ablate.config.sweep.declaration import Strategy
from mm1_ablate.run import child_process
from mm1_ablate.run.cluster import addresses_of_run
from mm1_ablate.run.fork_server import PRELOADED
from mm1_ablate.run.worker_group import Share, WorkerFailure, free_port, jobs_of, run_together
from mm1_ablate.store.disk_full import FULL, DiskFull, full_disk_message
from mm1_ablate.store.status import RUN
from mm1_ablate.store.store import HELD, Store

RUN_TRIAL = "mm1_ablate.run.trial:run_trial"
RUN_PREPARATION = "mm1_ablate.run.trial:run_preparation"
LOCKS_EXPIRE_WITHIN = 180.0
"""Seconds until storage gives up the locks of a node that has died: 90 on NFS version 4, by default; 60 for leases on object storage."""
SET_BY_NODE = ("MM1_ABLATE_CACHE",)
"""Environment variables that each node has its own value of."""
MOUNTED_WITHIN = 60.0
"""Seconds that a node which has just joined has to mount the store."""


class StoreNotVisible(Exception):
    """A node that joined the cluster does not share the store."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(node, message)
        self.node = node
        """Its id in Ray; empty outside of Ray."""

    def __str__(self) -> str:
        message: str = self.args[1]
        return message


@dataclass(frozen=True)
class Launcher:
    """How the work of one run is done on any node. Travels to the workers."""

    store_root: str
    """A folder, or an address of object storage."""
    server_folder: Path
    cpus: float
    """Of one worker of a trial; a preparation has as many."""
    gpus: float
    run_trial: str = RUN_TRIAL
    run_preparation: str = RUN_PREPARATION
    preload: tuple[str, ...] = PRELOADED
    shares: tuple[int, ...] = (1,)
    """How many workers of a trial are in each bundle of its placement group."""
    spread: bool = False
    """Whether each bundle must be on a node of its own."""
    strategy: Strategy = "ddp"
    mounted_within: float = field(default_factory=lambda: MOUNTED_WITHIN)
    directory: str = field(default_factory=os.getcwd)
    import_paths: tuple[str, ...] = field(default_factory=lambda: tuple(path or os.getcwd() for path in sys.path))

    @property
    def run(self) -> str:
        """Which run this is, among all that work on a store."""
        return self.server_folder.name

    @property
    def workers(self) -> int:
        return sum(self.shares)

    @property
    def bundles(self) -> list[dict[str, float]]:
        """What Ray reserves for a trial, in as many places as its workers are in."""
        return [{"CPU": count * self.cpus} | ({"GPU": count * self.gpus} if self.gpus else {}) for count in self.shares]

    def prepare(self, fingerprint: str) -> None:
        """Do a preparation.

        Raises:
            DiskFull, ServerLost, StoreNotVisible, Stopped: as `train_and_evaluate` does.
        """
        store = Store(self.store_root)
        folder = store.prepared_folder(fingerprint)
        with store.noticing_full_disk(folder):
            self._wait_for_store(store, folder / "preparation.json")
            job = self._job(self.run_preparation, folder, {"fingerprint": fingerprint})
            self._record_failure(folder, WorkerFailure(0, child_process.run(self.server_folder, job, self.preload)), workers=1)

    def train_and_evaluate(self, fingerprint: str, evaluations: list[str]) -> None:
        """Do a trial, by one worker or several.

        Raises:
            DiskFull: a disk of this node or of one beside it is full.
            ServerLost: a node or its fork server was lost.
            StoreNotVisible: this node does not see the store.
            Stopped: the run was stopped.
        """
        store = Store(self.store_root)
        folder = store.trial_folder(fingerprint)
        with store.noticing_full_disk(folder):
            self._train_and_evaluate(store, folder, {"fingerprint": fingerprint, "evaluations": evaluations})

    def _train_and_evaluate(self, store: Store, folder: Path, arguments: dict[str, Any]) -> None:
        self._wait_for_store(store, folder / "trial.json")
        until = time.monotonic() + LOCKS_EXPIRE_WITHIN
        while _is_held(failure := self._attempt(folder, arguments)):
            store.refresh(folder)
            host, run = store.holder(folder)
            if run != self.run:
                break
            # An earlier attempt of this run, whose node was lost: it is ending, or its storage has not noticed yet that it ended.
            if time.monotonic() > until:
                raise child_process.ServerLost(
                    f"{folder} is still locked by {host}, which was lost {LOCKS_EXPIRE_WITHIN:g} seconds ago or earlier"
                )
            time.sleep(1)
        if failure is not None:
            self._record_failure(folder, failure, self.workers)

    def _wait_for_store(self, store: Store, record: Path) -> None:
        """Wait until this node sees a file that the driver wrote to the store, then download the folder's records and its log, which is
        continued.

        Raises:
            StoreNotVisible: the file is not seen in time.
        """
        until = time.monotonic() + self.mounted_within
        store.refresh(record.parent)
        while not record.exists():
            if time.monotonic() > until:
                host = socket.gethostname()
                why = f"{host} does not see the store {self.store_root}, which must be on storage that all nodes share"
                raise StoreNotVisible(_this_node(), why)
            time.sleep(0.5)
            store.refresh(record.parent)
        store.download_folder(record.parent, "log")

    def _attempt(self, folder: Path, arguments: dict[str, Any]) -> WorkerFailure | None:
        if self.workers == 1:
            return WorkerFailure(0, child_process.run(self.server_folder, self._job(self.run_trial, folder, arguments), self.preload))
        if len(self.shares) == 1:
            return self._run_share(folder, arguments, Share(0, self.workers, self.workers, "127.0.0.1", free_port()))
        return self._on_several_nodes(folder, arguments)

    def _job(self, function: str, folder: Path, arguments: dict[str, Any], workers: int = 1) -> child_process.Job:
        threads, environment = child_process.share_of_machine(self.cpus, self.gpus)
        environment[RUN] = self.run
        # What this node says; its fork server may have been started by another.
        environment |= {name: os.environ[name] for name in SET_BY_NODE if name in os.environ}
        if addresses := known_addresses() or addresses_of_run(self.run):
            environment[VARIABLE] = json.dumps(addresses)
        log, arguments = str(folder / "log.txt"), {"store_root": self.store_root} | arguments
        if workers > 1:
            arguments["strategy"] = self.strategy
        return child_process.Job(function, arguments, log, threads, environment, self.directory, self.import_paths)

    def _run_share(self, folder: Path, arguments: dict[str, Any], share: Share, stop: socket.socket | None = None) -> WorkerFailure | None:
        """Run the workers that are on this node."""
        jobs = jobs_of(self._job(self.run_trial, folder, arguments, share.ranks), share)
        return run_together(self.server_folder, jobs, self.preload, share.first, stop)

    def _on_several_nodes(self, folder: Path, arguments: dict[str, Any]) -> WorkerFailure | None:
        """Run the workers in this process's bundle here and those of the other bundles by Ray tasks there; the first failure of all."""
        import ray

        address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        own, *others = self._node_shares(address, free_port())
        here: WorkerFailure | None = None
        with _RemoteWorkers(self._start_remote(folder, arguments, others)) as remote:
            try:
                here = self._run_share(folder, arguments, own, remote.closes_on_failure)
            except child_process.Stopped:
                if not remote.failed:
                    raise
            if here is not None:
                remote.end()
        return remote.first_failure(here)

    def _node_shares(self, address: str, port: int) -> list[Share]:
        """The workers of a trial by bundle of its placement group; the first of them waits for the others at an address."""
        firsts = [sum(self.shares[:place]) for place in range(len(self.shares))]
        return [Share(first, count, self.workers, address, port) for first, count in zip(firsts, self.shares, strict=True)]

    def _start_remote(self, folder: Path, arguments: dict[str, Any], shares: list[Share]) -> list[Any]:
        """A Ray task for each bundle of the trial's placement group but the first, which this process is in."""
        import ray
        from ray.util import get_current_placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group = get_current_placement_group()
        assert group is not None, "Tune runs every trial in a placement group"
        run = ray.remote(_run_remote_share)
        tasks = []
        for place, (share, bundle) in enumerate(zip(shares, self.bundles[1:], strict=True), 1):
            there = PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=place)
            placed = {"num_cpus": bundle["CPU"], "num_gpus": bundle.get("GPU", 0), "scheduling_strategy": there, "max_retries": 0}
            tasks.append(run.options(**placed).remote(self, folder, arguments, share))
        return tasks

    def _record_failure(self, folder: Path, failure: WorkerFailure, workers: int) -> None:
        """Record why work failed, where its process could not do that itself."""
        store, ended = Store(self.store_root), failure.exit
        if ended.code == FULL:
            raise DiskFull(full_disk_message(store.root))
        store.release_dead()
        who = f"worker {failure.rank} of {workers} " if workers > 1 else ""
        if ended.signal is not None:
            hint = "; often: out of memory" if ended.signal == signal.SIGKILL else ""
            store.fail(folder, f"{who}killed by {signal.Signals(ended.signal).name}{hint}")
        elif ended.code not in (0, HELD) and not store.has_failed(folder):
            log = folder / (f"log-{failure.rank}.txt" if failure.rank else "log.txt")
            store.fail(folder, f"{who}ended with exit code {ended.code}; see {store.where(log)}")


def _this_node() -> str:
    import ray

    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""


def _is_held(failure: WorkerFailure | None) -> bool:
    """Whether a trial was not begun because its folder is another process's."""
    return failure is not None and failure.exit.code == HELD


def _run_remote_share(launcher: Launcher, folder: Path, arguments: dict[str, Any], share: Share) -> WorkerFailure | None:
    """Runs in a Ray worker on another node than the trial's first one, whose copy of object storage has a folder of its own."""
    store = Store(launcher.store_root)
    folder = store.trial_folder(arguments["fingerprint"])
    launcher._wait_for_store(store, folder / "trial.json")
    try:
        failure = launcher._run_share(folder, arguments, share)
    finally:
        logs = [folder / f"log-{rank}.txt" for rank in range(share.first, share.first + share.count)]
        with contextlib.suppress(OSError):  # of the storage, or there is none
            store.upload(*(log for log in logs if log.exists()))
    if failure is not None and failure.exit.code == FULL:
        raise DiskFull(full_disk_message(store.root))
    return failure


class _RemoteWorkers:
    """Ray tasks that run a trial's workers on other nodes, watched by a thread for the length of a `with` block.

    When one of them fails or is lost, all are ended. At the end of the block all tasks are waited for.
    """

    def __init__(self, tasks: list[Any]) -> None:
        self.closes_on_failure, self._theirs = socket.socketpair()
        """A connection that closes when one of them fails or is lost."""
        self._tasks = tasks
        self._failures: list[WorkerFailure] = []
        self._lost: list[Exception] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def failed(self) -> bool:
        """Whether one of them failed or was lost."""
        return bool(self._failures or self._lost)

    def end(self) -> None:
        """End all of them."""
        self._ended.set()

    def first_failure(self, here: WorkerFailure | None) -> WorkerFailure | None:
        """The first failure of all workers, those of this node included.

        Raises:
            DiskFull: a disk of another node is full.
            ServerLost: workers on another node were lost, and none failed.
            StoreNotVisible: another node does not see the store.
        """
        causes = [getattr(error, "cause", None) for error in self._lost]
        if full := next((cause for cause in causes if isinstance(cause, DiskFull)), None):
            raise full
        if here is None and self._lost and not self._failures:
            if isinstance(causes[0], StoreNotVisible):
                raise causes[0]
            raise child_process.ServerLost(f"workers on another node were lost: {type(self._lost[0]).__name__}")
        return here or next(iter(self._failures), None)

    def _watch(self) -> None:
        import ray

        waiting = list(self._tasks)
        while waiting:
            finished, waiting = ray.wait(waiting, timeout=0.5)
            for task in finished:
                try:
                    failure = ray.get(task)
                except Exception as error:
                    self._lost.append(error)
                else:
                    self._failures.extend([failure] if failure else [])
            if self.failed or self._ended.is_set():
                self._theirs.close()
                for task in waiting:
                    with contextlib.suppress(Exception):
                        ray.cancel(task, force=True)
                if waiting:
                    ray.wait(waiting, num_returns=len(waiting), timeout=10)
                return

    def __enter__(self) -> _RemoteWorkers:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.end()
        self._thread.join()
        self.closes_on_failure.close()
        self._theirs.close()
