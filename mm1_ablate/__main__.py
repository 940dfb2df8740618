"""`python -m mm1_ablate`: the command line."""

from mm1_ablate.cli import app

app()
