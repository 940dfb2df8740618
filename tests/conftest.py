"""What the tests of several rooms share: quiet surroundings, and a study small enough to be planned and run in a test."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fork_server_zygote import Zygote
from hypothesis import settings
from tiny import write_tiny_sweep

if TYPE_CHECKING:
    from s3_server import Machine, Server

    from mm1_ablate.data.tokenizer import Tokenizer
    from mm1_ablate.model.multimodal import MultimodalModel
    from mm1_ablate.store.store import Store

# Set before anything imports torch: tests run beside each other on few cores, and two threads each are far slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# A process knows one mode for good, and clusters of both kinds would refuse each other; tokens are tested in processes of their own.
os.environ["RAY_AUTH_MODE"] = "disabled"


# How long an example takes says nothing where other tests run beside it.
settings.register_profile("suite", settings(), deadline=None)
settings.load_profile("suite")

SLOW_FILES = (
    "docs/test_notebooks.py",
    "run/test_run_stages.py",
    "commands/test_any_shell.py",
    "commands/test_passwords_in_runs.py",
    "store/test_damaged_files.py",
    "run/test_study_life.py",
    "store/test_disk_full.py",
    "store/test_s3_runs.py",
    "commands/test_run.py",
    "run/test_run_cluster.py",
    "run/test_worker_group.py",
    "store/test_s3_sharded.py",
    "store/test_s3_training.py",
    "training/test_distributed.py",
    "run/test_scheduler.py",
    "tracking/test_tracking_outages.py",
    "training/test_training_stages.py",
    "training/test_sharded.py",
    "docs/test_model.py",
    "model/test_model_preflight.py",
    "evaluation/test_sharded_lockstep.py",
    "config/test_blame.py",
)
"""Files that take longest, which begin first, so that all workers end at about the same time."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """As many workers as cores, but none for a single file, which is done before they have started."""
    files = {argument.partition("::")[0] for argument in config.args}
    return 0 if len(files) == 1 and files.pop().endswith(".py") else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not hasattr(config, "workerinput"):
        return  # in one process nothing is gained, and a run that ends at the first failure had better begin with what is short
    order = {Path(__file__).parent / name: place for place, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest.fixture
def tiny_sweep(tmp_path: Path) -> Path:
    """A sweep of a baseline and two arms with two seeds, its experiment beside it. Tests edit the text as they need."""
    return write_tiny_sweep(tmp_path)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """The words of toy tasks (`toy_tasks.py`)."""
    from toy_tasks import word_tokenizer

    return word_tokenizer()


@pytest.fixture(scope="module")
def model() -> MultimodalModel:
    """A model with random weights that knows those words."""
    from toy_tasks import random_model

    return random_model()


@pytest.fixture(scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch, _cache: Path) -> None:
    """Stores, caches, servers and clusters of whoever runs the tests stay out of them."""
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(_cache))
    for name in ("MM1_ABLATE_STORE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def _zygote() -> Iterator[Zygote]:
    zygote = Zygote()
    yield zygote
    zygote.end()


@pytest.fixture(autouse=True)
def _quick_fork_servers(monkeypatch: pytest.MonkeyPatch, _zygote: Zygote) -> None:
    """Fork servers of studies that are run in this process have imported already (see `fork_server_zygote.py`)."""
    from mm1_ablate.run import child_process, fork_server

    spawn = child_process._spawn

    def forked(folder: Path, preload: Sequence[str]) -> None:
        if tuple(preload) == fork_server.PRELOADED:
            _zygote.start(folder, child_process.server_environment())
        else:
            spawn(folder, preload)

    monkeypatch.setattr(child_process, "_spawn", forked)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A real S3 server over HTTP, with a bucket and short leases."""
    from s3_server import serving

    from mm1_ablate.store.bucket import leases

    monkeypatch.setenv(leases.VARIABLE, "60")
    with serving(monkeypatch) as started:
        yield started


@pytest.fixture
def machine(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The store as a machine of a name sees it, which this process is from then on."""
    from s3_server import ADDRESS

    from mm1_ablate.store.store import Store

    def be(name: str) -> Store:
        monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / name))
        return Store(ADDRESS)

    return be


@pytest.fixture(scope="module")
def shared_ray(_cache: Path) -> Iterator[None]:
    """A Ray on two cores in this process, which the studies of a module that are run here use instead of each starting its own."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MM1_ABLATE_CACHE", str(_cache))
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
    yield
    ray.shutdown()
