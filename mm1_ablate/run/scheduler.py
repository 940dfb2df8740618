"""A study's missing trials onto Ray: preparations first, then earlier stages, then one Tune run over the trials.

In: a study and its store. Out: an `Outcome`; the result of each trial is in the store, where it was written by the child process
that did it. Tune places trials on nodes and notices lost ones; it remembers nothing that matters. Each piece of work runs in a
forked child of the node's fork server (`child_process.py`), asked for by a warm, reused actor. With nothing to do, Ray is never imported.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from mm1_ablate.config.identity.fingerprint import short
from mm1_ablate.config.preparation import Preparation
from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.declaration import Resources
from mm1_ablate.run import child_process
from mm1_ablate.run.cluster import (
    LOCAL,
    all_nodes,
    connected,
    exclude_nodes,
    fits_without,
    giving_addresses,
    has_autoscaler,
    require_usable_nodes,
)
from mm1_ablate.run.fork_server import PRELOADED
from mm1_ablate.run.launcher import RUN_PREPARATION, RUN_TRIAL, Launcher, StoreNotVisible
from mm1_ablate.run.remaining_work import (
    RemainingWork,
    TrialWork,
    forget_failures,
    remaining_work,
    score_saved_predictions,
    trials_to_do,
    wait_for_ending_children,
)
from mm1_ablate.run.signals import interrupt_handled, interruptible
from mm1_ablate.run.worker_group import ResourcesMissing, assign_workers, node_shares
from mm1_ablate.store.disk_full import DiskFull, is_disk_full
from mm1_ablate.store.store import Store

LOST_NODE_RETRIES = 2
"""How often work whose node or fork server was lost is placed again. A trial's own failure is never retried automatically."""
STAGE_POLL_SECONDS = 0.5
"""Between two looks at an earlier stage that another run is training."""


@dataclass(frozen=True)
class RunOptions:
    """How a study is run."""

    address: str | None = None
    """Of a Ray cluster, whose nodes share the store; None: RAY_ADDRESS, or else this machine alone."""
    cpus: int | None = None
    """Cores to use on this machine; None: all."""
    retry: bool = False
    """Whether failed trials and preparations are retried."""
    evaluate_only: bool = False
    """Only trials whose trained model is saved."""
    run_trial: str = RUN_TRIAL
    """What the children do, as `module:function`."""
    run_preparation: str = RUN_PREPARATION
    preload: tuple[str, ...] = PRELOADED
    """Modules that the children need, imported once per node."""

    @property
    def cluster(self) -> str:
        """The address to connect to."""
        return self.address or os.environ.get("RAY_ADDRESS") or LOCAL


@dataclass(frozen=True)
class Outcome:
    """What became of a study's trials, by name."""

    done: tuple[str, ...] = ()
    """Done now or before."""
    failed: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    """Another run works on them."""
    left: tuple[str, ...] = ()
    """Not done, because the run was interrupted, or was to evaluate only."""
    started: int = 0
    """How many trials this run set out to do."""
    interrupted: bool = False


@dataclass
class RayConnection:
    """A connection to Ray and the fork server of this node, begun by the first study that needs them and kept for those that follow."""

    ending: contextlib.ExitStack
    """Ends them, when it is closed."""
    launcher: Launcher | None = None
    """How work is done there; None: it has not begun."""


@contextlib.contextmanager
def ray_kept_up() -> Iterator[RayConnection]:
    """For several studies that are run one after another."""
    with contextlib.ExitStack() as ending:
        yield RayConnection(ending)


def run_study(
    study: Study,
    store: Store,
    options: RunOptions | None = None,
    on_event: Callable[[str], None] | None = None,
    connection: RayConnection | None = None,
) -> Outcome:
    """Do what a study's trials lack, and return when it is done, failed or interrupted (Ctrl-C, SIGTERM).

    Args:
        on_event: gets a line for display when something begins.
        connection: kept for another study that is run after this one; None: it ends with this one.

    Raises:
        ResourcesMissing: no node, or no nodes together, have what a trial asks for, and the cluster adds none by itself.
        ClusterUnusable: nodes of the cluster cannot use the store.
        DiskFull: a disk is full. Work in progress is left as it is where a run is interrupted.
        ConnectionError: there is no cluster at the address, or it requires another token.
        StorageError: a store on object storage cannot be used.
    """
    options, say = options or RunOptions(), on_event or (lambda line: None)
    store.write_study(study)
    store.keep_texts(study, [trial for trial in study.trials if not store.has_scores(trial)])
    _remove_leftovers(store)
    wait_for_ending_children(study, store)
    if options.retry:
        forget_failures(study, store)
    started = _count(trials_to_do(study, store, options.evaluate_only))
    try:
        with interruptible():
            score_saved_predictions(study, store, say)
    except KeyboardInterrupt:
        return _outcome(study, store, started, interrupted=True)
    remaining = remaining_work(study, store, options.evaluate_only)
    if not remaining.trials:
        return _outcome(study, store, started)
    remaining.write_manifests(store, study.snapshot)
    launcher = _launcher(study.sweep.resources, store, options)
    store.check()
    interrupted = False
    try:
        with store.noticing_full_disk(), interruptible():
            if connection is not None:
                _run_on_ray(study, store, remaining, launcher, options, say, connection)
            else:
                with ray_kept_up() as own:
                    _run_on_ray(study, store, remaining, launcher, options, say, own)
    except KeyboardInterrupt:
        interrupted = True
    except DiskFull:
        with contextlib.suppress(Exception):  # that takes room too
            store.release_dead()
        raise
    store.release_dead()
    return _outcome(study, store, started, interrupted)


def _launcher(resources: Resources, store: Store, options: RunOptions) -> Launcher:
    """How work is done on any node; that a trial's workers are all on one node until the nodes are known.

    Raises:
        ResourcesMissing: this machine alone is to do it, and has too few cores.
    """
    cores = options.cpus or os.cpu_count() or 1
    if options.cluster == LOCAL and resources.cpus > cores:
        raise ResourcesMissing(f"a trial requests {resources.cpus:g} cpus (resources.cpus in the sweep), but there are {cores} here")
    return Launcher(
        store.address,
        child_process.new_server_folder(),
        resources.worker_cpus,
        resources.worker_gpus,
        options.run_trial,
        options.run_preparation,
        options.preload,
        strategy=resources.strategy,
        spread=resources.nodes is not None,
    )


def _run_on_ray(
    study: Study,
    store: Store,
    remaining: RemainingWork,
    launcher: Launcher,
    options: RunOptions,
    say: Callable[[str], None],
    connection: RayConnection,
) -> None:
    """Do what remains: preparations, earlier stages, trials."""
    own = options.cluster == LOCAL
    if connection.launcher is None:
        say(f"starting Ray ({'on this machine' if own else options.cluster})")
        connection.ending.enter_context(_ray_and_fork_server(options, launcher))
        connection.launcher = replace(launcher, shares=_shares(study.sweep.resources, say))
        if not own:
            require_usable_nodes(store.address)
    driver = _Driver(store, connection.launcher, say)
    if remaining.preparations:
        say(f"preparing {len(remaining.preparations)} encoders and language models")
        driver.run_preparations(remaining.preparations)
    for number, wave in enumerate(remaining.stages, 1):
        chain = f" ({number} of {len(remaining.stages)} in a chain)" if len(remaining.stages) > 1 else ""
        say(f"training earlier stages: {len(wave)}{chain}")
        driver.run_stages(wave)
    if work := trials_to_do(study, store, options.evaluate_only):
        say(f"running {_count(work)} trials")
    while work:
        driver.run_trials(work)
        # Whose process was lost in one evaluation may have others left, of a model that is trained.
        left = [each for each in trials_to_do(study, store, evaluate_only=True) if each.fingerprint in {one.fingerprint for one in work}]
        work = left if _count(left) < _count(work) else []


def _count(work: list[TrialWork]) -> int:
    return sum(len(each.trials) for each in work)


def _remove_leftovers(store: Store) -> None:
    """Remove Tune's files of killed runs of this host, which are never read. Whether runs of other hosts are alive is unknown."""
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
def _ray_and_fork_server(options: RunOptions, launcher: Launcher) -> Iterator[None]:
    """A connection to Ray for the length of a block; then the fork server of this node ends, and no process of ours outlives it."""
    try:
        if options.cluster == LOCAL:
            # Imports torch while Ray starts; children die with this process.
            child_process.start_server(launcher.server_folder, owner=True, preload=launcher.preload)
        with connected(options.cluster, options.cpus), giving_addresses(launcher.run):
            yield
    finally:
        interrupt_handled()
        child_process.stop_server(launcher.server_folder)


def _shares(resources: Resources, say: Callable[[str], None]) -> tuple[int, ...]:
    """How many of a trial's workers go on each node. If there is no room and the cluster has an autoscaler, that is only reported."""
    try:
        return assign_workers(resources, [node["Resources"] for node in all_nodes() if node["Alive"]])
    except ResourcesMissing as error:
        if not has_autoscaler():
            raise
        say(f"{error}; waiting for the cluster's autoscaler to add nodes")
        return node_shares(resources, fit_on_one=False)


@dataclass(frozen=True)
class _Driver:
    """Hands work to the cluster that this process is connected to, and waits for the end of it."""

    store: Store
    launcher: Launcher
    say: Callable[[str], None]

    def run_preparations(self, preparations: list[Preparation]) -> None:
        """All of them at once, as far as there is room. One that fails makes the trials fail that start from it, and no others."""
        import ray

        placed: dict[str, Any] = {"num_cpus": self.launcher.cpus, "num_gpus": self.launcher.gpus, "max_retries": LOST_NODE_RETRIES}
        placed["retry_exceptions"] = [child_process.ServerLost]
        prepare = ray.remote(_prepare)
        unusable: set[str] = set()

        def begin(preparation: Preparation) -> Any:
            options = prepare.options(label_selector=exclude_nodes(unusable), **placed)
            return options.remote(self.launcher, preparation.fingerprint)

        running = {begin(preparation): preparation for preparation in preparations}
        while running:
            finished, _ = ray.wait(list(running), num_returns=1)
            for reference in finished:
                preparation = running.pop(reference)
                folder = self.store.prepared_folder(preparation)
                try:
                    ray.get(reference)
                except StoreNotVisible as error:
                    unusable.add(getattr(error, "cause", error).node)
                    if fits_without(unusable, [{"CPU": self.launcher.cpus, "GPU": self.launcher.gpus}]):
                        running[begin(preparation)] = preparation
                    else:
                        self.store.fail(folder, str(getattr(error, "cause", error)))
                except DiskFull as error:
                    raise DiskFull(str(getattr(error, "cause", error))) from None
                except ray.exceptions.RayError as error:
                    if is_disk_full(error):
                        raise
                    self.store.fail(folder, f"its worker was lost: {type(error).__name__}")

    def run_stages(self, wave: list[TrialWork]) -> None:
        """Train earlier stages. One that another run is training is waited for; one that fails makes what starts from it fail."""
        while True:
            self.store.refresh(at_most_every=1)
            states = [(work, self.store.status(work.trials[0]).status) for work in wave]
            if ready := [work for work, status in states if status in ("missing", "interrupted")]:
                self.run_trials(ready)
            elif any(status == "running" for _, status in states):
                time.sleep(STAGE_POLL_SECONDS)
            else:
                return

    def run_trials(self, work: list[TrialWork]) -> None:
        """Do trials, and again elsewhere those that were placed on nodes which joined the cluster without the store."""
        unusable: set[str] = set()
        while work:
            not_begun = self._tune(work, unusable)
            unusable |= {node for node, _ in not_begun.values()}
            work = [each for each in work if each.fingerprint in not_begun]
            if not fits_without(unusable, self.launcher.bundles):
                for each in work:
                    self.store.fail(self.store.trial_folder(each.fingerprint), not_begun[each.fingerprint][1])
                return
            for why in sorted({why for _, why in not_begun.values()}):
                self.say(f"{why}; its trials are run elsewhere")

    def _tune(self, work: list[TrialWork], unusable: set[str]) -> dict[str, tuple[str, str]]:
        """One Tune run over some trials, with warm actors. Returns when all of them have ended, well or not.

        Returns:
            By fingerprint of what was not begun: the node that does not see the store, and a line on that.
        """
        fingerprints = {short(each.fingerprint): each.fingerprint for each in work}
        not_begun: dict[str, tuple[str, str]] = {}
        results = _tune_results(work, self.launcher, unusable, self.store)
        self.store.refresh()
        for result in (results[index] for index in range(len(results))):
            fingerprint = fingerprints[result.config["trial"]] if result.config else None
            if result.error is None:
                unseen = (result.metrics or {}).get("unseen")
                if fingerprint is not None and unseen is not None:
                    not_begun[fingerprint] = unseen
                continue
            if is_disk_full(result.error):
                raise result.error
            folder = self.store.trial_folder(fingerprint) if fingerprint is not None else None
            if folder is not None and self.store.recorded(folder) in ("missing", "running"):
                last_line = str(result.error).strip().splitlines()[-1][:200]
                self.store.fail(folder, f"its worker was lost {LOST_NODE_RETRIES + 1} times: {last_line}")
        return not_begun


def _prepare(launcher: Launcher, fingerprint: str) -> None:
    """Runs in a Ray worker."""
    launcher.prepare(fingerprint)


def _tune_results(work: list[TrialWork], launcher: Launcher, unusable: set[str], store: Store) -> Any:
    """The result grid of a Tune run, whose files are removed at its end.

    Raises:
        DiskFull: a disk is full.
    """
    from ray import tune

    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    full: list[str] = []
    storage = store.root / "ray" / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    storage.mkdir(parents=True)
    try:
        tuner = tune.Tuner(
            tune.with_resources(_trainable(work, launcher), _reserved(launcher, unusable)),
            param_space={"trial": tune.grid_search([short(each.fingerprint) for each in work])},
            tune_config=tune.TuneConfig(reuse_actors=True, trial_dirname_creator=lambda trial: trial.trial_id),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str(storage),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=LOST_NODE_RETRIES),
                callbacks=[_stop_where_full(full)],
            ),
        )
        return tuner.fit()
    except tune.TuneError:
        if full:
            raise DiskFull(full[0]) from None
        raise
    finally:
        shutil.rmtree(storage, ignore_errors=True)
        with contextlib.suppress(OSError):
            storage.parent.rmdir()


def _trainable(work: list[TrialWork], launcher: Launcher) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What Tune calls in an actor, for one trial."""
    evaluations = {short(each.fingerprint): each.evaluations for each in work}
    fingerprints = {short(each.fingerprint): each.fingerprint for each in work}

    def trainable(config: dict[str, Any]) -> dict[str, Any]:
        try:
            launcher.train_and_evaluate(fingerprints[config["trial"]], evaluations[config["trial"]])
        except StoreNotVisible as error:  # not the trial's failure: Tune would only repeat it there
            return {"finished": 0, "unseen": (error.node, str(error))}
        except DiskFull as error:
            return {"finished": 0, "full": str(error)}
        return {"finished": 1}

    return trainable


def _stop_where_full(full: list[str]) -> Any:
    """A callback that ends a Tune run when a disk is full.

    Args:
        full: gets the sentence on that, because Tune wraps what is raised.
    """
    from ray import tune

    class StopWhereFull(tune.Callback):
        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
            if "full" in result:
                full.append(result["full"])
                raise DiskFull(full[0])

    return StopWhereFull()


def _reserved(launcher: Launcher, unusable: set[str]) -> Any:
    """What Tune reserves for one trial: on a node for each share where that is declared, else on as few as have room."""
    from ray import tune

    strategy = "STRICT_SPREAD" if launcher.spread else "PACK"
    selectors = [exclude_nodes(unusable)] * len(launcher.bundles) if unusable else None
    return tune.PlacementGroupFactory(launcher.bundles, strategy=strategy, bundle_label_selector=selectors)
