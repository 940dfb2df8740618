"""The record of truth: what every trial is, how far it has come, what it scored. Everything else can be rebuilt from here.

In: studies and their trials. Out: states, scores, items, curves and holes. A folder for each trial, named by the first 12 digits of its
training fingerprint and holding all of them; scores in a folder for each evaluation fingerprint, so that a changed evaluation scores the
kept model again and trains nothing.

    trials/<12>/    trial.json, files.jsonl, status.json, progress.json, machine.json, last.ckpt, model.pt, curve.jsonl, error.txt, log.txt,
                    data.json, predictions/<12>.{json,parquet}, evaluations/<12>/{evaluation.json, scores.json, items.parquet, ...}
    prepared/<12>/  preparation.json, status.json, progress.json, weights.pt, features.../
    studies/<name>/ study.json, sweep.yaml, texts/, declarations/, contents.json, trials.json, runs/, report/
    layout.json     the version of all this

Whoever works on a folder holds a lock on it that ends with its process, however that ends: a folder that says "running" without
a holder was interrupted. Files are written beside their place and moved there, so that none is ever half there.

A store may also be on object storage, which has neither locks nor renames: then a lease does for the lock, and what is done in a replica
on this machine is uploaded in an order that leaves the store of one piece at any moment (`bucket/`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from mm1_ablate.config.passwords import hidden
from mm1_ablate.store.activity import Activities
from mm1_ablate.store.declarations import Declarations
from mm1_ablate.store.disk_full import DiskFull, full_disk_message, is_disk_full
from mm1_ablate.store.files import Files, LocalFiles, is_address
from mm1_ablate.store.layout import Layout
from mm1_ablate.store.manifests import Manifests
from mm1_ablate.store.results import Results
from mm1_ablate.store.status import Statuses
from mm1_ablate.store.studies import Studies

HELD = 75
"""Exit code of a child whose folder another process holds."""


class Store:
    """A store in a local (or shared) folder, or on object storage.

    Its parts are a layout, files, manifests, declarations, activities, statuses and results; their methods go by their own names here.

    Args:
        place: a folder, or an address such as s3://bucket/prefix.
    """

    def __init__(self, place: Path | str) -> None:
        self.files = files = _files(place)
        self.root, self.address = files.root, files.address
        layout = Layout(files.root)
        manifests = Manifests(layout, files)
        declarations = Declarations(layout, files)
        activities = Activities(layout, files)
        statuses = Statuses(layout, files)
        results = Results(layout, files, statuses)

        # layout.py: where everything has its place
        self.trial_folder, self.evaluation_folder = layout.trial_folder, layout.evaluation_folder
        self.evaluation_folder_of = layout.evaluation_folder_of
        self.prepared_folder, self.study_folder = layout.prepared_folder, layout.study_folder
        # files.py: what others have done, what is here, who works on what
        self.check, self.where, self.refresh, self.has = files.check, files.where, files.refresh, files.has
        self.download, self.download_folder, self.download_checkpoint = files.download, files.download_folder, files.download_checkpoint
        self.write, self.upload, self.help, self.refuse_links = files.write, files.upload, files.help, files.refuse_links
        self.is_held, self.heartbeat, self.release_dead = files.is_held, files.heartbeat, files.release_dead
        # manifests.py: what is to be done
        self.write_trial, self.write_preparation = manifests.write_trial, manifests.write_preparation
        self.write_study, self.recorded_contents = manifests.write_study, manifests.recorded_contents
        self.check_layout, self.other_study = manifests.check_layout, manifests.other_study
        self.keep_texts, self.texts_that_ran = manifests.keep_texts, manifests.texts_that_ran
        self.how_they_ran = manifests.how_they_ran
        self.write_warnings, self.warnings = manifests.write_warnings, manifests.warnings
        self.register_trials, self.unlisted_trials = manifests.register_trials, manifests.unlisted_trials
        self.read_trial, self.read_preparation = manifests.read_trial, manifests.read_preparation
        self.read_prepared, self.read_start = manifests.read_prepared, manifests.read_start
        self.planned_reads, self.trained_before = manifests.planned_reads, manifests.trained_before
        # declarations.py: what was declared, and when
        self.declare, self.declarations = declarations.declare, declarations.declarations
        # activity.py: what its runs do just now
        self.running, self.runs = activities.running, activities.runs
        # studies.py: which studies there are
        self.studies = Studies(layout, files, activities).studies
        # status.py: how far it has come
        self.status, self.preparation_status, self.has_scores = statuses.status, statuses.preparation_status, statuses.has_scores
        self.start_evaluation, self.code_it_starts_from = statuses.start_evaluation, statuses.code_it_starts_from
        self.start, self.finish, self.fail, self.retry = statuses.start, statuses.finish, statuses.fail, statuses.retry
        self.recorded, self.has_failed = statuses.recorded, statuses.has_failed
        self.holder, self.worker = statuses.holder, statuses.worker
        self.failed_folder, self.traceback_file, self.error = statuses.failed_folder, statuses.traceback_file, statuses.error
        self.code, self.damaged_scores = statuses.code, statuses.damaged_scores
        # results.py: what came out
        self.write_evaluation, self.scores, self.items = results.write_evaluation, results.scores, results.items
        self.results, self.holes, self.data_account = results.results, results.holes, results.data_account
        self.curve, self.curves, self.evaluation_code = results.curve, results.curves, results.evaluation_code
        self.item_scores = results.item_scores

    @property
    def home(self) -> str:
        """The same for all processes that see the same files."""
        return self.files.home

    @property
    def lease_seconds(self) -> float:
        """After how long without a heartbeat a holder counts as dead; 0 where locks end with their process."""
        return self.files.lease_seconds

    @property
    def damaged(self) -> dict[Path, str]:
        """Files that were found damaged and not been written since: why. See `records.py`."""
        return self.files.damaged

    def write_json(self, file: Path, value: Any) -> None:
        """As `write`, of a JSON value."""
        self.write(file, json.dumps(hidden(value), indent=1).encode())

    def hold(self, folder: Path, wait: bool = False, lost: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
        """Be the one that works on a trial's or preparation's folder, until the block or the process ends.

        Args:
            wait: for whoever holds it now.
            lost: called by a thread when another machine has taken the folder of a store on object storage over, because this one was
                cut off from the storage for too long. Nothing that is written after that is kept.

        Raises:
            AlreadyRunning: another process holds it.
            LeaseLost: another machine has taken it over meanwhile.
            StorageError: a newer version has written the store.
        """
        self.check_layout()
        return self.files.hold(folder, wait, lost)

    @contextlib.contextmanager
    def noticing_full_disk(self, *folders: Path) -> Iterator[None]:
        """Work on folders of trials or preparations. A full disk raises `DiskFull`, and is not recorded as a failure of any of them."""
        try:
            yield
        except Exception as error:
            if not is_disk_full(error):
                raise
            with contextlib.suppress(Exception):  # of several workers others may have recorded that they lost the one that met it
                for folder in folders:
                    self.refresh(folder)
                    self.retry(folder)
            raise error if isinstance(error, DiskFull) else DiskFull(full_disk_message(self.root)) from error


def _files(place: Path | str) -> Files:
    if not is_address(place):
        return LocalFiles(Path(place))
    from mm1_ablate.store.bucket.files import BucketFiles

    return BucketFiles(str(place))
