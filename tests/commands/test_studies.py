"""The studies of a store, listed without any sweep file."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from command_line import call
from scored_study import write_scores

from mm1_ablate.commands.studies import age, size
from mm1_ablate.store.store import Store


def listed(store: Path) -> dict[str, dict[str, object]]:
    return {one["name"]: one for one in json.loads(call("studies", "--store", store, "--json").stdout)["studies"]}


def test_studies_are_listed_with_their_trials_sizes_and_ages(tiny_sweep: Path, tmp_path: Path) -> None:
    study, store = write_scores(tiny_sweep, tmp_path / "store", lambda trial, task, shots, place, item: item.references[place % 1])
    begun = time.time()
    for trial in study.trials:
        store.start(store.trial_folder(trial), "train")
        store.finish(store.trial_folder(trial))
    assert call("run", tiny_sweep, "--store", store.root).exit_code == 0
    tiny = listed(store.root)["tiny"]
    assert (tiny["trials"], tiny["done"], tiny["sweep"], tiny["is_running"]) == (6, 6, str(tiny_sweep), False)
    assert begun <= float(str(tiny["last"])) <= time.time()
    folders = [store.study_folder("tiny"), *(store.trial_folder(trial) for trial in study.trials)]
    assert tiny["size"] == sum(path.lstat().st_size for folder in folders for path in folder.rglob("*") if not path.is_dir())

    # Another seed and one arm less: what left the file is not counted, and what the new trials lack is.
    tiny_sweep.write_text(tiny_sweep.read_text().replace("[0, 1]", "[1, 2]").replace("data.mixture.interleaved, ", ""))
    from mm1_ablate.config.sweep.expand import load_study

    edited = load_study(tiny_sweep)
    store.declare(edited)
    store.register_trials(edited)
    with store.running(edited, "running 2 trials"):
        tiny = listed(store.root)["tiny"]
        assert (tiny["trials"], tiny["done"], tiny["is_running"]) == (4, 2, True)
        for width in (60, 80, 140):
            done = call("studies", "--store", store.root, COLUMNS=str(width))
            assert max(map(len, done.stdout.split("\n\n")[0].splitlines())) <= width
            assert all(word in done.stdout for word in ("tiny", "running", "1 study in")), done.stdout


def test_a_study_that_was_only_declared_and_an_empty_store(tiny_sweep: Path, tmp_path: Path) -> None:
    from mm1_ablate.config.sweep.expand import load_study

    store = Store(tmp_path / "store")
    store.declare(load_study(tiny_sweep))
    tiny = listed(store.root)["tiny"]
    assert (tiny["trials"], tiny["done"], tiny["sweep"]) == (6, 0, "")
    assert "declared, never run" in call("studies", "--store", store.root).stdout
    missing = call("studies", "--store", tmp_path / "nowhere")
    assert missing.exit_code == 2 and "there is no store" in missing.stderr


@pytest.mark.parametrize(("number", "words"), [(12, "12 B"), (999_949, "999.9 kB"), (1_500_000_000, "1.5 GB")])
def test_sizes(number: int, words: str) -> None:
    assert size(number) == words


@pytest.mark.parametrize(("seconds", "words"), [(5, "just now"), (61, "1 minute ago"), (7_300, "2 hours ago"), (200_000, "2 days ago")])
def test_ages(seconds: float, words: str) -> None:
    assert age(time.time() - seconds) == words
