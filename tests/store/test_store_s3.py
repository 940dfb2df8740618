"""A store on a real S3 server: several machines, told apart by their caches, share trials without sharing a file.

Nothing is trained twice, nobody's work is taken while he lives, and what is in the bucket is of one piece at every moment.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pandas
import pytest
from s3_server import ADDRESS, BUCKET, Machine, Server, environment, replica_of, wait_for, watched, whole, write_checkpoint
from study_helpers import quick_preparation, quick_trial, study

from mm1_ablate.config.preparation import preparations_of
from mm1_ablate.config.study import Trial
from mm1_ablate.store.bucket import leases
from mm1_ablate.store.bucket.object_store import ObjectStore
from mm1_ablate.store.bucket.upload import FolderUpload
from mm1_ablate.store.files import StorageError
from mm1_ablate.store.locks import AlreadyRunning
from mm1_ablate.store.store import HELD, Store
from mm1_ablate.training.checkpoint import remove_shards


def do(store: Store, one: Trial) -> int:
    store.write_trial(one)
    return quick_trial(store.address, one.fingerprint, [one.evaluation_fingerprint])


# ---------------------------------------------------------------- machines
def test_what_one_machine_did_another_sees_and_fetches_only_what_it_asks_for(server: Server, machine: Machine) -> None:
    one, other = study().trials
    store = machine("first")
    assert store.status(one).status == "missing"
    assert do(store, one) == 0 and store.status(one).status == "done"
    mine = store.items(one)

    store = machine("second")
    server.requests.clear()
    state = store.status(one)
    assert (state.status, state.trained) == ("done", True) and store.scores(one)["shot_8/average"] == 10
    assert server.asked("GET", f"/{BUCKET}") == 1, "one listing"
    assert not server.asked("GET", "model.pt") and not server.asked("GET", "items.parquet") and not server.asked("GET", "curve.jsonl")
    pandas.testing.assert_frame_equal(store.items(one), mine)
    assert len(store.curve(one)) == 10 and not server.asked("GET", "model.pt")
    assert [(arm, seed) for arm, seed, _ in store.holes(study())] == [("longer", 0)]
    gets = len(server.requests)
    store.refresh()
    assert len(server.requests) == gets + 1, "nothing has changed, so nothing is fetched"

    assert do(store, other) == 0
    machine("first").refresh()
    assert [machine("first").status(each).status for each in (one, other)] == ["done", "done"]
    folder = store.trial_folder(one)
    server.bucket.objects.filter(Prefix=f"some/prefix/trials/{folder.name}/").delete()
    for name in ("first", "second"):
        store = machine(name)
        store.refresh()
        assert store.status(one).status == "missing" and not (store.trial_folder(one) / "scores.json").exists()


def test_a_changed_evaluation_is_done_by_another_machine_and_trains_nothing(server: Server, machine: Machine) -> None:
    before, after = study().trials[0], study(tasks=("miniature_facts",)).trials[0]
    do(machine("first"), before)
    store = machine("second")
    state = store.status(after)
    assert (state.status, state.trained) == ("missing", True)
    assert do(store, after) == 0
    store = machine("first")
    store.refresh()
    assert store.status(after).status == store.status(before).status == "done"
    store.download(store.trial_folder(after) / "trainings")
    assert (store.trial_folder(after) / "trainings").read_text() == "once\n"


def test_a_failure_is_everybodys_until_it_is_retried(server: Server, machine: Machine) -> None:
    store = machine("first")
    one = study(prepared=("baseline",)).trials[0]
    part = preparations_of(one.experiment, 0)[0]
    store.write_preparation(part)
    (store.root / "fail-preparation").touch()
    assert quick_preparation(store.address, part.fingerprint) == 1
    store = machine("second")
    state = store.status(one)
    assert state.status == "failed" and "no images" in state.reason
    assert "no images" in (store.error(store.prepared_folder(part)) or "")
    store.retry(store.prepared_folder(part))
    assert machine("third").status(one).status == "missing"


# ---------------------------------------------------------------- leases
def test_of_two_machines_one_holds_a_trial_and_the_other_sees_it_running(server: Server, machine: Machine) -> None:
    one = study().trials[0]
    first = machine("first")
    folder = first.write_trial(one)
    with first.hold(folder):
        first.start(folder, "train")
        replica_of(first).refresh()
        wait_for(lambda: server.has("status.json"))
        second = machine("second")
        second.refresh()
        assert second.status(one).status == "running"
        with pytest.raises(AlreadyRunning), second.hold(second.trial_folder(one)):
            pass
        assert quick_trial(second.address, one.fingerprint, [one.evaluation_fingerprint]) == HELD
    second.refresh()
    assert second.status(one).status == "interrupted"
    with second.hold(second.trial_folder(one)):
        pass


def test_a_lease_lasts_while_its_holder_lives_and_is_anothers_when_it_has_run_out(server: Server, machine: Machine) -> None:
    remote = ObjectStore(ADDRESS)
    lost: list[str] = []
    first = leases.Lease(remote, "trials/a/lease.json", "first", lambda: lost.append("first"), seconds=6)
    second = leases.Lease(remote, "trials/a/lease.json", "second", seconds=6)
    assert first.take()
    until = time.monotonic() + 8
    while time.monotonic() < until:
        assert not second.take(), "it gives signs of life"
        time.sleep(0.2)
    first._ended.set()  # as if the machine hung
    assert first._thread is not None
    first._thread.join()
    assert not second.take()
    wait_for(second.take)
    with pytest.raises(leases.LeaseLost):
        first._beat()
    with pytest.raises(leases.LeaseLost):
        first.confirm()
    first.give_back()
    assert json.loads(remote.read("trials/a/lease.json"))["holder"] == second.holder, "what is another's is not given back"
    second.give_back()
    assert remote.entry("trials/a/lease.json") is None


def test_of_many_that_want_a_dead_holders_lease_one_gets_it(server: Server, machine: Machine) -> None:
    remote = ObjectStore(ADDRESS)
    remote.write("a/lease.json", json.dumps({"holder": "dead", "mirror": "gone", "seconds": 0, "host": "gone"}).encode())
    time.sleep(1.1)
    wanting = [leases.Lease(remote, "a/lease.json", f"replica-{number}") for number in range(8)]
    took: list[int] = []
    threads = [threading.Thread(target=lambda n=n: took.append(n) if wanting[n].take() else None) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(took) == 1 and json.loads(remote.read("a/lease.json"))["holder"] == wanting[took[0]].holder
    wanting[took[0]].give_back()


def test_a_holder_whose_lease_is_taken_over_hears_of_it_and_publishes_nothing_more(
    server: Server, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(leases.VARIABLE, "1.2")
    store, one = machine("first"), study().trials[0]
    folder, lost = store.write_trial(one), threading.Event()
    with pytest.raises(leases.LeaseLost), store.hold(folder, lost=lost.set):
        store.start(folder, "train")
        wait_for(lambda: server.has("status.json"))
        server.bucket.put_object(Key=f"some/prefix/trials/{folder.name}/lease.json", Body=b'{"holder": "another", "host": "another"}')
        assert lost.wait(30)
        (folder / "model.pt").write_bytes(b"too late")
    assert not server.has("model.pt") and server.has("lease.json"), "the other's lease stays"


@pytest.mark.parametrize("name", ["status.json", "scores.json"])
def test_a_holder_who_has_not_heard_yet_that_its_lease_is_lost_overwrites_nothing(server: Server, machine: Machine, name: str) -> None:
    store, one = machine("first"), study().trials[0]
    folder = store.write_trial(one)
    start = f"some/prefix/trials/{folder.name}/"
    with pytest.raises(leases.LeaseLost), store.hold(folder):
        if name == "status.json":
            store.start(folder, "train")
            wait_for(lambda: server.has("status.json"))
        for there in ("lease.json", name):
            server.bucket.put_object(Key=start + there, Body=b'{"holder": "another", "host": "another"}')
        (folder / name).write_text('{"status": "done"}')  # within the time for which the lease need not be asked for
    assert b"another" in server.bucket.Object(start + name).get()["Body"].read()


# ---------------------------------------------------------------- publishing
@pytest.mark.parametrize("small", [1_000_000, 3], ids=["read into memory", "linked"])
def test_the_bucket_is_of_one_piece_after_every_request(
    server: Server, machine: Machine, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    """Checkpoints with shards are replaced as fast as can be while they are published: what a kill would leave is always whole."""
    monkeypatch.setattr("mm1_ablate.store.bucket.upload.EVERY", 0.01)
    monkeypatch.setattr("mm1_ablate.store.bucket.upload.SMALL", small)
    store, one = machine("first"), study().trials[0]
    folder = store.write_trial(one)

    def checkpoints() -> int:
        return sum(method == "PUT" and path.endswith("/last.ckpt") for method, path in server.requests)

    with watched(server) as lacking, store.hold(folder):
        store.start(folder, "train")
        for step in range(1, 1000):  # a machine that is busy uploads few of them in the time of twelve
            remove_shards(folder / "last.ckpt", but=write_checkpoint(folder, step, ranks=2).name)
            time.sleep(0.1)
            if step >= 12 and checkpoints() > 1:
                break
        (folder / "model.pt").write_bytes(b"weights")
        (folder / "last.ckpt").unlink()
        store.write_evaluation(one.fingerprint, one.evaluation_fingerprint, pandas.DataFrame({"score": [1.0]}), {"a": 1.0})
        store.finish(folder)
    assert not lacking
    assert not any("last.ckpt" in name for name in server.names()) and server.has("model.pt") and not server.has("lease.json")
    assert checkpoints() > 1
    assert machine("second").status(one).status == "done"


def test_a_storage_that_is_away_for_a_while_costs_nothing(server: Server, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    watching = machine("watching")
    watching.refresh()
    store, one = machine("first"), study().trials[0]
    folder = store.write_trial(one)
    back = threading.Timer(3, lambda: setattr(server, "away", False))
    with store.hold(folder):
        server.away = True
        (folder / "model.pt").write_bytes(b"weights")
        store.write_evaluation(one.fingerprint, one.evaluation_fingerprint, pandas.DataFrame({"score": [1.0]}), {"a": 1.0})
        watching.refresh(at_most_every=0.001)
        with pytest.raises(StorageError, match="away"):
            watching.refresh()
        back.start()
    assert machine("second").status(one).status == "done"


def test_what_a_killed_process_left_unpublished_is_forgotten_here_too(server: Server, machine: Machine) -> None:
    store, one = machine("first"), study().trials[0]
    folder = store.write_trial(one)
    program = (
        "import time; from s3_server import replica_of; from study_helpers import study; from mm1_ablate.store.bucket import upload\n"
        "from mm1_ablate.store.store import Store\n"
        f"upload.EVERY = 1000; store = Store({ADDRESS!r}); one = study().trials[0]; folder = store.trial_folder(one)\n"
        "with store.hold(folder):\n"
        "    store.start(folder, 'train'); (folder / 'last.ckpt').write_bytes(b'first')\n"
        "    while not replica_of(store).objects.entry(replica_of(store).path_of(folder / 'last.ckpt')): time.sleep(0.1)\n"
        # From now on nothing is published, not even a new checkpoint; a look that was under way is over after a second.
        "    upload.LOOK = 1000; time.sleep(1.5)\n"
        "    (folder / 'last.ckpt').write_bytes(b'second'); (folder / 'model.pt').write_bytes(b'weights')\n"
        "    print(flush=True); time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], env=environment(), stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline()
        assert store.status(one).status == "running"
        child.kill()
    assert server.has("lease.json")
    store.refresh()
    state = store.status(one)
    assert (state.status, state.trained) == ("interrupted", False), "at once, for this machine knows that it is dead"
    assert not server.has("lease.json") and not (folder / "model.pt").exists() and not (folder / "last.ckpt").exists()
    with store.hold(folder):
        assert store.has(folder / "last.ckpt")
        store.download_folder(folder, "last.ckpt")
        assert (folder / "last.ckpt").read_bytes() == b"first"


# ---------------------------------------------------------------- local stores
def test_a_store_in_a_folder_loads_nothing_of_this(tmp_path: Path) -> None:
    program = (
        f"import sys; from mm1_ablate.store.store import Store; from study_helpers import study; store = Store({str(tmp_path)!r})\n"
        "store.write_trial(study().trials[0]); store.refresh(); store.check(); store.status(study().trials[0])\n"
        "with store.hold(store.trial_folder(study().trials[0])): pass\n"
        "assert not {'fsspec', 's3fs', 'sqlite3', 'mm1_ablate.store.bucket.replica', 'mm1_ablate.store.bucket.leases'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], env=environment(), check=True)


def test_publication_reads_what_names_others_first(server: Server, machine: Machine) -> None:
    """Items that were written after their summary was looked for come with the next round; never the summary without them."""
    store, one = machine("first"), study().trials[0]
    folder = store.write_trial(one)
    lease = leases.Lease(ObjectStore(ADDRESS), f"trials/{folder.name}/lease.json", "first")
    assert lease.take()
    publication = FolderUpload(replica_of(store), folder, lease)
    pinned = publication._pin

    def pin(path: str, before: Any) -> Any:
        if path.endswith("status.json"):
            store.write_evaluation(one.fingerprint, one.evaluation_fingerprint, pandas.DataFrame({"score": [2.0]}), {"a": 2.0})
        return pinned(path, before)

    (folder / "status.json").write_text('{"status": "running"}')
    publication._pin = pin  # type: ignore[method-assign]
    publication.round()
    assert server.has("items.parquet") or not server.has("scores.json")
    publication.round()
    assert server.has("scores.json") and not whole(server)
    lease.give_back()
