"""What a Ray cluster of several nodes must give a run: nodes that share the store's folder and this package, and word of whether it grows.

In: a connection to Ray and the place of a store. Out: per node what is wrong with it, if anything: each is asked to use the store, at the
same time as the driver (`store/health.py`).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1_ablate.run.connection import join
from mm1_ablate.store.health import HealthCheck, Probe, probing
from mm1_ablate.store.store import Store, is_address

PATIENCE = 60.0
"""Seconds that a node has to answer: starting a worker and importing this package from a slow disk takes a while."""
WRONG_VERSION = "has mm1-ablate {theirs}, and here it is {ours}"


class ClusterUnfit(Exception):
    """Nodes of the cluster cannot do what a trial there does; each is named with what is wrong with it."""


@dataclass(frozen=True)
class Node:
    """A node, and what is wrong with it; nothing if it can do trials."""

    name: str
    """Host and address."""
    problem: str | None = None


def holding_work(nodes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of `ray.nodes()` that live and may be given trials: heads are often without CPUs."""
    return [node for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) > 0]


def avoiding(unfit: Iterable[str]) -> dict[str, str]:
    """What Ray calls a label selector: every node but those with the given ids."""
    return {"ray.io/node-id": f"!in({', '.join(sorted(unfit))})"} if unfit else {}


def has_room_beside(unfit: Iterable[str], bundles: Sequence[Mapping[str, float]]) -> bool:
    """Whether every one of some bundles of resources can be had on a node that is not among those with the given ids, or will be."""
    import ray

    fit = [node["Resources"] for node in holding_work(ray.nodes()) if node["NodeID"] not in set(unfit)]
    return grows() or all(any(all(has.get(what, 0) >= asked for what, asked in bundle.items()) for has in fit) for bundle in bundles)


def examine_nodes(store: Path | str) -> list[Node]:
    """Have each node that may be given trials use the store, at the same time; the driver is connected to Ray already.

    A node that is lost meanwhile is passed over.

    Args:
        store: its folder, or its address on object storage.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from mm1_ablate import __version__

    nodes = holding_work(ray.nodes())
    with probing(store) as probe:
        look = ray.remote(_problem_there)
        asked = {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            placed = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": there}
            asked[look.options(**placed).remote(probe, node["NodeID"])] = node
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=PATIENCE) if asked else ([], [])
        # A node that died a moment ago counts as living until it has been missed for a while.
        living = {node["NodeID"] for node in holding_work(ray.nodes())}
        found = []
        for reference, node in asked.items():
            if node["NodeID"] not in living:
                continue
            problem: str | None = f"did not answer within {PATIENCE:g} seconds"
            if reference in answered:
                try:
                    problem, theirs = ray.get(reference)
                except Exception as error:  # the worker there could not start, or could not import this package
                    problem, theirs = _in_a_line(error), __version__
                if problem is None and theirs != __version__:
                    problem = WRONG_VERSION.format(theirs=theirs, ours=__version__)
                if problem is None and not probe.is_seen_from(node["NodeID"]):
                    problem = f"writes {store}, but it is not seen here: the folder is not shared"
            found.append(Node(f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})", problem))
    return found


def check_nodes(store: Path | str) -> None:
    """Refuse to begin on a cluster that could not finish.

    Raises:
        ClusterUnfit: naming the nodes and their problems.
    """
    unfit = [f"{node.name} {node.problem}" for node in examine_nodes(store) if node.problem]
    if unfit:
        more = f"; so do {len(unfit) - 5} more" if len(unfit) > 5 else ""
        raise ClusterUnfit(f"nothing was started: {'; '.join(unfit[:5])}{more}")


def _problem_there(probe: Probe, node: str) -> tuple[str | None, str]:
    """Runs on the node: what is wrong with the store there, and the version of this package."""
    from mm1_ablate import __version__

    return probe.problem(node), __version__


def _in_a_line(error: Exception) -> str:
    """What Ray says of a task that could not be run."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else type(error).__name__)
    return f"cannot run a task of mm1-ablate: {said[:300]}"


def grows() -> bool:
    """Whether the cluster that this process is connected to has an autoscaler that adds nodes when there is work for them.

    Ray's monitor runs on clusters of a fixed size too. What tells them apart: an autoscaler gives nodes the types of its
    configuration, the monitor of a cluster that was put together by hand calls each node by its own id.
    """
    import ray
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.experimental.internal_kv import _internal_kv_get

    if any("ray.io/node-group" in node.get("Labels", {}) for node in ray.nodes()):
        return True  # version 2 of the autoscaler, and KubeRay with it, label the nodes that they start
    status = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    if not status:
        return False
    return has_types(json.loads(status).get("autoscaler_report") or {})


def has_types(report: Mapping[str, Any]) -> bool:
    """Whether nodes have types in what the autoscaler reports."""
    types = {*report.get("active_nodes", {}), *(report.get("pending_launches") or {})}
    return any(not name.startswith("node_") for name in types)


def check_ray(address: str | None, store: Path | str | None = None) -> HealthCheck:
    """Start a Ray of this machine's own, or attach to the one that is named: what does it offer, and do its nodes share the store?"""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    address = address or os.environ.get("RAY_ADDRESS")
    try:
        if address:
            join(address)
        else:
            ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        remedy = (
            "check the address, that it can be reached from here, and that every node runs the same Ray"
            if address
            else "see that /tmp or RAY_TMPDIR is writable, and whether a Ray of yours is half alive here and has to be ended "
            "(not by `ray stop` where others use this machine: it ends everybody's Ray)"
        )
        return HealthCheck("ray", False, f"{address or 'local'}: {type(error).__name__}: {str(error).strip().splitlines()[0]}", remedy)
    try:
        resources, nodes = ray.cluster_resources(), [node for node in ray.nodes() if node["Alive"]]
        found = f"{ray.__version__}, starts here" if not address else f"{ray.__version__} at {address}: {len(nodes)} nodes"
        if address:
            found += f", {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"
            found += ", and grows" if grows() else ""
            wrong = [f"{node.name} {node.problem}" for node in examine_nodes(Store(store).address) if node.problem] if store else []
            if wrong:
                return HealthCheck(
                    "ray",
                    False,
                    f"{found}; {'; '.join(wrong)}",
                    "give every node the same store, at the same place, and this package",
                )
            what = "read and write, also on conditions," if is_address(store) else "read, write and lock"
            found += f"; all that hold trials {what} {store}" if store else ""
        return HealthCheck("ray", True, found)
    finally:
        ray.shutdown()
