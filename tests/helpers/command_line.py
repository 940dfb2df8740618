"""The command, called in this process."""

from __future__ import annotations

from click.testing import Result
from typer.testing import CliRunner

from mm1_ablate.cli import app


def call(*arguments: object, **environment: str) -> Result:
    """What a command says and how it ends, in a terminal of 200 columns unless the environment says otherwise."""
    return CliRunner(env={"COLUMNS": "200", **environment}).invoke(app, [str(argument) for argument in arguments])
