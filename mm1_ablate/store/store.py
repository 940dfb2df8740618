"""The record of truth: what every trial is, how far it has come, what it scored. Everything else can be rebuilt from here.

In: studies and their trials. Out: states, scores, items, curves and holes; `layout.py`, `manifests.py`, `status.py` and `results.py` each
give a part of that. A folder for each trial, named by the first 12 digits of its training fingerprint and holding all of them; scores in a
folder for each evaluation fingerprint, so that a changed evaluation scores the kept model again and trains nothing.

    trials/<12>/    trial.json, status.json, progress.json, last.ckpt, model.pt, curve.jsonl, error.txt, log.txt,
                    data.json, predictions/<12>.{json,parquet}, evaluations/<12>/{evaluation.json, scores.json, items.parquet}
    prepared/<12>/  preparation.json, status.json, progress.json, weights.pt, features.../
    studies/<name>/ sweep.yaml, contents.json, report/

Whoever works on a folder holds a lock on it that ends with its process, however that ends: a folder that says "running" without
a holder was interrupted. Files are written beside their place and moved there, so that none is ever half there.

A store may also be on object storage, which has neither locks nor renames: then a lease does for the lock, and what is done in a mirror
on this machine is published in an order that leaves the store of one piece at any moment (`bucket/`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from mm1_ablate.store.locks import AlreadyRunning, is_held, locked
from mm1_ablate.store.manifests import FingerprintCollision
from mm1_ablate.store.results import Results
from mm1_ablate.store.status import RUN, TrialState

__all__ = ["HELD", "RUN", "AlreadyRunning", "FingerprintCollision", "Store", "TrialState", "is_held"]

HELD = 75
"""Exit code of a child whose folder another process holds."""


class Store(Results):
    """A store in a local (or shared) folder, or on object storage."""

    @contextlib.contextmanager
    def hold(self, folder: Path, wait: bool = False, lost: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Be the one that works on a trial's or preparation's folder, until the block or the process ends.

        Args:
            wait: for whoever holds it now.
            lost: called by a thread when another machine has taken the folder of a store on object storage over, because this one was
                cut off from the storage for too long. Nothing that is written after that is kept.

        Raises:
            AlreadyRunning: another process holds it.
            LeaseLost: another machine has taken it over meanwhile.
        """
        with locked(folder, wait):
            if self.mirror is None:
                yield
            else:
                with self.mirror.holding(folder, wait, lost):
                    yield

    @contextlib.contextmanager
    def helping(self, folder: Path) -> Iterator[None]:
        """Work on a folder that a worker on another machine holds, as the first of those on this one, which does not share its files."""
        assert self.mirror is not None, "what is in a folder all workers share"
        with locked(folder, wait=True), self.mirror.helping(folder):
            yield

    def let_go_of_the_dead(self) -> None:
        """Free what children of this machine held that are gone, so that other machines need not wait until their leases have run out."""
        if self.mirror:
            self.mirror.let_go_of_the_dead()

    def check(self) -> None:
        """Whether a store on object storage can be used, by using it.

        Raises:
            RemoteError: saying why not, and what to do.
        """
        if self.mirror:
            self.mirror.remote.check()
