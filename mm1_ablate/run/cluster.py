"""What a Ray cluster of several nodes must give a run: nodes that share the store's folder and this package, and word of whether it grows.

In: a connection to Ray and the place of a store. Out: per node what is wrong with it, if anything. A store is a folder for all:
what one node writes the others read, and a folder that one node has locked no other can lock. So each node is asked to do just that;
and where the store is on object storage, to write there, also on conditions, to read and to delete.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1_ablate.store.bucket.object_store import Remote, is_address

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
    with nullcontext(None) if is_address(store) else _probe(Path(store)) as folder:
        look = ray.remote(_look_from_there)
        asked = {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            placed = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": there}
            asked[look.options(**placed).remote(str(folder or store), node["NodeID"])] = node
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
                if problem is None and folder is not None and not (folder / node["NodeID"]).exists():
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


@contextlib.contextmanager
def _probe(store_root: Path) -> Iterator[Path]:
    """A folder in the store, with a file in it and another that is locked, for the length of a block."""
    folder = store_root / "probe" / uuid.uuid4().hex[:12]
    there = store_root.exists()
    folder.mkdir(parents=True)
    try:
        (folder / "written").write_text(folder.name)
        with open(folder / "locked", "a+b") as locked:
            fcntl.lockf(locked, fcntl.LOCK_EX)
            yield folder
    finally:
        for file in folder.iterdir():
            file.unlink(missing_ok=True)
        for made in (folder, folder.parent, *([] if there else [store_root])):
            with contextlib.suppress(OSError):
                made.rmdir()


def _look_from_there(folder: str, own: str) -> tuple[str | None, str]:
    """Runs on the node: what is wrong with the folder or the address there, and the version of this package."""
    from mm1_ablate import __version__

    if is_address(folder):
        try:
            Remote(folder).check()
        except OSError as error:
            return f"cannot use the store: {error}", __version__
        return None, __version__
    return problem_with(Path(folder), own), __version__


def problem_with(folder: Path, own: str) -> str | None:
    """What is wrong with a driver's probe as it is seen by this process.

    Args:
        own: name of the file to write.
    """
    root = folder.parent.parent
    try:
        if (folder / "written").read_text() != folder.name:
            return f"reads something else in {root}"
    except FileNotFoundError:
        return f"does not see {root}: the store must be on storage that all nodes share, at the same path"
    except OSError as error:
        return f"cannot read {root}: {error.strerror}"
    try:
        beside = folder / f".{own}"
        beside.write_text(own)
        beside.rename(folder / own)
    except OSError as error:
        return f"cannot write {root}: {error.strerror}"
    try:
        with open(folder / "locked", "a+b") as locked:
            fcntl.lockf(locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError as error:
        return f"cannot lock files in {root} ({error.strerror}): the storage must be mounted with POSIX locks"
    return f"does not see locks in {root}: two nodes could train the same trial; mount the storage with locks that all nodes see"


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
