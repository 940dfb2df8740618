"""A command of the user's own is told how a run ended, and changes nothing about that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import call
from scored_study import write_scores

from mm1_ablate.commands.hooks import Hooks
from mm1_ablate.store.store import Store

NAMES = ("STUDY", "SWEEP", "STORE", "EXIT_CODE", "OUTCOME", "REPORT", "HEADLINE")
WRITE = " ".join(f'"$MM1_ABLATE_{name}"' for name in NAMES)


@pytest.fixture
def store(tiny_sweep: Path, tmp_path: Path) -> Store:
    return write_scores(tiny_sweep, tmp_path / "store", lambda trial, task, shots, place, item: item.references[place % 1])[1]


def told(file: Path) -> dict[str, str]:
    return dict(zip(NAMES, file.read_text().splitlines(), strict=True))


def hook(file: Path, after: str = "") -> str:
    return f"printf '%s\\n' {WRITE} > {file}{after}"


def test_a_finished_run_tells_the_verdict_and_where_its_report_is(store: Store, tiny_sweep: Path, tmp_path: Path) -> None:
    finished, failed = tmp_path / "finished", tmp_path / "failed"
    done = call("run", tiny_sweep, "--store", store.root, "--on-finish", hook(finished, "; exit 7"), "--on-failure", hook(failed))
    assert done.exit_code == 0 and "--on-finish: ended with exit code 7" in done.stderr, done.output
    facts = told(finished)
    assert (facts["STUDY"], facts["SWEEP"], facts["STORE"]) == ("tiny", str(tiny_sweep), str(store.root))
    assert (facts["EXIT_CODE"], facts["OUTCOME"]) == ("0", "finished") and not failed.exists()
    assert Path(facts["REPORT"]).exists() and facts["HEADLINE"] in " ".join(done.stdout.split())


def test_a_failed_trial_and_a_wrong_file_are_failures(store: Store, tiny_sweep: Path, tmp_path: Path) -> None:
    finished, failed = tmp_path / "finished", tmp_path / "failed"
    options = ("--on-finish", hook(finished), "--on-failure", hook(failed))
    trial = store.trial_folder(json.loads(call("status", tiny_sweep, "--store", store.root, "--json").stdout)["trials"][0]["fingerprint"])
    for path in trial.glob("evaluations/*/scores.json"):
        path.unlink()
    store.start(trial, "train")
    store.fail(trial, "ValueError: made up")
    done = call("run", tiny_sweep, "--store", store.root, *options)
    assert done.exit_code == 1, done.output
    assert (told(failed)["EXIT_CODE"], told(failed)["OUTCOME"], told(failed)["STUDY"]) == ("1", "some trials failed", "tiny")
    tiny_sweep.write_text(tiny_sweep.read_text().replace("experiment:", "experimnt:"))
    assert call("run", tiny_sweep, "--store", store.root, *options).exit_code == 2
    assert (told(failed)["EXIT_CODE"], told(failed)["OUTCOME"], told(failed)["STUDY"]) == ("2", "the file is wrong", "")
    assert not finished.exists()


def test_an_error_and_an_interrupt_are_told_and_pass(tmp_path: Path) -> None:
    for error, code in ((ArithmeticError, "1"), (KeyboardInterrupt, "130")):
        failed = tmp_path / code
        with pytest.raises(error), Hooks(failure=hook(failed)).around():
            raise error
        assert told(failed)["EXIT_CODE"] == code
