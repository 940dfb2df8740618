"""A study on several Ray nodes: trials spread, a lost node costs the steps since the last checkpoint, and what cannot work is refused.

The nodes are real raylets on this machine; they share its file system, and one fork server.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from study_helpers import CHECKPOINT_EVERY, stepping_trial, study

from mm1_ablate.config.study import Study
from mm1_ablate.run import child_process
from mm1_ablate.run.cluster import ClusterUnusable, check_every_node, check_ray, has_types, join, require_usable_nodes
from mm1_ablate.run.launcher import Launcher, StoreNotVisible
from mm1_ablate.run.scheduler import ResourcesMissing, RunOptions, run_study
from mm1_ablate.store.health import problem_with
from mm1_ablate.store.store import Store

NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}
HEAD = {"num_cpus": 0, "object_store_memory": 80_000_000, "include_dashboard": False}
STEPPING = {"run_trial": "study_helpers:stepping_trial", "preload": ("pandas",)}
QUICK = {"run_trial": "study_helpers:quick_trial", "preload": ("pandas",)}
REACHED = CHECKPOINT_EVERY + 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    """A head without CPUs and two nodes with one each. Its folder has a short name: paths of sockets have 107 bytes at most."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        patch.setenv("RAY_TMPDIR", folder)
        started = Cluster(initialize_head=True, head_node_args=HEAD)
        try:
            for _ in range(2):
                started.add_node(**NODE)
            yield started
        finally:
            started.shutdown()


def steps_of(store: Store, trial) -> list[list[str]]:
    """Process and number of every step that was done for a trial."""
    path = store.trial_folder(trial) / "steps"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def undisturbed(tiny: Study, store: Store) -> list[dict[str, float]]:
    for trial in tiny.trials:
        store.write_trial(trial)
        assert stepping_trial(str(store.root), trial.fingerprint, [trial.evaluation_fingerprint]) == 0
    return [store.scores(trial) for trial in tiny.trials]


def test_a_node_that_is_lost_costs_the_steps_since_the_last_checkpoint_and_one_that_joins_is_used(cluster, tmp_path: Path) -> None:
    import ray

    store, tiny = Store(tmp_path / "store"), study()
    store.root.mkdir()
    (store.root / "wait-here").touch()
    until = time.monotonic() + 300

    def wait_for(steps: int) -> list[int]:
        """Until so many steps have been done by all trials together; how many by each."""
        while sum(len(steps_of(store, trial)) for trial in tiny.trials) < steps and time.monotonic() < until:
            time.sleep(0.05)
        return [len(steps_of(store, trial)) for trial in tiny.trials]

    # Nodes are started and killed by the main thread.
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(run_study, tiny, store, RunOptions(address=cluster.address, **STEPPING))
        try:
            # Nodes with one CPU each: two trials at work at once are on both.
            assert wait_for(2 * REACHED) == [REACHED, REACHED]
            assert [store.status(trial).status for trial in tiny.trials] == ["running", "running"]
            # Not the one whose raylet the run, which is at home on all nodes here, is connected to.
            ours = ray._private.worker.global_worker.node._raylet_socket_name
            lost = next(node for node in cluster.worker_nodes if node._raylet_socket_name != ours)
            cluster.remove_node(lost, allow_graceful=False)
            cluster.add_node(**NODE)
            # The other trial holds the node that is left, so the lost one can only go on where another has joined.
            assert sorted(wait_for(2 * REACHED + REACHED - CHECKPOINT_EVERY)) == [REACHED, 2 * REACHED - CHECKPOINT_EVERY]
        finally:
            (store.root / "wait-here").unlink()
        outcome = running.result(timeout=300)
    assert len(outcome.done) == 2 and outcome.started == 2, [store.status(trial) for trial in tiny.trials]
    assert [store.scores(trial) for trial in tiny.trials] == undisturbed(tiny, Store(tmp_path / "undisturbed"))
    processes = sorted(len({process for process, _ in steps_of(store, trial)}) for trial in tiny.trials)
    assert processes == [1, 2], "the trial on the other node went on as if nothing had been"
    for trial in tiny.trials:
        done = [int(step) for _, step in steps_of(store, trial)]
        again = list(range(CHECKPOINT_EVERY + 1, REACHED + 1)) if len({process for process, _ in steps_of(store, trial)}) == 2 else []
        assert done == list(range(1, REACHED + 1)) + again + list(range(REACHED + 1, trial.experiment.training.steps + 1))


@pytest.mark.parametrize("how", ["--address", "RAY_ADDRESS"])
def test_a_trial_that_no_node_can_hold_is_refused_on_a_cluster_too(
    cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    tiny = study()
    greedy = replace(tiny, sweep=tiny.sweep.model_copy(update={"resources": tiny.sweep.resources.model_copy(update={"cpus": 64.0})}))
    if how == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    with pytest.raises(ResourcesMissing, match=r"64 cpus and 0 gpus .*the largest of \d nodes has 1 cpus and 0 gpus"):
        run_study(greedy, Store(tmp_path / "store"), RunOptions(address=cluster.address if how == "--address" else None, **QUICK))


def test_the_cluster_of_ray_address_does_the_trials_and_the_doctor_sees_its_nodes(
    cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    store, events = Store(tmp_path / "store"), []
    until = time.monotonic() + 300
    check = check_ray(None, tmp_path / "new")
    while "3 nodes" not in check.found and time.monotonic() < until:
        time.sleep(1)  # a node that another test has killed is missed after a while only
        check = check_ray(None, tmp_path / "new")
    assert len(run_study(study(), store, RunOptions(**QUICK), on_event=events.append).done) == 2
    assert events[0] == f"starting Ray ({cluster.address})"
    assert not (store.root / "probe").exists() and not (store.root / "ray").exists()
    assert check.ok and "3 nodes, 2 CPUs, 0 GPUs; all that hold trials read, write and lock" in check.found
    assert not (tmp_path / "new").exists()


def test_nodes_that_cannot_use_the_store_are_named_before_anything_begins(cluster, tmp_path: Path) -> None:
    import ray

    # A path that leads to a folder in this process only.
    os.dup2(os.open(tmp_path, os.O_RDONLY), 977)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        with pytest.raises(ClusterUnusable, match=r"nothing was started: .* \(.*\) does not see .*on storage that all nodes share"):
            require_usable_nodes(Path("/proc/self/fd/977"))
        require_usable_nodes(tmp_path)
    finally:
        os.close(977)
        ray.shutdown()


def test_a_node_that_is_lost_while_it_is_asked_hinders_nothing(cluster, tmp_path: Path) -> None:
    import ray

    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        lost = cluster.add_node(**NODE)
        cluster.wait_for_nodes()
        # Stopped, it lives as far as the cluster knows, and answers nothing.
        raylet = lost.all_processes["raylet"][0].process
        raylet.send_signal(signal.SIGSTOP)
        threading.Timer(2, cluster.remove_node, (lost,), {"allow_graceful": False}).start()
        named = {node.problem for node in check_every_node(tmp_path)}
    finally:
        ray.shutdown()
    assert named == {None}


def test_what_is_wrong_with_a_store_on_a_node_is_distinguished(tmp_path: Path) -> None:
    folder = tmp_path / "probe" / "abc"
    assert "does not see" in (problem_with(folder, "node") or "")
    folder.mkdir(parents=True)
    (folder / "written").write_text("xyz")
    assert "something else" in (problem_with(folder, "node") or "")
    (folder / "written").write_text("abc")
    assert "does not see locks" in (problem_with(folder, "node") or "")
    holding = "import fcntl, sys; file = open(sys.argv[1], 'a+b'); fcntl.lockf(file, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", holding, folder / "locked"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None and driver.stdout.readline()
        assert problem_with(folder, "node") is None and (folder / "node").read_text() == "node"
        driver.communicate()


BLIND = """\
import os, pathlib
def stat(path, *rest, real=os.stat, **options):
    if str(path).startswith({store!r}):
        pathlib.Path({looked!r}).touch()
        raise FileNotFoundError(2, "hidden", str(path))
    return real(path, *rest, **options)
os.stat = stat
"""
"""A `sitecustomize` for the processes of a node that does not see a store."""


def test_a_node_that_joins_without_the_store_costs_no_trial(cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, tiny, events = Store(tmp_path / "store"), study(("baseline", "longer", "longest")), []
    store.root.mkdir()
    (store.root / "wait-here").touch()
    looked = tmp_path / "looked"
    (tmp_path / "sitecustomize.py").write_text(BLIND.format(store=str(store.root), looked=str(looked)))
    monkeypatch.setattr("mm1_ablate.run.launcher.MOUNTED_WITHIN", 1.0)
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(run_study, tiny, store, RunOptions(address=cluster.address, **STEPPING), on_event=events.append)
        until = time.monotonic() + 300
        while sum(store.status(trial).status == "running" for trial in tiny.trials) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        blind = cluster.add_node(**NODE, env_vars={"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])})
        try:
            while not looked.exists() and time.monotonic() < until:
                time.sleep(0.1)
        finally:
            (store.root / "wait-here").unlink()
        outcome = running.result(timeout=300)
        cluster.remove_node(blind)
    assert looked.exists() and any("does not see the store" in event and "run elsewhere" in event for event in events)
    assert len(outcome.done) == 3, [store.status(trial) for trial in tiny.trials]


def test_a_node_that_joins_without_the_store_does_no_trial_there(tmp_path: Path) -> None:
    placement = Launcher(str(tmp_path / "nowhere"), tmp_path / "server", 1, 0, mounted_within=0.6)
    with pytest.raises(StoreNotVisible, match="does not see the store"):
        placement.train_and_evaluate("0" * 64, [])
    assert not (tmp_path / "nowhere").exists()


def test_a_trial_that_a_lost_node_still_locks_waits_for_the_lock_but_not_for_another_run(tmp_path: Path) -> None:
    store, tiny = Store(tmp_path / "store"), study(arms=("baseline",))
    (trial,) = tiny.trials
    folder = store.write_trial(trial)
    with child_process.server(preload=["pandas"]) as server:
        placement = Launcher(str(store.root), server, 1, 0, **STEPPING)
        for run, done in (("another", False), (server.name, True)):
            with pytest.MonkeyPatch.context() as patch, open(folder / "lock", "a+b") as lock:
                patch.setenv("MM1_ABLATE_RUN", run)
                fcntl.lockf(lock, fcntl.LOCK_EX)
                store.start(folder, "train")
                release = threading.Timer(3, fcntl.lockf, (lock, fcntl.LOCK_UN))
                if done:  # what another run holds is held throughout
                    release.start()
                placement.train_and_evaluate(trial.fingerprint, [trial.evaluation_fingerprint])
                if done:
                    release.join()
            assert store.has_scores(trial) == done


def test_a_cluster_that_grows_is_distinguished_from_one_of_a_fixed_size() -> None:
    from ray.autoscaler._private.autoscaler import AutoscalerSummary

    def report(**active: int) -> dict:
        return dataclasses.asdict(AutoscalerSummary(active, {}, [], {}, []))

    assert not has_types(report(node_c43e6740516b2e5bf2c73=1)) and not has_types({})
    assert has_types(report(headgroup=1))


def test_a_token_that_a_cluster_does_not_take_is_reported_and_one_that_it_takes_is_shown() -> None:
    held = (
        "import sys; from ray.cluster_utils import Cluster; "
        f"cluster = Cluster(initialize_head=True, head_node_args={HEAD!r}); print(cluster.address, flush=True); "
        "sys.stdin.read(); cluster.shutdown()"
    )
    joining = (
        "import sys; from mm1_ablate.run.cluster import connect; import ray\n"
        "try:\n    connect(sys.argv[1], None); print(len(ray.nodes()), 'nodes')\nexcept ConnectionError as error:\n    print(error)\n"
    )
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        ours, theirs = Path(folder) / "ours", Path(folder) / "theirs"
        ours.write_text("a" * 64)
        theirs.write_text("b" * 64)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")} | {"RAY_TMPDIR": folder}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        owner = environment | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(ours)}
        with subprocess.Popen([sys.executable, "-c", held], env=owner, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as cluster:
            assert cluster.stdout is not None
            address = cluster.stdout.readline().strip()
            joined = [
                subprocess.Popen(
                    [sys.executable, "-c", joining, address],
                    env=environment | {"RAY_AUTH_TOKEN_PATH": str(path)},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
                for path in (ours, theirs)
            ]
            said = [driver.communicate(timeout=300)[0] for driver in joined]
            cluster.communicate()
    assert said[0].strip() == "1 nodes"
    assert "does not accept the token of this machine; ~/.ray/auth_token" in said[1]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "no Ray cluster at 127.0.0.1:1: Connection refused"),
        ("no-such-host.invalid:6379", "no Ray cluster at no-such-host.invalid:6379: "),
        ("127.0.0.1", "127.0.0.1 is not an address of a Ray cluster: give the head's host:port"),
        ("http://127.0.0.1:8265", "http://127.0.0.1:8265 cannot start trials: .*ray job submit"),
        ("ray://127.0.0.1:10001", "ray://127.0.0.1:10001 cannot start trials: .*on the cluster's head"),
    ],
)
def test_an_address_that_leads_to_no_cluster_is_reported_at_once(address: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    with pytest.raises(ConnectionError, match=said):
        join(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConnectionError, match=said):
        join("auto")
    assert time.monotonic() - began < 120
