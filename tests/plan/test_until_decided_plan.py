"""Seeds until decided in plan and status: the least and the most, and nothing missing that nobody asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from study_helpers import noisy_trial, study, until_decided

from mm1_ablate.commands.plan import looks_in_words
from mm1_ablate.commands.status import status_json
from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.declaration import Budget
from mm1_ablate.plan.plan import plan
from mm1_ablate.plan.until_decided import as_needed
from mm1_ablate.store.store import Store

ARMS = ("baseline", "clear", "slow")


def do(whole: Study, store: Store) -> Study:
    """Do what is needed for the next look; returns what is needed after it."""
    for trial in as_needed(whole, store).trials:
        if not store.has_scores(trial):
            store.write_trial(trial)
            noisy_trial(str(store.root), trial.fingerprint, [trial.evaluation_fingerprint])
    return as_needed(whole, store)


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_a_plan_says_the_least_and_the_most_and_holds_budgets_against_the_most(tmp_path: Path) -> None:
    whole, store = until_decided(ARMS), Store(tmp_path / "store")
    planned = plan(whole, store)
    assert planned.most is not None
    assert (len(planned.to_do), len(planned.most.to_do)) == (9, 18)
    assert planned.expected_trials is None, "before any result nothing is known of differences and noise"
    least, most = planned.cost.cpu_hours, planned.most.cost.cpu_hours
    assert least is not None and most == pytest.approx(2 * least)
    first, waits, to_do = looks_in_words(planned)
    assert first == "seeds are added until all is decided, 3 to 6: the next look is at 3"
    assert waits.startswith("not needed so far: the look at 3 seeds comes first: baseline/seed-3") and waits.endswith("and 3 more")
    assert to_do.startswith("to do: at least 9 trials, at most 18, ")
    budget = Budget(cpu_hours=1.5 * least)
    assert plan(replace_budget(whole, budget), store).over_budget


def replace_budget(whole: Study, budget: Budget) -> Study:
    return replace(whole, sweep=whole.sweep.model_copy(update={"budget": budget}))


def test_after_a_look_only_what_is_open_is_planned_and_status_calls_nothing_else_missing(tmp_path: Path) -> None:
    whole, store = until_decided(ARMS), Store(tmp_path / "store")
    needed = do(whole, store)
    planned = plan(whole, store)
    assert [row.name for row in planned.to_do] == ["baseline/seed-3", "slow/seed-3"]
    assert planned.most is not None and len(planned.most.to_do) == 6
    assert planned.expected_trials is not None and 2 < planned.expected_trials < 6
    assert f"; expected about {planned.expected_trials:.0f} trials" in looks_in_words(planned)[-1]
    known = status_json(needed, store)
    assert known["counts"] == {"done": 9, "missing": 2}
    reasons = {one["name"]: (one["reason"], one["may_come"]) for one in known["not_run"]}
    assert reasons["clear/seed-3"] == ("not needed: decided at 3 seeds", False)
    assert reasons["slow/seed-4"] == ("not needed so far: the look at 4 seeds comes first", True)
    assert known["no_longer_named"] == [] and plan(whole, store).unlisted == ()


def test_what_is_needed_is_the_same_however_often_it_is_asked_and_after_everything_is_decided(tmp_path: Path) -> None:
    whole, store = until_decided(ARMS), Store(tmp_path / "store")
    once = do(whole, store)
    assert as_needed(once, store) == once == as_needed(as_needed(whole, store), store)
    assert once.possible_seeds_of("clear") == (0, 1, 2, 3, 4, 5) and once.seeds_of("clear") == (0, 1, 2)
    while (after := do(once, store)) != once:
        once = after
    assert plan(whole, store).to_do == () and plan(whole, store).most is None
    assert status_json(once, store)["counts"].keys() == {"done"}


def test_a_fixed_design_is_left_as_it_is(tmp_path: Path) -> None:
    fixed = study(ARMS, (0, 1, 2))
    assert as_needed(fixed, Store(tmp_path / "store")) is fixed
    assert looks_in_words(SimpleNamespace(studies=[fixed], most=None)) == []  # type: ignore[arg-type]
