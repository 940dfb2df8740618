"""Sharded training over machines that share nothing but a bucket: each keeps its own part of a checkpoint, the bucket has all of it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from s3_server import ADDRESS, Machine, Server, replica_of, wait_for, watched, write_checkpoint
from study_helpers import trial
from tiny import tiny_experiment

from mm1_ablate.config.study import Trial
from mm1_ablate.run import child_process
from mm1_ablate.run.launcher import Launcher, _run_remote_share
from mm1_ablate.run.trial import run_trial
from mm1_ablate.run.worker_group import Share, WorkerFailure, free_port, jobs_of, run_together
from mm1_ablate.store.bucket import leases, upload
from mm1_ablate.store.bucket.object_store import ObjectStore
from mm1_ablate.store.store import HELD, Store
from mm1_ablate.training import checkpoint
from mm1_ablate.training.checkpoint import remove_checkpoint
from mm1_ablate.training.module import PackedTraining

HERE = str(Path(__file__).parent)
EVERY = 2
"""Steps between two checkpoints."""


@pytest.fixture
def forks(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Children that find the bucket, and whose leases run out soon when they are killed."""
    monkeypatch.setenv(leases.VARIABLE, "6")
    with child_process.server() as folder:
        yield folder


# ---------------------------------------------------------------- what the children do
def work(stop_at: str, rank: int = 0, **arguments: Any) -> int:
    """`run_trial`; stops, and waits to be killed, in a step after the second checkpoint, or before that is named."""
    torch.set_num_threads(1)
    upload.EVERY = 0.2
    save, begin = checkpoint.save_atomically, PackedTraining.on_train_batch_start

    def stopping_save(checkpoint: Any, path: Path) -> None:
        if checkpoint["mm1_ablate"]["step"] == 2 * EVERY:
            time.sleep(1000)
        save(checkpoint, path)

    def stopping_step(module: PackedTraining, *others: Any) -> None:
        if module.step == 2 * EVERY + 1:
            time.sleep(1000)
        begin(module, *others)

    if stop_at == "naming":
        checkpoint.save_atomically = stopping_save
    if stop_at == "step":
        PackedTraining.on_train_batch_start = stopping_step  # type: ignore[method-assign]
    return run_trial(rank=rank, **arguments)


def talk(rank: int, ranks: int, **arguments: Any) -> int:
    print(f"worker {rank} of {ranks}")
    return 0


class Crew:
    """Workers of a trial, each on a machine of its own."""

    def __init__(self, forks: Path, folder: Path, trials: list[Trial]) -> None:
        self.forks, self.folder, self.trials = forks, folder, trials

    def run(self, *machines: str, store: str = ADDRESS, strategy: str = "fsdp", stop_at: str = "") -> WorkerFailure | None:
        evaluations = [one.evaluation_fingerprint for one in self.trials]
        arguments = {"store_root": store, "fingerprint": self.trials[0].fingerprint, "evaluations": evaluations, "stop_at": stop_at}
        threads, environment = child_process.share_of_machine(1, 0)
        job = child_process.Job(
            "test_s3_sharded:work", arguments | {"strategy": strategy}, str(self.folder / "log.txt"), threads, environment,
            import_paths=(*sys.path, HERE),
        )  # fmt: skip
        jobs = jobs_of(job, Share(0, len(machines), len(machines), "127.0.0.1", free_port()))
        own = [{"MM1_ABLATE_CACHE": str(self.folder / name)} for name in machines]
        return run_together(self.forks, [replace(job, environment=job.environment | cache) for job, cache in zip(jobs, own, strict=True)])

    def go_on(self, *machines: str, strategy: str = "fsdp") -> None:
        """Run to the end, as soon as the lease of those who were killed has run out."""
        faults: list[WorkerFailure | None] = []

        def is_begun() -> bool:
            faults.append(self.run(*machines, strategy=strategy))
            return faults[-1] is None or faults[-1].exit.code != HELD

        wait_for(is_begun)
        assert faults[-1] is None, self.said()

    def said(self) -> str:
        return "\n".join(path.read_text()[-3000:] for path in sorted(self.folder.glob("log*.txt")))

    def killed(self, *machines: str, stop_at: str, when: Any) -> None:
        """Run until something is so, and kill all workers at once."""
        faults: list[WorkerFailure | None] = []
        thread = threading.Thread(target=lambda: faults.append(self.run(*machines, stop_at=stop_at)))
        thread.start()
        try:
            wait_for(lambda: when() or faults)
            assert not faults, self.said()
        finally:
            server = int((self.forks / "pid").read_text())
            for pid in map(int, Path(f"/proc/{server}/task/{server}/children").read_text().split()):
                os.kill(pid, signal.SIGKILL)
            thread.join()


def named(server: Server) -> str:
    """The shards that the bucket's checkpoint names."""
    found = [entry for entry in server.bucket.objects.all() if entry.key.endswith("/last.ckpt")]
    return checkpoint.shards_of(BytesIO(found[0].get()["Body"].read())) or "" if found else ""


def settled(server: Server, second: Path) -> bool:
    """Whether the second checkpoint is in the bucket, and the first one's shards are nowhere."""
    shards = [name for name in kept(second) if name.endswith(".distcp")]
    return named(server).startswith("last.ckpt.4-") and not server.holds("/last.ckpt.2-") and shards == ["__1_0.distcp"]


def kept(cache: Path) -> list[str]:
    """Models and parts of checkpoints on a machine."""
    return [path.name for path in cache.rglob("*") if path.is_file() and path.suffix in (".pt", ".ckpt", ".distcp")]


# ---------------------------------------------------------------- tests
def test_sharded_workers_on_machines_that_share_no_file(server: Server, machine: Machine, forks: Path, tmp_path: Path) -> None:
    """Killed twice, and gone on with by as many, by one, and by workers that do not shard."""
    changes = {"training.steps": 8, "training.checkpoint_every_steps": EVERY, "evaluation.tasks": ["miniature_vqa"]}
    changes |= {"evaluation.shots": [0], "evaluation.items": 4}
    trials = [trial("baseline", 0, tiny_experiment(changes | {"evaluation.precision": name})) for name in ("bf16-mixed", "32-true")]
    crew, alone, store = Crew(forks, tmp_path, trials), Store(tmp_path / "alone"), machine("driver")
    for one in trials:
        alone.write_trial(one)
        store.write_trial(one)
    assert crew.run("one", "one", store=alone.address) is None, crew.said()

    with watched(server) as lacking:
        crew.killed("one", "two", stop_at="step", when=lambda: settled(server, tmp_path / "two"))
        assert not lacking and not server.has("model.pt")
        first = named(server)
        objects = server.content()
        shards = {name.rpartition("/")[2] for name in objects if f"/{first}/" in name}
        assert shards == {".metadata", "__0_0.distcp", "__1_0.distcp"}

        # On one old and one new machine; the old one has what it wrote itself.
        server.requests.clear()
        crew.go_on("two", "three")
        assert server.asked("GET", "__1_0.distcp") == 1 and server.asked("GET", "__0_0.distcp") == 2
        assert not server.asked("GET", "model.pt") and not kept(tmp_path / "two") and not kept(tmp_path / "three")
        assert_done(store, alone, trials)
        assert not server.holds("last.ckpt")

        # Killed after the second machine had brought its shards, and before they were named.
        server.bucket.objects.all().delete()
        store = machine("another-driver")
        for one in trials:
            store.write_trial(one)
        crew.killed("one", "two", stop_at="naming", when=lambda: server.holds("/last.ckpt.4-") and named(server).startswith("last.ckpt.2-"))
        objects = server.content()
        for machines, strategy in ((("two", "one"), "fsdp"), (("four",), "ddp"), (("five", "six"), "ddp")):
            server.bucket.objects.all().delete()
            for name, content in objects.items():
                server.bucket.put_object(Key=name, Body=content)
            crew.go_on(*machines, strategy=strategy)
            assert_done(machine(f"driver-{machines[0]}"), alone, trials)
            assert not server.holds("last.ckpt") and not [name for each in machines for name in kept(tmp_path / each)]
    assert not lacking


def test_shards_that_others_are_bringing_stay_and_older_ones_go(server: Server, machine: Machine) -> None:
    one = trial("baseline", 0, tiny_experiment())
    holder, helper = machine("first"), machine("second")
    folder, helped = holder.write_trial(one), helper.trial_folder(one)
    for name in ("last.ckpt.2-former", "last.ckpt.4-killed", "last.ckpt.6-coming"):
        (helped / name).mkdir(parents=True)
        (helped / name / "__1_0.distcp").write_bytes(b"shard")
        helper.upload(helped / name / "__1_0.distcp")
    lease = leases.Lease(ObjectStore(ADDRESS), f"trials/{folder.name}/lease.json", "first")
    assert lease.take()
    publication = upload.FolderUpload(replica_of(holder), folder, lease)
    publication.round()
    assert {"former", "killed", "coming"} <= shards_in(server), "there is no checkpoint yet, and one may be coming"
    write_checkpoint(folder, 4)
    publication.round()
    assert shards_in(server) == {"last.ckpt.4", "coming"}
    (folder / "model.pt").write_bytes(b"weights")
    remove_checkpoint(folder / "last.ckpt")
    publication.round()
    assert not shards_in(server) and server.has("model.pt")
    lease.give_back()


def shards_in(server: Server) -> set[str]:
    """The endings of names of folders of shards in the bucket."""
    return {name.split("/")[-2].rpartition("-")[2] for name in server.names() if name.endswith(".distcp")}


def test_a_machine_that_helps_sees_how_its_trial_stands(server: Server, machine: Machine) -> None:
    one = trial("baseline", 0, tiny_experiment())
    holder, helper = machine("first"), machine("second")
    folder, helped = holder.write_trial(one), helper.trial_folder(one)
    with holder.hold(folder), helper.help(helped):
        holder.start(folder, "train")
        (folder / "progress.json").write_text('{"stage": "train", "step": 3, "steps": 8, "time": 0, "stage_started": 0}')
        wait_for(lambda: server.has("progress.json") and server.has("status.json"))
        helper.refresh()
        assert helper.status(one).status == "running" and "3 of 8" in str(helper.status(one))
    # Killed while it helped: what it had not given away is forgotten, and the holder's lease is left alone.
    with holder.hold(folder), contextlib.suppress(KeyboardInterrupt), helper.help(helped):
        (helped / "last.ckpt.2").mkdir()
        (helped / "last.ckpt.2" / "__1_0.distcp").write_bytes(b"half")
        raise KeyboardInterrupt
    with holder.hold(folder):
        helper.refresh()
        helper.release_dead()
        assert not kept(helper.root) and helper.is_held(helped) and server.has("lease.json")


def test_logs_of_workers_elsewhere_come_to_the_bucket(server: Server, machine: Machine, forks: Path) -> None:
    driver, one = machine("driver"), trial("baseline", 0, tiny_experiment())
    driver.write_trial(one)
    machine("second")
    placement = Launcher(ADDRESS, forks, 1, 0, run_trial=f"{__name__}:talk", shares=(1, 1), import_paths=(*sys.path, HERE))
    arguments = {"fingerprint": one.fingerprint, "evaluations": []}
    for times in (1, 2):
        assert _run_remote_share(placement, driver.trial_folder(one), arguments, Share(1, 1, 2, "127.0.0.1", free_port())) is None
        assert next(content for name, content in server.content().items() if name.endswith("/log-1.txt")).count(b"worker 1 of 2") == times
        machine("third")


def assert_done(store: Store, alone: Store, trials: list[Trial]) -> None:
    store.refresh()
    for one in trials:
        assert store.status(one).status == "done", store.error(store.trial_folder(one))
        mine, others = store.items(one), alone.items(one)
        pandas.testing.assert_frame_equal(mine.drop(columns="log_likelihoods"), others.drop(columns="log_likelihoods"), rtol=1e-4)
    mine, others = store.curve(trials[0]), alone.curve(trials[0])
    assert list(mine["step"]) == list(range(1, 9)) and list(mine["loss"]) == pytest.approx(list(others["loss"]), rel=1e-4)
