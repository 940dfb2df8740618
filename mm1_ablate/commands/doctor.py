"""Whether this machine can run a study: one line for each thing that a run needs, with a remedy for each problem.

Nothing is changed: the store is probed with a file that is taken away again, and a Ray that was started is stopped.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from mm1_ablate.run.cluster import check_ray
from mm1_ablate.store.health import HealthCheck, check_disk, check_store
from mm1_ablate.tracking.ui import check_mlflow

LEAST_MEMORY = 3e9
"""Bytes of memory for Ray, one forkserver (0.9 GB) and two trials."""


def examine(store: Path | str, address: str | None = None) -> Iterator[HealthCheck]:
    """Yield the checks one by one, as they are done. A check that fails by an error is a problem, not the end."""
    checks: list[tuple[str, Callable[[], HealthCheck]]] = [
        ("python", check_python),
        ("packages", check_packages),
        ("cpu", check_cpu),
        ("gpu", check_gpu),
        ("store", lambda: check_store(store)),
        ("disk", lambda: check_disk(store)),
        ("ray", lambda: check_ray(address, store)),
        ("mlflow", lambda: check_mlflow(store)),
    ]
    for name, check in checks:
        try:
            yield check()
        except Exception as error:
            yield HealthCheck(
                name, False, f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}", ""
            )


def check_python() -> HealthCheck:
    version = ".".join(map(str, sys.version_info[:3]))
    return HealthCheck("python", sys.version_info >= (3, 11), f"{version} ({sys.executable})", "install Python 3.11 or newer")


def check_packages() -> HealthCheck:
    """Every dependency that the package declares is here, in a version that it allows."""
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(line) for line in metadata.requires("mm1-ablate") or []]
    except metadata.PackageNotFoundError:
        return HealthCheck("packages", False, "mm1-ablate is not installed, only importable", "pip install -c constraints.txt .")
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
    return HealthCheck("packages", not wrong, ", ".join(wrong or found), "pip install -c constraints.txt . (in a fresh environment)")


def check_cpu() -> HealthCheck:
    cores = usable_cores()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = f"{cores} core{'s' if cores > 1 else ''}, {memory / 1e9:.0f} GB of memory"
    return HealthCheck("cpu", memory >= LEAST_MEMORY, found, f"at least {LEAST_MEMORY / 1e9:.0f} GB of memory; or run with --cpus 1")


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_gpu() -> HealthCheck:
    """A machine without a GPU is in order; one with a driver that torch cannot use is not."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return HealthCheck("gpu", True, ", ".join(f"{device.name} {device.total_memory / 2**30:.0f} GiB" for device in names))
    if shutil.which("nvidia-smi") and Path("/dev/nvidiactl").exists():
        return HealthCheck("gpu", False, "there is one, but torch cannot use it", "install a torch build that suits the NVIDIA driver")
    return HealthCheck("gpu", True, "none; trials run on the CPU")
