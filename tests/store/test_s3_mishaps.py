"""A store on S3 when something goes wrong at a bad moment: what is published late or never, taken away early, or left lying about."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import call
from s3_server import ADDRESS, Machine, Server, replica_of, serving, whole, write_checkpoint
from study_helpers import study, trial
from tiny import tiny_experiment

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.preparation import preparations_of
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.run.trial import recording_failure
from mm1_ablate.store.bucket import leases
from mm1_ablate.store.bucket.object_store import ObjectStore
from mm1_ablate.store.bucket.upload import FolderUpload
from mm1_ablate.store.store import Store
from mm1_ablate.training.checkpoint import remove_checkpoint, remove_shards

HERE = Path(__file__).parent


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv(leases.VARIABLE, "60")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with serving(monkeypatch) as started:
        yield started


# ---------------------------------------------------------------- checkpoints
@pytest.mark.parametrize("and_ended", [False, True], ids=["a newer one", "the end of training"])
def test_shards_stay_while_the_bucket_names_them_where_a_checkpoint_is_replaced_while_it_is_read(
    server: Server, machine: Machine, monkeypatch: pytest.MonkeyPatch, and_ended: bool
) -> None:
    store, one = machine("first"), study().trials[0]
    folder = store.write_trial(one)

    def checkpoint(step: int) -> None:
        remove_shards(folder / "last.ckpt", but=write_checkpoint(folder, step).name)

    lease = leases.Lease(ObjectStore(ADDRESS), f"trials/{folder.name}/lease.json", "first")
    assert lease.take()
    publication = FolderUpload(replica_of(store), folder, lease)
    checkpoint(1)
    publication.round()
    checkpoint(2)
    pinned = publication._pin

    def pin(path: str, before: Any) -> Any:
        found = pinned(path, before)
        if path == "last.ckpt":
            if and_ended:
                (folder / "model.pt").write_bytes(b"weights")
                with monkeypatch.context() as patch, contextlib.suppress(InterruptedError):
                    patch.setattr(shutil, "rmtree", begin_to_remove)
                    remove_checkpoint(folder / "last.ckpt")
            else:
                checkpoint(3)
        return found

    def begin_to_remove(shards: Path, ignore_errors: bool) -> None:
        (shards / "__0_0.distcp").unlink()
        raise InterruptedError

    publication._pin = pin  # type: ignore[method-assign]
    publication.round()
    assert server.has("last.ckpt.1/__0_0.distcp") and not whole(server), "the checkpoint in the bucket is still the first"
    publication._pin = pinned  # type: ignore[method-assign]
    publication.round()
    shards = [name.rpartition("trials/")[2].partition("/")[2] for name in server.names() if ".distcp" in name]
    assert shards == ([] if and_ended else ["last.ckpt.3/__0_0.distcp"])
    lease.give_back()


def test_a_file_that_its_holder_removes_while_a_folder_is_read_is_left_out(
    server: Server, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, one = machine("first"), study().trials[0]
    folder = first.write_trial(one)
    objects, listing = ObjectStore(ADDRESS), ObjectStore.list
    for name in ("a.json", "b.json", "c.json"):
        objects.write(f"trials/{folder.name}/{name}", b"{}")

    def list_and_lose(self: ObjectStore, *arguments: Any) -> Any:
        found = listing(self, *arguments)
        objects.delete(f"trials/{folder.name}/b.json")
        return found

    replica = replica_of(machine("second"))
    read = replica.root / "trials" / folder.name
    monkeypatch.setattr(ObjectStore, "list", list_and_lose)
    replica.start_from_the_bucket(read)
    assert {file.name for file in read.glob("?.json")} == {"a.json", "c.json"}


def test_what_a_killed_holder_was_uploading_does_not_stay_on_the_disk(
    server: Server, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, one = machine("first"), study().trials[0]
    folder = store.write_trial(one)
    program = (
        "import time; from study_helpers import study; from mm1_ablate.store.bucket import object_store, upload\n"
        "from mm1_ablate.store.store import Store\n"
        "upload.EVERY = 0.1; upload.SMALL = 3\n"
        "object_store.ObjectStore.upload = lambda *all: (print(flush=True), time.sleep(100))\n"
        f"store = Store({ADDRESS!r}); folder = store.trial_folder(study().trials[0])\n"
        "with store.hold(folder): (folder / 'last.ckpt').write_bytes(b'large'); time.sleep(100)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *(path for path in sys.path if path)])}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline()
        assert list(replica_of(store).own.glob("pinned/**/*"))
        os.kill(child.pid, signal.SIGKILL)
    halves = replica_of(store).own / "new"
    halves.mkdir(exist_ok=True)
    for name, age in (("abandoned", 7200), ("being-fetched", 0)):
        (halves / name).touch()
        os.utime(halves / name, (time.time() - age,) * 2)
    store.refresh()
    assert not [path for path in replica_of(store).own.glob("pinned/**/*") if path.is_file()]
    with store.hold(folder):
        assert [path.name for path in halves.iterdir()] == ["being-fetched"]


# ---------------------------------------------------------------- publishing that fails
def test_what_could_not_be_published_is_not_done_here_either(server: Server, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    store, one = machine("first"), study().trials[0]
    folder = store.write_trial(one)
    monkeypatch.setattr(FolderUpload, "round", lambda self: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="disk is full"), store.hold(folder):
        store.start(folder, "train")
        (folder / "model.pt").write_bytes(b"weights")
        store.finish(folder)
    assert not server.has("model.pt") and not server.has("lease.json")
    store.refresh()
    assert (store.status(one).status, store.status(one).trained) == ("missing", False)


def test_a_lease_that_cannot_be_given_back_spoils_nothing(server: Server, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    store = machine("first")
    part = preparations_of(study(prepared=("baseline",)).trials[0].experiment, 0)[0]
    folder = store.write_preparation(part)
    before = leases.Lease.give_back

    def away(lease: leases.Lease) -> None:
        server.away = True
        before(lease)

    monkeypatch.setattr(leases.Lease, "give_back", away)
    with store.hold(folder):
        store.start(folder, "prepare")
        (folder / "weights.pt").write_bytes(b"weights")
        store.finish(folder)
    server.away = False
    assert server.has("lease.json")
    store.refresh()
    assert not server.has("lease.json") and store.preparation_status(part).status == "done"
    assert machine("second").preparation_status(part).status == "done"


def test_the_worker_that_failed_first_says_why_also_where_workers_share_no_folder(server: Server, machine: Machine) -> None:
    one = study().trials[0]
    machine("driver").write_trial(one)
    other, leading = machine("second"), machine("first")
    folder = leading.trial_folder(one)

    def fail(why: str) -> Callable[[], None]:
        def work() -> None:
            raise ValueError(why)

        return work

    with leading.hold(folder):
        leading.start(folder, "train")
        while not server.has("status.json"):
            time.sleep(0.05)
        assert recording_failure(other, other.trial_folder(one), fail("no such picture"), leads=False) == 1
        assert recording_failure(leading, folder, fail("connection closed by peer"), alone=False) == 1
    for store in (machine("third"), leading):
        store.refresh()
        state = store.status(one)
        assert (state.status, state.reason) == ("failed", "ValueError: no such picture")
        assert "no such picture" in (store.error(store.trial_folder(one)) or "")


# ---------------------------------------------------------------- machines that share a replica
def test_a_stage_is_not_taken_away_from_who_starts_from_it(server: Server, machine: Machine) -> None:
    """An earlier stage that is an arm too is evaluated while the trials that start from it begin, on the same machine."""
    first = tiny_experiment({"training.steps": 4, "experiment": "first"})
    second = tiny_experiment({"training.steps": 3, "experiment": "second"}).model_dump(mode="json")
    one = trial("baseline", 0, Experiment.model_validate({**second, "starts_from": first.model_dump(mode="json")}))
    store = machine("first")
    for each in (*one.earlier, one):
        store.write_trial(each)
    earlier = store.trial_folder(one.earlier[0])
    with store.hold(earlier):
        (earlier / "model.pt").write_bytes(b"weights")
    with store.hold(earlier):
        store.download(earlier / "model.pt")
        start = Store(ADDRESS).read_start(one.fingerprint)
    assert start is not None and not (earlier / "model.pt").exists()
    assert (start / "model.pt").read_bytes() == b"weights"
    again = Store(ADDRESS).read_start(one.fingerprint)
    assert again is not None and (again / "model.pt").read_bytes() == b"weights"
    folder = store.trial_folder(one)
    with store.hold(folder):
        (folder / "model.pt").write_bytes(b"others")
    assert not start.exists(), "it leaves with the trial that borrowed it"
    assert not list(replica_of(store).own.glob("new/*"))


# ---------------------------------------------------------------- clocks
def test_a_clock_that_is_set_forward_expires_no_live_lease(server: Server, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    store, one = machine("first"), study().trials[0]
    folder = store.write_trial(one)
    with store.hold(folder):
        store.start(folder, "train")
        other = machine("second")
        replica_of(other).objects.now()
        before = time.time
        monkeypatch.setattr(time, "time", lambda: before() + 3600)
        assert abs(replica_of(other).objects.now() - before()) < 5
        assert not leases.Lease(replica_of(other).objects, f"trials/{folder.name}/lease.json", "second").take()
        monkeypatch.undo()


def test_a_lease_counts_from_when_it_was_written_not_from_the_answer(
    server: Server, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = leases.Lease(ObjectStore(ADDRESS), "a/lease.json", "first", seconds=30)
    assert lease.take()
    before, asked = ObjectStore.replace, []

    def slow(*arguments: Any) -> str | None:
        asked.append(before(*arguments))
        monkeypatch.setattr(leases, "_counting", lambda: now + 12)
        return asked[-1]

    monkeypatch.setattr(ObjectStore, "replace", slow)
    now = leases._counting()
    lease._beat()
    lease.confirm()
    assert len(asked) == 2 and all(asked)
    lease.give_back()


def test_a_run_of_what_another_machine_works_on_does_not_say_that_all_is_done(server: Server, machine: Machine, tiny_sweep: Path) -> None:
    text = tiny_sweep.read_text().replace("seeds: [0, 1]", "seeds: [0]")
    tiny_sweep.write_text(text.replace("[data.mixture.interleaved, data.mixture.text]", "[data.mixture.text]"))
    store = machine("first")
    with contextlib.ExitStack() as held:
        for one in load_study(tiny_sweep).trials:
            folder = store.write_trial(one)
            held.enter_context(store.hold(folder))
            store.start(folder, "train")
        while sum(name.endswith("status.json") for name in server.names()) < 2:
            time.sleep(0.05)
        machine("second")
        said = call("run", tiny_sweep, "--store", ADDRESS)
    assert said.exit_code == 0, said.output
    assert "nothing to do: another run works on baseline/seed-0, without/text/seed-0; if its machine was lost" in said.output
