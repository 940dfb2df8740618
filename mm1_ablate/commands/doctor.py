"""Whether this machine can run a study: one line for each thing that a run needs, with what to do where it is not so.

Nothing is changed: the store is probed with a file that is taken away again, and a Ray that was started is stopped.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from mm1_ablate.store.bucket.object_store import Remote, is_address
from mm1_ablate.store.store import Store

LEAST_DISK = 2e9
"""Bytes that should be free: a study of the miniature needs some 100 MB, Ray's own session files the rest."""

LEAST_MEMORY = 3e9
"""Bytes of memory for Ray, one forkserver (0.9 GB) and two trials."""


@dataclass(frozen=True)
class Check:
    name: str
    ok: bool
    found: str
    remedy: str = ""
    """What to do about a problem."""


def examine(store: Path | str, address: str | None = None) -> Iterator[Check]:
    """Yield the checks one by one, as they are done. A check that fails by an error is a problem, not the end."""
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("python", check_python),
        ("packages", check_packages),
        ("cpu", check_cpu),
        ("gpu", check_gpu),
        ("store", lambda: check_store(store)),
        ("disk", lambda: check_disk(Store(store).root)),
        ("ray", lambda: check_ray(address, store)),
        ("mlflow", lambda: check_mlflow(Store(store).root)),
    ]
    for name, check in checks:
        try:
            yield check()
        except Exception as error:
            yield Check(
                name, False, f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}", ""
            )


def check_python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", sys.version_info >= (3, 11), f"{version} ({sys.executable})", "install Python 3.11 or newer")


def check_packages() -> Check:
    """Every dependency that the package declares is here, in a version that it allows."""
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(line) for line in metadata.requires("mm1-ablate") or []]
    except metadata.PackageNotFoundError:
        return Check("packages", False, "mm1-ablate is not installed, only importable", "pip install -c constraints.txt .")
    wrong, found = [], []
    for requirement in declared:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
        if requirement.name in ("torch", "lightning", "transformers", "timm", "ray", "mlflow"):
            found.append(f"{requirement.name} {version}")
    return Check("packages", not wrong, ", ".join(wrong or found), "pip install -c constraints.txt . (in a fresh environment)")


def check_cpu() -> Check:
    cores = usable_cores()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = f"{cores} core{'s' if cores > 1 else ''}, {memory / 1e9:.0f} GB of memory"
    return Check("cpu", memory >= LEAST_MEMORY, found, f"at least {LEAST_MEMORY / 1e9:.0f} GB of memory; or run with --cpus 1")


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_gpu() -> Check:
    """A machine without a GPU is in order; one with a driver that torch cannot use is not."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return Check("gpu", True, ", ".join(f"{device.name} {device.total_memory / 2**30:.0f} GiB" for device in names))
    if shutil.which("nvidia-smi") and Path("/dev/nvidiactl").exists():
        return Check("gpu", False, "there is one, but torch cannot use it", "install a torch build that suits the NVIDIA driver")
    return Check("gpu", True, "none; trials run on the CPU")


def check_store(store: Path | str) -> Check:
    """The store can be written; one on object storage is read, written, also on conditions, and an object of it deleted."""
    if is_address(store):
        remote = Remote(str(store))
        try:
            remote.check()
        except OSError as error:
            return Check("store", False, str(error), "what is said there; or name a folder with --store DIR or MM1_ABLATE_STORE")
        return Check("store", True, f"{store}: read, written, also on conditions, and deleted")
    store = Path(store)
    folder = nearest_folder(store)
    remedy = "name a folder of your own with --store DIR or MM1_ABLATE_STORE"
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check("store", False, f"{store} cannot be written: {error.strerror}", remedy)
    return Check("store", True, f"{store.absolute()}" + ("" if store.exists() else " (will be made)"))


def check_disk(store: Path) -> Check:
    folders = {str(nearest_folder(store)), os.environ.get("RAY_TMPDIR", tempfile.gettempdir())}
    free = {folder: shutil.disk_usage(folder).free for folder in sorted(folders) if Path(folder).is_dir()}
    found = ", ".join(f"{amount / 1e9:.0f} GB free at {folder}" for folder, amount in free.items())
    return Check(
        "disk", min(free.values()) >= LEAST_DISK, found, f"free {LEAST_DISK / 1e9:.0f} GB, or set RAY_TMPDIR and --store to another disk"
    )


def nearest_folder(path: Path) -> Path:
    """The folder itself, or the first above it that exists."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return path


def check_ray(address: str | None, store: Path | str | None = None) -> Check:
    """Start a Ray of this machine's own, or attach to the one that is named: what does it offer, and do its nodes share the store?"""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    from mm1_ablate.run.cluster import check_every_node, has_autoscaler, join

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
        return Check("ray", False, f"{address or 'local'}: {type(error).__name__}: {str(error).strip().splitlines()[0]}", remedy)
    try:
        resources, nodes = ray.cluster_resources(), [node for node in ray.nodes() if node["Alive"]]
        found = f"{ray.__version__}, starts here" if not address else f"{ray.__version__} at {address}: {len(nodes)} nodes"
        if address:
            found += f", {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"
            found += ", and has_autoscaler" if has_autoscaler() else ""
            wrong = [f"{node.name} {node.problem}" for node in check_every_node(Store(store).address) if node.problem] if store else []
            if wrong:
                return Check(
                    "ray",
                    False,
                    f"{found}; {'; '.join(wrong)}",
                    "give every node the same store, at the same place, and this package",
                )
            what = "read and write, also on conditions," if is_address(store) else "read, write and lock"
            found += f"; all that hold trials {what} {store}" if store else ""
        return Check("ray", True, found)
    finally:
        ray.shutdown()


def check_mlflow(store: Path) -> Check:
    """The mirror's database opens; a server named by MLFLOW_TRACKING_URI answers."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow
    from mlflow import MlflowClient

    address = os.environ.get("MLFLOW_TRACKING_URI")
    database = store.absolute() / "mlflow.db"
    if address is None and not database.exists():
        return Check("mlflow", True, f"{mlflow.__version__}, {database} will be made")
    address = address or f"sqlite:///{database}"
    remedy = (
        "start the server or unset MLFLOW_TRACKING_URI"
        if "://" in address and not address.startswith("sqlite")
        else (f"move {database} away; `mm1-ablate ui SWEEP` writes it anew from the store")
    )
    try:
        experiments = MlflowClient(tracking_uri=address).search_experiments(max_results=100)
    except Exception as error:
        return Check("mlflow", False, f"{address}: {str(error).strip().splitlines()[0]}", remedy)
    return Check("mlflow", True, f"{mlflow.__version__}, {address} opens, {len(experiments)} experiments")
