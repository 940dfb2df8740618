"""Children: isolated from each other, told apart by how they end, and gone when whoever asked for them is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import child_helpers
import pytest
from child_helpers import gone_within, wait_for_pids

from mm1_ablate.run import child_process

HERE = str(Path(__file__).parent)
state = {"count": 0}


def count_up(answer: str) -> None:
    """Written by the child: process, main thread or not, what an earlier child left in this module, what it may use."""
    state["count"] += 1
    main = threading.current_thread() is threading.main_thread()
    Path(answer).write_text(f"{os.getpid()} {main} {state['count']} {os.environ['OMP_NUM_THREADS']} '{os.environ['CUDA_VISIBLE_DEVICES']}'")
    print("said by the child")


def end_with(code: int) -> int:
    return code


def fail() -> None:
    raise ValueError("as told")


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_ever(answer: str) -> None:
    # A grandchild, such as a data loader's worker, must go with it.
    grandchild = subprocess.Popen(["sleep", "300"])
    Path(answer).write_text(f"{os.getpid()} {grandchild.pid}")
    time.sleep(300)


def wait_and_ignore(answer: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wait_for_ever(answer)


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    with child_process.server(preload=["json"]) as folder:
        yield folder
    assert not folder.exists()


def job(function: str, log: Path, cpus: float = 1, **arguments: object) -> child_process.Job:
    return child_helpers.job(f"test_child_process:{function}", log, cpus, **arguments)


def test_every_child_starts_afresh_in_a_main_thread_with_its_share_of_the_machine(server: Path, tmp_path: Path) -> None:
    seen = []
    for index, cpus in enumerate((1, 2)):
        ended = child_process.run(server, job("count_up", tmp_path / "log.txt", cpus, answer=str(tmp_path / str(index))))
        assert (ended.code, ended.signal) == (0, None)
        seen.append((tmp_path / str(index)).read_text().split())
    assert seen[0][0] != seen[1][0]
    assert seen[0][1:] == ["True", "1", "1", "''"]
    assert seen[1][1:] == ["True", "1", "2", "''"]
    assert (tmp_path / "log.txt").read_text().count("said by the child") == 2


def test_how_a_child_ended_is_reported(server: Path, tmp_path: Path) -> None:
    assert child_process.run(server, job("end_with", tmp_path / "log", code=75)).code == 75
    assert child_process.run(server, job("fail", tmp_path / "log")).code == 1
    assert "ValueError: as told" in (tmp_path / "log").read_text()
    assert child_process.run(server, job("kill_itself", tmp_path / "log")).signal == signal.SIGKILL
    assert child_process.run(server, child_process.Job("no_such_module:function", {}, str(tmp_path / "log"))).code == 1


@pytest.mark.parametrize("function", ["wait_for_ever", "wait_and_ignore"])
def test_a_child_and_what_it_started_are_gone_within_seconds_of_a_killed_parent(server: Path, tmp_path: Path, function: str) -> None:
    program = (
        "import sys; from pathlib import Path; from test_child_process import job; from mm1_ablate.run import child_process;"
        f"child_process.run(Path({str(server)!r}), job({function!r}, Path({str(tmp_path / 'log')!r}), answer={str(tmp_path / 'pids')!r}))"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": os.pathsep.join([HERE, *sys.path])})
    try:
        pids = wait_for_pids(tmp_path / "pids")
        assert all(child_process.is_alive(pid) for pid in pids)
    finally:
        parent.kill()
        parent.wait()
    assert gone_within(pids, 30)


def waiting_child(folder: Path, tmp_path: Path) -> tuple[threading.Thread, list[BaseException]]:
    """A thread that asks a server for a child which never ends, and what the asking will have raised."""
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            child_process.run(folder, job("wait_for_ever", tmp_path / "log", answer=str(tmp_path / "pids")))
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, raised


def test_children_are_gone_when_their_server_is_stopped_and_that_is_not_their_failure(tmp_path: Path) -> None:
    with child_process.server(preload=[]) as folder:
        thread, raised = waiting_child(folder, tmp_path)
        pids = wait_for_pids(tmp_path / "pids")
    thread.join(120)
    assert gone_within(pids, 30)
    assert [type(error) for error in raised] == [child_process.Stopped]


def test_a_killed_server_takes_its_children_with_it_and_a_new_one_is_started(tmp_path: Path) -> None:
    with child_process.server(preload=[]) as folder:
        thread, raised = waiting_child(folder, tmp_path)
        pids = wait_for_pids(tmp_path / "pids")
        os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
        thread.join(120)
        assert [type(error) for error in raised] == [child_process.ServerLost]
        assert gone_within(pids, 30)
        assert child_process.run(folder, job("end_with", tmp_path / "log", code=0), preload=[]).code == 0


def test_a_server_ends_with_its_owner_even_while_it_imports(tmp_path: Path) -> None:
    program = (
        "from mm1_ablate.run import child_process; folder = child_process.new_server_folder();"
        "child_process.start_server(folder, owner=True, preload=['pandas', 'scipy.stats']); print(folder, flush=True); input()"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    folder = Path(parent.stdout.readline().strip())
    pids = wait_for_pids(folder / "pid")
    parent.kill()
    parent.wait()
    assert gone_within(pids, 30) and not folder.exists()
