"""Bad data in a trial: skipped, counted and written down, also over an interruption; too much of it fails the trial, in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lines_files import LINES, write_data
from study_helpers import trial
from tiny import TINY, tiny_experiment

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.run.trial import run_trial
from mm1_ablate.store.store import Store
from mm1_ablate.training.fit import fit


@pytest.fixture(autouse=True)
def _own_surroundings_and_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))


def text_experiment(folder: Path, bad: int, **changes: Any) -> Experiment:
    """The tiny experiment on 100 lines of text alone, of which some are bad."""
    lines = [f"BAD {number}" if number < bad else "the goat is in the barn" + " ." * (number % 10) for number in range(100)]
    write_data(folder / "data", first="\n".join(lines))
    source = LINES | {"files": str(folder / "data" / "*.txt")}
    mixture = {"data.mixture": {"text": 1}, "data.sources": {"text": source}, "data.packing.buffer_documents": 8}
    return tiny_experiment(TINY | {"evaluation.tasks": ["miniature_facts"], "training.batch_rows": 1} | mixture | changes)


def account_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "data.json").read_text())["text"]


def test_a_trial_skips_bad_data_and_writes_down_what(tmp_path: Path):
    experiment = text_experiment(tmp_path, 5, **{"data.max_bad_share": 0.5, "training.steps": 20, "training.checkpoint_every_steps": 3})
    seen: list[dict[str, Any]] = []
    trained = tmp_path / "trial"

    def look(progress: Any) -> None:
        if (trained / "data.json").exists():
            seen.append(account_in(trained))

    fit(experiment, 0, None, None, trained, look)
    account = account_in(trained)
    # Each epoch meets each bad line once.
    assert account["bad"] == {"line that begins with BAD": account["drawn"] - account["documents"]}
    assert abs(account["bad"]["line that begins with BAD"] - 5 * account["epochs"]) <= 5 and account["epochs"] > 1
    examples = account["examples"]["line that begins with BAD"]
    assert len(examples) == 3 and examples[0].startswith("line ")
    # And it was there before the end, from the first checkpoint on.
    assert seen and seen[0]["drawn"] < account["drawn"] and seen[0]["documents"] > 0


class Stopped(Exception):
    pass


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_the_account_of_a_stopped_trial_goes_on_where_it_was(tmp_path: Path, threads: int):
    steps = {"training.steps": 8, "training.checkpoint_every_steps": 3, "data.max_bad_share": 0.5, "training.loader_threads": threads}
    experiment = text_experiment(tmp_path, 5, **steps)
    whole = fit(experiment, 0, None, None, tmp_path / "whole", lambda progress: None).state_dict()

    def stop(progress: Any) -> None:
        if progress.step == 5:
            raise Stopped

    with pytest.raises(Stopped):
        fit(experiment, 0, None, None, tmp_path / "stopped", stop)
    assert account_in(tmp_path / "stopped")["drawn"] > 0
    resumed = fit(experiment, 0, None, None, tmp_path / "stopped", lambda progress: None).state_dict()
    assert account_in(tmp_path / "stopped") == account_in(tmp_path / "whole")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_too_much_bad_data_fails_the_trial_with_the_reason_and_is_left_alone(tmp_path: Path):
    experiment = text_experiment(tmp_path, 30, **{"training.steps": 200})
    store, declared = Store(tmp_path / "store"), trial("baseline", 0, experiment)
    folder = store.write_trial(declared)
    assert run_trial(str(store.root), declared.fingerprint, [declared.evaluation_fingerprint]) == 1
    state = store.status(declared)
    assert state.status == "failed" and state.reason.startswith("bad data: ")
    for word in ("of source 'text' cannot be read", "1.0% allowed", "begins with BAD", "first: line", "data.sources.text.max_bad_share"):
        assert word in state.reason, state.reason
    assert account_in(folder)["bad"]["line that begins with BAD"] > 0
    assert not (folder / "model.pt").exists()


def test_how_much_bad_data_is_allowed_says_how_a_trial_runs_and_not_what_it_is(tmp_path: Path):
    allowed = [text_experiment(tmp_path, 3, **{"data.max_bad_share": share, "training.steps": 15}) for share in (0.0, 1.0)]
    strict, lax = (trial("baseline", 0, experiment) for experiment in allowed)
    assert strict.fingerprint == lax.fingerprint
    store = Store(tmp_path / "store")
    store.write_trial(strict)
    assert run_trial(str(store.root), strict.fingerprint, []) == 1
    store.retry(store.write_trial(lax))
    assert run_trial(str(store.root), lax.fingerprint, []) == 0


def test_a_worker_compares_digests_and_checks_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from lines_source import Lines

    experiment = text_experiment(tmp_path, 0, **{"training.steps": 2})
    store, declared = Store(tmp_path / "store"), trial("baseline", 0, experiment)
    store.write_trial(declared)
    made: list[str] = []
    monkeypatch.setattr(Lines, "make_ready", lambda self, report=None: made.append("ready"))
    monkeypatch.setattr(Lines, "check", lambda self: pytest.fail("a worker checked the data again"))
    assert run_trial(str(store.root), declared.fingerprint, [declared.evaluation_fingerprint]) == 0
    assert made == ["ready"]
