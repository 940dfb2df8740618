"""A child process of its own for each piece of work: isolated, killable, ended when the process that asked for it ends.

In: a `Job` (a function by import path, its arguments, its cores and GPUs). Out: how the child ended. The children are forked
by the node's `fork_server`, which has imported torch and the rest once, so one starts in a fraction of a second; its main thread
is free for Lightning's signal handlers.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mm1_ablate.run.fork_server import PRELOADED, read_message, write_message
from mm1_ablate.run.trial_environment import trial_environment
from mm1_ablate.store.disk_full import FULL

_keep_alive: dict[Path, socket.socket] = {}


class ServerLost(Exception):
    """The node's fork server ended while a child was running."""


class Stopped(Exception):
    """The child was stopped because its study was: not a failure of its own."""


@dataclass(frozen=True)
class Job:
    """What a child does, and with what."""

    function: str
    """`module:function`; called with `arguments` as keywords; what it returns is the exit code (None is 0)."""
    arguments: dict[str, Any]
    log: str
    """File that takes its standard output and error."""
    threads: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    directory: str = "."
    import_paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChildExit:
    """How a child ended: an exit code, or the signal that killed it."""

    code: int | None
    signal: int | None


def share_of_machine(cpus: float, gpus: float) -> tuple[int, dict[str, str]]:
    """Threads and environment of a child. Without a GPU of its own it must see none: Ray leaves all of them visible."""
    threads = max(1, int(cpus))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    environment = {name: str(threads) for name in names} | {"TOKENIZERS_PARALLELISM": "false"}
    if not gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    elif "CUDA_VISIBLE_DEVICES" in os.environ:
        environment["CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]
    return threads, environment


def new_server_folder() -> Path:
    """Where the fork servers of one run listen, the same path on every node."""
    return folder_for_sockets(50) / f"mm1-ablate-{os.getuid()}-{uuid.uuid4().hex[:8]}"


def folder_for_sockets(longest: int, *variables: str) -> Path:
    """A folder for temporary files whose path is short, for a socket's has 107 bytes at most. Batch systems set TMPDIR to longer ones.

    Args:
        longest: so many bytes of the path are left over for it.
        variables: of the environment, which name a folder before TMPDIR does.

    Raises:
        ConnectionError: there is none.
    """
    named = [os.environ[name] for name in (*variables, "TMPDIR") if os.environ.get(name)]
    candidates = dict.fromkeys([*named, "/tmp", "/var/tmp", "/dev/shm"])
    problems = []
    for folder in map(Path, candidates):
        if len(os.fsencode(folder)) > longest:
            problems.append(f"{folder} is longer than {longest} bytes, too long for a socket")
            continue
        try:
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError as error:
            problems.append(f"{folder}: {error.strerror}")
    raise ConnectionError(f"there is no folder for temporary files: {'; '.join(problems)}; set TMPDIR to a short one that can be written")


def start_server(folder: Path, owner: bool = False, preload: Sequence[str] = PRELOADED) -> None:
    """Make sure that this node's server is there, and stays at least as long as this process. Does not wait for its imports.

    Args:
        owner: whether the server and its children end with this process, however it ends.
        preload: modules that children need.
    """
    if folder in _keep_alive:
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection = _connect(folder)
        if connection is None:
            (folder / "socket").unlink(missing_ok=True)
            _spawn(folder, preload)
            connection = _connect(folder, wait=30)
            if connection is None:
                raise ServerLost(f"the fork server did not start; see {folder}/log.txt")
    write_message(connection, {"kind": "keep", "owner": owner})
    _keep_alive[folder] = connection


def server_environment() -> dict[str, str]:
    """What a fork server and its children find in their environment: nothing that would change a trial, and this process's modules."""
    paths = [path for path in sys.path if path and not path.endswith(".zip")]
    own = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return trial_environment(os.environ) | own


def _spawn(folder: Path, preload: Sequence[str]) -> None:
    environment = server_environment()
    with open(folder / "log.txt", "ab") as log:
        # -P: the folder of the script must not come first among the import paths.
        command = [sys.executable, "-P", "-m", "mm1_ablate.run.fork_server", str(folder), *preload]
        subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True, start_new_session=True)


def _connect(folder: Path, wait: float = 0) -> socket.socket | None:
    until = time.monotonic() + wait
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(folder / "socket"))
            return connection
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            if time.monotonic() > until:
                return None
            time.sleep(0.02)


def run(folder: Path, job: Job, preload: Sequence[str] = PRELOADED) -> ChildExit:
    """Run a job in a child of this node's server and wait for its end. The child dies if this process does.

    Raises:
        ServerLost: the server ended first.
        Stopped: the server was told to stop its children.
    """
    with contextlib.closing(start_job(folder, job, preload)) as connection:
        return wait_for_exit(folder, connection)


def start_job(folder: Path, job: Job, preload: Sequence[str] = PRELOADED) -> socket.socket:
    """Start a job in a child of this node's server. The child is stopped when the connection closes.

    Raises:
        ServerLost: the server cannot be reached.
    """
    start_server(folder, preload=preload)
    connection = _connect(folder)
    if connection is None:
        _keep_alive.pop(folder).close()
        start_server(folder, preload=preload)
        connection = _connect(folder)
        if connection is None:
            raise ServerLost("the fork server cannot be reached")
    # A server that ends now is noticed when it is to answer.
    with contextlib.suppress(OSError):
        write_message(connection, {"kind": "run"} | asdict(job))
    return connection


def wait_for_exit(folder: Path, connection: socket.socket) -> ChildExit:
    """Wait for the end of the child that a connection has started.

    Raises:
        ServerLost, Stopped: see `run`.
    """
    try:
        message = read_message(connection)
    except OSError:
        message = None
    if message is None:
        with contextlib.suppress(KeyError):
            _keep_alive.pop(folder).close()
        raise ServerLost("the fork server ended while its child was running")
    if message["stopped"] and message["code"] != FULL:
        raise Stopped
    return ChildExit(message["code"], message["signal"])


def stop_server(folder: Path, wait: float = 6.0) -> None:
    """End this node's server and its children; returns when they are gone."""
    pid = _read_pid(folder)
    if pid and is_alive(pid):
        # While it still imports this ends it at once; later it is a request to end its children first.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    if folder in _keep_alive:
        _keep_alive.pop(folder).close()
    until = time.monotonic() + wait
    while pid and is_alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_suffix(".lock").unlink(missing_ok=True)


@contextlib.contextmanager
def server(preload: Sequence[str] = PRELOADED) -> Iterator[Path]:
    """A fork server on this node for the length of a block; its children end with it."""
    folder = new_server_folder()
    start_server(folder, owner=True, preload=preload)
    try:
        yield folder
    finally:
        stop_server(folder)


def _read_pid(folder: Path) -> int | None:
    try:
        return int((folder / "pid").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def is_alive(pid: int) -> bool:
    """Whether a process of this node is running."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # A process whose parent has not collected it yet (in a container without an init) is as gone as it gets.
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] != "Z"
    return True
