"""What `mm1-ablate plan` says. In: what the command line, `plan/plan.py` and the store say. Out: sentences, and steps that are run and
timed; problems end the command with a sentence. Its table is in `plan_table.py`."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from rich.text import Text

from mm1_ablate.commands.common import FILE_IS_WRONG, SOME_FAILED, say, stop
from mm1_ablate.config.errors import listed
from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.declaration import GIB, GPUS
from mm1_ablate.plan.cost import GpuAssumptions
from mm1_ablate.plan.estimate import MeasuredCost
from mm1_ablate.plan.memory import in_gib
from mm1_ablate.plan.plan import Plan
from mm1_ablate.store.store import Store

COLOURS = {
    "done": "green",
    "run": "cyan",
    "resume": "cyan",
    "evaluate": "cyan",
    "rescore": "cyan",
    "running": "blue",
    "interrupted": "yellow",
    "failed": "red",
    "missing": "dim",
}
NAMED = 6
"""Trials that a line on what is not needed names."""
MUCH = 64 * GIB
"""Memory of a node for the weights of one model above which the plan mentions it."""


def gpus_named(gpus: Sequence[str] | None, utilisation: float | None) -> GpuAssumptions:
    """The GPUs of the command line; ends the command with 2 where one is not known."""
    for name in gpus or ():
        if name not in GPUS:
            near = get_close_matches(name, GPUS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            stop(FILE_IS_WRONG, f"--gpu {name}: is unknown; known are {', '.join(GPUS)}{hint}")
    return GpuAssumptions(tuple(gpus or ()), utilisation)


def probe_arms(planned: Plan, store: Store, address: str | None, made_up: bool) -> None:
    """Time steps of the cheapest and the most expensive of the trials that are to be trained.

    Args:
        address: of a Ray cluster, on one of whose nodes the steps are run; None: on this machine.
        made_up: whether random documents replace the data.
    """
    from mm1_ablate.run.probe import ProbeFailed, measure_arms

    try:
        measured = measure_arms(planned, store, address, made_up, say)
    except ProbeFailed as error:
        stop(SOME_FAILED, f"the probe failed: {error}")
    except ConnectionError as error:
        stop(SOME_FAILED, str(error))
    if not measured:
        say("no trial is to be trained, so no step is measured")


# ---------------------------------------------------------------- tables
def coloured(status: str) -> Text:
    return Text(status, style=COLOURS.get(status, ""))


def count(number: float) -> str:
    """A large number as people write it: 331k, 1.2B, 8.4e+18 above a quadrillion."""
    for size, unit in ((1e15, None), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number:.1e}" if unit is None else f"{number / size:.3g}{unit}"
    return f"{number:g}"


def number_of(number: int, noun: str) -> str:
    """A count with its noun: 1 row, 2 rows."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def hours(amount: float) -> str:
    """A time given in hours, in the unit that suits it."""
    if amount < 0.05:
        return f"{amount * 3600:.0f} seconds"
    return f"{amount * 60:.0f} minutes" if amount < 1.5 else f"{amount:,.3g} hours"


def summary(plan: Plan) -> list[str]:
    """The plan in a few lines."""
    shared = plan.row_count - len(plan.rows)
    joined = f": {number_of(shared, 'row')} {'shares' if shared == 1 else 'share'} a trial with another" if shared else ""
    lines = [f"{number_of(plan.row_count, 'row')}, {number_of(len(plan.rows), 'distinct trial')}{joined}"]
    states = {status: sum(row.status == status for row in plan.rows) for status in dict.fromkeys(row.status for row in plan.rows)}
    lines.append(", ".join(f"{number} {status}" for status, number in states.items()))
    if plan.stages:
        trained = sum(stage.status == "done" for stage in plan.stages)
        to_train = sum(stage.to_do for stage in plan.stages)
        lines.append(f"earlier stages: {trained} trained, {to_train} to train first")
    if plan.preparations:
        made = sum(preparation.status == "done" for preparation in plan.preparations)
        to_make = sum(preparation.status == "run" for preparation in plan.preparations)
        lines.append(f"prepared encoders and language models: {made} ready, {to_make} to prepare first")
    if plan.to_do:
        if plan.cost.gpu_hours:
            lines.append("remaining: about " + " or ".join(f"{spent:,.3g} {name} hours" for name, spent in plan.cost.gpu_hours.items()))
            if plan.cost.cpu_hours:
                if any(study.sweep.resources.gpus for study in plan.studies):
                    lines[-1] += f", and {hours(plan.cost.cpu_hours)} of CPU cores"
                else:
                    lines[-1] += f", or without a GPU {hours(plan.cost.cpu_hours)} of one CPU core"
        elif plan.cost.cpu_hours is not None:
            lines.append(f"remaining: about {hours(plan.cost.cpu_hours)} of one CPU core")
        lines[-1] += f" ({plan.cost.basis})"
        lines += [line for cost in plan.measured for line in measured_in_words(cost)]
    lines += looks_in_words(plan)
    lines += plan.not_estimated
    lines += costs_in_words(plan)
    if not all(row.rows_measured for row in [*plan.rows, *plan.stages]):
        lines.append("token counts are as declared for data that cannot be opened here or is not indexed yet")
    if plan.provisional:
        lines.append("the data was not read: fingerprints of trials are provisional, so their status in the store is unknown")
    lines += [f"imported, with all that it does: {name} ({file})" for name, file in plan.imported.items()]
    lines += [warning.in_one_line() for warning in plan.warnings]
    lines += [f"trials will fail because of their data: {problem}" for problem in plan.problems]
    lines += [f"repeated data: {line}" for line in plan.repeats]
    for study in plan.studies:
        prefix = f"{study.name}: " if len(plan.studies) > 1 else ""
        lines.append(prefix + plan.detectable[study.name].in_words())
    lines += [f"no longer in the file, not touched: {name} ({folder})" for name, folder in plan.unlisted]
    return lines


def looks_in_words(plan: Plan) -> list[str]:
    """Where seeds are added until all is decided: what this look takes, and what may come after it."""
    lines = []
    for study in plan.studies:
        if (design := study.sweep.until_decided) is None:
            continue
        prefix = f"{study.name}: " if len(plan.studies) > 1 else ""
        look = max(study.needed_seeds.values())
        lines.append(f"{prefix}seeds are added until all is decided, {design.at_least} to {design.at_most}: the next look is at {look}")
        lines += [f"{prefix}{line}" for line in not_run_in_words(study)]
    if plan.most:
        least, most = plan.cost, plan.most.cost
        lines.append(f"to do: at least {number_of(len(plan.to_do), 'trial')}, at most {len(plan.most.to_do)}")
        if most.gpu_hours:
            lines[-1] += ", " + " or ".join(
                f"{least.gpu_hours.get(name, 0.0):,.3g} to {spent:,.3g} {name} hours" for name, spent in most.gpu_hours.items()
            )
        elif most.cpu_hours is not None:
            lines[-1] += f", {hours(least.cpu_hours or 0.0)} to {hours(most.cpu_hours)} of one CPU core"
        if plan.expected_trials is not None:
            lines[-1] += f"; expected about {plan.expected_trials:.0f} trials, if differences and noise are as the finished trials say"
    return lines


def not_run_in_words(study: Study) -> list[str]:
    """Trials that a study does not need, or not yet, and why; a line for each reason."""
    by_reason: dict[str, list[str]] = {}
    for one in study.not_run:
        by_reason.setdefault(one.reason, []).append(one.trial.name)
    return [f"{reason}: {listed(names, NAMED)}" for reason, names in by_reason.items()]


def not_recorded_yet(study: Study, store: Store) -> list[str]:
    """A line where a study declares something else than what was recorded of it last."""
    history = store.declarations(study)
    if history.recorded or len(history.declarations) < 2:
        return []
    trials = history.now.trials
    scored = f"{len(history.now.scored & trials)} of {len(trials)}"
    return [
        f"{study.name}: declares something else than was recorded; `run` and `report` will record it, with {scored} trials that have scores"
    ]


def costs_in_words(plan: Plan) -> list[str]:
    """Sums over all trials, the highest memory, and what does not fit."""
    rows = [*plan.stages, *plan.rows]
    tokens = [row.tokens for row in rows]
    sums = (sum(each.text for each in tokens), sum(each.image_tokens for each in tokens), sum(row.flops for row in rows))
    lines = [f"in total: {count(sums[0])} text tokens, {count(sums[1])} image tokens, {sums[2]:.1e} FLOPs"]
    largest = max(rows, key=lambda row: row.cost.memory.total)
    memory = largest.cost.memory
    share = f"{memory.largest_in_words} of it"
    lines.append(f"memory of one worker: at most about {in_gib(memory.total)}, {largest.name} ({share}; an estimate)")
    asked = max(rows, key=lambda row: row.cost.evaluation.total)
    lines[-1] += f"; in evaluation about {in_gib(asked.cost.evaluation.total)}, {asked.name}"
    if (host := max(row.cost.host for row in rows)) > MUCH:
        lines.append(f"the node that makes or reads the weights needs about {in_gib(host)} of memory for them, with ddp for each worker")
    misfits: dict[str, list[str]] = {}
    for row in rows:
        for line in row.cost.misfits:
            misfits.setdefault(line, []).append(row.name)
    for line, names in misfits.items():
        others = f" and {len(names) - 2} others" if len(names) > 3 else ""
        lines.append(f"{', '.join(names[:2] if others else names)}{others}: {line}")
    not_counted: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for reason in row.flops_not_counted.items():
            not_counted.setdefault(reason, []).append(row.name)
    for (section, why), names in not_counted.items():
        lines.append(f"FLOPs of the {section.replace('_', ' ')} are estimated from its parameters ({why}): {', '.join(names)}")
    return lines


def measured_in_words(cost: MeasuredCost) -> list[str]:
    """What timed steps say, with what had been estimated."""
    lines = [f"as measured on {cost.device}: about {hours(cost.hours)} {'of GPUs' if cost.on_gpu else 'of one CPU core'}"]
    for probe in cost.probes:
        data = ", made-up data" if probe.made_up_data else ""
        speed = f"{probe.operations_per_second:.2g} FLOPs a second"
        memory = f"memory {in_gib(probe.peak_bytes)}, estimated {in_gib(probe.expected_bytes)}"
        step = f"{probe.seconds_per_step:.3g} s a step of one worker, by {probe.steps} steps{data}"
        lines.append(f"  {probe.name}: {step}; {speed}; {memory}")
    return lines
