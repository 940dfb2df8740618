"""A study's missing trials onto Ray: preparations first, then earlier stages, then one Tune run over what has to be done.

In: a study and its store. Out: an `Outcome`; what came of each trial is in the store, where it was written by the child process
that did it. Tune places trials on nodes and notices lost ones; it remembers nothing that matters. Each piece of work runs in a
forked child of the node's fork server (`child_process.py`), asked for by a warm, reused actor. With nothing to do, Ray is never imported.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from mm1_ablate.config.identity.fingerprint import short
from mm1_ablate.config.preparation import Preparation
from mm1_ablate.config.sweep.declaration import Resources
from mm1_ablate.config.sweep.expand import Study
from mm1_ablate.run import child_process
from mm1_ablate.run.cluster import avoiding, check_nodes, grows, has_room_beside
from mm1_ablate.run.connection import join
from mm1_ablate.run.fork_server import PRELOADED
from mm1_ablate.run.launcher import RUN_PREPARATION, RUN_TRIAL, Placement, StoreUnseen
from mm1_ablate.run.remaining_work import Work, forget_failures, let_the_dying_go, preparations_to_do, score_kept, stages_to_do, to_do
from mm1_ablate.run.signals import calm_down, interruptible
from mm1_ablate.run.worker_layout import ResourcesMissing, deal, shares_of
from mm1_ablate.store.disk_full import DiskFull, is_disk_full
from mm1_ablate.store.store import Store

OBJECT_STORE_BYTES = 100_000_000
"""Nothing large goes through Ray: models and data live in the store and in the children."""
LOST_NODE_RETRIES = 2
"""How often work whose node or fork server was lost is placed again. A trial's own failure is never retried by itself."""


@dataclass(frozen=True)
class Outcome:
    """What became of a study's trials, by name."""

    done: tuple[str, ...] = ()
    """Done now or before."""
    failed: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    """Another run works on them."""
    left: tuple[str, ...] = ()
    """Not done, for the run was interrupted, or was to evaluate only."""
    started: int = 0
    """How many trials this run set out to do."""
    interrupted: bool = False


def run_study(
    study: Study,
    store: Store,
    *,
    address: str | None = None,
    cpus: int | None = None,
    retry: bool = False,
    evaluate_only: bool = False,
    on_event: Callable[[str], None] | None = None,
    run_trial: str = RUN_TRIAL,
    run_preparation: str = RUN_PREPARATION,
    preload: tuple[str, ...] = PRELOADED,
) -> Outcome:
    """Do what a study's trials lack, and return when it is done, failed or interrupted (Ctrl-C, SIGTERM).

    Args:
        address: of a Ray cluster (its nodes share the store); nothing: RAY_ADDRESS, or else this machine alone.
        cpus: cores to use on this machine; nothing: all.
        retry: failed trials and preparations too.
        evaluate_only: only trials whose trained model is kept.
        on_event: gets a line for people when something begins.
        run_trial, run_preparation: what the children do, as `module:function`.
        preload: modules that they need, imported once per node.

    Raises:
        ResourcesMissing: no node, or no nodes together, have what a trial asks for, and the cluster adds none by itself.
        ClusterUnfit: nodes of the cluster cannot use the store.
        DiskFull: a disk is full. What was under way is left as it is where a run is interrupted.
        ConnectionError: there is no cluster at the address, or it wants another token.
        StorageError: a store on object storage cannot be used.
    """
    resources = study.sweep.resources
    say = on_event or (lambda line: None)
    store.write_study(study)
    _remove_leftovers(store)
    let_the_dying_go(study, store)
    if retry:
        forget_failures(study, store)
    started = sum(len(entry.trials) for entry in to_do(study, store, evaluate_only))
    try:
        with interruptible():
            score_kept(study, store, say)
    except KeyboardInterrupt:
        return _outcome(study, store, started, interrupted=True)
    work = to_do(study, store, evaluate_only)
    if not work:
        return _outcome(study, store, started)
    for entry in work:
        for trial in entry.trials:
            store.write_trial(trial)
    stages = stages_to_do(work, store)
    for wave in stages:
        for entry in wave:
            store.write_trial(entry.trials[0])
    preparations = preparations_to_do([*(entry for wave in stages for entry in wave), *work], store)
    for preparation in preparations:
        store.write_preparation(preparation)
    server = child_process.new_server_folder()
    each = resources.worker_cpus, resources.worker_gpus
    placement = Placement(store.address, server, *each, run_trial, run_preparation, preload, strategy=resources.strategy)
    placement = replace(placement, spread=resources.nodes is not None)
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    cores = cpus or os.cpu_count() or 1
    if address == "local" and resources.cpus > cores:
        raise ResourcesMissing(f"a trial asks for {resources.cpus:g} cpus (resources.cpus in the sweep), and there are {cores} here")
    store.check()
    interrupted = False
    try:
        with store.noticing_full_disk(), interruptible():
            say(f"starting Ray ({'on this machine' if address == 'local' else address})")
            with _cluster(address, cpus, placement):
                placement = replace(placement, shares=_shares(resources, say))
                if address != "local":
                    check_nodes(store.address)
                if preparations:
                    say(f"preparing {len(preparations)} encoders and language models")
                    _run_preparations(preparations, store, placement)
                for number, wave in enumerate(stages, 1):
                    say(f"training earlier stages: {len(wave)}" + (f" ({number} of {len(stages)} in a chain)" if len(stages) > 1 else ""))
                    _run_stages(wave, store, placement, say)
                work = to_do(study, store, evaluate_only)
                if work:
                    say(f"running {sum(len(entry.trials) for entry in work)} trials")
                    _run_trials(work, store, placement, say)
    except KeyboardInterrupt:
        interrupted = True
    except DiskFull:
        with contextlib.suppress(Exception):  # that takes room too
            store.release_dead()
        raise
    store.release_dead()
    return _outcome(study, store, started, interrupted)


def _run_stages(wave: list[Work], store: Store, placement: Placement, say: Callable[[str], None]) -> None:
    """Train earlier stages. One that another run is training is waited for; one that fails is the failure of what starts from it."""
    while True:
        store.refresh(at_most_every=1)
        states = [(entry, store.status(entry.trials[0]).status) for entry in wave]
        if ready := [entry for entry, status in states if status in ("missing", "interrupted")]:
            _run_trials(ready, store, placement, say)
        elif any(status == "running" for _, status in states):
            time.sleep(0.5)
        else:
            return


def _remove_leftovers(store: Store) -> None:
    """Take away what Tune wrote for runs of this host that were killed: nobody reads it. Whether other hosts' runs live is not known."""
    for folder in (store.root / "ray").glob("*-*-*"):
        host, pid, _ = folder.name.rsplit("-", 2)
        if host == socket.gethostname() and pid.isdigit() and not child_process.is_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        (store.root / "ray").rmdir()


def _outcome(study: Study, store: Store, started: int, interrupted: bool = False) -> Outcome:
    store.refresh()
    states = [(trial.name, store.status(trial).status) for trial in study.trials]

    def named(*statuses: str) -> tuple[str, ...]:
        return tuple(name for name, status in states if status in statuses)

    return Outcome(named("done"), named("failed"), named("running"), named("missing", "interrupted"), started, interrupted)


# ---------------------------------------------------------------- Ray
@contextlib.contextmanager
def _cluster(address: str, cpus: int | None, placement: Placement) -> Iterator[None]:
    """A Ray cluster of our own, or the one at an address, for the length of a block. No process of ours outlives it."""
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    own = address == "local"
    try:
        if own:
            # Imports torch while Ray starts; children die with this process.
            child_process.start_server(placement.server_folder, owner=True, preload=placement.preload)
        import ray

        attached = ray.is_initialized()
        try:
            if not attached:
                _connect(address, cpus)
            yield
        finally:
            calm_down()
            if not attached:
                ray.shutdown()
    finally:
        calm_down()
        child_process.stop_server(placement.server_folder)


QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
}
"""Environment for Ray: silent, and Ctrl-C is ours."""


def _connect(address: str, cpus: int | None) -> None:
    """Start Ray on this machine, or join the cluster at an address. Ray's own handler of SIGTERM gives way to ours again."""
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    try:
        if address != "local":
            join(address)
            return
        local: dict[str, Any] = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR, **local)
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _shares(resources: Resources, say: Callable[[str], None]) -> tuple[int, ...]:
    """How a trial's workers are dealt to the nodes that there are. Where there is no room and the cluster grows, that is only said."""
    import ray

    try:
        return deal(resources, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    except ResourcesMissing as error:
        if not grows():
            raise
        say(f"{error}; waiting for the cluster's autoscaler to add what is needed")
        return shares_of(resources, fit_on_one=False)


def _run_preparations(preparations: list[Preparation], store: Store, placement: Placement) -> None:
    """All of them at once, as far as there is room. One that fails is the failure of the trials that start from it, and of no others."""
    import ray

    placed: dict[str, Any] = {"num_cpus": placement.cpus, "num_gpus": placement.gpus, "max_retries": LOST_NODE_RETRIES}
    placed["retry_exceptions"] = [child_process.ServerLost]
    prepare = ray.remote(_prepare)
    unfit: set[str] = set()

    def begin(part: Preparation) -> Any:
        return prepare.options(label_selector=avoiding(unfit), **placed).remote(placement, part.fingerprint)

    running = {begin(part): part for part in preparations}
    while running:
        finished, _ = ray.wait(list(running), num_returns=1)
        for reference in finished:
            part = running.pop(reference)
            try:
                ray.get(reference)
            except StoreUnseen as error:
                unfit.add(getattr(error, "cause", error).node)
                if has_room_beside(unfit, [{"CPU": placement.cpus, "GPU": placement.gpus}]):
                    running[begin(part)] = part
                else:
                    store.fail(store.prepared_folder(part), str(getattr(error, "cause", error)))
            except DiskFull as error:
                raise DiskFull(str(getattr(error, "cause", error))) from None
            except ray.exceptions.RayError as error:
                if is_disk_full(error):
                    raise
                store.fail(store.prepared_folder(part), f"its worker was lost: {type(error).__name__}")


def _prepare(placement: Placement, fingerprint: str) -> None:
    """Runs in a Ray worker."""
    placement.prepare(fingerprint)


def _run_trials(work: list[Work], store: Store, placement: Placement, say: Callable[[str], None]) -> None:
    """Do what has to be done, and again elsewhere what landed on nodes that joined the cluster without the store."""
    unfit: set[str] = set()
    while work:
        unseen = _tune(work, store, placement, unfit)
        unfit |= {node for node, _ in unseen.values()}
        work = [entry for entry in work if entry.fingerprint in unseen]
        if not has_room_beside(unfit, placement.bundles):
            for entry in work:
                store.fail(store.trial_folder(entry.fingerprint), unseen[entry.fingerprint][1])
            return
        for why in sorted({why for _, why in unseen.values()}):
            say(f"{why}; its trials are run elsewhere")


def _tune(work: list[Work], store: Store, placement: Placement, unfit: set[str]) -> dict[str, tuple[str, str]]:
    """One Tune run over what has to be done, with warm actors. Returns when all of it has ended, well or not.

    Returns:
        By fingerprint of what was not begun: the node that does not see the store, and a line on that.
    """
    from ray import tune

    evaluations = {short(entry.fingerprint): entry.evaluations for entry in work}
    fingerprints = {short(entry.fingerprint): entry.fingerprint for entry in work}

    def trainable(config: dict[str, Any]) -> dict[str, Any]:
        try:
            placement.train_and_evaluate(fingerprints[config["trial"]], evaluations[config["trial"]])
        except StoreUnseen as error:  # no failure of the trial's: Tune would only have it repeated there
            return {"finished": 0, "unseen": (error.node, str(error))}
        except DiskFull as error:
            return {"finished": 0, "full": str(error)}
        return {"finished": 1}

    full: list[str] = []

    class EndWhereFull(tune.Callback):
        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
            if "full" in result:
                full.append(result["full"])
                raise DiskFull(full[0])

    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    storage = store.root / "ray" / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    storage.mkdir(parents=True)
    try:
        tuner = tune.Tuner(
            tune.with_resources(trainable, _reserved(placement, unfit)),
            param_space={"trial": tune.grid_search(list(fingerprints))},
            tune_config=tune.TuneConfig(reuse_actors=True, trial_dirname_creator=lambda trial: trial.trial_id),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str(storage),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=LOST_NODE_RETRIES),
                callbacks=[EndWhereFull()],
            ),
        )
        results = tuner.fit()
    except tune.TuneError:
        if full:
            raise DiskFull(full[0]) from None
        raise
    finally:
        shutil.rmtree(storage, ignore_errors=True)
        with contextlib.suppress(OSError):
            storage.parent.rmdir()
    store.refresh()
    unseen: dict[str, tuple[str, str]] = {}
    for result in (results[index] for index in range(len(results))):
        trial = fingerprints[result.config["trial"]] if result.config else None
        said = (result.metrics or {}).get("unseen")
        if result.error is not None and is_disk_full(result.error):
            raise result.error
        if trial is not None and result.error is None and said is not None:
            unseen[trial] = said
        if result.error is not None and trial is not None and store.recorded(store.trial_folder(trial)) in ("missing", "running"):
            last_line = str(result.error).strip().splitlines()[-1][:200]
            store.fail(store.trial_folder(trial), f"its worker was lost {LOST_NODE_RETRIES + 1} times: {last_line}")
    return unseen


def _reserved(placement: Placement, unfit: set[str]) -> Any:
    """What Tune reserves for one trial: on a node for each share where that is declared, else on as few as have room."""
    from ray import tune

    strategy = "STRICT_SPREAD" if placement.spread else "PACK"
    selectors = [avoiding(unfit)] * len(placement.bundles) if unfit else None
    return tune.PlacementGroupFactory(placement.bundles, strategy=strategy, bundle_label_selector=selectors)
