"""A study that is tried otherwise than its file declares it: with other settings, fewer arms, fewer seeds, or a few steps and items.

In: what a command line says. Out: a `Try`; the edits, the arms, the seeds and the name that it gives a study. A try is another study, with
a name of its own, that judges no expectation: what a file declares before a run is said of the whole of it. Trials that come out the same
as the declared ones are the same trials, trained once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mm1_ablate.config.errors import Diagnostic, did_you_mean, listed
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.fingerprint import digest
from mm1_ablate.config.paths import plain
from mm1_ablate.config.study import Arm
from mm1_ablate.config.sweep.overrides import Edit
from mm1_ablate.config.yaml_file import FileErrors, FileProblem, parsed_value

SET = "--set"
"""Where edits come from that the command line gives: the first key of their place."""
SMOKE_STEPS, SMOKE_ITEMS = 4, 8
"""Steps of training and of preparations, and items of a task, in a study that only shows whether all of it runs."""
LONGEST_NAME = 60
NAMED = 12
"""Arms that a message lists."""


@dataclass(frozen=True)
class Try:
    """What the command line says. Nothing: the study as its file declares it."""

    settings: tuple[str, ...] = ()
    """Paths of the experiment with their values, as in `training.steps=100`: for the baselines, as `everywhere` has them."""
    only: tuple[str, ...] = ()
    """Names of arms, or of groups of arms; with what they are compared with."""
    seeds: int | None = None
    """The first so many of the declared seeds."""
    smoke: bool = False
    """A few steps, a few items, one seed unless `seeds` says more."""

    def __bool__(self) -> bool:
        return self != Try()

    @property
    def has_declared_trials(self) -> bool:
        """Whether its trials are some of those that the file declares."""
        return bool(self) and not self.settings and not self.smoke

    @property
    def options(self) -> list[str]:
        """What a command line says, to be said again."""
        told = [part for setting in self.settings for part in (SET, setting)]
        told += [part for name in self.only for part in ("--only", name)]
        told += ["--seeds", str(self.seeds)] if self.seeds is not None else []
        return told + (["--smoke"] if self.smoke else [])

    def name_of(self, study: str) -> str:
        """The name of the tried study: the same for the same options, and another than the declared one's."""
        if not self:
            return study
        kind = (
            "smoke" if self == Try(smoke=True) else f"try-{digest([sorted(self.settings), sorted(self.only), self.seeds, self.smoke])[:8]}"
        )
        return f"{study[:LONGEST_NAME]}-{kind}"

    def in_words(self, study: str) -> str:
        """What reports say of it."""
        return f"A try of '{study}' with {' '.join(self.options)}: not the study that the file declares, and no expectation is judged."

    # ---------------------------------------------------------------- settings
    def edits(self) -> list[Edit]:
        """The edits of `settings`, at places that name them.

        Raises:
            FileErrors: some are no path with a value.
        """
        edits, problems = [], []
        for place, setting in enumerate(self.settings):
            path, equals, text = setting.partition("=")
            try:
                if not equals or not path.strip():
                    raise ValueError("expected a path and a value, such as training.steps=100")
                edits.append(Edit(path.strip(), parsed_value(text), where=(SET, place)))
            except ValueError as error:
                problems.append(self.problem(place, str(error).splitlines()[0]))
        if problems:
            raise FileErrors(problems)
        return edits

    def problem(self, place: int, message: str, hint: str = "", warning: bool = False) -> FileProblem:
        """What is wrong with one of the settings."""
        return FileProblem(f"{SET} {self.settings[place]}", 0, 0, "", message, hint, warning=warning)

    # ---------------------------------------------------------------- arms and seeds
    def kept(self, arms: Mapping[str, Arm]) -> tuple[dict[str, Arm], list[FileProblem]]:
        """The arms that are tried, with their baselines, and what is wrong with `only`."""
        groups = {arm.group for arm in arms.values() if arm.group}
        problems = []
        for name in self.only:
            if name not in arms and name not in groups:
                near = did_you_mean(name, [*arms, *groups])
                hint = near or f"the arms are {listed(arms, NAMED)}"
                problems.append(FileProblem(f"--only {name}", 0, 0, "", "there is no arm, and no group of arms, of this name", hint))
        wanted = [arm for arm in arms.values() if not self.only or arm.name in self.only or arm.group in self.only]
        names = {name for arm in wanted for name in (arm.name, arm.baseline)}
        return {name: arm for name, arm in arms.items() if name in names}, problems

    def seeds_of(self, declared: Sequence[int]) -> list[int]:
        """The seeds of a sweep, or of an arm, that are tried."""
        number = 1 if self.smoke and self.seeds is None else self.seeds
        return list(declared[:number])

    def wrong_seeds(self, declared: Sequence[int]) -> list[FileProblem]:
        """What is wrong with `seeds`."""
        if self.seeds is None or self.seeds <= len(declared):
            return []
        there = f"the sweep declares {len(declared)} seed{'s' if len(declared) > 1 else ''}: {listed(map(str, declared), NAMED)}"
        return [FileProblem(f"--seeds {self.seeds}", 0, 0, "", there, "to have more, add them to `seeds` in the file")]


def smoked(experiment: Experiment) -> dict[str, Any]:
    """The plain values of an experiment, its earlier stages too, with a few steps and items."""
    tree: dict[str, Any] = plain(experiment)
    training, evaluation = experiment.training, experiment.evaluation
    steps = min(training.steps, SMOKE_STEPS)
    tree["training"] |= {"steps": steps, "warmup_steps": min(training.warmup_steps, steps - 1, 1)}
    for part in ("image_encoder", "language_model"):
        if (preparation := getattr(experiment.model, part).preparation) is not None:
            tree["model"][part]["preparation"]["steps"] = min(preparation.steps, SMOKE_STEPS)
    tree["evaluation"]["items"] = min(evaluation.items or SMOKE_ITEMS, SMOKE_ITEMS)
    for task, own in evaluation.overrides.items():
        if own.items:
            tree["evaluation"]["overrides"][task]["items"] = min(own.items, SMOKE_ITEMS)
    for name, held_out in evaluation.losses.items():
        tree["evaluation"]["losses"][name]["documents"] = min(held_out.documents, SMOKE_ITEMS)
    if experiment.starts_from is not None:
        tree["starts_from"] = smoked(experiment.starts_from)
    return tree


def problems_of_edits(tried: Try, found: Iterable[Diagnostic]) -> tuple[list[FileProblem], list[Diagnostic]]:
    """Diagnostics at the edits of a try as its problems, and the others."""
    own, others = [], []
    for one in found:
        if one.path[:1] == (SET,):
            inside = ".".join(map(str, one.path[2:]))
            own.append(tried.problem(int(one.path[1]), f"{inside}: {one.message}" if inside else one.message, one.hint, one.warning))
        else:
            others.append(one)
    return own, others
