"""Ray clusters: started on this machine or joined at an address, and whether their nodes can do the work of a run.

In: an address as people give it, and the place of a store. Out: a connection for the length of a block, or a sentence on why there is none;
and for each node what is wrong with it, if anything: each is asked to use the store, at the same time as the driver (`store/health.py`).

Ray itself retries for minutes if nothing answers, and reports a rejected token only as a failed connection.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1_ablate.config.passwords import known_addresses
from mm1_ablate.run.child_process import folder_for_sockets
from mm1_ablate.run.signals import interrupt_handled
from mm1_ablate.store.files import is_address
from mm1_ablate.store.health import HealthCheck, Probe, probing
from mm1_ablate.store.store import Store

LOCAL = "local"
"""The address of a cluster of our own, on this machine alone."""
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""By this variable Ray's processes are told that there will be no other nodes: as on Windows and macOS, they listen on 127.0.0.1 then."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
}
"""Environment for Ray: silent, and Ctrl-C is ours."""
OBJECT_STORE_BYTES = 100_000_000
"""Nothing large goes through Ray: models and data are in the store and in the child processes."""
CONNECTED_WITHIN = 5.0
"""Seconds within which a cluster's head must answer."""
ANSWERED_WITHIN = 60.0
"""Seconds within which a node must answer: starting a worker and importing this package from a slow disk takes a while."""
LONGEST_FOLDER = 36
"""Bytes of the folder of Ray's files, which has sockets with names of up to 70 bytes; a socket's path has 107 at most."""
ADDRESS = "RAY_ADDRESS"
"""The environment variable that names a cluster."""
AUTH_MODE = "RAY_AUTH_MODE"
SAME_TOKEN = "~/.ray/auth_token, or what RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN names, must be the same here and on all nodes"
NO_HEAD = (
    "cannot start trials: run the command on the cluster's head with --address auto, or send it there with"
    " `ray job submit --address http://HEAD:8265 -- mm1-ablate run ...`"
)
WRONG_VERSION = "has mm1-ablate {theirs}, but this machine has {ours}"


class ClusterUnusable(Exception):
    """Nodes of the cluster cannot do what a trial does there; each is named with what is wrong with it."""


@dataclass(frozen=True)
class NodeCheck:
    """A node, and what is wrong with it."""

    name: str
    """Host and address."""
    problem: str | None = None
    """None where it can do trials."""


# ---------------------------------------------------------------- connection
@contextlib.contextmanager
def connected(address: str, cpus: int | None = None) -> Iterator[None]:
    """Connect this process to Ray for the length of a block, unless it is connected already.

    Args:
        address: of a cluster; `local` starts one on this machine.
        cpus: cores of that one; None: all.

    Raises:
        ConnectionError: there is no cluster at the address, or it does not accept our token.
    """
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        connect(address, cpus)
        yield
    finally:
        interrupt_handled()
        ray.shutdown()


def connect(address: str, cpus: int | None = None) -> None:
    """Start Ray on this machine, or join the cluster at an address. Ray's own handler of SIGTERM is replaced by ours again."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if address != LOCAL:
            join(address)
            return
        start_here(num_cpus=cpus, object_store_memory=OBJECT_STORE_BYTES)
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def start_here(**options: Any) -> None:
    """Start Ray on this machine, for this machine alone, in a folder whose path is short enough for its sockets, and connect to it.

    Raises:
        ConnectionError: it cannot start, with why.
    """
    import ray

    folder = folder_for_sockets(LONGEST_FOLDER, "RAY_TMPDIR") / "ray"
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    try:
        keep_token_private()
        with _on_loopback():
            ray.init(address=LOCAL, _temp_dir=str(folder), **quiet, **options)
    except Exception as error:
        said = f"Ray cannot be started on this machine: {_in_one_line(error)} (its logs are in {folder}/session_latest/logs)"
        raise ConnectionError(said) from error


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Have a Ray that is started within listen on this machine alone: nobody elsewhere can ask it for anything, with a token or without.
    Ray has no option for that on Linux, where it replaces 127.0.0.1 by an address that others reach."""
    from ray._private import ray_constants

    before = os.environ.get(LOOPBACK), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[LOOPBACK], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before[1]
        os.environ.pop(LOOPBACK)
        if before[0] is not None:
            os.environ[LOOPBACK] = before[0]


def keep_token_private() -> None:
    """Let nobody but its owner read the token of this machine, and make it so if there is none and a cluster of our own is to have one: who
    has it can run programs as its owner. Ray would make a file that all can read."""
    if os.environ.get(AUTH_MODE, "token").lower() != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    declared = os.environ.get("RAY_AUTH_TOKEN_PATH")
    # Where there is no home that can be written, or the token is another's, Ray says what it lacks.
    with contextlib.suppress(OSError, RuntimeError):
        path = Path(declared) if declared else Path.home() / ".ray" / "auth_token"
        if not path.exists() and not declared:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, beside = tempfile.mkstemp(dir=path.parent)  # readable by its owner alone
            try:
                with open(descriptor, "w", encoding="utf-8") as token:
                    token.write(secrets.token_hex(32))
                os.link(beside, path)  # of several that make one the first's stays
            finally:
                os.unlink(beside)
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)


def join(address: str) -> None:
    """Connect this process to the cluster at an address: `auto`, or host:port of its head.

    Raises:
        ConnectionError: nothing answers there, our token is rejected, or its Ray or Python is of another version; with a remedy.
    """
    import ray

    place = resolved_address(address)
    keep_token_private()
    use_token(place)
    try:
        ray.init(address=place, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
        raise connection_error(error, place) from error
    except RuntimeError as error:
        ray.shutdown()  # it is half connected
        versions = re.findall(r"Ray: (\S+)\s+Python: (\S+)", str(error))
        if len(versions) != 2:
            raise
        theirs, ours = (f"Ray {of_ray} on Python {of_python}" for of_ray, of_python in versions)
        raise ConnectionError(f"the cluster at {place} runs {theirs}, and here it is {ours}: both must be the same") from error


def resolved_address(address: str) -> str:
    """Host and port of an address, once something answers there.

    Raises:
        ConnectionError: it is not such an address, or nothing answers.
    """
    from ray._private.services import canonicalize_bootstrap_address

    followed = os.environ.get(ADDRESS)
    named = followed or address if address == "auto" else address
    if "://" in named:
        raise ConnectionError(f"{named} {NO_HEAD}{f' (RAY_ADDRESS is {named})' if named == followed else ''}")
    why = ", which RAY_ADDRESS names: unset it to use this machine alone, or correct it" if named == followed else ""
    try:
        place = canonicalize_bootstrap_address(address) or address
        if named == "auto":
            named, why = place, ", the last that was started on this machine: `ray stop` forgets it"
        host, _, port = place.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECTED_WITHIN):
            return place
    except ValueError:
        how = "give the head's host:port, such as 10.0.0.1:6379"
        raise ConnectionError(f"{named} is not an address of a Ray cluster: {how}{why}") from None
    except OSError as error:
        reason = error.strerror or str(error).strip()
        raise ConnectionError(f"no Ray cluster at {named}: {reason}{why}") from error


def _in_one_line(error: Exception) -> str:
    """What an error says, and of which kind it is where that is not one of ours."""
    words = " ".join(str(error).split())[:500]
    return words if isinstance(error, ConnectionError) else f"{type(error).__name__}: {words}"


def rejects_token(address: str) -> bool:
    """Whether there is a cluster at an address that does not accept our token, or our lack of one; Ray says only that it cannot connect."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError

    host, _, port = address.rpartition(":")
    try:
        # If nothing answers, Ray's client retries for most of a minute.
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECTED_WITHIN):
            GcsClient(address=address)
    except AuthenticationError:
        return True
    except Exception:  # nothing answers there, or it is not host:port
        return False
    return False


def use_token(address: str) -> None:
    """Use the token of this machine where a cluster requires one.

    Clusters require one unless RAY_AUTH_MODE says otherwise; whoever joins them by an explicit address sends none unless it says so.
    """
    if AUTH_MODE not in os.environ and rejects_token(address):
        from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def connection_error(error: Exception, address: str) -> ConnectionError:
    """Why there is no connection to the cluster at an address, and what to do."""
    from ray.exceptions import AuthenticationError

    if isinstance(error, AuthenticationError):
        return ConnectionError(f"no token for the Ray cluster at {address}: {str(error).split('. ')[0]}; {SAME_TOKEN}")
    if rejects_token(address):
        return ConnectionError(f"the Ray cluster at {address} does not accept the token of this machine; {SAME_TOKEN}")
    return ConnectionError(f"no Ray cluster at {address}: {str(error).strip()}")


# ---------------------------------------------------------------- what a run must not write into the store
@contextlib.contextmanager
def giving_addresses(run: str) -> Iterator[None]:
    """Let the workers of a run know, for the length of a block, the addresses with passwords that were declared here: by Ray's own memory,
    not by a file. The driver is connected to Ray."""
    from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put

    addresses = known_addresses()
    if not addresses:
        yield
        return
    _internal_kv_put(_addresses_key(run), json.dumps(addresses).encode())
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # the cluster may be gone
            _internal_kv_del(_addresses_key(run))


def addresses_of_run(run: str) -> dict[str, str]:
    """Runs in a worker: what `giving_addresses` gave; empty outside of Ray."""
    import ray
    from ray.experimental.internal_kv import _internal_kv_get

    given = _internal_kv_get(_addresses_key(run)) if ray.is_initialized() else None
    return json.loads(given) if given else {}


def _addresses_key(run: str) -> str:
    return f"mm1-ablate-addresses/{run}"


# ---------------------------------------------------------------- nodes
def all_nodes() -> list[dict[str, Any]]:
    """What Ray says of each node of the cluster that this process is connected to."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return nodes


def usable_nodes() -> list[dict[str, Any]]:
    """Those of `all_nodes()` that live and may be given trials: heads are often without CPUs."""
    return [node for node in all_nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]


def exclude_nodes(unusable: Iterable[str]) -> dict[str, str]:
    """What Ray calls a label selector: every node but those with the given ids."""
    return {"ray.io/node-id": f"!in({', '.join(sorted(unusable))})"} if unusable else {}


def fits_without(unusable: Iterable[str], bundles: Sequence[Mapping[str, float]]) -> bool:
    """Whether every one of some bundles of resources is available on a node that is not among those with the given ids, or will be."""
    fit = [node["Resources"] for node in usable_nodes() if node["NodeID"] not in set(unusable)]
    return has_autoscaler() or all(
        any(all(has.get(what, 0) >= asked for what, asked in bundle.items()) for has in fit) for bundle in bundles
    )


def check_every_node(store: Path | str) -> list[NodeCheck]:
    """Have each node that may be given trials use the store, at the same time; the driver is connected to Ray already.

    A node that is lost meanwhile is passed over.

    Args:
        store: its folder, or its address on object storage.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from mm1_ablate.version import __version__

    nodes = usable_nodes()
    with probing(store) as probe:
        look = ray.remote(_problem_there)
        asked = {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            placed = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": there}
            asked[look.options(**placed).remote(probe, node["NodeID"])] = node
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWERED_WITHIN) if asked else ([], [])
        # A node that died a moment ago counts as living until it has been missed for a while.
        living = {node["NodeID"] for node in usable_nodes()}
        found = []
        for reference, node in asked.items():
            if node["NodeID"] not in living:
                continue
            problem: str | None = f"did not answer within {ANSWERED_WITHIN:g} seconds"
            if reference in answered:
                try:
                    problem, theirs = ray.get(reference)
                except Exception as error:  # the worker there could not start, or could not import this package
                    problem, theirs = _task_error(error), __version__
                if problem is None and theirs != __version__:
                    problem = WRONG_VERSION.format(theirs=theirs, ours=__version__)
                if problem is None and not probe.is_seen_from(node["NodeID"]):
                    problem = f"writes {store}, but it is not seen here: the folder is not shared"
            found.append(NodeCheck(f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})", problem))
    return found


def require_usable_nodes(store: Path | str) -> None:
    """Refuse to begin on a cluster that could not finish.

    Raises:
        ClusterUnusable: naming the nodes and their problems.
    """
    unusable = [f"{node.name} {node.problem}" for node in check_every_node(store) if node.problem]
    if unusable:
        more = f"; and {len(unusable) - 5} more nodes" if len(unusable) > 5 else ""
        raise ClusterUnusable(f"nothing was started: {'; '.join(unusable[:5])}{more}")


def _problem_there(probe: Probe, node: str) -> tuple[str | None, str]:
    """Runs on the node: what is wrong with the store there, and the version of this package."""
    from mm1_ablate.version import __version__

    return probe.problem(node), __version__


def _task_error(error: Exception) -> str:
    """Why Ray could not run a task."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    line_of_error = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else type(error).__name__)
    return f"cannot run a task of mm1-ablate: {line_of_error[:300]}"


def has_autoscaler() -> bool:
    """Whether the cluster that this process is connected to has an autoscaler that adds nodes when there is work for them.

    Ray's monitor runs on clusters of a fixed size too. What tells them apart: an autoscaler gives nodes the types of its
    configuration, the monitor of a cluster that was put together by hand calls each node by its own id.
    """
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.experimental.internal_kv import _internal_kv_get

    if any("ray.io/node-group" in node.get("Labels", {}) for node in all_nodes()):
        return True  # version 2 of the autoscaler, and KubeRay with it, label the nodes that they start
    status = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    if not status:
        return False
    return has_types(json.loads(status).get("autoscaler_report") or {})


def has_types(report: Mapping[str, Any]) -> bool:
    """Whether nodes have types in what the autoscaler reports."""
    types = {*report.get("active_nodes", {}), *(report.get("pending_launches") or {})}
    return any(not name.startswith("node_") for name in types)


# ---------------------------------------------------------------- health
def check_ray(address: str | None, store: Path | str | None = None) -> HealthCheck:
    """Start a Ray of this machine's own, or attach to the one that is named: what does it offer, and do its nodes share the store?"""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    address = address or os.environ.get(ADDRESS)
    try:
        if address:
            join(address)
        else:
            start_here(num_cpus=1)
    except Exception as error:
        remedy = (
            "check the address, that it can be reached from here, and that every node runs the same Ray"
            if address
            else "check that /tmp or RAY_TMPDIR is writable, and that no stale Ray process of yours is left here "
            "(do not use `ray stop` on a machine that others use: it ends everybody's Ray)"
        )
        return HealthCheck("ray", False, f"{address or 'local'}: {_in_one_line(error)}", remedy)
    try:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        nodes = [node for node in all_nodes() if node["Alive"]]
        found = f"{ray.__version__}, starts here" if not address else f"{ray.__version__} at {address}: {len(nodes)} nodes"
        if address:
            found += f", {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"
            found += ", and grows" if has_autoscaler() else ""
            wrong = [f"{node.name} {node.problem}" for node in check_every_node(Store(store).address) if node.problem] if store else []
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
