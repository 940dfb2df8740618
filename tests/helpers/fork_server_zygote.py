"""Fork servers for studies that tests run in their own process, forked from one process that has imported torch and the rest.

A fork server imports for ten seconds of a core, and a suite starts dozens. `start(folder, environment)` does what a new process
with that environment would do, in milliseconds; the servers are the package's own. Studies that tests run by the command line in a
process of its own start theirs as users do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mm1_ablate.run import fork_server


class Zygote:
    """One process that forks servers, until this process ends."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def start(self, folder: Path, environment: Mapping[str, str]) -> None:
        """Start a fork server that listens in a folder; returns when it is a process of its own.

        Raises:
            subprocess.CalledProcessError: it could not be started; the folder's log says why.
        """
        if self.process is None or self.process.poll() is not None:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self.process = subprocess.Popen([sys.executable, "-P", __file__], env=environment, text=True, start_new_session=True, **pipes)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"folder": str(folder), "environment": dict(environment)}) + "\n")
        self.process.stdin.flush()
        if code := int(self.process.stdout.readline()):
            raise subprocess.CalledProcessError(code, f"fork server in {folder}")

    def end(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait()


def _become_server(folder: Path, environment: Mapping[str, str]) -> None:
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    paths = environment["PYTHONPATH"].split(os.pathsep)
    sys.path[:] = [*paths, *(path for path in sys.path if path not in paths)]
    fork_server.main(folder, [])


def _serve() -> None:
    # The answers' own descriptor: what libraries print on import must not come between them.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    fork_server.preload(fork_server.PRELOADED)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _become_server(Path(request["folder"]), request["environment"])
                code = 0
            finally:
                os._exit(code)
        answers.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
