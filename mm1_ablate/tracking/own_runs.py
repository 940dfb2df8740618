"""The runs in an experiment that are ours: found by a key, made, brought up to date, restored, replaced.

In: keys such as `arm/without text` and what their runs are to hold. Out: runs with just that. Ours are parameters, metrics, the tags of
`OUR_TAGS` and those below `OURS`, which MLflow's pages do not list; other tags are people's and are kept, also when a run is replaced.
MLflow changes neither parameters nor removes metrics: a run that has others than it should have is replaced by a new one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mm1_ablate.config.passwords import hidden, without_passwords
from mm1_ablate.tracking.notes import mark_of, merged, split

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

OURS = "mlflow.mm1_ablate."
"""Beginning of tags that are of use to this program alone."""
KEY, CONTENT, NOTE_MARK, GIVEN_NAME, REPLACED = (f"{OURS}{name}" for name in ("key", "content", "note", "name", "replaced"))
NOTE, PARENT, RUN_NAME = "mlflow.note.content", "mlflow.parentRunId", "mlflow.runName"
LONGEST_TAG = 7900
"""Characters; MLflow takes 8000."""
OUR_TAGS = {
    *("kind", "study", "arm", "arms", "group", "baseline", "verdict", "changes", "also changed", "missing", "seed", "stage"),
    *("fingerprint", "evaluation", "starts_from", "lost data", "files missing"),
}
"""Tags that pages list. They are removed where they do not hold any more."""
OF_EARLIER_VERSIONS = {"training_fingerprint", "folder", "outcome", "begun"}
MOST_TAGS, MOST_METRICS = 100, 1000
"""In a request."""


@dataclass
class OwnRun:
    """One of our runs, as it was when it was last read or written."""

    run_id: str
    artifact_uri: str
    tags: dict[str, str]
    parameters: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    status: str = "RUNNING"
    started: int = 0
    """Milliseconds since the epoch."""
    ended: int | None = None
    deleted: bool = False

    @classmethod
    def of(cls, run: Run) -> OwnRun:
        info, data = run.info, run.data
        return cls(
            info.run_id,
            str(info.artifact_uri),
            dict(data.tags),
            dict(data.params),
            dict(data.metrics),
            info.status,
            info.start_time or 0,
            info.end_time,
            info.lifecycle_stage == "deleted",
        )

    @property
    def key(self) -> str:
        """What the run is found by; that of earlier versions of this package is made of what they tagged."""
        if KEY in self.tags:
            return self.tags[KEY]
        kind, fingerprint = self.tags.get("kind", ""), self.tags.get("fingerprint", "")[:12]
        return "study" if kind == "comparison" else f"{'stage' if 'stage' in self.tags else 'trial'}/{fingerprint}"

    @property
    def theirs(self) -> dict[str, str]:
        """Tags that people have given it."""
        ours = OUR_TAGS | OF_EARLIER_VERSIONS
        return {name: value for name, value in self.tags.items() if name not in ours and not name.startswith("mlflow.")}


class OwnRuns:
    """Our runs in an experiment.

    Attributes:
        by_key: of each key one run, deleted by people or not.
    """

    def __init__(self, client: MlflowClient, experiment: str) -> None:
        self.client, self.experiment = client, experiment
        self.by_key: dict[str, OwnRun] = {}
        for run in self._all():
            if REPLACED in run.tags:
                if not run.deleted:  # restored together with its experiment
                    client.delete_run(run.run_id)
                continue
            other = self.by_key.get(run.key)
            if other is not None:
                run = self._better(run, other)
            self.by_key[run.key] = run

    def _all(self) -> Iterable[OwnRun]:
        from mlflow.entities import ViewType

        token = None
        while True:
            page = self.client.search_runs([self.experiment], "tags.kind LIKE '%'", ViewType.ALL, max_results=1000, page_token=token)
            yield from map(OwnRun.of, page)
            token = page.token
            if not token:
                return

    def _better(self, *both: OwnRun) -> OwnRun:
        """Of two runs for the same the one that stays. There are two if the answer to a request was lost and MLflow's client sent it again,
        or if two commands were at work."""
        kept, other = sorted(both, key=lambda run: (run.deleted, CONTENT not in run.tags, run.started, run.run_id))
        if not other.deleted:
            self._discard(other)
        return kept

    def _discard(self, run: OwnRun) -> None:
        self.client.set_tag(run.run_id, REPLACED, "true")
        self.client.delete_run(run.run_id)

    # ------------------------------------------------------------ make, restore, replace
    def ensure(
        self,
        key: str,
        name: str,
        tags: Mapping[str, str],
        parameters: Mapping[str, str] = {},
        metrics: Collection[str] | None = None,
        started: int | None = None,
        note: str | None = None,
        former: OwnRun | None = None,
    ) -> OwnRun:
        """The run of a key, with name, tags, parameters and note as they are to be.

        Args:
            tags: all of ours; others of `OUR_TAGS` are removed.
            metrics: names of all that it may have; None: any.
            started: milliseconds since the epoch, of a run that is made now.
            note: our part of its description; None: as it is.
            former: the run that becomes this key's if there is none.
        """
        run = self.by_key.get(key) or former
        if run is not None and former is not None and run is former:
            self.by_key.pop(run.key, None)
        parameters = {name: without_passwords(value) for name, value in parameters.items()}
        theirs, their_note = {}, ""
        if run is not None and not _fits(run, parameters, metrics):
            self._read_again(run)
            theirs, their_note = run.theirs, "\n\n".join(filter(None, split(run.tags.get(NOTE, ""), run.tags.get(NOTE_MARK, ""))))
            if KEY not in run.tags:  # earlier versions wrote notes that were wholly theirs
                their_note = ""
            if not run.deleted:
                self._discard(run)
            run = None
        wanted = hidden({**theirs, **tags, KEY: key})
        if run is None:
            made = wanted | {GIVEN_NAME: name} | ({NOTE: their_note} if their_note else {})
            run = OwnRun.of(self.client.create_run(self.experiment, start_time=started, tags=made, run_name=name))
        elif run.deleted:
            self.client.restore_run(run.run_id)
            run.deleted = False
        self.by_key[key] = run
        self._rename(run, name)
        notes = {}
        if note is not None and _note(run, note):
            self._read_again(run)
            notes = _note(run, note)
        self.write(run, tags=wanted | notes, parameters=parameters)
        for gone in OUR_TAGS & run.tags.keys() - wanted.keys() - {"files missing", "lost data"}:
            self.remove_tag(run, gone)
        return run

    def _read_again(self, run: OwnRun) -> None:
        """See what people have written into a run since it was read."""
        run.tags = dict(self.client.get_run(run.run_id).data.tags)

    def _rename(self, run: OwnRun, name: str) -> None:
        """Give a run its name, unless people gave it another than ours was."""
        if run.tags.get(RUN_NAME) != name:
            self._read_again(run)
        if run.tags.get(RUN_NAME) != name and run.tags.get(RUN_NAME) == run.tags.get(GIVEN_NAME, run.tags.get(RUN_NAME)):
            self.client.update_run(run.run_id, name=name)
            run.tags[RUN_NAME] = name
            self.write(run, tags={GIVEN_NAME: name})

    # ------------------------------------------------------------ write
    def write(self, run: OwnRun, metrics: Sequence[Metric] = (), tags: Mapping[str, str] = {}, parameters: Mapping[str, str] = {}) -> None:
        """Write what a run does not have yet, in as few requests as there can be."""
        from mlflow.entities import Param, RunTag

        new_tags = [RunTag(name, value[:8000]) for name, value in hidden(dict(tags)).items() if run.tags.get(name) != value[:8000]]
        new = [Param(name, value) for name, value in parameters.items() if name not in run.parameters]
        metrics = list(metrics)
        # What a run is called and is stands before what it measured: whoever reads it meanwhile finds it.
        while new_tags or new or metrics:
            batch = metrics[:MOST_METRICS] if len(new_tags) + len(new) <= MOST_TAGS else []
            self.client.log_batch(run.run_id, metrics=batch, params=new[:MOST_TAGS], tags=new_tags[:MOST_TAGS])
            run.tags |= {tag.key: tag.value for tag in new_tags[:MOST_TAGS]}
            run.parameters |= {one.key: one.value for one in new[:MOST_TAGS]}
            run.metrics |= {one.key: one.value for one in batch}
            new_tags, new, metrics = new_tags[MOST_TAGS:], new[MOST_TAGS:], metrics[len(batch) :]

    def write_scores(self, run: OwnRun, scores: Mapping[str, float], at: int, now: int) -> None:
        """Write single numbers, those that a run does not show yet.

        Args:
            at: when they came about, in milliseconds since the epoch.
            now: the present: of several values MLflow shows the latest.
        """
        from mlflow.entities import Metric

        changed = [(name, value) for name, value in scores.items() if not _is(run.metrics.get(name), value)]
        self.write(run, [Metric(name, value, max(at, now) if name in run.metrics else at, 0) for name, value in changed])

    def remove_tag(self, run: OwnRun, name: str) -> None:
        if name in run.tags:
            self.client.delete_tag(run.run_id, name)
            del run.tags[name]

    def set_status(self, run: OwnRun, status: str, ended: int | None = None) -> None:
        """Set a run's status; of one that has ended with the time, in milliseconds since the epoch."""
        if run.status == status and (ended is None or run.ended == ended):
            return
        if status in ("RUNNING", "SCHEDULED"):
            self.client.update_run(run.run_id, status=status)
        else:
            self.client.set_terminated(run.run_id, status, end_time=ended)
            run.ended = ended
        run.status = status


def _fits(run: OwnRun, parameters: Mapping[str, str], metrics: Collection[str] | None) -> bool:
    """Whether a run can be brought up to date."""
    return (
        KEY in run.tags
        and all(run.parameters.get(name, value) == value for name, value in parameters.items())
        and (metrics is None or run.metrics.keys() <= set(metrics))
    )


def _note(run: OwnRun, ours: str) -> dict[str, str]:
    """The tags that bring our part of a run's description up to date."""
    there, mark = run.tags.get(NOTE, ""), run.tags.get(NOTE_MARK, "")
    whole = merged(there, mark, without_passwords(ours), LONGEST_TAG)
    if whole == there and mark:
        return {}
    before, after = split(there, mark)
    own = whole.removeprefix(before).removesuffix(after).strip("\n") if ours else ""
    return {NOTE: whole, NOTE_MARK: mark_of(own) if own else ""} if whole or mark else {}


def _is(one: float | None, other: float) -> bool:
    return one is not None and (one == other or (math.isnan(one) and math.isnan(other)))
