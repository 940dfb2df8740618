"""One piece of work done by several children together: all end well, or all are ended.

In: a job for each of them. Out: how the first one that did not end well ended. Each child's environment says where they meet
(MASTER_ADDR, MASTER_PORT) and which GPU it sees.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mm1_ablate.run import child_process
from mm1_ablate.run.child_process import Ended, Job, Stopped
from mm1_ablate.store.disk_full import FULL

SIOCGIFADDR = 0x8915
"""Asks Linux for the address of a network interface."""


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
class Fault:
    """The first of several workers that did not end well, and how."""

    rank: int
    ended: Ended


def free_port() -> int:
    """A port of this node that nobody uses."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def interface_towards(address: str) -> str | None:
    """The network interface by which this node reaches an IPv4 address; nothing where that cannot be told."""
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
    """A job for each worker of a share: arguments `rank` and `ranks`, a log of its own, and of the GPUs that this process sees one."""
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
    folder: Path, jobs: Sequence[Job], preload: Sequence[str] = child_process.PRELOADED, first: int = 0, enough: socket.socket | None = None
) -> Fault | None:
    """Run jobs in children of this node's server and wait for the end of all; when one does not end well, the others are ended.

    Args:
        first: rank of the first job.
        enough: when the other end of it closes, all are ended.

    Returns:
        The first that did not end well by itself; nothing if all did.

    Raises:
        ServerLost: the server ended first.
        Stopped: the server was told to stop its children, or somebody had enough.
    """
    fault: Fault | None = None
    stopped = False
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        running: dict[socket.socket, int] = {}
        for rank, job in enumerate(jobs, first):
            connection = stack.enter_context(contextlib.closing(child_process.ask(folder, job, preload)))
            running[connection] = rank
            selector.register(connection, selectors.EVENT_READ)
        if enough is not None:
            selector.register(enough, selectors.EVENT_READ)
        while running:
            for key, _ in selector.select():
                if key.fileobj is enough:
                    selector.unregister(enough)
                    stopped = True
                    _end(running)
                    continue
                connection = key.fileobj  # type: ignore[assignment]
                selector.unregister(connection)
                rank = running.pop(connection)
                try:
                    ended = child_process.answer(folder, connection)
                except Stopped:
                    stopped = True
                    continue
                if ended != Ended(0, None) and (ended.code == FULL or (fault is None and not stopped)):  # others may have lost it sooner
                    fault = Fault(rank, ended)
                    _end(running)
    if fault is None and stopped:
        raise Stopped
    return fault


def _end(running: Iterable[socket.socket]) -> None:
    """Have children ended, and still hear when they are gone."""
    for connection in running:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
