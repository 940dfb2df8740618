"""Trials of several workers: they end together, say why, leave nothing behind, go on, and score as one does; on one node and on two."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from child_helpers import gone_within, job, wait_for_pids
from pydantic import ValidationError
from study_helpers import study, trial
from tiny import tiny_experiment

from mm1_ablate.config.sweep.declaration import Resources
from mm1_ablate.run import child_process
from mm1_ablate.run.launcher import Launcher
from mm1_ablate.run.worker_group import ResourcesMissing, Share, WorkerFailure, assign_workers, free_port, jobs_of, run_together
from mm1_ablate.store.store import HELD, Store

HERE = str(Path(__file__).parent)


# ---------------------------------------------------------------- what the children do
def meet(answer: str, rank: int, ranks: int) -> int:
    """Meet the others; write what came of it. The environment is what torch's own launcher would have set."""
    import torch
    from torch import distributed

    distributed.init_process_group("gloo", rank=rank, world_size=ranks)
    total = torch.tensor([rank + 1])
    distributed.all_reduce(total)
    Path(f"{answer}-{rank}").write_text(f"{os.getpid()} {int(total)} '{os.environ['CUDA_VISIBLE_DEVICES']}'")
    return 0


def end_or_wait(answer: str, how: dict[str, str], rank: int, ranks: int) -> int:
    """End as told, by rank; those that are told nothing wait for ever."""
    Path(f"{answer}-{rank}").write_text(str(os.getpid()))
    told = how.get(str(rank), "wait")
    while told == "wait" or not all(Path(f"{answer}-{other}").exists() for other in range(ranks)):
        time.sleep(0.05)
    if told == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return int(told)


def work_of_several(store_root: str, fingerprint: str, evaluations: list[str], rank: int = 0, ranks: int = 1, strategy: str = "ddp") -> int:
    """A trial whose workers meet; told so by a file in the store, one fails while the others wait for it."""
    from mm1_ablate.run.trial import recording_failure
    from mm1_ablate.training.workers import Workers

    store = Store(store_root)
    folder = store.trial_folder(fingerprint)
    workers = Workers(rank, ranks)

    def work() -> None:
        if rank == 0:
            store.start(folder, "train")
        with workers.joined():
            (folder / f"rank-{rank}").write_text(f"{os.getpid()} {workers.all_reduce([rank + 1])[0]:g} {strategy}")
            with (folder / f"tries-{rank}").open("a") as tries:
                tries.write(f"{os.getpid()}\n")
            while (store.root / "wait").exists():
                time.sleep(0.05)
            steps = store.read_trial(fingerprint)[0].training.steps
            if (store.root / f"fail-rank-{rank}-of-{steps}").exists():
                raise ArithmeticError(f"what worker {rank} cannot do")
            if (store.root / f"kill-rank-{rank}-of-{steps}").exists():
                os.kill(os.getpid(), signal.SIGKILL)
            workers.all_reduce([0])
            if rank == 0:
                items = pd.DataFrame({"task": ["miniature_vqa"], "shots": [8], "item": ["a"], "score": [1.0]})
                (folder / "model.pt").write_bytes(b"weights")
                for evaluation in evaluations:
                    store.write_evaluation(fingerprint, evaluation, items, {"shot_8/average": 100.0})

    return recording_failure(store, folder, work, rank == 0, alone=ranks == 1)


# ---------------------------------------------------------------- children
@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    with child_process.server() as folder:
        yield folder


def jobs(function: str, log: Path, ranks: int, gpus: str = "", **arguments: Any) -> list[child_process.Job]:
    one = job(f"test_worker_group:{function}", log, **arguments)
    one.environment["CUDA_VISIBLE_DEVICES"] = gpus
    return jobs_of(one, Share(0, ranks, ranks, "127.0.0.1", free_port()))


def test_workers_meet_and_each_sees_a_gpu_of_its_own(server: Path, tmp_path: Path) -> None:
    asked = jobs("meet", tmp_path / "log.txt", 2, gpus="5,7", answer=str(tmp_path / "answer"))
    assert run_together(server, asked) is None, (tmp_path / "log.txt").read_text()
    answers = [(tmp_path / f"answer-{rank}").read_text().split() for rank in range(2)]
    assert answers[0][0] != answers[1][0]
    assert [answer[1:] for answer in answers] == [["3", "'5'"], ["3", "'7'"]]
    assert (tmp_path / "log-1.txt").exists()


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"1": "kill"}, WorkerFailure(1, child_process.ChildExit(None, signal.SIGKILL))),
        ({"0": "kill"}, WorkerFailure(0, child_process.ChildExit(None, signal.SIGKILL))),
        ({"0": "0", "2": "7"}, WorkerFailure(2, child_process.ChildExit(7, None))),
        ({"0": str(HELD)}, WorkerFailure(0, child_process.ChildExit(HELD, None))),
    ],
)
def test_when_one_worker_fails_the_others_are_ended_and_it_is_reported(
    server: Path, tmp_path: Path, how: dict[str, str], told: WorkerFailure
) -> None:
    asked = jobs("end_or_wait", tmp_path / "log.txt", 3, answer=str(tmp_path / "pid"), how=how)
    assert run_together(server, asked) == told
    assert gone_within([int((tmp_path / f"pid-{rank}").read_text()) for rank in range(3)], 0.1), "they are gone when it is told"


def test_all_workers_are_ended_when_the_caller_or_the_run_ends(tmp_path: Path) -> None:
    import socket

    ours, theirs = socket.socketpair()
    for closes in (theirs.close, None):
        raised: list[type] = []
        with child_process.server(preload=[]) as folder:
            asked = jobs("end_or_wait", tmp_path / "log.txt", 2, answer=str(tmp_path / "pid"), how={})

            stop = ours if closes else None

            def ask(folder: Path = folder, asked: list[child_process.Job] = asked, raised: list[type] = raised, stop: Any = stop) -> None:
                try:
                    run_together(folder, asked, [], stop=stop)
                except child_process.Stopped as error:
                    raised.append(type(error))

            thread = threading.Thread(target=ask)
            thread.start()
            pids = [pid for rank in range(2) for pid in wait_for_pids(tmp_path / f"pid-{rank}")]
            assert all(map(child_process.is_alive, pids))
            if closes:
                closes()
                thread.join(10)
        thread.join(10)
        assert raised == [child_process.Stopped] and gone_within(pids, 0.5)
        for rank in range(2):
            (tmp_path / f"pid-{rank}").unlink()


# ---------------------------------------------------------------- trials
def placed(store: Store, server: Path, function: str | None = None, **options: Any) -> Launcher:
    own: dict[str, Any] = {"run_trial": f"test_worker_group:{function}"} if function else {}
    return Launcher(str(store.root), server, 1, 0, shares=(2,), import_paths=(*sys.path, HERE), **own, **options)


def test_the_first_worker_that_fails_says_why_though_the_others_fail_of_losing_it(server: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    only = study(arms=("baseline",)).trials[0]
    folder = store.write_trial(only)
    for told, reason in (
        ("fail-rank-1-of-10", "ArithmeticError: what worker 1 cannot do"),
        ("kill-rank-1-of-10", "worker 1 of 2 killed by SIGKILL; often: out of memory"),
        ("fail-rank-0-of-10", "ArithmeticError: what worker 0 cannot do"),
    ):
        (tmp_path / told).touch()
        placed(store, server, "work_of_several").train_and_evaluate(only.fingerprint, [only.evaluation_fingerprint])
        state = store.status(only)
        assert (state.status, state.reason) == ("failed", reason)
        assert gone_within([int((folder / f"rank-{rank}").read_text().split()[0]) for rank in range(2)], 0.1)
        store.retry(folder)
        (tmp_path / told).unlink()
    placed(store, server, "work_of_several").train_and_evaluate(only.fingerprint, [only.evaluation_fingerprint])
    assert store.status(only).status == "done"


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_trial_of_two_workers_that_lost_one_goes_on_and_is_scored_as_by_one(server: Path, tmp_path: Path, strategy: Any) -> None:
    losses = {"losses": {"text": {"source": {"type": "miniature", "data_type": "text", "content": "text"}, "first": 500, "documents": 9}}}
    changes = {"training.steps": 40, "training.checkpoint_every_steps": 2, "evaluation.shots": [0, 4], "evaluation.batch_items": 3}
    settings = tiny_experiment(changes)
    settings = settings.model_validate({**settings.model_dump(), "evaluation": settings.evaluation.model_dump() | losses})
    one = trial("baseline", 0, settings)
    store = Store(tmp_path / "two")
    folder = store.write_trial(one)
    placement = placed(store, server, strategy=strategy)

    def kill_one() -> None:
        until = time.monotonic() + 300
        while not (folder / "last.ckpt").exists() and time.monotonic() < until:
            time.sleep(0.002)
        own = [pid for pid in _children(server) if "log-1.txt" in os.readlink(f"/proc/{pid}/fd/1")]
        os.kill(own[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    placement.train_and_evaluate(one.fingerprint, [one.evaluation_fingerprint])
    killer.join()
    assert store.status(one).reason == "worker 1 of 2 killed by SIGKILL; often: out of memory"
    assert (folder / "last.ckpt").exists() and not (folder / "model.pt").exists()
    store.retry(folder)
    placement.train_and_evaluate(one.fingerprint, [one.evaluation_fingerprint])
    assert store.status(one).status == "done", store.error(folder)
    assert list(store.curve(one)["step"]) == list(range(1, 41))

    alone = Store(tmp_path / "one")
    (alone.write_trial(one) / "model.pt").write_bytes((folder / "model.pt").read_bytes())
    Launcher(str(alone.root), server, 1, 0).train_and_evaluate(one.fingerprint, [one.evaluation_fingerprint])
    assert alone.status(one).status == "done", alone.error(alone.trial_folder(one))
    mine, others = alone.items(one), store.items(one)
    numbers = ["log_likelihoods"]
    pd.testing.assert_frame_equal(mine.drop(columns=numbers), others.drop(columns=numbers), rtol=1e-5)
    assert len(mine) == 50 and set(mine["family"]) == {"image", "text", "loss"}
    assert alone.scores(one) == pytest.approx(store.scores(one), rel=1e-5)


def _children(server: Path) -> list[int]:
    pid = int((server / "pid").read_text())
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# ---------------------------------------------------------------- Ray
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_trials_of_two_workers_run_on_two_nodes_and_on_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray.cluster_utils import Cluster

    from mm1_ablate.run.scheduler import RunOptions, run_study

    def ranks_in(folder: Path) -> list[list[str]]:
        return [(folder / f"rank-{rank}").read_text().split() for rank in range(2)]

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([HERE, *(path for path in sys.path if path)]))
    quick: dict[str, Any] = {"run_trial": "test_worker_group:work_of_several", "preload": ("torch", "pandas")}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=2)
        cluster.wait_for_nodes()
        for nodes in (2, 1):
            tiny, store = study(arms=("baseline", "longer")[:nodes]), Store(tmp_path / str(nodes))
            resources = Resources(workers=2, nodes=nodes, strategy="fsdp")
            tiny = replace(tiny, sweep=tiny.sweep.model_copy(update={"resources": resources}))
            store.root.mkdir()
            (store.root / "fail-rank-1-of-11").touch()
            outcome = run_study(tiny, store, RunOptions(address=cluster.address, **quick))
            good, *failing = tiny.trials
            assert outcome.done == (good.name,), (store.status(good), store.error(store.trial_folder(good)))
            assert [rank[1:] for rank in ranks_in(store.trial_folder(good))] == [["3", "fsdp"]] * 2
            for trial in failing:
                assert store.status(trial).reason == "ArithmeticError: what worker 1 cannot do"
            assert gone_within([int(pid) for trial in tiny.trials for pid, *_ in ranks_in(store.trial_folder(trial))], 1)
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_trial_that_lost_a_node_is_ended_on_the_others_and_done_again_when_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    from ray.cluster_utils import Cluster

    from mm1_ablate.run.scheduler import RunOptions, run_study

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([HERE, *(path for path in sys.path if path)]))
    tiny, store = study(arms=("baseline",)), Store(tmp_path / "store")
    tiny = replace(tiny, sweep=tiny.sweep.model_copy(update={"resources": Resources(workers=2, nodes=2)}))
    folder = store.trial_folder(tiny.trials[0])
    store.root.mkdir()
    (store.root / "wait").touch()
    outcomes: list[Any] = []
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        quick: dict[str, Any] = {"run_trial": "test_worker_group:work_of_several", "preload": ("torch", "pandas")}
        thread = threading.Thread(target=lambda: outcomes.append(run_study(tiny, store, RunOptions(address=cluster.address, **quick))))
        thread.start()
        pids = [pid for rank in range(2) for pid in wait_for_pids(folder / f"tries-{rank}", 300)]
        cluster.remove_node(second, allow_graceful=False)
        assert gone_within(pids, 20), "the worker on the node that is left too"
        (store.root / "wait").unlink()
        cluster.add_node(num_cpus=1)
        thread.join(90)
        assert [outcome.done for outcome in outcomes] == [(tiny.trials[0].name,)]
        assert [len((folder / f"tries-{rank}").read_text().split()) for rank in range(2)] == [2, 2]
    finally:
        ray.shutdown()
        cluster.shutdown()


# ---------------------------------------------------------------- what is asked for
NODES = [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 16.0, "GPU": 2.0}, {"CPU": 64.0}]


def test_workers_on_several_nodes_use_the_network_that_leads_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    job, share = child_process.Job("study_helpers:nothing", {}, "log.txt"), Share(1, 1, 2, "127.0.0.1", 1)
    assert jobs_of(job, share)[0].environment["GLOO_SOCKET_IFNAME"] == "lo"
    assert "GLOO_SOCKET_IFNAME" not in jobs_of(job, replace(share, address="no-such-host.invalid"))[0].environment
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    assert "GLOO_SOCKET_IFNAME" not in jobs_of(job, share)[0].environment, "children inherit what the node says"


@pytest.mark.parametrize(
    ("asked", "shares"),
    [
        ({}, (1,)),
        ({"gpus": 0.5, "cpus": 2}, (1,)),
        ({"workers": 4, "gpus_per_worker": 1, "cpus_per_worker": 2}, (4,)),
        ({"gpus": 4}, (4,)),
        ({"workers": 6, "gpus_per_worker": 1}, (1,) * 6),
        ({"workers": 4, "gpus_per_worker": 1, "nodes": 2}, (2, 2)),
        ({"workers": 64}, (64,)),
        ({"workers": 70}, (1,) * 70),
    ],
)
def test_workers_go_onto_one_node_if_they_fit_and_onto_several_otherwise(asked: dict[str, Any], shares: tuple[int, ...]) -> None:
    assert assign_workers(Resources(**asked), NODES) == shares


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"workers": 8, "gpus_per_worker": 1}, "8 cpus and 8 gpus: 1 cpus and 1 gpus for each of 8 workers"),
        ({"workers": 6, "gpus_per_worker": 1, "nodes": 2}, "3 on each of 2 nodes"),
        ({"cpus": 65}, "65 cpus and 0 gpus"),
    ],
)
def test_a_trial_for_which_there_is_no_room_is_refused_with_what_the_largest_node_has(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ResourcesMissing) as raised:
        assign_workers(Resources(**asked), NODES)
    assert words in str(raised.value) and "the largest of 3 nodes has 8 cpus and 4 gpus" in str(raised.value)


def test_resources_can_be_declared_for_each_worker_or_for_all() -> None:
    each, together = Resources(workers=8, gpus_per_worker=1, cpus_per_worker=4), Resources(workers=8, gpus=8, cpus=32)
    assert (each.gpus, each.cpus, each.worker_gpus, each.worker_cpus) == (8, 32, 1, 4)
    assert (together.worker_gpus, together.worker_cpus) == (1, 4)
    assert Resources.model_validate(each.model_dump()) == each
    assert (Resources(gpus=8).workers, Resources(gpus=8).cpus, Resources(workers=3).cpus) == (8, 8, 3)
    assert (Resources(gpus=0.5).workers, Resources(cpus=4).worker_cpus) == (1, 4)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"workers": 1, "gpus": 8}, "a worker has one GPU or none"),
        ({"workers": 8, "gpus": 2}, "a worker has one GPU or none"),
        ({"workers": 8, "gpus": 4, "gpus_per_worker": 1}, "declare one of the two"),
        ({"workers": 8, "nodes": 3}, "cannot be spread evenly over 3 nodes"),
        ({"workers": 2, "strategy": "zero"}, "'ddp' or 'fsdp'"),
    ],
)
def test_resources_that_contradict_each_other_are_refused(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Resources(**asked)
