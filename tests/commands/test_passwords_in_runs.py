"""A study whose data and whose MLflow server are opened with passwords: they are in nothing that a run writes."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from command_line import call

from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.miniature.language import VOCABULARY
from mm1_ablate.store.store import Store
from mm1_ablate.tracking.ui import port_from, start_server, stop

PASSWORD, SIGNATURE, OF_MLFLOW = "pa55-of-the-files", "51gn4ture-of-the-text", "pa55-of-mlflow"
SECRETS = (PASSWORD, SIGNATURE, OF_MLFLOW)
WORDS = [word for word in VOCABULARY if word.isalpha()]
LINES = b"".join(json.dumps({"text": " ".join(WORDS[number : number + 8])}).encode() + b"\n" for number in range(40)) * 5


class Private(BaseHTTPRequestHandler):
    """Gives the same lines to whoever has the password, or the signature."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self.wfile.write(self._answer())

    def _answer(self) -> bytes:
        given = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode()
        allowed = given == f"anna:{PASSWORD}" if self.path.startswith("/private/") else f"X-Amz-Signature={SIGNATURE}" in self.path
        content, status = LINES, 200
        if not allowed:
            content, status = b"", 401
        elif asked := self.headers.get("Range"):
            first, last = asked.removeprefix("bytes=").split("-")
            content, status = LINES[int(first) : int(last) + 1 if last else None], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"same"')
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(content) - 1}/{len(LINES)}")
        self.end_headers()
        return content

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def private() -> Iterator[str]:
    """Host and port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Private)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture
def with_private_files(tiny_sweep: Path, private: str) -> Path:
    """The tiny sweep, its text behind a password, and held-out text behind a signature."""
    experiment = tiny_sweep.parent.parent / "experiments" / "tiny.yaml"
    declared = yaml.safe_load(experiment.read_text())
    declared["data"]["sources"]["text"] = {"type": "text", "files": f"http://anna:{PASSWORD}@{private}/private/text.jsonl"}
    signed = f"http://{private}/signed/text.jsonl?X-Amz-Date=1&X-Amz-Expires=9&X-Amz-Signature={SIGNATURE}"
    declared["evaluation"]["losses"] = {"held_out": {"source": {"type": "text", "files": signed}, "documents": 4}}
    experiment.write_text(yaml.safe_dump(declared))
    note = f"description: as at http://anna:{PASSWORD}@{private}/private/text.jsonl\nseeds: [0]"
    tiny_sweep.write_text(
        tiny_sweep.read_text()
        .replace("seeds: [0, 1]", note)
        .replace("[data.mixture.interleaved, data.mixture.text]", "[data.mixture.interleaved]")
    )
    return tiny_sweep


def everything_in(folder: Path) -> bytes:
    return b"".join(path.name.encode() + path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_no_password_is_in_what_a_run_writes_or_says(
    with_private_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private: str
) -> None:
    port = port_from(5300)
    server = start_server(Store(tmp_path / "server"), port)
    try:
        environment = {
            **os.environ,
            "COLUMNS": "160",
            "MLFLOW_TRACKING_URI": f"http://bob:{OF_MLFLOW}@127.0.0.1:{port}",
            "MM1_ABLATE_CACHE": str(tmp_path / "cache"),
        }

        def command(*arguments: str) -> str:
            line = [sys.executable, "-m", "mm1_ablate", *arguments]
            done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout + done.stderr

        said = command("run", "sweeps/tiny.yaml", "--cpus", "2")
        assert "MLflow" in said and "could not be written" not in said
        said += command("status", "sweeps/tiny.yaml", "--json") + command("report", "sweeps/tiny.yaml", "--json")
        said += command("plan", "sweeps/tiny.yaml") + command("data", "sweeps/tiny.yaml", "--to", "ablations/data.html")
        said += command("ui", "sweeps/tiny.yaml")
        assert f"http://***@127.0.0.1:{port}" in said
    finally:
        stop(server)
    written = everything_in(tmp_path / "ablations")
    assert b"model.pt" in written and f"http://***@{private}/private/text.jsonl".encode() in written
    assert f"http://{private}/signed/text.jsonl?***".encode() in written
    for secret in SECRETS:
        for where, content in (("said", said.encode()), ("store", written), ("MLflow", everything_in(tmp_path / "server"))):
            assert secret.encode() not in content, f"{secret} in {where}"
        assert secret.encode() not in everything_in(tmp_path / "cache")


def test_another_password_is_no_other_study(with_private_files: Path, private: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [(trial.fingerprint, trial.evaluation_fingerprint) for trial in load_study(with_private_files).trials]
    contents = load_study(with_private_files).snapshot.to_record()
    monkeypatch.setattr(sys.modules[__name__], "PASSWORD", "another")
    monkeypatch.setattr(sys.modules[__name__], "SIGNATURE", "renewed")
    experiment = with_private_files.parent.parent / "experiments" / "tiny.yaml"
    text = experiment.read_text().replace("pa55-of-the-files", "another").replace("51gn4ture-of-the-text", "renewed")
    experiment.write_text(text.replace("X-Amz-Date=1", "X-Amz-Date=2"))
    study = load_study(with_private_files)
    assert [(trial.fingerprint, trial.evaluation_fingerprint) for trial in study.trials] == before
    assert study.snapshot.to_record() == contents


def test_a_file_that_cannot_be_opened_is_named_without_its_password(with_private_files: Path, private: str) -> None:
    experiment = with_private_files.parent.parent / "experiments" / "tiny.yaml"
    experiment.write_text(experiment.read_text().replace(PASSWORD, "wr0ng-pa55"))
    done = call("validate", with_private_files)
    assert done.exit_code == 2 and f"http://***@{private}/private/text.jsonl" in done.stderr
    assert "wr0ng-pa55" not in done.stderr + done.stdout + call("validate", with_private_files, "--json").stdout
