"""The MLflow server of a store, opened at a study, and whether MLflow works. In: a store and a study. Out: addresses, until Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from mm1_ablate.config.passwords import without_passwords
from mm1_ablate.config.study import Study
from mm1_ablate.run.signals import interrupt_handled, interruptible
from mm1_ablate.store.health import HealthCheck
from mm1_ablate.store.store import Store
from mm1_ablate.tracking.mlflow_runs import track
from mm1_ablate.tracking.server import SILENT, tracking_uri

DOORS = "Go in by these addresses: MLflow's own list of experiments leads to its page of traces, which is empty."
HOST = "127.0.0.1"
BACKEND = "MLFLOW_BACKEND_STORE_URI"
START_SECONDS = 90.0
ANSWERED_WITHIN = 10.0
"""Seconds within which whoever is asked whether MLflow works must answer."""
AT_ONCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": f"{ANSWERED_WITHIN:g}"}
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def ui_command(store: Store, port: int = 5000) -> list[str]:
    """The command that serves on this machine what MLflow has of a store. An address with a password is not among its arguments, which
    everybody on this machine sees, but in its environment (`BACKEND`)."""
    destination = store.root / "mlartifacts"
    places = ["--artifacts-destination", str(destination)]
    if (backend := tracking_uri(store)) == without_passwords(backend):
        places = ["--backend-store-uri", backend, *places]
    return [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1", *places]


def addresses(study: Study, store: Store, base: str) -> list[str]:
    """Where a study is to be seen on a server, in lines for display. Brings MLflow up to the store first.

    Raises:
        TrackingFailed: with what MLflow said.
    """
    tracked = track(study, store)
    lines = [f"{study.name}: the {what:<8} {base}{path}" for what, path in tracked.views.items()]
    if (store.study_folder(study) / "report").exists():
        lines.append(f"{study.name}: the report   {base}{tracked.report}")
    return [*lines, DOORS]


def serve(
    store: Store, study: Study | None = None, port: int = 5000, open_browser: bool = False, say: Callable[[str], None] = print
) -> int:
    """Serve MLflow until interrupted, and say where to look. For a server named by MLFLOW_TRACKING_URI, only print its address.

    Raises:
        TrackingFailed: MLflow could not be written.
        RuntimeError: the server did not start.
    """
    remote = tracking_uri(store)
    if remote.startswith("http"):
        shown = without_passwords(remote).rstrip("/")
        for line in addresses(study, store, shown) if study else [shown]:
            say(line)
        return 0
    free = port_from(port)
    if free != port:
        say(f"port {port} is taken; using {free}")
    base = f"http://{HOST}:{free}"
    lines = addresses(study, store, base) if study else [base]
    try:
        with interruptible():
            return _serve(store, free, lines, open_browser, say)
    except KeyboardInterrupt:
        return 0


def _serve(store: Store, port: int, lines: list[str], open_browser: bool, say: Callable[[str], None]) -> int:
    """Start the server, say where to look, and end it whatever ends this."""
    server = start_server(store, port)
    try:
        say("MLflow is running; Ctrl-C stops it")
        for line in lines:
            say(line)
        if open_browser:
            webbrowser.open(lines[0].rpartition(" ")[2])
        return server.wait()
    finally:
        interrupt_handled()
        stop(server)


def start_server(store: Store, port: int) -> subprocess.Popen[bytes]:
    """Start the server and wait until it answers.

    Raises:
        RuntimeError: it did not, with where its log is.
    """
    store.root.mkdir(parents=True, exist_ok=True)
    # Its job runners would be eight more processes and 14 seconds.
    environment = os.environ | SILENT | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", BACKEND: tracking_uri(store)}
    log = store.root / "mlflow-server.log"
    store.refuse_links(log)
    with open(log, "ab") as output:
        server = subprocess.Popen(ui_command(store, port), stdout=output, stderr=output, env=environment, start_new_session=True)
    until = time.monotonic() + START_SECONDS
    try:
        while server.poll() is None and time.monotonic() < until:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2):
                return server
            time.sleep(0.2)
    except BaseException:
        stop(server)
        raise
    stop(server)
    raise RuntimeError(f"the MLflow server did not start; see {log}")


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and the workers that it started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=5)
            if sign is signal.SIGTERM and not _group_lives(server.pid):
                return


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def port_from(port: int) -> int:
    """This port if it is free, or else any that is."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


# ---------------------------------------------------------------- whether it can be used
def check_mlflow(place: Path | str) -> HealthCheck:
    """The store's database of MLflow opens; a server named by MLFLOW_TRACKING_URI answers."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow
    from mlflow import MlflowClient

    address = os.environ.get("MLFLOW_TRACKING_URI")
    database = Store(place).root / "mlflow.db"
    if address is None and not database.exists():
        return HealthCheck("mlflow", True, f"{mlflow.__version__}, {database} will be made")
    address = address or f"sqlite:///{database}"
    remedy = (
        "start the server or unset MLFLOW_TRACKING_URI"
        if "://" in address and not address.startswith("sqlite")
        else (f"move {database} away; `mm1-ablate ui SWEEP` writes it anew from the store")
    )
    shown = without_passwords(address)
    try:
        _connect(address)
        with _environment(AT_ONCE):
            experiments = MlflowClient(tracking_uri=address).search_experiments(max_results=100)
    except Exception as error:
        told = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return HealthCheck("mlflow", False, f"{shown}: {without_passwords(told)}", remedy)
    return HealthCheck("mlflow", True, f"{mlflow.__version__}, {shown} opens, {len(experiments)} experiments")


def _connect(address: str) -> None:
    """Raise OSError where nobody answers for a database, whose drivers try for minutes. Servers are asked by MLflow, perhaps by a proxy."""
    scheme = address.partition("://")[0].partition("+")[0]
    place = urlsplit(address)
    if scheme in DATABASE_PORTS and place.hostname:
        with socket.create_connection((place.hostname, place.port or DATABASE_PORTS[scheme]), timeout=ANSWERED_WITHIN):
            pass


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """An environment with other values for the length of a block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
