"""The workers of one trial: on which nodes they are, and how those of one node run together, so that all end well or all are ended.

In: what a trial asks for and what nodes have; a job for each worker. Out: how many workers are on each node; the first of them that failed,
and how. Each child's environment says where they meet (MASTER_ADDR, MASTER_PORT) and which GPU it sees.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mm1_ablate.config.sweep.declaration import Resources
from mm1_ablate.run import child_process
from mm1_ablate.run.child_process import ChildExit, Job, Stopped
from mm1_ablate.run.fork_server import PRELOADED
from mm1_ablate.store.disk_full import FULL

SIOCGIFADDR = 0x8915
"""Asks Linux for the address of a network interface."""


# ---------------------------------------------------------------- on which nodes
class ResourcesMissing(Exception):
    """No node has what one trial asks for, so it would wait forever."""


def assign_workers(resources: Resources, nodes: Sequence[Mapping[str, float]]) -> tuple[int, ...]:
    """How many workers are reserved together: all of them if they fit on one node, else each on its own; or as `nodes` declares.

    Args:
        nodes: what each has, as Ray says: CPU and GPU.

    Raises:
        ResourcesMissing: naming the largest node.
    """
    capacities = [_capacity(resources, node) for node in nodes]
    shares = node_shares(resources, fit_on_one=max(capacities, default=0) >= resources.workers)
    if resources.nodes is None and sum(capacities) >= resources.workers:
        return shares
    if resources.nodes is not None and sum(own >= shares[0] for own in capacities) >= resources.nodes:
        return shares
    raise ResourcesMissing(f"a trial requests {_request_in_words(resources)}, and {_nodes_in_words(nodes)}")


def node_shares(resources: Resources, fit_on_one: bool) -> tuple[int, ...]:
    """As `assign_workers`, whether or not there are such nodes."""
    if resources.nodes is not None:
        return (resources.workers // resources.nodes,) * resources.nodes
    return (resources.workers,) if fit_on_one else (1,) * resources.workers


def _capacity(resources: Resources, node: Mapping[str, float]) -> int:
    """How many workers an empty node holds."""
    fractions = [node.get("CPU", 0) / resources.worker_cpus]
    if resources.worker_gpus:
        fractions.append(node.get("GPU", 0) / resources.worker_gpus)
    return int(min(fractions) + 1e-6)


def _request_in_words(resources: Resources) -> str:
    whole = f"{resources.cpus:g} cpus and {resources.gpus:g} gpus"
    if resources.workers == 1:
        return f"{whole} (resources in the sweep)"
    each = f"{resources.worker_cpus:g} cpus and {resources.worker_gpus:g} gpus"
    on = f", {resources.workers // resources.nodes} on each of {resources.nodes} nodes" if resources.nodes else ""
    return f"{whole}: {each} for each of {resources.workers} workers{on} (resources in the sweep)"


def _nodes_in_words(nodes: Sequence[Mapping[str, float]]) -> str:
    if not nodes:
        return "there are no nodes"
    largest = max(nodes, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)))
    shape = f"{largest.get('CPU', 0):g} cpus and {largest.get('GPU', 0):g} gpus"
    return f"there is one node, with {shape}" if len(nodes) == 1 else f"the largest of {len(nodes)} nodes has {shape}"


# ---------------------------------------------------------------- together
@dataclass(frozen=True)
class Share:
    """The workers of one trial that are on one node."""

    first: int
    """The rank of the first of them."""
    count: int
    ranks: int
    """Of all nodes together."""
    address: str
    port: int
    """Where the first of all waits for the others."""


@dataclass(frozen=True)
class WorkerFailure:
    """The first of several workers that failed, and how its process ended."""

    rank: int
    exit: ChildExit


def free_port() -> int:
    """A free port of this node."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


def interface_towards(address: str) -> str | None:
    """The network interface by which this node reaches an IPv4 address; None if unknown."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # sends nothing: only the way is looked up
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # an interface without such an address
                answered = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(answered[20:24]) == own:
                    return name
    return None


def jobs_of(job: Job, share: Share) -> list[Job]:
    """A job for each worker of a share: arguments `rank` and `ranks`, a log of its own, and one of the GPUs that this process sees."""
    gpus = [gpu for gpu in job.environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    meeting = {"MASTER_ADDR": share.address, "MASTER_PORT": str(share.port)}
    # By itself gloo takes the address of the host's name, which need not resolve, and is 127.0.1.1 on many machines.
    if "GLOO_SOCKET_IFNAME" not in os.environ and (name := "lo" if share.count == share.ranks else interface_towards(share.address)):
        meeting["GLOO_SOCKET_IFNAME"] = name
    jobs = []
    for place, rank in enumerate(range(share.first, share.first + share.count)):
        own = {"CUDA_VISIBLE_DEVICES": gpus[place]} if gpus else {}
        log = job.log if rank == 0 else f"{job.log.removesuffix('.txt')}-{rank}.txt"
        arguments = job.arguments | {"rank": rank, "ranks": share.ranks}
        jobs.append(replace(job, arguments=arguments, log=log, environment=job.environment | meeting | own))
    return jobs


def run_together(
    folder: Path, jobs: Sequence[Job], preload: Sequence[str] = PRELOADED, first: int = 0, stop: socket.socket | None = None
) -> WorkerFailure | None:
    """Run jobs in children of this node's server and wait for the end of all; when one does not end well, the others are ended.

    Args:
        first: rank of the first job.
        stop: when the other end of it closes, all are ended.

    Returns:
        The first that did not end well by itself; nothing if all did.

    Raises:
        ServerLost: the server ended first.
        Stopped: the server was told to stop its children, or the other end of `stop` has closed.
    """
    failure: WorkerFailure | None = None
    stopped = False
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        running: dict[socket.socket, int] = {}
        for rank, job in enumerate(jobs, first):
            connection = stack.enter_context(contextlib.closing(child_process.start_job(folder, job, preload)))
            running[connection] = rank
            selector.register(connection, selectors.EVENT_READ)
        if stop is not None:
            selector.register(stop, selectors.EVENT_READ)
        while running:
            for key, _ in selector.select():
                if key.fileobj is stop:
                    selector.unregister(stop)
                    stopped = True
                    _end(running)
                    continue
                connection = key.fileobj  # type: ignore[assignment]
                selector.unregister(connection)
                rank = running.pop(connection)
                try:
                    ended = child_process.wait_for_exit(folder, connection)
                except Stopped:
                    stopped = True
                    continue
                if ended != ChildExit(0, None) and (
                    ended.code == FULL or (failure is None and not stopped)
                ):  # others may have lost it sooner
                    failure = WorkerFailure(rank, ended)
                    _end(running)
    if failure is None and stopped:
        raise Stopped
    return failure


def _end(running: Iterable[socket.socket]) -> None:
    """Have children ended, and still hear when they are gone."""
    for connection in running:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
