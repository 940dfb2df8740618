"""A real S3 server on this machine, over HTTP, that remembers what it was asked and can misbehave as other servers do."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from mm1_ablate.store.bucket.files import BucketFiles
from mm1_ablate.store.bucket.replica import Replica
from mm1_ablate.store.store import Store
from mm1_ablate.training.checkpoint import save_atomically, shards_of

BUCKET = "ablations"
ADDRESS = f"s3://{BUCKET}/some/prefix"
Machine = Callable[[str], Store]
"""The store as a machine of a name sees it."""
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Server:
    """moto, and what came in."""

    def __init__(self) -> None:
        self.moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.moto.start()
        host, port = self.moto.get_host_and_port()
        self.address = f"http://{host}:{port}"
        assert self.moto._server is not None
        self._app = self.moto._server.app
        self.moto._server.app = self
        self.requests: list[tuple[str, str]] = []
        """Method and path."""
        self.ignores_conditions = False
        self.forbids: set[str] = set()
        """Methods that it has no right for."""
        self.away = False
        """Whether it answers nobody."""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path))
        if self.ignores_conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)
            environ.pop("HTTP_IF_MATCH", None)
        if self.away:
            start_response("500 Internal Server Error", [("Content-Type", "application/xml")])
            return [b"<Error><Code>InternalError</Code><Message>away</Message></Error>"]
        if method in self.forbids:
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"]
        return self._app(environ, start_response)

    def asked(self, method: str, ending: str) -> int:
        """How often for objects whose names end so."""
        return sum(name == method and path.endswith(ending) for name, path in self.requests)

    @property
    def bucket(self) -> Any:
        return boto3.resource("s3", endpoint_url=self.address, region_name="us-east-1").Bucket(BUCKET)

    def names(self) -> list[str]:
        return sorted(entry.key for entry in self.bucket.objects.all())

    def has(self, ending: str) -> bool:
        return any(name.endswith(ending) for name in self.names())

    def holds(self, part: str) -> bool:
        return any(part in name for name in self.names())

    def content(self) -> dict[str, bytes]:
        return {entry.key: entry.get()["Body"].read() for entry in self.bucket.objects.all()}


@contextmanager
def serving(patch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with an empty bucket, and an environment that tells where it is."""
    import s3fs

    server = Server()
    for name, value in (ENVIRONMENT | {"AWS_ENDPOINT_URL": server.address}).items():
        patch.setenv(name, value)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    s3fs.S3FileSystem.clear_instance_cache()
    server.bucket.create()
    server.bucket.objects.all().delete()  # moto keeps what it has for all servers of a process
    try:
        yield server
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.moto.stop()


def whole(server: Server) -> list[str]:
    """What the bucket says that is there, and is not."""
    names = set(server.names())
    lacking = []
    for name in names:
        folder, _, last = name.rpartition("/")
        if last == "scores.json" and f"{folder}/items.parquet" not in names:
            lacking.append(name)
        if folder.endswith("/predictions") and last.endswith(".json") and name.replace(".json", ".parquet") not in names:
            lacking.append(name)
        if last == "last.ckpt" and (shards := shards_of(io.BytesIO(server.bucket.Object(name).get()["Body"].read()))):
            folder = f"{folder}/{shards}"
            named = {f"{folder}/.metadata"}
            if named <= names:
                index = pickle.loads(server.bucket.Object(f"{folder}/.metadata").get()["Body"].read())
                named |= {f"{folder}/{part.relative_path}" for part in index.storage_data.values()}
            lacking += [f"{name} names {part}" for part in named - names]
        if last == "status.json" and "/trials/" in name and json.loads(server.bucket.Object(name).get()["Body"].read())["status"] == "done":
            lacking += [] if f"{folder}/model.pt" in names else [name]
    return lacking


@contextmanager
def watched(server: Server) -> Iterator[list[str]]:
    """What the bucket ever lacks, looked at after every change that anybody makes to it."""
    lacking: list[str] = []
    app, one_at_a_time = server._app, threading.Lock()

    def checked(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "GET" or "Boto3/" in environ["HTTP_USER_AGENT"]:  # the latter is who looks
            return app(environ, start_response)
        with one_at_a_time:
            answer = app(environ, start_response)
            if not lacking and not environ["PATH_INFO"].endswith(("lease.json", "progress.json")):
                lacking.extend(whole(server))
            return answer

    server._app = checked
    yield lacking
    server._app = app


def write_checkpoint(folder: Path, step: int, ranks: int = 1) -> Path:
    """A sharded checkpoint as training writes it, and as little as there can be in it; gives the folder of its shards."""
    shards = folder / f"last.ckpt.{step}"
    shards.mkdir()
    parts = {rank: SimpleNamespace(relative_path=f"__{rank}_0.distcp") for rank in range(ranks)}
    for part in parts.values():
        (shards / part.relative_path).write_bytes(b"x" * step)
    (shards / ".metadata").write_bytes(pickle.dumps(SimpleNamespace(storage_data=parts)))
    time.sleep(0.02)
    save_atomically({"shards": shards.name}, folder / "last.ckpt")
    return shards


def replica_of(store: Store) -> Replica:
    """Of a store on object storage."""
    assert isinstance(store.files, BucketFiles)
    return store.files.replica


def wait_for(what: Callable[[], Any], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *(path for path in sys.path if path)])}
