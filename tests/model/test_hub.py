"""Models by name that are not on this machine: asked for once where the hub is out of reach, and as libraries do where it answers."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

NOBODY = "http://127.0.0.1:1"
"""Where nobody listens."""


def planned(tiny_sweep: Path, hub: str, **parts: dict[str, object]) -> subprocess.CompletedProcess[str]:
    experiment = tiny_sweep.parent.parent / "experiments" / "tiny.yaml"
    settings = yaml.safe_load(experiment.read_text())
    settings["model"].update(parts)
    experiment.write_text(yaml.safe_dump(settings))
    own = {"HF_ENDPOINT": hub, "HF_HOME": str(tiny_sweep.parent / "hub"), "no_proxy": "*", "COLUMNS": "400"}
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")} | own
    command = [sys.executable, "-m", "mm1_ablate", "plan", str(tiny_sweep), "--store", str(tiny_sweep.parent / "store")]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


PARTS = {
    "nobody/model": {"language_model": {"name": "nobody/model", "tokenizer": "miniature"}},
    "nobody/encoder": {"image_encoder": {"type": "timm", "name": "hf-hub:nobody/encoder", "image_size": 32, "patch_size": 16}},
}


@contextmanager
def a_hub_that_has_nothing() -> Iterator[tuple[str, list[str]]]:
    """Its address, and the paths that it was asked for."""
    asked: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *arguments: object) -> None:
            """Nothing is printed."""

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.parametrize("name", PARTS)
def test_a_hub_out_of_reach_is_tried_once_and_what_to_do_is_reported(tiny_sweep: Path, name: str) -> None:
    done = planned(tiny_sweep, NOBODY, **PARTS[name])
    assert done.returncode == 2 and f"hf download {name} --include" in done.stderr, done.stderr
    assert "name a folder" in done.stderr and "from scratch" in done.stderr
    # The hub's library says so of each of its six tries, and waits between them.
    assert "Retrying" not in done.stderr


def test_a_hub_that_answers_is_asked_for_the_model(tiny_sweep: Path) -> None:
    with a_hub_that_has_nothing() as (address, asked):
        done = planned(tiny_sweep, address, **PARTS["nobody/model"])
    assert done.returncode == 2 and "hf download nobody/model" in done.stderr
    assert any("nobody/model" in path and path.endswith("config.json") for path in asked)
