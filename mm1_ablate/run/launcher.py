"""How one piece of a run's work is done on whatever node it lands. In: a fingerprint. Out: in the store, what came of it.

Travels from the driver to the Ray workers, which ask their node's fork server for a child, or for a child for each worker of a trial,
and wait for the end. The workers of a trial that are on other nodes are asked for by Ray tasks in the trial's placement group; they meet
where the first of them is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mm1_ablate.config.sweep.declaration import Strategy
from mm1_ablate.run import child_process
from mm1_ablate.run.fork_server import PRELOADED
from mm1_ablate.run.worker_group import Fault, Share, free_port, jobs_of, run_together
from mm1_ablate.store.disk_full import FULL, DiskFull, full_disk_message
from mm1_ablate.store.store import HELD, RUN, Store

RUN_TRIAL = "mm1_ablate.run.trial:run_trial"
RUN_PREPARATION = "mm1_ablate.run.trial:run_preparation"
LONGEST_LEASE = 180.0
"""Seconds until storage gives up the locks of a node that has died: 90 on NFS version 4, by default; 60 for leases on object storage."""
OWN_OF_A_NODE = ("MM1_ABLATE_CACHE",)
"""Variables whose value is each node's own."""
MOUNTED_WITHIN = 60.0
"""Seconds that a node which has just joined has to mount the store."""


class StoreUnseen(Exception):
    """A node that joined the cluster does not share the store."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(node, message)
        self.node = node
        """Its id in Ray; nothing outside of Ray."""

    def __str__(self) -> str:
        return self.args[1]


@dataclass(frozen=True)
class Placement:
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
    import_paths: tuple[str, ...] = field(default_factory=lambda: tuple(path for path in sys.path if path))

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
            DiskFull, ServerLost, StoreUnseen, Stopped: as `train_and_evaluate` does.
        """
        store = Store(self.store_root)
        folder = store.prepared_folder(fingerprint)
        with store.noticing_full_disk(folder):
            self._make_ready(store, folder / "preparation.json")
            job = self._job(self.run_preparation, folder, {"fingerprint": fingerprint})
            self._tell(folder, Fault(0, child_process.run(self.server_folder, job, self.preload)), workers=1)

    def train_and_evaluate(self, fingerprint: str, evaluations: list[str]) -> None:
        """Do a trial, by one worker or several.

        Raises:
            DiskFull: a disk of this node or of one beside it is full.
            ServerLost: a node or its fork server was lost.
            StoreUnseen: this node does not see the store.
            Stopped: the run was stopped.
        """
        store = Store(self.store_root)
        folder = store.trial_folder(fingerprint)
        with store.noticing_full_disk(folder):
            self._train_and_evaluate(store, folder, {"fingerprint": fingerprint, "evaluations": evaluations})

    def _train_and_evaluate(self, store: Store, folder: Path, arguments: dict[str, Any]) -> None:
        self._make_ready(store, folder / "trial.json")
        until = time.monotonic() + LONGEST_LEASE
        while _is_held(fault := self._once(folder, arguments)):
            store.refresh(folder)
            host, run = store.holder(folder)
            if run != self.run:
                break
            # An earlier attempt of ours, whose node was lost: it is ending, or its storage has not noticed yet that it did.
            if time.monotonic() > until:
                raise child_process.ServerLost(
                    f"{folder} is still locked by {host}, which was lost {LONGEST_LEASE:g} seconds ago or earlier"
                )
            time.sleep(1)
        if fault is not None:
            self._tell(folder, fault, self.workers)

    def _make_ready(self, store: Store, record: Path) -> None:
        """Make sure that this node shares the store, by a file that the driver wrote there before it asked for anything; and have the
        folder's records here, and its log, which goes on."""
        until = time.monotonic() + self.mounted_within
        store.refresh(record.parent)
        while not record.exists():
            if time.monotonic() > until:
                host = socket.gethostname()
                why = f"{host} does not see the store {self.store_root}, which must be on storage that all nodes share"
                raise StoreUnseen(_own_node(), why)
            time.sleep(0.5)
            store.refresh(record.parent)
        store.download_folder(record.parent, "log")

    def _once(self, folder: Path, arguments: dict[str, Any]) -> Fault | None:
        if self.workers == 1:
            return Fault(0, child_process.run(self.server_folder, self._job(self.run_trial, folder, arguments), self.preload))
        if len(self.shares) == 1:
            return self._run_share(folder, arguments, Share(0, self.workers, self.workers, "127.0.0.1", free_port()))
        return self._on_several_nodes(folder, arguments)

    def _job(self, function: str, folder: Path, arguments: dict[str, Any], workers: int = 1) -> child_process.Job:
        threads, environment = child_process.share_of_machine(self.cpus, self.gpus)
        environment[RUN] = self.run
        # What this node says; its fork server may have been started by another.
        environment |= {name: os.environ[name] for name in OWN_OF_A_NODE if name in os.environ}
        log, arguments = str(folder / "log.txt"), {"store_root": self.store_root} | arguments
        if workers > 1:
            arguments["strategy"] = self.strategy
        return child_process.Job(function, arguments, log, threads, environment, self.directory, self.import_paths)

    def _run_share(self, folder: Path, arguments: dict[str, Any], share: Share, enough: socket.socket | None = None) -> Fault | None:
        """Run the workers that are on this node."""
        jobs = jobs_of(self._job(self.run_trial, folder, arguments, share.ranks), share)
        return run_together(self.server_folder, jobs, self.preload, share.first, enough)

    def _on_several_nodes(self, folder: Path, arguments: dict[str, Any]) -> Fault | None:
        """Run the workers in this process's bundle here and those of the other bundles by Ray tasks there; the first fault of all."""
        import ray
        from ray.util import get_current_placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        address, port, group = ray.util.get_node_ip_address(), free_port(), get_current_placement_group()
        assert group is not None, "Tune runs every trial in a placement group"
        firsts = [sum(self.shares[:place]) for place in range(len(self.shares))]
        shares = [Share(first, count, self.workers, address, port) for first, count in zip(firsts, self.shares, strict=True)]
        run = ray.remote(_run_share)
        tasks = []
        for place, (share, bundle) in enumerate(zip(shares, self.bundles, strict=True)):
            if place:
                there = PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=place)
                placed = {"num_cpus": bundle["CPU"], "num_gpus": bundle.get("GPU", 0), "scheduling_strategy": there, "max_retries": 0}
                tasks.append(run.options(**placed).remote(self, folder, arguments, share))
        faults: list[Fault] = []
        lost: list[Exception] = []
        here: Fault | None = None
        with _watching(tasks, faults, lost) as (enough, end):
            try:
                here = self._run_share(folder, arguments, shares[0], enough)
            except child_process.Stopped:
                if not faults and not lost:
                    raise
            if here is not None:
                end()
        if full := next((cause for error in lost if isinstance(cause := getattr(error, "cause", None), DiskFull)), None):
            raise full
        if here is None and lost and not faults:
            if isinstance(unseen := getattr(lost[0], "cause", None), StoreUnseen):
                raise unseen
            raise child_process.ServerLost(f"workers on another node were lost: {type(lost[0]).__name__}")
        return here or next(iter(faults), None)

    def _tell(self, folder: Path, fault: Fault, workers: int) -> None:
        """If what did not end well could not say itself why, that is said here."""
        store, ended = Store(self.store_root), fault.ended
        if ended.code == FULL:
            raise DiskFull(full_disk_message(store.root))
        store.release_dead()
        who = f"worker {fault.rank} of {workers} " if workers > 1 else ""
        if ended.signal is not None:
            hint = "; often: out of memory" if ended.signal == signal.SIGKILL else ""
            store.fail(folder, f"{who}killed by {signal.Signals(ended.signal).name}{hint}")
        elif ended.code not in (0, HELD) and not store.has_failed(folder):
            log = folder / (f"log-{fault.rank}.txt" if fault.rank else "log.txt")
            store.fail(folder, f"{who}ended with exit code {ended.code}; see {store.where(log)}")


def _own_node() -> str:
    import ray

    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""


def _is_held(fault: Fault | None) -> bool:
    """Whether a trial was not begun because its folder is another process's."""
    return fault is not None and fault.ended.code == HELD


def _run_share(placement: Placement, folder: Path, arguments: dict[str, Any], share: Share) -> Fault | None:
    """Runs in a Ray worker on another node than the trial's first one, whose mirror of object storage has a folder of its own."""
    store = Store(placement.store_root)
    folder = store.trial_folder(arguments["fingerprint"])
    placement._make_ready(store, folder / "trial.json")
    try:
        fault = placement._run_share(folder, arguments, share)
    finally:
        logs = [folder / f"log-{rank}.txt" for rank in range(share.first, share.first + share.count)]
        with contextlib.suppress(OSError):  # of the storage, or there is none
            store.upload(*(log for log in logs if log.exists()))
    if fault is not None and fault.ended.code == FULL:
        raise DiskFull(full_disk_message(store.root))
    return fault


@contextlib.contextmanager
def _watching(tasks: list[Any], faults: list[Fault], lost: list[Exception]) -> Iterator[tuple[socket.socket, Callable[[], None]]]:
    """Watch Ray tasks for the length of a block, and wait for the end of all of them.

    Gives a connection that closes when one of them has a fault or is lost, after which all are ended; and a call that ends them.
    """
    import ray

    ours, theirs = socket.socketpair()
    done = threading.Event()

    def watch() -> None:
        waiting = list(tasks)
        while waiting:
            finished, waiting = ray.wait(waiting, timeout=0.5)
            for task in finished:
                try:
                    fault = ray.get(task)
                except Exception as error:
                    lost.append(error)
                else:
                    faults.extend([fault] if fault else [])
            if faults or lost or done.is_set():
                theirs.close()
                for task in waiting:
                    with contextlib.suppress(Exception):
                        ray.cancel(task, force=True)
                if waiting:
                    ray.wait(waiting, num_returns=len(waiting), timeout=10)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield ours, done.set
    except BaseException:
        done.set()
        raise
    finally:
        watcher.join()
        ours.close()
        theirs.close()
