"""Machines that share a cache and a name share no replica; one that was started anew finds its own again."""

from __future__ import annotations

import os
import threading
import uuid
from pathlib import Path

import pytest
from s3_server import ADDRESS, Server
from study_helpers import study

from mm1_ablate.store.bucket import replica_folder
from mm1_ablate.store.bucket.replica_folder import CLAIM, GONE, folder_of_this_machine
from mm1_ablate.store.locks import LOCK, AlreadyRunning
from mm1_ablate.store.store import Store


def test_copies_of_a_machine_with_one_cache_take_no_trial_from_each_other(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))

    def start_copy() -> Store:
        (tmp_path / "boot").write_text(f"{uuid.uuid4()}\n")
        monkeypatch.setattr(replica_folder, "BOOT", tmp_path / "boot")
        return Store(ADDRESS)

    one, first = study().trials[0], start_copy()
    with first.hold(folder := first.write_trial(one)):
        first.start(folder, "train")
        assert Store(ADDRESS).root == first.root, "one machine has one replica"
        (folder / LOCK).rename(folder / "of-the-first")  # a file system whose locks do not reach other machines
        second = start_copy()
        second.refresh()
        assert second.home != first.home
        with pytest.raises(AlreadyRunning), second.hold(second.trial_folder(one)):
            raise AssertionError


def test_a_machine_that_is_started_anew_finds_its_folder_when_it_is_sure_to_be_its_own(tmp_path: Path) -> None:
    wanted, aside = tmp_path / "name-1234", tmp_path / "name-1234-2"
    assert folder_of_this_machine(wanted, "boot-1") == folder_of_this_machine(wanted, "boot-1") == wanted
    assert folder_of_this_machine(wanted, "boot-2") == aside, "the other may be at work"
    for folder in (wanted, aside):
        (claim,) = (folder / CLAIM).iterdir()
        os.utime(claim, (claim.stat().st_mtime - 2 * GONE,) * 2)
    assert folder_of_this_machine(wanted, "boot-2") == aside, "what it has it keeps"
    assert folder_of_this_machine(wanted, "boot-3") == wanted
    assert folder_of_this_machine(wanted, "boot-1").name == "name-1234-3"


def test_of_many_that_want_the_folder_of_one_that_is_gone_one_gets_it(tmp_path: Path) -> None:
    for attempt in range(20):
        wanted = tmp_path / str(attempt)
        (wanted / CLAIM).mkdir(parents=True)
        (wanted / CLAIM / "gone").touch()
        os.utime(wanted / CLAIM / "gone", (0, 0))
        got: list[Path] = []
        together = threading.Barrier(4)

        def want(boot: str, wanted: Path = wanted, together: threading.Barrier = together, got: list[Path] = got) -> None:
            together.wait()
            got.append(folder_of_this_machine(wanted, boot))

        threads = [threading.Thread(target=want, args=(f"boot-{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(got)) == 4 and wanted in got
