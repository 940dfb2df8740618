"""Commands of the user's own that are told how a run ended: a mail, a message to a chat, the next job.

In: a command for the shell, and how a run ended. Out: the command's own output; what goes wrong with it is said, and changes nothing.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import typer

from mm1_ablate.commands.common import BUDGET_FORBIDS, FILE_IS_WRONG, INTERRUPTED, SOME_FAILED, say

LONGEST_SECONDS = 300.0
"""That a hook may take: whatever waits for the run must not wait for a mail server."""
OUTCOMES = {
    0: "finished",
    SOME_FAILED: "some trials failed",
    FILE_IS_WRONG: "the file is wrong",
    BUDGET_FORBIDS: "the budget forbids it",
    INTERRUPTED: "interrupted",
}


@dataclass
class Hooks:
    """What is run at the end, and what is known by then. All of it is in the command's environment.

    Attributes:
        finish: for an end with exit code 0.
        failure: for every other end.
        facts: by the names of environment variables, without MM1_ABLATE_.
    """

    finish: str | None = None
    failure: str | None = None
    facts: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def around(self) -> Iterator[Hooks]:
        """Run the one that applies when the block ends, however it ends."""
        code = SOME_FAILED
        try:
            yield self
            code = 0
        except typer.Exit as end:
            code = end.exit_code
            raise
        except KeyboardInterrupt:
            code = INTERRUPTED
            raise
        finally:
            self.run(code)

    def run(self, code: int) -> None:
        """Run the command for an exit code, and say what goes wrong with it."""
        command, option = (self.finish, "--on-finish") if code == 0 else (self.failure, "--on-failure")
        if not command:
            return
        known = self.facts | {"EXIT_CODE": str(code), "OUTCOME": OUTCOMES.get(code, "failed")}
        environment = os.environ | {f"MM1_ABLATE_{name}": value for name, value in known.items()}
        try:
            ended = subprocess.run(command, shell=True, env=environment, stdin=subprocess.DEVNULL, timeout=LONGEST_SECONDS).returncode
        except subprocess.TimeoutExpired:
            say(f"{option}: took longer than {LONGEST_SECONDS:g} seconds and was ended: {command}")
        except (OSError, ValueError) as error:
            say(f"{option}: cannot be run: {error}: {command}")
        else:
            if ended:
                say(f"{option}: ended with exit code {ended}: {command}")
