"""What `mm1-ablate plan` needs beside the plan: GPUs to estimate for, and steps that are run and timed.

In: what the command line says. Out: `GpuAssumptions`, and measurements in the store; problems end the command with a sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from mm1_ablate.commands.common import FILE_IS_WRONG, SOME_FAILED, say, stop
from mm1_ablate.config.gpus import GPUS
from mm1_ablate.plan.cost import GpuAssumptions
from mm1_ablate.plan.plan import Plan
from mm1_ablate.store.store import Store


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
