"""What a sweep file declares: a baseline, what is removed or altered, how often, how it is compared, what was expected.

In: the mapping of a sweep file. Out: `Sweep`, still unexpanded: which arms and trials follow from it is `expand.py`'s work,
because that needs the experiment that the sweep names.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    PositiveFloat,
    PositiveInt,
    Tag,
    field_validator,
    model_validator,
)

from mm1_ablate.config.data import FillWith
from mm1_ablate.config.metric_name import DeclaredMetric
from mm1_ablate.config.settings import SettingError, Settings

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    half: float
    """Operations per second in bfloat16, dense."""
    single: float
    """The same in float32 outside the tensor cores, which is torch's default for it."""
    memory: float
    """Bytes that a process can have."""

    def peak(self, precision: str) -> float:
        """Operations per second at a precision of `Training`."""
        return self.half if precision == "bf16-mixed" else self.single


GPUS = {
    "H100": Gpu(989e12, 67e12, 79.1 * GIB),
    "H200": Gpu(989e12, 67e12, 139.8 * GIB),
    "A100-80GB": Gpu(312e12, 19.5e12, 79.1 * GIB),
    "A100-40GB": Gpu(312e12, 19.5e12, 39.4 * GIB),
    "L40S": Gpu(362e12, 91.6e12, 44.4 * GIB),
}
UTILISATION = 0.4
"""Utilisation that plans assume by default: share of the peak that training reaches."""


def gpu_of(device: str) -> str | None:
    """The name here of a GPU as its driver calls it, such as 'NVIDIA H100 80GB HBM3'; None if it is not among them."""
    return next((name for name in GPUS if all(part in device for part in name.split("-"))), None)


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\- ]*$", max_length=80)]


def _no_path_of_another(name: str) -> str:
    """Names of arms are names of folders and of metrics elsewhere: MLflow takes none that a path would not keep."""
    if any(part.strip() in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"'{name}' is no name: expected parts between slashes that are not empty, '.' or '..', as in a/b")
    return name


GroupName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./\- ]*$", max_length=80), AfterValidator(_no_path_of_another)]
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./+& \-]*$", max_length=80), AfterValidator(_no_path_of_another)]
DottedPath = str
"""A dotted path into an experiment, such as data.mixture.text."""
NotNegative = Annotated[float, Field(ge=0)]
REPLACE = "replace"
"""Among paths and their values: the key of the values that replace everything at their paths, instead of being merged into it."""


def _replacements_are_edits(edits: dict[str, Any]) -> dict[str, Any]:
    replacements = edits.get(REPLACE, {"": None})
    if not isinstance(replacements, dict) or not replacements:
        raise SettingError(REPLACE, "expected a mapping, not empty, from paths to their new values")
    return edits


_REPLACEMENTS = {
    "type": "object",
    "minProperties": 1,
    "description": "Paths and the values that replace everything there.",
}
AnyEdits = Annotated[
    dict[DottedPath, JsonValue],
    AfterValidator(_replacements_are_edits),
    Field(json_schema_extra={"properties": {REPLACE: _REPLACEMENTS}}),
]
"""Paths and their values. A mapping is merged into what is there; under `replace` it replaces it."""
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


MOST_SEEDS = 30
"""That a design may go up to: each look takes time to compute, and more seeds are no experiment that anybody runs."""


class UntilDecided(Settings):
    """Seeds are added until every comparison and expectation is decided, by a rule that is fixed before the first of them is run."""

    at_least: Annotated[int, Field(ge=3)]
    """Seeds of every arm before the first look. Two leave one degree of freedom, so a verdict takes three."""
    at_most: Annotated[int, Field(le=MOST_SEEDS)]
    """Seeds after which what is open stays open."""
    until: Literal["decided"]
    """decided: after each look the arms that are not decided, and what they are compared with, get one more seed."""
    first: Annotated[int, Field(ge=0)] = 0
    """The first seed; the next ones follow it: first, first + 1, ..."""

    @model_validator(mode="after")
    def _may_grow(self) -> UntilDecided:
        if self.at_most <= self.at_least:
            raise SettingError(
                "at_most", f"expected more than at_least, which is {self.at_least}; for a fixed number of seeds give a list: [0, 1, 2]"
            )
        return self

    @property
    def seeds(self) -> list[int]:
        """All that it may come to, in the order in which they are taken."""
        return list(range(self.first, self.first + self.at_most))

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of seeds after which is looked."""
        return tuple(range(self.at_least, self.at_most + 1))


def _kind_of_seeds(value: Any) -> str:
    return "until decided" if isinstance(value, dict | UntilDecided) else "fixed"


FixedSeeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_without_repeats)]


class AblationGroup(Settings):
    """One or several arms: exactly one of remove, remove_each, alter, replace, grid and seeds; remove, alter and replace together are one
    arm that does all of it."""

    model_config = ConfigDict(populate_by_name=True)

    description: str = ""
    """The question that the group answers; shown in the report."""
    remove: Paths | None = None
    """Paths that are removed together: one arm."""
    remove_each: Paths | None = None
    """Paths that are removed one at a time: one arm for each."""
    alter: Edits | None = None
    """Paths and their new values: one arm. A mapping is merged into what is there, setting by setting; a component of another type keeps
    the settings that both types have."""
    replace: Annotated[dict[DottedPath, JsonValue], Field(min_length=1)] | None = None
    """Paths and the values that replace everything there: settings that a value leaves out return to their defaults."""
    grid: Annotated[dict[str, AxisValues | LabelledValues], Field(min_length=1)] | None = None
    """Axes whose product gives the arms: a path with its values; or a name with mappings that set several paths together, in a list or
    under labels, which then appear in the names of the arms. As in `alter`, a value that is a mapping is merged into what is there; the
    mappings of a named axis may have values under `replace`, which replace it."""
    except_: list[Annotated[dict[DottedPath, JsonValue], Field(min_length=1)]] = Field(default=[], alias="except")
    """Points of the grid to leave out: those where all paths of a mapping have the given values, or an axis has the given label."""
    seeds: FixedSeeds | None = None
    """Seeds other than those of the sweep: an arm otherwise identical to the baseline (A/A), so that any difference is chance."""
    when_removed: Literal["renormalise", "shrink"] | FillWith | None = None
    """What happens to a removed share in this group. None: the experiment's data.when_removed."""
    experiment: str | None = None
    """An experiment file that is this group's own baseline."""

    @model_validator(mode="after")
    def _one_kind(self) -> AblationGroup:
        kinds = [kind for kind in ("remove", "remove_each", "alter", "replace", "grid", "seeds") if getattr(self, kind) is not None]
        if not kinds:
            raise ValueError("expected one of remove, remove_each, alter, replace, grid or seeds")
        if len(kinds) > 1 and not {*kinds} <= {"remove", "alter", "replace"}:
            raise SettingError(
                kinds[1],
                "a group has one of remove, remove_each, alter, replace, grid and seeds (remove, alter and replace together are one arm),"
                f" not {' and '.join(kinds)}",
            )
        if self.except_ and self.grid is None:
            raise SettingError("except", "leaves out points of a grid, but this group has no grid")
        if self.when_removed is not None and self.remove is None and self.remove_each is None:
            raise SettingError("when_removed", "applies to removed data, but this group removes nothing")
        return self


class Compare(Settings):
    """What the report is about."""

    primary: DeclaredMetric = "shot_8/average"
    """The metric of the verdicts; all others are exploratory. A metric is named as in results, shot_8/average or text_core/arc_easy, or as
    in tables: 8-shot, TextCore arc easy."""
    smallest_difference_of_interest: PositiveFloat = 1.0
    """In points of the primary metric. Differences significantly smaller than this are reported as no difference."""
    metrics: Annotated[list[DeclaredMetric], Field(min_length=1)] = [
        "text_core/average",
        "shot_0/average",
        "shot_4/average",
        "shot_8/average",
    ]
    """Columns of the table."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Confidence level of the intervals."""


class Expectation(Settings):
    """A claim about an arm's difference from its baseline, or from another arm, made before the run."""

    model_config = ConfigDict(populate_by_name=True)

    arm: str
    """The arm that the claim is about, as the plan calls it: group, or group/arm."""
    than: str | None = None
    """The arm that it is compared with; None: its baseline."""
    metric: DeclaredMetric
    """The metric of the claim, as in `compare.metrics`."""
    is_: Literal["above", "below", "within"] = Field(alias="is")
    """Above or below the baseline by at least `by` points, or within `by` points of it."""
    by: NotNegative = 0.0
    """Points of the metric; see `is`. `within` needs more than 0."""
    because: str
    """The reason for the expectation; shown in the report."""
    kind: Literal["lesson", "check"] = "lesson"
    """check: it must come out, or something is broken. Checks and lessons are two families, each corrected and counted by itself."""
    paper: str = ""
    """Published numbers on it, as text; the report shows them beside your own."""

    @model_validator(mode="after")
    def _within_something(self) -> Expectation:
        if self.than == self.arm:
            raise SettingError("than", f"'{self.arm}' is compared with itself")
        if self.is_ == "within" and not self.by:
            raise SettingError("by", "expected a number of points above 0, which 'within' needs")
        return self


class Published(Settings):
    """Numbers of the paper that the report shows beside one's own."""

    table: str
    """A table of `mm1_ablate/config/mm1_results.yaml`, such as figure4_connector."""
    rows: dict[str, str] = {}
    """Arms, and the labels of their rows. An arm whose name ends with a slash and the label needs no entry."""


Strategy = Literal["ddp", "fsdp"]
"""ddp: each worker has the whole model; fsdp: parameters, gradients and optimiser states are sharded over the workers."""


class Resources(Settings):
    """Resources of one trial. They are not part of its identity: more workers change no result beyond rounding."""

    gpus: NotNegative = 0.0
    """GPUs of a trial, over all of its workers. A fraction lets several trials share one GPU."""
    cpus: PositiveFloat = 1.0
    """CPU cores of a trial, over all of its workers. None: one per worker."""
    workers: PositiveInt = 1
    """Processes that train and evaluate one trial. None: one per GPU, or one without GPUs."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] | None = None
    """GPUs per worker, instead of `gpus`."""
    cpus_per_worker: PositiveFloat | None = None
    """CPU cores per worker, instead of `cpus`."""
    strategy: Strategy = "ddp"
    """ddp: each worker has the whole model; fsdp: parameters, gradients and optimiser states are sharded over the workers."""
    nodes: PositiveInt | None = None
    """Nodes over which the workers are spread evenly. None: one if they fit, else as few as possible."""
    gpu: str | None = None
    """GPU model of the cluster, such as H100, for which plans estimate hours and memory."""
    utilisation: Annotated[float, Field(gt=0, le=1)] | None = None
    """Utilisation: share of the GPU's peak that plans assume for training. None: 0.4. `mm1-ablate plan --probe` measures it."""

    @field_validator("gpus")
    @classmethod
    def _whole_above_one(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"above one GPU, a trial needs a whole number, not {gpus}")
        return gpus

    @field_validator("gpu")
    @classmethod
    def _known(cls, gpu: str | None) -> str | None:
        if gpu is not None and gpu not in GPUS:
            raise ValueError(f"'{gpu}' is unknown; plans know {', '.join(GPUS)}. Leave it out, or name the closest")
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
                    raise SettingError(name, f"{workers} workers with {each:g} each are {each * workers:g}; declare one of the two")
        self._derive(workers=workers, **derived)
        return self

    @model_validator(mode="after")
    def _workers_have_equal_shares(self) -> Resources:
        if max(self.workers, self.gpus) > 1 and self.gpus not in (0, self.workers):
            raise SettingError(
                "gpus", f"a worker has one GPU or none, so {self.workers} workers have {self.workers} or 0 in total, not {self.gpus:g}"
            )
        if self.nodes is not None and self.workers % self.nodes:
            raise SettingError("nodes", f"{self.workers} workers cannot be spread evenly over {self.nodes} nodes")
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
    """GPU hours that what is still to be done may take, by the plan's estimate on the fastest GPU it knows. None: no limit."""
    cpu_hours: NotNegative | None = None
    """Hours of one CPU core that what is still to be done may take, by the plan's estimate. None: no limit."""


class Sweep(Settings):
    """A study: one baseline and what is removed from it or altered in it."""

    sweep: Name
    """Name of the study and of its folder in the store."""
    description: str = ""
    """What the study asks, in words; shown in the report."""
    experiment: str
    """The file of the baseline, relative to this file. Always trained, always the first row."""
    seeds: Annotated[Annotated[FixedSeeds, Tag("fixed")] | Annotated[UntilDecided, Tag("until decided")], Discriminator(_kind_of_seeds)] = [
        0,
        1,
        2,
    ]
    """Training seeds (initialisation and data order), shared by all arms: a list, or `{at_least: 3, at_most: 8, until: decided}`, by which
    seeds are added until every comparison and expectation is decided."""
    everywhere: AnyEdits = {}
    """Paths and values for the baseline and all arms alike, such as fewer steps for a quick look. As in `alter`, a mapping is merged into
    what is there, and replaces it under `replace`."""
    include: Annotated[list[str], BeforeValidator(_one_is_a_list, json_schema_input_type=str | list[str])] = []
    """Other sweep files, relative to this one, whose ablations and expectations are part of this study too. One that names another
    experiment or another `everywhere` brings its own baseline, with which its arms are compared: <sweep>/baseline. Seeds, comparison,
    resources and budget are those of this file."""
    ablations: dict[GroupName, AblationGroup] = {}
    """What is removed or altered: groups of arms by name. An arm differs from the baseline only in what its group declares."""
    compare: Compare = Compare()
    """What the verdicts and the table are about."""
    expect: list[Expectation] = []
    """Claims made before the run. The report says which are confirmed, refuted or undecided."""
    paper: Published | None = None
    """Tables of the paper with numbers on these arms. Expectations without a text under `paper` quote them."""
    resources: Resources = Resources()
    """What one trial gets: GPUs, CPU cores, workers."""
    budget: Budget = Budget()
    """Limits on hours, above which `run` refuses to begin."""

    @property
    def until_decided(self) -> UntilDecided | None:
        """The design that adds seeds until all is decided; None where the seeds are fixed."""
        return self.seeds if isinstance(self.seeds, UntilDecided) else None

    @property
    def possible_seeds(self) -> list[int]:
        """All seeds that the study may come to, in the order in which they are taken."""
        return self.seeds.seeds if isinstance(self.seeds, UntilDecided) else self.seeds
