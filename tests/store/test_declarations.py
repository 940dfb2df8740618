"""The record of what a study declared: what goes in, that it only grows, and that nobody can overwrite or remove any of it unnoticed."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from s3_server import Machine
from scored_study import write_scores

from mm1_ablate import __version__
from mm1_ablate.config.declarations import History, designs, expectation_of
from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.store.store import Store

EXPECTED = """\
expect:
  # why
  - {arm: without/text, metric: shot_0/average, is: below, by: 5, because: words}
  - {arm: without/interleaved, metric: 0-shot, is: within, by: 2.0, because: pictures, paper: 3 against 4}
"""


@pytest.fixture
def sweep(tiny_sweep: Path) -> Path:
    tiny_sweep.write_text(tiny_sweep.read_text() + EXPECTED)
    return tiny_sweep


def entries(study: Study, store: Store) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store.study_folder(study) / "declarations").iterdir()}


def edit(sweep: Path, old: str, new: str) -> Study:
    text = sweep.read_text()
    assert old in text
    sweep.write_text(text.replace(old, new))
    return load_study(sweep)


def score(sweep: Path, root: Path, arms: tuple[str, ...] | None = None) -> None:
    write_scores(sweep, root, lambda trial, task, shots, place, item: item.references[0], arms)


def test_all_that_verdicts_and_expectations_hang_on_is_recorded(sweep: Path, tmp_path: Path):
    study, store = load_study(sweep), Store(tmp_path / "store")
    store.declare(study)
    (content,) = entries(study, store).values()
    record = json.loads(content)
    assert record["version"] == __version__ and record["utc"].startswith("20") and record["scored"] == [] and record["trials"] == 6
    declared = record["declared"]
    claims = [{key: claim[key] for key in ("arm", "metric", "is", "by", "family")} for claim in declared["expectations"]]
    assert claims == [
        {"arm": "without/interleaved", "metric": "shot_0/average", "is": "within", "by": 2, "family": "tiny"},
        {"arm": "without/text", "metric": "shot_0/average", "is": "below", "by": 5, "family": "tiny"},
    ]
    assert "words" not in str(declared) and "3 against 4" not in str(declared), "prose claims nothing"
    assert (declared["primary"], declared["metrics"], declared["seeds"]) == ("shot_0/average", ["shot_0/average"], [0, 1])
    assert (declared["smallest_difference_of_interest"], declared["confidence"]) == (1, 0.95)
    assert {name: (arm["baseline"], arm["family"], arm["seeds"]) for name, arm in declared["arms"].items()} == {
        "baseline": ("baseline", "", [0, 1]),
        "without/interleaved": ("baseline", "tiny", [0, 1]),
        "without/text": ("baseline", "tiny", [0, 1]),
    }
    expected = expectation_of(declared["expectations"][1])
    assert (expected.arm, expected.is_, expected.by) == ("without/text", "below", 5)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# why", "# because of something else"),
        ("because: words", "because: other words"),
        ("3 against 4", "5 against 6"),
        ("metric: 0-shot", "metric: shot_0/average"),
        ("by: 2.0", "by: 2"),
        ("seeds: [0, 1]", "seeds: [1, 0]"),
        ("[data.mixture.interleaved, data.mixture.text]", "[data.mixture.text, data.mixture.interleaved]"),
        ("sweep: tiny", "description: a few words\nsweep: tiny"),
    ],
)
def test_edits_that_change_nothing_record_nothing(sweep: Path, tmp_path: Path, old: str, new: str):
    store = Store(tmp_path / "store")
    store.declare(load_study(sweep))
    before = entries(load_study(sweep), store)
    study = edit(sweep, old, new)
    assert store.declarations(study).recorded
    store.declare(study)
    assert entries(study, store) == before


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("by: 5", "by: 6", "expectations"),
        ("is: below", "is: above", "expectations"),
        ("seeds: [0, 1]", "seeds: [0, 1, 2]", "seeds"),
        ("primary: shot_0/average", "primary: shot_0/miniature_vqa", "primary"),
        ("metrics: [shot_0/average]", "metrics: [shot_0/average, shot_0/miniature_vqa]", "metrics"),
        ("compare:", "compare:\n  smallest_difference_of_interest: 50", "smallest_difference_of_interest"),
        ("compare:", "compare:\n  confidence: 0.9", "confidence"),
        ("[data.mixture.interleaved, data.mixture.text]", "[data.mixture.text]", "arms"),
        ("compare:", "everywhere: {training.steps: 5}\ncompare:", "arms"),
        ("compare:", "everywhere: {evaluation.items: 5}\ncompare:", "measured"),
    ],
)
def test_whatever_changes_what_is_found_is_another_entry_beside_the_first(sweep: Path, tmp_path: Path, old: str, new: str, key: str):
    store = Store(tmp_path / "store")
    if "interleaved, " in old:
        edit(sweep, "arm: without/interleaved", "arm: without/text")
    first = store.declare(load_study(sweep)).now
    before = entries(load_study(sweep), store)
    study = edit(sweep, old, new)
    assert not store.declarations(study).recorded
    history = store.declare(study)
    after = entries(study, store)
    assert history.recorded and len(after) == 2 and before.items() < after.items()
    assert history.declarations[0] == first and history.now.declared[key] != first.declared[key]
    assert store.declare(study) == history and entries(study, store) == after
    # Back to what it was: that is one more change.
    assert len(store.declare(edit(sweep, new, old)).declarations) == 3


def test_a_further_task_changes_averages_and_no_other_metric(sweep: Path, tmp_path: Path):
    study, store = load_study(sweep), Store(tmp_path / "store")
    more = "everywhere: {evaluation.tasks: [miniature_vqa, miniature_captions]}\ncompare:"
    one_task = edit(sweep, "metric: 0-shot", "metric: shot_0/miniature_vqa")

    def measured(study: Study) -> dict[str, str]:
        declared = store.declarations(study).now.declared
        return {claim["metric"]: claim["measured"] for claim in declared["expectations"]} | {"primary": declared["measured"]}

    before, after = measured(one_task), measured(edit(sweep, "compare:", more))
    assert before["shot_0/miniature_vqa"] == after["shot_0/miniature_vqa"]
    assert before["shot_0/average"] != after["shot_0/average"] and before["primary"] != after["primary"]
    assert study.trials[0].evaluation_fingerprint != load_study(sweep).trials[0].evaluation_fingerprint


# ---------------------------------------------------------------- scores at the time
def test_an_entry_says_which_trials_had_scores_by_whatever_evaluation(sweep: Path, tmp_path: Path):
    root = tmp_path / "store"
    score(sweep, root, ("baseline",))
    study, store = load_study(sweep), Store(root)
    now = store.declare(study).now
    assert (len(now.scored), len(now.trials)) == (2, 6) and now.scored == {trial.fingerprint[:12] for trial in study.trials_of("baseline")}
    # Another evaluation of the same models: their scores have been seen.
    now = store.declare(edit(sweep, "compare:", "everywhere: {evaluation.items: 5}\ncompare:")).now
    assert len(now.scored) == 2
    # Trained otherwise they are others; of those that the study had before it is still known.
    now = store.declare(edit(sweep, "evaluation.items", "training.steps")).now
    assert len(now.scored) == 2 and len(now.trials) == 6 and not now.scored & now.trials


def test_designs_are_told_with_the_trials_that_had_scores(sweep: Path, tmp_path: Path):
    root = tmp_path / "store"
    store = Store(root)
    store.declare(load_study(sweep))
    score(sweep, root)
    store.declare(edit(sweep, "by: 5", "by: 6"))
    store.declare(edit(sweep, "compare:", "  longer: {alter: {training.steps: 5}}\ncompare:"))
    history = store.declare(edit(sweep, "seeds: [0, 1]", "seeds: [0, 1, 2]"))
    first, second = designs(history)
    assert (first.seeds, first.scored, first.trials) == ([0, 1], 0, 6) and first.arms["without/text"] == (0, 1)
    assert (second.seeds, second.scored, second.trials) == ([0, 1, 2], 6, 12) and second.arms["longer"] == (0, 1, 2)
    assert second.time >= first.time


# ---------------------------------------------------------------- stores of earlier versions
def test_the_kept_text_of_a_run_says_what_was_declared_before_it(sweep: Path, tmp_path: Path):
    root = tmp_path / "store"
    study, store = load_study(sweep), Store(root)
    store.write_study(study)
    store.keep_texts(study, study.trials)
    score(sweep, root)
    now = store.declare(study).now
    (text,) = (store.study_folder(study) / "texts").iterdir()
    assert now.known_before and not now.scored and now.time == json.loads(text.read_text())["first"]
    # Of another text nobody knows when it was written.
    shutil.rmtree(store.study_folder(study) / "declarations")
    now = store.declare(edit(sweep, "by: 5", "by: 6")).now
    assert now.known_before and len(now.scored) == 6


def test_a_study_that_was_never_run_is_not_taken_for_one_of_an_earlier_version(sweep: Path, tmp_path: Path):
    root = tmp_path / "store"
    score(sweep, root)
    now = Store(root).declare(load_study(sweep)).now
    assert not now.known_before and len(now.scored) == 6


# ---------------------------------------------------------------- evidence
def test_a_moved_or_copied_store_keeps_its_record(sweep: Path, tmp_path: Path):
    history = Store(tmp_path / "store").declare(load_study(sweep))
    shutil.copytree(tmp_path / "store", tmp_path / "copied")
    assert Store(tmp_path / "copied").declarations(load_study(sweep)) == history


@pytest.mark.parametrize("how", ["edited", "cut", "removed", "renamed"])
def test_whoever_meddles_with_an_entry_is_noticed_and_what_is_left_is_kept(sweep: Path, tmp_path: Path, how: str):
    store = Store(tmp_path / "store")
    store.declare(load_study(sweep))
    study = edit(sweep, "by: 5", "by: 6")
    store.declare(study)
    first, _ = sorted((store.study_folder(study) / "declarations").iterdir())
    content = first.read_bytes()
    match how:
        case "edited":
            first.write_bytes(content.replace(b'"by": 5', b'"by": 1'))
        case "cut":
            first.write_bytes(content[: len(content) // 2])
        case "removed":
            first.unlink()
        case "renamed":
            first.rename(first.with_name(f"2020{first.name[4:]}"))
    store = Store(tmp_path / "store")
    history = store.declare(study)
    assert any(first.name in problem or f"2020{first.name[4:]}" in problem for problem in history.problems)
    assert len(history.declarations) == 1 and history.recorded
    assert bool(store.damaged) == (how != "removed")
    left = entries(study, store)
    store.declare(study)
    assert entries(study, store) == left


def test_a_clock_that_is_slow_puts_nothing_before_what_was_known(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = Store(tmp_path / "store")
    first = store.declare(load_study(sweep)).now
    monkeypatch.setattr("mm1_ablate.store.declarations.time.time", lambda: first.time - 3600)
    history = store.declare(edit(sweep, "by: 5", "by: 6"))
    assert [one.declared["expectations"][1]["by"] for one in history.declarations] == [5, 6]


# ---------------------------------------------------------------- several machines
def at_once(*tasks: Callable[[], object]) -> None:
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def of_two_files(sweep: Path) -> tuple[Study, Study]:
    return load_study(sweep), edit(sweep, "by: 5", "by: 6")


def claims(history: History) -> set[int]:
    return {one["by"] for declaration in history.declarations for one in declaration.declared["expectations"] if one["is"] == "below"}


def test_of_machines_that_record_in_a_folder_at_once_none_loses_anything(sweep: Path, tmp_path: Path):
    one, other = of_two_files(sweep)
    stores = [Store(tmp_path / "store") for _ in range(4)]
    at_once(*(lambda store=store, study=study: store.declare(study) for store, study in zip(stores, [one, other] * 2, strict=True)))
    history = Store(tmp_path / "store").declarations(other)
    assert claims(history) == {5, 6} and not history.problems


def test_of_machines_that_record_in_a_bucket_at_once_none_loses_anything(sweep: Path, machine: Machine):
    one, other = of_two_files(sweep)
    first, second = machine("first"), machine("second")
    for store in (first, second):
        store.refresh()
    at_once(lambda: first.declare(one), lambda: second.declare(other))
    for store in (first, second, machine("third")):
        store.refresh()
        history = store.declarations(other)
        assert claims(history) == {5, 6} and not history.problems and not store.damaged


def test_a_machine_sees_what_another_has_just_recorded_in_a_bucket_and_adds_nothing(sweep: Path, machine: Machine):
    study = load_study(sweep)
    first, second = machine("first"), machine("second")
    second.refresh()
    history = first.declare(study)
    assert second.declare(study) == history
