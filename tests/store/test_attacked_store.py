"""A store that others may write in: whatever they put there, nothing is written outside of it on the machine of whoever looks or runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import call
from s3_server import ADDRESS, Machine, Server, replica_of
from study_helpers import quick_trial, study

from mm1_ablate.store.bucket.object_store import ObjectStore
from mm1_ablate.store.files import StorageError
from mm1_ablate.store.layout import Layout
from mm1_ablate.store.store import Store

RECORD = json.dumps({"status": "done"}).encode()


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- keys
def test_keys_that_lead_elsewhere_are_named_and_nothing_is_written_by_them(server: Server, machine: Machine, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "trials" / "a").mkdir(parents=True)
    there = str(outside).lstrip("/")
    keys = [
        f"/{there}/config.json",
        f"trials/../../../../../../../../../../{there}/status.json",
        f"trials/a/../../../../{there}/x.yaml",
        "trials//a/status.json",
        "trials/./a/status.json",
        ".mirror/known.json",
        ".machine/other.json",
        f"trials/{'a' * 300}/status.json",
        "trials/b.json",
        "trials/b.json/status.json",
        "trials/c/lock",
    ]
    for key in keys:
        server.bucket.put_object(Key=f"some/prefix/{key}", Body=RECORD)
    server.bucket.put_object(Key="some/prefix/trials/good/status.json", Body=RECORD)
    found = ObjectStore(ADDRESS).list()
    assert sorted(found) == ["trials/b.json/status.json", "trials/good/status.json"]

    store = machine("looks")
    store.refresh()
    store.download_folder(store.root / "trials" / "c")
    assert not files_below(outside)
    assert json.loads((store.root / "trials" / "good" / "status.json").read_text()) == {"status": "done"}
    assert all(path.is_relative_to(store.root) for path in files_below(tmp_path) if path.name == "status.json")
    with pytest.raises(StorageError, match="an absolute path"):
        replica_of(store).file_of("/etc/passwd")


def test_status_names_such_a_key_and_goes_on(server: Server, tiny_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    target = tmp_path / "home" / ".docker" / "config.json"
    server.bucket.put_object(Key=f"some/prefix/{target}", Body=b'{"auths": {}}')
    done = call("status", tiny_sweep, "--store", ADDRESS)
    assert done.exit_code == 0 and "6 of 6" not in done.stderr
    assert not target.exists() and not (tmp_path / "home").exists()
    assert str(target) in done.stderr and "an absolute path" in done.stderr and len(done.stderr.splitlines()) == 1


def test_an_empty_object_called_as_a_folder_is_no_matter(server: Server, machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    for key in ("", "trials/", "trials/a/"):
        server.bucket.put_object(Key=f"some/prefix/{key}", Body=b"")
    machine("looks").refresh()
    assert capfd.readouterr().err == ""


def test_a_link_in_a_replica_is_not_followed(server: Server, machine: Machine, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    server.bucket.put_object(Key="some/prefix/trials/a/status.json", Body=RECORD)
    store = machine("looks")
    (store.root / "trials").mkdir(parents=True)
    (store.root / "trials" / "a").symlink_to(outside)
    with pytest.raises(StorageError, match="symbolic link"):
        store.refresh()
    assert not files_below(outside)


def test_fingerprints_of_records_choose_no_folder(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for wrong in ("../../x", "/etc", "..", "", "a/b"):
        for place in (layout.trial_folder, layout.prepared_folder, lambda one: layout.evaluation_folder_of("a" * 64, one)):
            with pytest.raises(StorageError, match="fingerprint"):
                place(wrong)
    store, one = Store(tmp_path), study().trials[0]
    record = store.write_trial(one) / "trial.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"starts_from": "../../outside"}))
    with pytest.raises(StorageError, match=r"'../../outsid'"):
        store.read_start(one.fingerprint)


# ---------------------------------------------------------------- links in a folder that several people share
@pytest.mark.parametrize("name", ["status.json", "curve.jsonl", "log.txt", "lock", "predictions", "."])
def test_links_in_a_store_are_not_followed_when_it_is_written(tmp_path: Path, name: str) -> None:
    store, one = Store(tmp_path / "store"), study().trials[0]
    outside = tmp_path / "outside"
    outside.mkdir()
    if name == ".":
        store.trial_folder(one).parent.mkdir(parents=True)
        store.trial_folder(one).symlink_to(outside)
        with pytest.raises(StorageError, match="is a symbolic link"):
            store.write_trial(one)
    else:
        (store.write_trial(one) / name).symlink_to(outside / "target")
    with pytest.raises(StorageError, match="is a symbolic link"):
        quick_trial(store.address, one.fingerprint, [one.evaluation_fingerprint])
    assert not list(outside.iterdir())


def test_a_store_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    store, one = Store(tmp_path / "store"), study().trials[0]
    store.write_trial(one)
    with store.hold(store.trial_folder(one)):
        store.start(store.trial_folder(one), "train")
    assert (tmp_path / "disk" / "trials").is_dir()


def test_a_report_is_not_written_through_a_link(tiny_sweep: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "store" / "studies").mkdir(parents=True)
    (tmp_path / "store" / "studies" / "tiny").symlink_to(outside)
    done = call("report", tiny_sweep, "--store", tmp_path / "store")
    assert done.exit_code == 2 and "is a symbolic link" in done.stderr and "Traceback" not in done.stderr
    assert not list(outside.iterdir())
