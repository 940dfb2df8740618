"""Onto how many nodes a trial's workers go. In: what a trial asks for and what nodes have. Out: how many workers are in each place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mm1_ablate.config.sweep.declaration import Resources


class ResourcesMissing(Exception):
    """No node has what one trial asks for, so it would wait for ever."""


def deal(resources: Resources, nodes: Sequence[Mapping[str, float]]) -> tuple[int, ...]:
    """How many workers are reserved together: all of them if they fit on one node, else each on its own; or as `nodes` declares.

    Args:
        nodes: what each has, as Ray says: CPU and GPU.

    Raises:
        ResourcesMissing: naming the largest node.
    """
    room = [_room(resources, node) for node in nodes]
    shares = shares_of(resources, fit_on_one=max(room, default=0) >= resources.workers)
    if resources.nodes is None and sum(room) >= resources.workers:
        return shares
    if resources.nodes is not None and sum(own >= shares[0] for own in room) >= resources.nodes:
        return shares
    raise ResourcesMissing(f"a trial asks for {_asked(resources)}, and {_there_are(nodes)}")


def shares_of(resources: Resources, fit_on_one: bool) -> tuple[int, ...]:
    """As `deal`, whether or not there are such nodes."""
    if resources.nodes is not None:
        return (resources.workers // resources.nodes,) * resources.nodes
    return (resources.workers,) if fit_on_one else (1,) * resources.workers


def _room(resources: Resources, node: Mapping[str, float]) -> int:
    """How many workers an empty node holds."""
    fractions = [node.get("CPU", 0) / resources.worker_cpus]
    if resources.worker_gpus:
        fractions.append(node.get("GPU", 0) / resources.worker_gpus)
    return int(min(fractions) + 1e-6)


def _asked(resources: Resources) -> str:
    whole = f"{resources.cpus:g} cpus and {resources.gpus:g} gpus"
    if resources.workers == 1:
        return f"{whole} (resources in the sweep)"
    each = f"{resources.worker_cpus:g} cpus and {resources.worker_gpus:g} gpus"
    on = f", {resources.workers // resources.nodes} on each of {resources.nodes} nodes" if resources.nodes else ""
    return f"{whole}: {each} for each of {resources.workers} workers{on} (resources in the sweep)"


def _there_are(nodes: Sequence[Mapping[str, float]]) -> str:
    if not nodes:
        return "there are no nodes"
    largest = max(nodes, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)))
    shape = f"{largest.get('CPU', 0):g} cpus and {largest.get('GPU', 0):g} gpus"
    return f"there is one node, with {shape}" if len(nodes) == 1 else f"the largest of {len(nodes)} nodes has {shape}"
