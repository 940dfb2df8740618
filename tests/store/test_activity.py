"""What a run of a study says that it does, and what is known of one that says nothing any more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from study_helpers import study

from mm1_ablate.store import activity
from mm1_ablate.store.store import Store


def test_a_run_says_what_it_does_and_that_it_ended(tmp_path: Path) -> None:
    store, tiny = Store(tmp_path), study()
    assert store.runs(tiny) == []
    with store.running(tiny, "preparing data") as doing:
        (run,) = store.runs(tiny)
        assert (run.what, run.pid, run.is_alive) == ("preparing data", os.getpid(), True)
        doing("comparing 8 trials")
        (later,) = store.runs(tiny)
        assert later.what == "comparing 8 trials" and later.since > run.since and later.began == run.began
    (ended,) = store.runs(tiny)
    assert ended.ended and not ended.is_alive and ended.what == "ended"
    with pytest.raises(ValueError), store.running(tiny, "again"):
        raise ValueError
    assert store.runs(tiny)[0].what == "ended with an error"


def test_a_run_that_was_killed_is_not_alive_and_its_record_goes_with_the_next(tmp_path: Path) -> None:
    store, tiny = Store(tmp_path), study()
    code = "import os, sys; from study_helpers import study; from mm1_ablate.store.store import Store\n"
    code += "with Store(sys.argv[1]).running(study(), 'running 4 trials'): os._exit(9)"
    helpers = str(Path(__file__).parents[1] / "helpers")
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=os.environ | {"PYTHONPATH": f"{helpers}:{Path.cwd()}"})
    (lost,) = store.runs(tiny)
    assert lost.what == "running 4 trials" and not lost.is_alive and not lost.ended
    with store.running(tiny, "preparing data"):
        assert [run.pid for run in store.runs(tiny)] == [os.getpid()]
    assert len(list((store.study_folder(tiny) / activity.FOLDER).glob("*.json"))) == 1


def test_a_run_of_another_machine_is_alive_as_long_as_it_gives_signs_of_life(tmp_path: Path) -> None:
    store, tiny = Store(tmp_path), study()
    with store.running(tiny, "running 4 trials"):
        pass
    (path,) = (store.study_folder(tiny) / activity.FOLDER).glob("*.json")
    record = json.loads(path.read_text()) | {"host": "elsewhere", "pid": 1, "ended": False, "seen": time.time() - 30}
    path.write_text(json.dumps(record))
    assert store.runs(tiny)[0].is_alive
    path.write_text(json.dumps(record | {"seen": time.time() - 2 * activity.LOST_AFTER}))
    assert not store.runs(tiny)[0].is_alive


def test_signs_of_life_are_given_while_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "SIGN_EVERY", 0.05)
    store, tiny = Store(tmp_path), study()
    with store.running(tiny, "running 4 trials"):
        first = store.runs(tiny)[0].seen
        time.sleep(0.5)
        (run,) = store.runs(tiny)
        assert run.seen > first and run.what == "running 4 trials"
