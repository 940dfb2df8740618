"""One process per node that has imported everything, and forks a child for each trial in milliseconds.

In: requests over a unix socket, one connection each. `{"kind": "run", ...}` (a `child_process.Job`) forks a child that lives as long as its
connection: when the other end closes, for whatever reason, the child is stopped. Out: `{"code": ..., "signal": ..., "stopped": ...}` on the
same connection when the child has ended. `{"kind": "keep", "owner": bool}` keeps the server alive while the connection is open; the end of
an owner ends the server and its children. SIGTERM does so too.

Started by `child_process.start_server`, never imported by others. The alternative, `multiprocessing`'s fork server, belongs to a single
process: every Ray worker would import torch again, 8 to 15 seconds of a core each.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO, cast

from mm1_ablate.config.passwords import WithoutPasswords
from mm1_ablate.store.disk_full import FULL, is_disk_full

PRELOADED = (
    "torch",
    "numpy",
    "pandas",
    "pyarrow.parquet",
    "timm",
    "transformers.models.phi.modeling_phi",
    "lightning.pytorch",
    "mm1_ablate.run.trial",
    "mm1_ablate.training.fit",
    "mm1_ablate.training.preparation",
    "mm1_ablate.evaluation.evaluate",
    "mm1_ablate.evaluation.held_out_loss",
)
"""What a trial imports. None of it may initialise CUDA or start a thread."""
GRACE = 1.5
"""Seconds between asking a child to end (SIGTERM: Lightning saves a checkpoint) and killing its process group."""
IDLE = 10.0
"""Seconds after which an unused server ends."""
PATIENCE = 60.0
"""Seconds that a new server waits for its first connection."""


def read_message(connection: socket.socket) -> dict[str, Any] | None:
    """One line of JSON, or None when the other end has closed."""
    received = bytearray()
    while not received.endswith(b"\n"):
        part = connection.recv(65536)
        if not part:
            return None
        received += part
    message: dict[str, Any] = json.loads(received)
    return message


def write_message(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


class ForkServer:
    """The server's loop. Single-threaded, because it forks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(folder / "socket"))
        self.listener.listen(256)
        self.selector = selectors.DefaultSelector()
        self.keepers: dict[socket.socket, bool] = {}
        self.children: dict[int, socket.socket] = {}
        self.stopped: dict[int, float] = {}
        self.stopping = False

    def serve(self) -> None:
        """Answer requests until the server is no longer used."""
        wakeup, notify = socket.socketpair()
        wakeup.setblocking(False)
        notify.setblocking(False)
        signal.set_wakeup_fd(notify.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self.stop())
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(wakeup, selectors.EVENT_READ)
        needed_until = time.monotonic() + PATIENCE
        while not (self.stopping and not self.children):
            if self.keepers or self.children:
                needed_until = time.monotonic() + IDLE
            elif time.monotonic() > needed_until:
                break
            for key, _ in self.selector.select(timeout=0.25 if self.stopped else 1.0):
                if key.fileobj is self.listener:
                    self.accept()
                elif key.fileobj is wakeup:
                    with contextlib.suppress(BlockingIOError):
                        wakeup.recv(4096)
                else:
                    self.closed(key.fileobj)  # type: ignore[arg-type]
            self.reap()

    def accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            connection, _ = self.listener.accept()
            connection.settimeout(10)
            try:
                request = read_message(connection)
            except (OSError, ValueError):
                request = None
            connection.settimeout(None)
            if request is None or self.stopping:
                connection.close()
            elif request["kind"] == "run":
                self.fork(connection, request)
            else:
                self.keepers[connection] = request["owner"]
                self.selector.register(connection, selectors.EVENT_READ)

    def fork(self, connection: socket.socket, job: dict[str, Any]) -> None:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                self.become_child(connection)
                code = in_child(job)
            except BaseException as error:
                code = FULL if is_disk_full(error) else 1
                with contextlib.suppress(OSError):  # the log's disk is full too
                    traceback.print_exc()
            finally:
                os._exit(code)
        self.children[pid] = connection
        self.selector.register(connection, selectors.EVENT_READ)

    def become_child(self, own: socket.socket) -> None:
        """Close everything of the server: an open copy of a connection would hide the server's end from the other side."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.selector.close()
        for connection in (self.listener, own, *self.keepers, *self.children.values()):
            connection.close()

    def closed(self, connection: socket.socket) -> None:
        """The other end has closed: a child is stopped, and an owner takes everything with it."""
        self.selector.unregister(connection)
        if connection in self.keepers:
            connection.close()
            if self.keepers.pop(connection):
                self.stop()
        else:
            self.end(next(pid for pid, other in self.children.items() if other is connection))

    def stop(self) -> None:
        self.stopping = True
        for pid in self.children:
            self.end(pid)

    def end(self, pid: int) -> None:
        if pid not in self.stopped:
            self.stopped[pid] = time.monotonic() + GRACE
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def reap(self) -> None:
        """Collect children that have ended, with what is left of their process groups; kill those past their grace."""
        for pid, deadline in self.stopped.items():
            if time.monotonic() > deadline:
                kill_group(pid)
        while self.children:
            # Its process group is killed before it is collected: until then the id cannot belong to another process.
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            kill_group(ended.si_pid)
            os.waitpid(ended.si_pid, 0)
            connection = self.children.pop(ended.si_pid)
            with contextlib.suppress(KeyError):
                self.selector.unregister(connection)
            killed = ended.si_code != os.CLD_EXITED
            answer = {
                "code": None if killed else ended.si_status,
                "signal": ended.si_status if killed else None,
                "stopped": self.stopped.pop(ended.si_pid, None) is not None,
            }
            with contextlib.suppress(OSError):
                write_message(connection, answer)
            connection.close()


def kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def in_child(job: dict[str, Any]) -> int:
    """What the child does, in its main thread: its own group, log, environment, threads; then the function. Returns its exit code."""
    os.setsid()
    server = os.getppid()
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    # Libraries print addresses as they were asked to open them.
    sys.stdout, sys.stderr = cast(TextIO, WithoutPasswords(sys.stdout)), cast(TextIO, WithoutPasswords(sys.stderr))
    os.environ.update(job["environment"])
    with contextlib.suppress(OSError):
        os.chdir(job["directory"])
    sys.path.extend(path for path in job["import_paths"] if path not in sys.path)
    threading.Thread(target=_end_with_server, args=(server,), daemon=True).start()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(job["threads"])
    module, _, name = job["function"].partition(":")
    try:
        return int(getattr(importlib.import_module(module), name)(**job["arguments"]) or 0)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _end_with_server(server: int) -> None:
    """End this child when its server has been killed; in every other case the server ends it."""
    while os.getppid() == server:
        time.sleep(0.5)
    os.killpg(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(os.getpid(), signal.SIGKILL)


def preload(modules: Sequence[str]) -> None:
    """Import what children will need; what cannot be imported, for whatever reason, is reported by the child."""
    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.freeze()


def main(folder: Path, modules: Sequence[str]) -> None:
    """Detach, listen, import, serve; remove the folder at the end."""
    if os.fork():
        os._exit(0)
    os.setsid()
    # Ray starts its processes with SIGINT blocked.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # What a batch system sends to all processes of a job is the driver's to answer: it ends the children, who save a checkpoint first.
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    try:
        server = ForkServer(folder)
        (folder / "pid").write_text(str(os.getpid()), encoding="utf-8")
        preload(modules)
        server.serve()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".lock").unlink(missing_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
