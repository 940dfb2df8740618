"""What a trial, a preparation or an evaluation reads, by its place in the experiment: a digest of each thing and of the files behind it.

In: settings. Out: `Reads`, by the active `DataSnapshot`, or by a look of one's own (`look_now`); lines of JSON for a record; and in what
two looks differ, in words. What was planned and what a worker finds are compared so: files may be added, replaced or removed meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from mm1_ablate.config.errors import listed
from mm1_ablate.config.evaluation import Evaluation
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import DataSnapshot, FileSeen, contents_of, files_behind, sources_of
from mm1_ablate.config.identity.model_digests import local_reads
from mm1_ablate.config.preparation import Preparation
from mm1_ablate.config.settings import Component, Settings
from mm1_ablate.config.tasks import task_names, task_settings

NAMED = 4
"""Files of one kind that a message lists."""


@dataclass(frozen=True)
class Contents:
    """What lies behind one setting."""

    digest: str
    files: tuple[FileSeen, ...] = ()
    """Empty where a source of the user's own does not digest its files by `data.files.digest_files`."""


Reads = Mapping[str, Contents]
"""By dotted place in the experiment; without what reads no files."""


class DataChanged(Exception):
    """What is read is not what the run was planned with."""


# ---------------------------------------------------------------- what is read
def reads_of_training(experiment: Experiment) -> dict[str, Contents]:
    """What a trial reads to be trained. What its preparations and its earlier stage read is theirs."""
    found: dict[str, Contents] = {}
    for place, source in sources_of(experiment):
        if place[0] == "data":
            found |= _of_source(".".join(map(str, place)), source)
    model = experiment.model
    for part, section in (("image_encoder", model.image_encoder), ("language_model", model.language_model)):
        starts_elsewhere = section.preparation is not None or experiment.starts_from is not None
        found |= _of_local(f"model.{part}", section, without=("weights", "name") if starts_elsewhere else ())
    return found


def reads_of_preparation(preparation: Preparation) -> dict[str, Contents]:
    """What a preparation learns from and starts from."""
    section, place = preparation.settings, f"model.{preparation.kind}"
    found = _of_local(place, section)
    if section.preparation is not None:
        found |= _of_local(f"{place}.preparation", section.preparation)
        found |= _of_source(f"{place}.preparation.source", section.preparation.source)
    return found


def reads_of_task(name: str, task: str, evaluation: Evaluation) -> dict[str, Contents]:
    """The annotation files of a task's items.

    Args:
        name: what it is called; task: its entry in `evaluation.tasks`.
    """
    return _of_source(f"evaluation.tasks.{name}.items", task_settings(task).items, evaluation.split)


def reads_of_loss(name: str, evaluation: Evaluation) -> dict[str, Contents]:
    """The held-out documents of a loss."""
    return _of_source(f"evaluation.losses.{name}.source", evaluation.losses[name].source)


def reads_of_evaluation(evaluation: Evaluation) -> dict[str, Contents]:
    """What an evaluation reads: the items of its tasks, and held-out documents."""
    found: dict[str, Contents] = {}
    for name, task in zip(task_names(evaluation), evaluation.tasks, strict=True):
        found |= reads_of_task(name, task, evaluation)
    for name in evaluation.losses:
        found |= reads_of_loss(name, evaluation)
    return found


def look_now(reads: Callable[[], dict[str, Contents]]) -> dict[str, Contents]:
    """What there is to read at this moment, whatever a study saw when it was loaded."""
    with DataSnapshot("contents").active():
        return reads()


def _of_source(place: str, source: Component, split: str | None = None) -> dict[str, Contents]:
    digest = contents_of(source, split)
    return {place: Contents(digest, files_behind(source, split))} if digest else {}


def _of_local(place: str, settings: Settings, without: Iterable[str] = ()) -> dict[str, Contents]:
    return {f"{place}.{field}": Contents(*seen) for field, seen in local_reads(settings).items() if field not in without}


# ---------------------------------------------------------------- records
def to_lines(reads: Reads) -> bytes:
    """A line of JSON for each place."""
    lines = ({"place": place, "digest": each.digest, "files": [file.to_json() for file in each.files]} for place, each in reads.items())
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def from_lines(lines: bytes) -> dict[str, Contents]:
    """What `to_lines` wrote.

    Raises:
        ValueError: it is damaged.
    """
    if not lines.endswith(b"\n"):
        raise ValueError("its end is missing" if lines else "it is empty")
    try:
        plain = [json.loads(line) for line in lines[:-1].split(b"\n")]  # names of files may hold what else ends a line
        return {each["place"]: Contents(each["digest"], tuple(FileSeen(*file) for file in each["files"])) for each in plain}
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ValueError("a line cannot be read") from None


# ---------------------------------------------------------------- in what two looks differ
@dataclass(frozen=True)
class Difference:
    """Files of one look that another does not have so, by address."""

    added: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    """Other contents."""
    touched: tuple[str, ...] = ()
    """The same size, beginning and end, but written since."""

    def __str__(self) -> str:
        kinds = {"added": self.added, "gone": self.gone, "changed": self.changed}
        return "; ".join(f"{kind}: {listed(names, NAMED)}" for kind, names in kinds.items() if names)


def difference(before: Contents, now: Contents) -> Difference:
    """In which files two looks at one setting differ. Files that lie elsewhere by now are known by their names."""
    if not before.files or not now.files:
        return Difference()
    elsewhere = not {file.address for file in before.files} & {file.address for file in now.files}
    then, today = ({file.name if elsewhere else file.address: file for file in each.files} for each in (before, now))
    both = [(then[name], today[name]) for name in then if name in today]
    return Difference(
        added=tuple(today[name].address for name in today if name not in then),
        gone=tuple(then[name].address for name in then if name not in today),
        changed=tuple(new.address for old, new in both if (old.size, old.digest) != (new.size, new.digest)),
        # Copies elsewhere have times of their own.
        touched=tuple(new.address for old, new in both if not elsewhere and _is_touched(old, new)),
    )


def _is_touched(old: FileSeen, new: FileSeen) -> bool:
    return (old.size, old.digest) == (new.size, new.digest) and old.stamp != new.stamp


def require_same(planned: Reads, found: Reads, only_opened: bool = False) -> list[str]:
    """Compare what is there with what a run was planned with.

    Args:
        only_opened: what is read was opened before: only files that hold something else by now matter, not those that came or went.

    Returns:
        Lines on what is no reason to stop: files that were written again with the same size, beginning and end, that came or went.

    Raises:
        DataChanged: with all files that were added, are gone or have changed.
    """
    wrong, told = [], []
    for place in planned.keys() & found.keys():
        before, now = planned[place], found[place]
        files = difference(before, now)
        if files.touched:
            told.append(
                f"{place}: written again since the run was planned, with the same size, beginning and end: {listed(files.touched, NAMED)}"
            )
        if before.digest == now.digest:
            continue
        if only_opened and str(files) and not files.changed:
            told.append(f"{place} is read as it was when it was opened; since then {files}")
        else:
            wrong.append(f"{place} is not what the run was planned with: {files or 'its digest is another'}")
    if wrong:
        raise DataChanged(f"{' | '.join(sorted(wrong))}; wait until the folder is complete, then run again")
    return sorted(told)
