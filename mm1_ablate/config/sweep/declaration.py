"""What a sweep file declares: a baseline, what is removed or altered, how often, how it is compared, what was expected.

In: the mapping of a sweep file. Out: `Sweep`, still unexpanded: which arms and trials follow from it is `expand.py`'s work,
because that needs the experiment that the sweep names.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from mm1_ablate.config.data import FillWith
from mm1_ablate.config.gpus import GPUS
from mm1_ablate.config.metric_name import DeclaredMetric
from mm1_ablate.config.settings import Misfit, Settings

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\- ]*$", max_length=80)]
GroupName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./\- ]*$", max_length=80)]
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./+& \-]*$", max_length=80)]
DottedPath = str
"""A dotted path into an experiment, such as data.mixture.text."""
NotNegative = Annotated[float, Field(ge=0)]
REPLACE = "replace"
"""Among paths and their values: the key of those values that take the place of all that is at a path, instead of being merged into it."""


def _replacements_are_edits(edits: dict[str, Any]) -> dict[str, Any]:
    replacements = edits.get(REPLACE, {"": None})
    if not isinstance(replacements, dict) or not replacements:
        raise Misfit(REPLACE, "expected a mapping, not empty, from paths to the values that take their place")
    return edits


_REPLACEMENTS = {
    "type": "object",
    "minProperties": 1,
    "description": "Paths and the values that take the place of all that is there.",
}
AnyEdits = Annotated[
    dict[DottedPath, JsonValue],
    AfterValidator(_replacements_are_edits),
    Field(json_schema_extra={"properties": {REPLACE: _REPLACEMENTS}}),
]
"""Paths and their values. A mapping is merged into what is there; what is under `replace` takes its place."""
Edits = Annotated[AnyEdits, Field(min_length=1)]
AxisValues = Annotated[list[JsonValue], Field(min_length=1)]
LabelledValues = Annotated[dict[Label, Edits], Field(min_length=1)]


def _one_is_a_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Paths = Annotated[list[DottedPath], BeforeValidator(_one_is_a_list, json_schema_input_type=str | list[DottedPath]), Field(min_length=1)]


def _without_repeats(seeds: list[int]) -> list[int]:
    twice = sorted(seed for seed, times in Counter(seeds).items() if times > 1)
    if twice:
        raise ValueError(f"seed {', '.join(map(str, twice))} is given more than once; a repeated seed is the same trial")
    return seeds


class Group(Settings):
    """One or several arms: exactly one of remove, remove_each, alter, replace, grid and seeds; remove, alter and replace together are one
    arm that does all of it."""

    model_config = ConfigDict(populate_by_name=True)

    description: str = ""
    """What the group is to find out, for people."""
    remove: Paths | None = None
    """Paths that are taken out together: one arm."""
    remove_each: Paths | None = None
    """Paths that are taken out one at a time: an arm for each."""
    alter: Edits | None = None
    """Paths and the values that they get: one arm. A mapping is merged into what is there, setting by setting; a component of another type
    keeps the settings that the other type has too."""
    replace: Annotated[dict[DottedPath, JsonValue], Field(min_length=1)] | None = None
    """Paths and the values that take the place of all that is there: what the value leaves out is at its default again."""
    grid: Annotated[dict[str, AxisValues | LabelledValues], Field(min_length=1)] | None = None
    """Axes whose product gives the arms: a path with its values; or a name with mappings that set several paths together, in a list or
    under labels of their own, which then stand in the names of the arms. As in `alter`, a value that is a mapping is merged into what is
    there; the mappings of a named axis may have values under `replace`, which take its place."""
    except_: list[Annotated[dict[DottedPath, JsonValue], Field(min_length=1)]] = Field(default=[], alias="except")
    """Points of the grid that are left out: those where all of a mapping's paths have the given values, or an axis the given label."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    """Seeds that the sweep does not have: an arm that equals the baseline in all else (A/A), so that any difference is chance."""
    when_removed: Literal["renormalise", "shrink"] | FillWith | None = None
    """What becomes of a removed share in this group; None: what the experiment's data.when_removed says."""
    experiment: str | None = None
    """An experiment file that is this group's own baseline."""

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int] | None) -> list[int] | None:
        return seeds if seeds is None else _without_repeats(seeds)

    @model_validator(mode="after")
    def _one_kind(self) -> Group:
        kinds = [kind for kind in ("remove", "remove_each", "alter", "replace", "grid", "seeds") if getattr(self, kind) is not None]
        if not kinds:
            raise ValueError("expected one of remove, remove_each, alter, replace, grid or seeds")
        if len(kinds) > 1 and not {*kinds} <= {"remove", "alter", "replace"}:
            raise Misfit(
                kinds[1],
                "a group has one of remove, remove_each, alter, replace, grid and seeds (remove, alter and replace together are one arm),"
                f" not {' and '.join(kinds)}",
            )
        if self.except_ and self.grid is None:
            raise Misfit("except", "leaves out points of a grid, and this group has no grid")
        if self.when_removed is not None and self.remove is None and self.remove_each is None:
            raise Misfit("when_removed", "acts on what is removed, and this group removes nothing")
        return self


class Compare(Settings):
    """What the report is about."""

    primary: DeclaredMetric = "shot_8/average"
    """The metric of the verdicts; all others are exploratory. A metric is named as in results, shot_8/average or text_core/arc_easy, or as
    in tables: 8-shot, TextCore arc easy."""
    smallest_difference_of_interest: PositiveFloat = 1.0
    """In points of the primary metric: differences that are surely smaller are called equivalent."""
    metrics: Annotated[list[DeclaredMetric], Field(min_length=1)] = [
        "text_core/average",
        "shot_0/average",
        "shot_4/average",
        "shot_8/average",
    ]
    """Columns of the table."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Of the intervals."""


class Expectation(Settings):
    """A claim about an arm's difference from its baseline, or from another arm, made before the run."""

    model_config = ConfigDict(populate_by_name=True)

    arm: str
    than: str | None = None
    """The arm that it is compared with; None: its baseline."""
    metric: DeclaredMetric
    is_: Literal["above", "below", "within"] = Field(alias="is")
    """Above or below the baseline by at least `by` points, or within `by` points of it."""
    by: NotNegative = 0.0
    because: str
    """Why it is expected; the report repeats it."""
    paper: str = ""
    """The numbers that others have published on it, in their words; the report shows them beside one's own."""

    @model_validator(mode="after")
    def _within_something(self) -> Expectation:
        if self.than == self.arm:
            raise Misfit("than", f"'{self.arm}' is compared with itself")
        if self.is_ == "within" and not self.by:
            raise Misfit("by", "expected the number of points above 0 that 'within' means")
        return self


class Published(Settings):
    """Numbers of the paper that the report shows beside one's own."""

    table: str
    """A table of `mm1_ablate/config/mm1_results.yaml`, such as figure4_connector."""
    rows: dict[str, str] = {}
    """Arms, and the labels of the rows that they correspond to. An arm whose name ends with the label, behind a slash, needs no entry."""


Strategy = Literal["ddp", "fsdp"]
"""ddp: each worker has the whole model; fsdp: parameters, gradients and optimiser states are sharded over the workers."""


class Resources(Settings):
    """Of one trial. How it is run is no part of what it is: more workers change no result beyond rounding."""

    gpus: NotNegative = 0.0
    """Of all its workers together. A fraction lets several trials share one GPU."""
    cpus: PositiveFloat = 1.0
    """Of all its workers together; None: one for each worker."""
    workers: PositiveInt = 1
    """Processes that one trial is trained and evaluated by; None: as many as it has GPUs, or one."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] | None = None
    """Instead of `gpus`."""
    cpus_per_worker: PositiveFloat | None = None
    """Instead of `cpus`."""
    strategy: Strategy = "ddp"
    nodes: PositiveInt | None = None
    """Nodes that the workers are dealt to in equal numbers. None: one if they fit on one, else as few as can be had."""
    gpu: str | None = None
    """The kind of GPU there, such as H100: what plans estimate hours and memory for."""
    utilisation: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the GPU's peak that plans take training to reach; None: 0.4. `mm1-ablate plan --probe` measures it."""

    @field_validator("gpus")
    @classmethod
    def _whole_above_one(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"above one GPU only whole numbers can be given to a trial, not {gpus}")
        return gpus

    @field_validator("gpu")
    @classmethod
    def _known(cls, gpu: str | None) -> str | None:
        if gpu is not None and gpu not in GPUS:
            raise ValueError(f"plans know {', '.join(GPUS)}, and no '{gpu}'; leave it out, or name the one that is nearest")
        return gpu

    @model_validator(mode="after")
    def _of_all_workers(self) -> Resources:
        written = self.model_fields_set
        workers = self.workers if "workers" in written else max(1, int(self.gpus))
        derived = {} if "cpus" in written else {"cpus": float(workers)}
        for name, each in (("gpus", self.gpus_per_worker), ("cpus", self.cpus_per_worker)):
            if each is not None:
                derived[name] = float(each * workers)
                if name in written and getattr(self, name) != derived[name]:
                    raise Misfit(name, f"{workers} workers with {each:g} each are {each * workers:g}; declare one of the two")
        self._derive(workers=workers, **derived)
        return self

    @model_validator(mode="after")
    def _workers_have_equal_shares(self) -> Resources:
        if max(self.workers, self.gpus) > 1 and self.gpus not in (0, self.workers):
            raise Misfit(
                "gpus", f"a worker has one GPU or none, so {self.workers} of them have {self.workers} or 0 in all, not {self.gpus:g}"
            )
        if self.nodes is not None and self.workers % self.nodes:
            raise Misfit("nodes", f"{self.workers} workers cannot be dealt to {self.nodes} nodes in equal numbers")
        return self

    @property
    def worker_gpus(self) -> float:
        return self.gpus / self.workers

    @property
    def worker_cpus(self) -> float:
        return self.cpus / self.workers


class Budget(Settings):
    """The plan is refused above it."""

    gpu_hours: NotNegative | None = None
    cpu_hours: NotNegative | None = None


class Sweep(Settings):
    """A study: one baseline and what is removed from it or altered in it."""

    sweep: Name
    """Its name; also the name of its folder in the store."""
    description: str = ""
    experiment: str
    """The file of the baseline, relative to this file. Always trained, always the first row."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0, 1, 2]
    """Replicates: initialisation and data order, shared by all arms."""
    everywhere: AnyEdits = {}
    """Paths and values for the baseline and all arms alike, such as fewer steps for a quick look. As in `alter`, a mapping is merged into
    what is there, and what is under `replace` takes its place."""
    include: Annotated[list[str], BeforeValidator(_one_is_a_list, json_schema_input_type=str | list[str])] = []
    """Other sweep files, relative to this one, whose ablations and expectations are part of this study too. One that names another
    experiment or another `everywhere` brings its own baseline, with which its arms are compared: <sweep>/baseline. Seeds, comparison,
    resources and budget are those of this file."""
    ablations: dict[GroupName, Group] = {}
    compare: Compare = Compare()
    expect: list[Expectation] = []
    paper: Published | None = None
    """Where the paper has numbers on these arms. The lessons of `expect` that say nothing of it repeat them."""
    resources: Resources = Resources()
    budget: Budget = Budget()

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        return _without_repeats(seeds)
