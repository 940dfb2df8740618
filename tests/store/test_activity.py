"""What a run of a study says that it does, and what is known of one that says nothing any more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from s3_server import Machine, Server
from study_helpers import quick_trial, study

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


def test_in_a_bucket_other_machines_see_what_a_run_does_and_how_much_a_study_takes(server: Server, machine: Machine) -> None:
    tiny, store = study(), machine("first")
    store.write_study(tiny)
    store.register_trials(tiny)
    with store.running(tiny, "running 2 trials") as doing:
        (run,) = machine("second").runs(tiny)
        assert run.what == "running 2 trials" and run.is_alive
        one = tiny.trials[0]
        store.write_trial(one)
        quick_trial(store.address, one.fingerprint, [one.evaluation_fingerprint])
        doing("comparing 1 trials")
        other = machine("second")
        other.refresh()
        assert other.runs(tiny)[0].what == "comparing 1 trials"
        (known,) = other.studies()
        assert (known.name, known.trials, known.done, known.is_running) == ("test", 2, 1, True)
        sizes = {each.key: each.size for each in server.bucket.objects.all()}
        folders = ("studies/test/", *(f"trials/{store.trial_folder(each).name}/" for each in tiny.trials))
        assert known.size == sum(size for key, size in sizes.items() if any(f"/{folder}" in key for folder in folders))
    assert machine("second").runs(tiny)[0].ended
