"""A store on object storage that cannot be used is refused in a sentence that says what to do, before anything begins."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import call
from fsspec.registry import _registry
from s3_server import BUCKET, Server, serving
from study_helpers import study

from mm1_ablate.run.scheduler import RunOptions, run_study
from mm1_ablate.store.bucket.object_store import ObjectStore
from mm1_ablate.store.files import StorageError
from mm1_ablate.store.health import check_store
from mm1_ablate.store.store import Store

ADDRESS = f"s3://{BUCKET}/prefix"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    with serving(monkeypatch) as started:
        yield started


def refused(sweep: Path, address: str = ADDRESS, command: str = "status") -> str:
    done = call(command, sweep, "--store", address)
    assert done.exit_code == 2 and "Traceback" not in done.stderr, (done.stdout, done.stderr, done.exception)
    return done.stderr


def test_without_s3fs_the_line_that_installs_it_is_reported(server: Server, tiny_sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)  # which remembers what it has imported
    assert "pip install 'mm1-ablate[s3]'" in refused(tiny_sweep)
    assert "pip install 'mm1-ablate[s3]'" in check_store(ADDRESS).found


def test_without_credentials_it_is_reported_where_they_are_looked_for(
    server: Server, tiny_sweep: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    assert "no credentials for the store s3://" in (said := refused(tiny_sweep)) and "AWS_ACCESS_KEY_ID" in said


def test_a_bucket_that_is_not_there_is_named(server: Server, tiny_sweep: Path) -> None:
    assert "there is no bucket 'not-made' for the store s3://not-made/x" in refused(tiny_sweep, "s3://not-made/x")
    assert not check_store("s3://not-made/x").ok


def test_a_server_that_does_not_answer_is_named(tiny_sweep: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert f"cannot list in the store {ADDRESS}" in refused(tiny_sweep)


def test_rights_that_lack_are_reported_with_those_that_it_takes(server: Server, tiny_sweep: Path, tmp_path: Path) -> None:
    server.forbids = {"PUT"}
    check = check_store(ADDRESS)
    assert not check.ok and "no permission to write in the store" in check.found and "s3:PutObject" in check.found
    with pytest.raises(StorageError, match="no permission to write"):
        run_study(study(), Store(ADDRESS), RunOptions(cpus=1))
    assert call("status", tiny_sweep, "--store", ADDRESS).exit_code == 0, "looking takes no permission to write"
    server.forbids = {"DELETE"}
    assert "no permission to delete" in check_store(ADDRESS).found
    server.forbids = {"GET", "HEAD"}
    assert "no permission to list" in refused(tiny_sweep)


def test_a_server_without_conditional_writes_is_distinguished_before_a_run_and_by_the_doctor(server: Server, tmp_path: Path) -> None:
    assert check_store(ADDRESS).found == f"{ADDRESS}: read, written, also on conditions, and deleted"
    assert server.names() == []
    server.ignores_conditions = True
    check = check_store(ADDRESS)
    assert not check.ok and "two machines could train the same trial" in check.found and "a folder that all nodes share" in check.found
    with pytest.raises(StorageError, match="conditional writes, or a folder that all nodes share"):
        run_study(study(), Store(ADDRESS), RunOptions(cpus=1))
    assert not server.has("model.pt") and not [name for name in server.names() if "probe" in name]


def test_an_address_of_nothing_that_is_known_is_refused(tiny_sweep: Path, server: Server) -> None:
    assert "cannot be used" in refused(tiny_sweep, "nosuch://bucket/x")
    with pytest.raises(StorageError, match="nosuch"):
        ObjectStore("nosuch://bucket/x").list()


def test_other_storage_of_fsspec_with_conditional_writes_passes_the_same_check() -> None:
    """Not promised, but nothing but the conditions is S3's own."""
    remote = ObjectStore("memory://bucket/x")
    remote.check()
    tag = remote.create("a", b"1")
    assert tag and remote.create("a", b"2") is None and remote.replace("a", b"2", "other") is None
    assert remote.read("a") == b"1" and list(remote.list()) == ["a"]
