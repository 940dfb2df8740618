"""The MLflow that a store is shown in: its address, its client, who may write, and what its errors mean.

In: a store, and MLFLOW_TRACKING_URI if it is set. Out: a client of MLflow's server, or of the store's own SQLite file, that gives up
early and logs nothing later than it says.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from mm1_ablate.store.store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient

SILENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "GIT_PYTHON_REFRESH": "quiet"}
SILENT["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
"""Give up early on a server that does not answer: MLflow itself would retry for minutes, and the next call writes everything."""
PLACES = "mlartifacts"
"""The folder of a store with the files of its runs."""
WRITTEN_WITHIN = 120.0
"""Seconds to wait for another process that writes the same SQLite file."""


class TrackingFailed(Exception):
    """MLflow could not be written. The store has everything all the same."""


class NotAnAddress(ValueError):
    """MLFLOW_TRACKING_URI is no address of MLflow's; the message says what may be meant."""


def tracking_uri(store: Store) -> str:
    """Where a store is shown in MLflow: MLFLOW_TRACKING_URI, or else its own SQLite file."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.root / 'mlflow.db'}"


def first_line(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0][:300]
    return first if isinstance(error, NotAnAddress) else f"{type(error).__name__}: {first}"


def advice(error: Exception) -> str:
    """What to do where somebody answers who is not MLflow: often a proxy that has it below a prefix."""
    if "error code 404" in str(error) or "not in a valid JSON format" in str(error):
        return "; what answers there is not MLflow: does its address end with a prefix, such as /mlflow? MLFLOW_TRACKING_URI must have it"
    return ""


@contextlib.contextmanager
def writing_alone(store: Store) -> Iterator[None]:
    """Only one process at a time works on MLflow's SQLite file: of several that find none, each would make its tables."""
    address = tracking_uri(store)
    if not address.startswith("sqlite:///"):
        yield
        return
    from filelock import FileLock

    database = Path(unquote(urlparse(address).path[1:]))
    database.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(NotImplementedError):  # of a file system without such locks
            stack.enter_context(FileLock(f"{database}.lock", timeout=WRITTEN_WITHIN))
        yield


def _require_address(address: str) -> None:
    """Whether an address is one that MLflow could be at. Without a scheme MLflow itself takes it for a folder, or fails on it.

    Raises:
        NotAnAddress: it is not.
    """
    if ":/" in address or address.startswith(("databricks", "uc", "file:", "/")) or Path(address).is_dir():
        return
    raise NotAnAddress(f"MLFLOW_TRACKING_URI is not an address: http:// is missing (http://{address}), or sqlite:/// before a file")


def bring_along(store: Store) -> None:
    """Where a store was moved or copied, let MLflow's SQLite file in it say where its files are now: it has absolute places of them.

    MLflow itself has no way to do so. Nothing else is changed: what people wrote into it moves along.
    """
    database = store.root / "mlflow.db"
    if "MLFLOW_TRACKING_URI" in os.environ or not database.exists():
        return
    here = (store.root / PLACES).as_uri()
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        try:
            told = {place for (place,) in connection.execute("SELECT artifact_location FROM experiments") if place}
        except sqlite3.Error:  # no database, or an empty one: MLflow says so, or fills it
            return
        for before in {place.partition(f"/{PLACES}/")[0] + f"/{PLACES}" for place in told if f"/{PLACES}/" in place}:
            root = Path(unquote(urlparse(before).path)).parent
            if before == here or root.resolve() == store.root.resolve():
                continue
            for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (here, len(before) + 1, len(before) + 1, f"{before}/"),
                )


def connected_client(store: Store) -> MlflowClient:
    _require_address(tracking_uri(store))
    for name, value in (SILENT | IMPATIENT).items():
        os.environ.setdefault(name, value)
    # What a later call would only queue is not known to be written when the last tag says so.
    os.environ["MLFLOW_ENABLE_ASYNC_LOGGING"] = "false"
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    store.root.mkdir(parents=True, exist_ok=True)
    bring_along(store)
    return MlflowClient(tracking_uri=tracking_uri(store))
