"""MLflow over HTTP, by a real server that is away, comes back, and loses answers: in the end nothing is missing, and nothing is twice."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas
import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from s3_server import wait_for
from study_helpers import quick_trial, study

from mm1_ablate.config.study import Trial
from mm1_ablate.store.store import Store
from mm1_ablate.tracking.live import LiveStudy, keep_tracking
from mm1_ablate.tracking.mlflow_runs import track
from mm1_ablate.tracking.own_runs import CONTENT
from mm1_ablate.tracking.server import TrackingFailed, tracking_uri
from mm1_ablate.tracking.shown_study import ComparedArm, ComparedScore, ComparedStudy
from mm1_ablate.tracking.ui import check_mlflow, port_from, stop, ui_command


def do(store: Store, *trials: Trial) -> None:
    for trial in trials:
        store.write_trial(trial)
        quick_trial(str(store.root), trial.fingerprint, [trial.evaluation_fingerprint])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "a store").mkdir()
    return Store(tmp_path / "a store")


RUNS = ["baseline", "baseline/seed-0", "comparison"]
"""Of a study of one trial: its arm, it, and the comparison."""


def runs(client: MlflowClient, name: str) -> list[tuple[str, str]]:
    """Names and statuses of what is in the study's experiment."""
    there = client.get_experiment_by_name(f"mm1-ablate/{name}")
    found = client.search_runs([there.experiment_id]) if there else []
    return sorted((str(run.info.run_name), run.info.status) for run in found)


@contextlib.contextmanager
def serving(command: list[str], port: int) -> Iterator[str]:
    """A server that answers, by its address, for the length of a block."""
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True)
    try:
        wait_for_answer(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(server)


def wait_for_answer(port: int) -> None:
    until = time.monotonic() + 300
    while time.monotonic() < until:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
            return
        time.sleep(0.2)
    raise TimeoutError("the server did not start")


@pytest.fixture
def late_server(tmp_path: Path) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """The address of a server with a database of its own, a call that starts it and waits until it answers, and one that stops it."""
    port, started = port_from(5200), []
    command = ui_command(Store(tmp_path / "server"), port)
    (tmp_path / "server").mkdir()

    def start() -> None:
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        started.append(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True)
        )
        wait_for_answer(port)

    yield f"http://127.0.0.1:{port}", start, lambda: stop(started.pop())
    for server in started:
        stop(server)


def test_what_a_server_missed_while_it_was_away_it_gets_in_the_same_run_or_the_next(
    store: Store,
    tmp_path: Path,
    late_server: tuple[str, Callable[[], None], Callable[[], None]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    address, start, end = late_server
    tiny = study(seeds=(0, 1))
    first, second, *rest = tiny.trials
    report = with_report(tmp_path / "report")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    client, said = MlflowClient(tracking_uri(store)), []
    start()
    with keep_tracking(tiny, store, said.append, interval=0.05):
        do(store, first)
        wait_for(lambda: ("baseline/seed-0", "FINISHED") in runs(client, "test"))
        end()
        do(store, second)
        wait_for(lambda: said)
        with pytest.raises(TrackingFailed, match=f"{address} could not be written"):
            track(tiny, store, report)
        start()
        wait_for(lambda: ("baseline/seed-1", "FINISHED") in runs(client, "test"))
        end()
        do(store, *rest)
    assert len(said) <= 2 and all("continues without MLflow" in line for line in said), "said once each time"
    start()
    tracked = track(tiny, store, report)
    assert len(tracked.trial_runs) == 4 and [status for _, status in runs(client, "test")] == ["FINISHED"] * 7
    run = client.get_run(tracked.trial_runs[tiny.trials[0].evaluation_fingerprint])
    assert run.data.tags["mlflow.parentRunId"] == tracked.arm_runs["baseline"] and run.data.metrics["8-shot"] == 10.0
    assert {file.path for file in client.list_artifacts(tracked.comparison_run)} == FILES
    fetched = client.download_artifacts(tracked.comparison_run, "report/report.html", str(tmp_path))
    assert Path(fetched).read_text() == "<h1>verdict</h1>"
    assert not (store.root / "mlflow.db").exists() and "View run" not in capsys.readouterr().out


def test_a_trial_that_could_not_be_written_is_written_when_the_server_is_back(
    store: Store, late_server: tuple[str, Callable[[], None], Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, start, end = late_server
    tiny = study(seeds=(0, 1))
    first, second, *_ = tiny.trials
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    live = LiveStudy(tiny, store, longest_round=60)
    start()
    do(store, first)
    live.round()
    end()
    do(store, second)
    for _ in tiny.trials:
        with pytest.raises(MlflowException):
            live.round()
    start()
    live.round()
    shown = runs(MlflowClient(address), "test")
    assert ("baseline/seed-0", "FINISHED") in shown and ("baseline/seed-1", "FINISHED") in shown


class LosesAnswers(ThreadingHTTPServer):
    """Passes on what it is asked, but for one request, which either does not arrive or is done without an answer."""

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), Passing)
        self.behind = behind.removeprefix("http://")
        self.lost: tuple[str, int] = ("", 0)
        """The end of its path, and how many like it come before."""
        self.arrives = False

    def is_lost(self, path: str) -> bool:
        if not self.lost[0] or not path.endswith(self.lost[0]):
            return False
        self.lost = self.lost[0], self.lost[1] - 1
        return self.lost[1] == -1


class Passing(BaseHTTPRequestHandler):
    server: LosesAnswers

    def do_GET(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        is_lost = self.server.is_lost(self.path.partition("?")[0])
        if is_lost and not self.server.arrives:
            return
        behind = HTTPConnection(self.server.behind)
        behind.request(self.command, self.path, content, {name: self.headers[name] for name in ("Content-Type",) if name in self.headers})
        answer = behind.getresponse()
        said = answer.read()
        behind.close()
        if not is_lost:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.end_headers()
            self.wfile.write(said)

    do_POST = do_PUT = do_DELETE = do_PATCH = do_GET

    def log_message(self, *_: object) -> None:
        pass


def test_a_request_or_an_answer_that_is_lost_leaves_nothing_half_and_nothing_twice(
    store: Store, late_server: tuple[str, Callable[[], None], Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, start, _ = late_server
    start()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    tiny = study(arms=("baseline",))
    do(store, *tiny.trials)
    between = LosesAnswers(address)
    threading.Thread(target=between.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{between.server_address[1]}")
    # Those that make the comparison, the arm and the trial, that write into the trial, and that say of each that it has ended.
    for path, number in [(f"runs/{what}", number) for what in ("create", "log-batch", "update") for number in (0, 2)]:
        for arrives in (False, True):
            for again in ("0", "2"):
                case = f"{path} {number} {'arrives' if arrives else 'is lost'} {again}".replace("/", " ")
                monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", again)
                between.lost, between.arrives = (path, number), arrives
                one = replace(tiny, name=case)
                with contextlib.suppress(TrackingFailed):
                    track(one, store)
                assert between.lost[1] < 0, f"{case}: it was never asked for"
                track(one, store)
                there = runs(MlflowClient(tracking_uri(store)), case)
                assert there == [(name, "FINISHED") for name in ("baseline", "baseline/seed-0", "comparison")], case
    between.shutdown()
    between.server_close()


def all_runs(client: MlflowClient, name: str) -> list[str]:
    """Names of what is in the study's experiment, deleted or not."""
    there = client.get_experiment_by_name(f"mm1-ablate/{name}")
    assert there is not None
    return sorted(str(run.info.run_name) for run in client.search_runs([there.experiment_id], run_view_type=ViewType.ALL))


FILES = {"comparison.json", "report", "settings.yaml"}
"""Of the comparison's run."""


def with_report(folder: Path) -> ComparedStudy:
    """A comparison with a report."""
    folder.mkdir()
    (folder / "report.html").write_text("<h1>verdict</h1>")
    arms = {"baseline": ComparedArm("baseline", 1, {"8-shot": ComparedScore(10.0)}, score="10.0")}
    table = pandas.DataFrame({"arm": ["baseline"]})
    return ComparedStudy("As expected.", "8-shot", arms, "**As expected.**", table, folder)


def test_where_files_cannot_be_brought_metrics_and_tags_are_written_all_the_same_and_files_once_they_can(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that leaves files to its clients, in a folder that is not here."""
    root, port = tmp_path / "srv" / "artifacts", port_from(5250)
    database = f"sqlite:///{tmp_path / 'server.db'}"
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", "--backend-store-uri", database]
    tiny = study(arms=("baseline",))
    do(store, *tiny.trials)
    with serving([*command, "--no-serve-artifacts", "--default-artifact-root", str(root)], port) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        client, comparison = MlflowClient(address), with_report(tmp_path / "report")
        for _ in range(3):
            tracked = track(tiny, store, comparison)
            assert tracked.without_files is not None and str(root) in tracked.without_files
        assert all_runs(client, "test") == RUNS
        run = client.get_run(*tracked.trial_runs.values())
        assert run.data.metrics["8-shot"] == 10.0 and CONTENT in run.data.tags and not root.exists()
        assert client.get_run(tracked.comparison_run).data.tags["mlflow.note.content"] == "**As expected.**"

        said: list[str] = []
        with keep_tracking(tiny, store, said.append, interval=0.05):
            wait_for(lambda: said)
            time.sleep(0.3)
        assert len(said) == 1 and said[0].startswith(f"MLflow at {address} has metrics and tags, but no files of the study: they belong in")

        root.mkdir(parents=True)
        assert track(tiny, store, comparison).without_files is None
        assert {file.path for file in client.list_artifacts(tracked.comparison_run)} == FILES
        assert {file.path for file in client.list_artifacts(*tracked.trial_runs.values())} == {"experiment.yaml", "predictions"}
        assert "files missing" not in client.get_run(*tracked.trial_runs.values()).data.tags


def test_what_is_always_refused_leaves_one_run_and_none_that_are_deleted(
    store: Store, late_server: tuple[str, Callable[[], None], Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, start, _ = late_server
    start()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tiny = study(arms=("baseline",))
    do(store, *tiny.trials)
    between = LosesAnswers(address)
    threading.Thread(target=between.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{between.server_address[1]}")
    for _ in range(4):
        between.lost = "runs/log-batch", 1  # parameters are written, metrics never
        with pytest.raises(TrackingFailed):
            track(tiny, store)
    between.lost = "", 0
    tracked = track(tiny, store)
    client = MlflowClient(address)
    assert all_runs(client, "test") == RUNS
    (run,) = tracked.trial_runs.values()
    assert [point.step for point in client.get_metric_history(run, "loss")] == list(range(1, 11))
    between.shutdown()
    between.server_close()


class NotMlflow(BaseHTTPRequestHandler):
    """What a web server says of pages that it does not have."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(404)
        self.end_headers()
        self.wfile.write(b"<html>nothing here</html>")

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


def test_an_address_that_is_not_whole_is_said_to_lack_what_it_lacks(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = study(arms=("baseline",))
    for address in ("localhost:5000", "mlflow.lab:5000/mlflow", "mlflow.lab"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(TrackingFailed, match=rf"MLFLOW_TRACKING_URI is not an address: http:// is missing \(http://{address}\)"):
            track(tiny, store)
    with ThreadingHTTPServer(("127.0.0.1", 0), NotMlflow) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{pages.server_address[1]}")
        with pytest.raises(TrackingFailed, match="does its address end with a prefix, such as /mlflow"):
            track(tiny, store)
        pages.shutdown()


def test_several_first_runs_of_a_store_make_one_database(store: Store, tmp_path: Path) -> None:
    tiny = study(arms=("baseline",))
    do(store, *tiny.trials)
    program = (
        "import sys; from dataclasses import replace; from study_helpers import study; from mm1_ablate.store.store import Store\n"
        "from mm1_ablate.tracking.mlflow_runs import track\n"
        "track(replace(study(arms=('baseline',)), name=sys.argv[2]), Store(sys.argv[1]))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    started = [subprocess.Popen([sys.executable, "-c", program, str(store.root), name], env=environment) for name in ("a", "a", "b")]
    assert [process.wait(timeout=300) for process in started] == [0, 0, 0]
    client = MlflowClient(tracking_uri(store))
    assert all_runs(client, "a") == all_runs(client, "b") == RUNS


@pytest.mark.parametrize("kind", ["nobody listens", "nobody answers", "no database"])
def test_whether_mlflow_works_is_found_out_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if kind == "nobody answers":
            silent.listen(16)
        port = silent.getsockname()[1]
        scheme = "postgresql" if kind == "no database" else "http"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://bob:s3cr3t@127.0.0.1:{port}/mlflow")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
        began = time.monotonic()
        check = check_mlflow(tmp_path)
        assert time.monotonic() - began < 30
    assert not check.ok and f"{scheme}://***@127.0.0.1:{port}" in check.found and "s3cr3t" not in check.found
    assert "start the server" in check.remedy and os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "7"
