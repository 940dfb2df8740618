"""An evaluation of which only a part is wanted or can be asked: all else comes out as if nothing were missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas
import pytest
from toy_tasks import CHOOSE, experiment_on, record, toy

from mm1_ablate.config.training import Progress
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.evaluation import evaluate as module
from mm1_ablate.evaluation.evaluate import ends_all, predict, without_frames
from mm1_ablate.evaluation.prediction_shards import join_shards, shard_rows, shards_of
from mm1_ablate.evaluation.requests import ContextOverflow

SHOTS = [0, 2, 3]


class Log:
    """What became of tasks that cannot be asked."""

    def __init__(self) -> None:
        self.told: list[tuple[str, list[int], str]] = []
        self.errors: list[Exception] = []

    def __call__(self, task: str, shots: Sequence[int], error: Exception) -> None:
        self.told.append((task, list(shots), str(error)))
        self.errors.append(error)


@pytest.fixture
def ask(model, tokenizer):
    def asked(tasks: list[str], *, evaluation: dict[str, Any] | None = None, **more: Any) -> pandas.DataFrame:
        experiment = experiment_on(tasks, **{"items": 4, "shots": SHOTS, **(evaluation or {})})
        return predict(model, experiment, tokenizer, ImagePipeline(24), **more)

    return asked


def same(found: pandas.DataFrame, expected: pandas.DataFrame) -> None:
    assert len(expected)
    others = [column for column in expected.columns if column != "log_likelihoods"]
    pandas.testing.assert_frame_equal(found[others], expected[others].reset_index(drop=True), check_dtype=False)


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """A task that generates, of which one picture and one reference are missing, and one that chooses."""
    return [record(tmp_path, toy(corrupt=["q1"], incomplete=["q2"], bad=1)), record(tmp_path, {**CHOOSE, "task": "other"})]


# ---------------------------------------------------------------- what is wanted
def test_what_is_wanted_comes_out_as_if_all_were_asked(ask, two) -> None:
    seeds = {"seeds": [0, 5]}
    kept: list[pandas.DataFrame] = []
    checked: list[str] = []
    full = ask(two, evaluation=seeds, keep=kept.append, check=checked.append)
    assert [table["task"].unique().tolist() for table in kept] == [["toy"], ["other"]] and checked == ["toy", "toy", "other", "other"]
    same(pandas.concat(kept, ignore_index=True), full)
    # 4 questions and what the source could not make, at each number of shots under each seed.
    assert full.groupby(["task", "shots", "evaluation_seed"], sort=False).size().to_dict() == {
        (task, shots, seed): 5 if task == "toy" else 4 for task in ("toy", "other") for shots in SHOTS for seed in (0, 5)
    }
    checked.clear()
    reports: list[Progress] = []

    def wanted(task: str, shots: int, seed: int) -> bool:
        return task == "toy" and shots == 3 and seed == 5

    some = ask(two, evaluation=seeds, wanted=wanted, check=checked.append, report=reports.append)
    same(some, full[(full["task"] == "toy") & (full["shots"] == 3) & (full["evaluation_seed"] == 5)])
    assert checked == ["toy", "toy"], "what is not wanted is not opened"
    assert [one.step for one in reports] == sorted(one.step for one in reports) and reports[-1] == Progress("evaluate", 3, 3, None)
    assert ask(two, evaluation=seeds, wanted=lambda *_: False).empty


def test_a_place_is_that_of_the_item_in_its_task_and_what_has_no_item_comes_behind(ask, two) -> None:
    own = ask(two[:1], evaluation={"shots": [0]})
    assert own[["place", "item", "problem"]].apply(tuple, axis=1).tolist() == [
        (0, "q0", ""),
        (1, "q1", "truncated JPEG: q1"),
        (2, "q2", "no reference: q2"),
        (3, "q3", ""),
        (5, "row 0", "no annotation: row 0"),
    ]
    left_out = own[own["item"].isin(["q2", "row 0"])]
    assert (
        (left_out[["group", "demonstration_set", "set_number", "replaced", "prompt", "prediction"]] == ["", "", 0, "", "", ""]).all().all()
    )
    assert own.loc[1, "prompt"].startswith("<image> ") and own.loc[1, "group"] == "b"


# ---------------------------------------------------------------- what cannot be asked
def test_a_number_of_shots_that_does_not_fit_keeps_no_other_from_being_asked(ask, two, model, monkeypatch) -> None:
    full = ask(two)
    longest = {"toy": 0, "other": 0}

    def noting(task: str, needed: Any, image_tokens: int, length: int) -> None:
        for need in needed:
            longest[task] = max(longest[task], need.text_tokens + need.images * image_tokens + need.answer_tokens)

    with monkeypatch.context() as patch:
        patch.setattr(module, "check_context", noting)
        ask(two, wanted=lambda task, shots, seed: shots == 2)
    monkeypatch.setattr(model, "context_length", max(longest.values()))
    log, kept = Log(), []
    same(ask(two, failed=log, keep=kept.append), full[full["shots"] < 3])
    assert [(task, shots) for task, shots, _ in log.told] == [("toy", [3]), ("other", [3])]
    assert all(isinstance(error, ContextOverflow) and "at 3 shots needs" in str(error) for error in log.errors)
    assert [len(table) for table in kept] == [2 * 5, 2 * 4]
    with pytest.raises(ContextOverflow, match="task toy at 3 shots"):
        ask(two)


def test_too_few_demonstrations_for_some_shots_leave_the_others(ask, tmp_path) -> None:
    few = toy(demonstrations=4)  # two of each group
    log = Log()
    found = ask([record(tmp_path, few)], failed=log)
    same(found, ask([record(tmp_path, few)], evaluation={"shots": [0, 2]}))
    assert [(task, shots) for task, shots, _ in log.told] == [("toy", [3])] and "3 shots need 3 demonstrations" in log.told[0][2]


def test_a_task_of_which_nothing_can_be_asked_leaves_the_other_tasks(ask, two, tmp_path) -> None:
    nothing = record(tmp_path, {**toy(incomplete=[f"q{number}" for number in range(4)]), "task": "none"})
    log = Log()
    same(ask([nothing, two[0]], failed=log), ask(two[:1]))
    message = "task none: no items that can be evaluated: no reference: q0; no reference: q1; no reference: q2"
    assert log.told == [("none", SHOTS, message)]
    log.told.clear()
    assert ask([nothing], evaluation={"shots": [0]}, failed=log).empty and log.told == [("none", [0], message)]
    with pytest.raises(ValueError, match="task none: no items that can be evaluated"):
        ask([nothing])


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception, at: int = 3, task: str = "toy") -> None:
    answers = module._TaskRunner._answers

    def answer(self: Any, batch: Any, shots: int) -> Any:
        if self.prepared.task.task == task and shots == at:
            raise error
        return answers(self, batch, shots)

    monkeypatch.setattr(module._TaskRunner, "_answers", answer)


def test_an_error_while_a_task_is_asked_costs_the_shots_that_it_comes_at(ask, two, monkeypatch) -> None:
    full = ask(two)
    failing(monkeypatch, RuntimeError("boom"))
    log, kept = Log(), []
    same(ask(two, failed=log, keep=kept.append), full[(full["task"] != "toy") | (full["shots"] < 3)])
    assert log.told == [("toy", [3], "boom")] and [len(table) for table in kept] == [2 * 5, 3 * 4]
    # Its traceback is kept as text: frames would hold tensors.
    (error,) = log.errors
    assert error.__traceback__ is None and "Traceback (most recent call last):" in error.__notes__[0] and "in answer" in error.__notes__[0]
    with pytest.raises(RuntimeError, match="boom"):
        ask(two)


def test_an_error_at_the_only_number_of_shots_costs_the_task(ask, two, monkeypatch) -> None:
    failing(monkeypatch, RuntimeError("boom"), at=0)
    log, kept = Log(), []
    found = ask(two, evaluation={"shots": [0]}, failed=log, keep=kept.append)
    assert found["task"].unique().tolist() == ["other"] and len(kept) == 1 and log.told == [("toy", [0], "boom")]
    assert ask(two[:1], evaluation={"shots": [0]}, failed=log).empty


def test_after_an_error_of_cuda_nothing_else_is_tried(ask, two, model, monkeypatch) -> None:
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    assert ends_all(error, model) and not ends_all(RuntimeError("out of memory"), model)
    failing(monkeypatch, error)
    log = Log()
    with pytest.raises(RuntimeError, match="CUDA error"):
        ask(two, failed=log)
    assert not log.told


def test_what_happens_to_another_process_happens_to_all(ask, two, monkeypatch) -> None:
    """The other process cannot ask 'toy' at 3 shots: found when all numbers are asked together, then when 3 is asked alone."""
    full = ask(two)
    elsewhere: Iterator[Exception | None] = iter([None, None, RuntimeError("elsewhere"), None, None, RuntimeError("3 alone"), None])
    given: list[Exception | None] = []

    def agree(error: Exception | None) -> Exception | None:
        given.append(error)
        return error or next(elsewhere)

    log = Log()
    same(ask(two, failed=log, agree=agree), full[(full["task"] != "toy") | (full["shots"] < 3)])
    assert log.told == [("toy", [3], "3 alone")] and given == [None] * 7 and next(elsewhere, "end") == "end"


def test_an_error_keeps_the_text_of_its_traceback_and_none_of_its_frames() -> None:
    try:
        raise KeyError("gone")
    except KeyError as error:
        found = without_frames(error)
        assert found is error
    assert found.__traceback__ is None and found.__notes__[0].endswith("KeyError: 'gone'\n") and "raise KeyError" in found.__notes__[0]


# ---------------------------------------------------------------- parts that are predicted apart
def test_parts_that_are_predicted_apart_are_those_of_the_whole(ask, two) -> None:
    experiment = experiment_on(two, items=4, shots=[3, 0], seeds=[0, 5])
    parts = shards_of(experiment, "trained")
    assert [(part.kind, part.name, part.shots, part.seeds) for part in parts] == [
        ("task", name, shots, seeds) for name in ("toy", "other") for shots, seeds in ((0, (0, 5)), (3, (0,)), (3, (5,)))
    ]
    full = ask(two, evaluation={"shots": [3, 0], "seeds": [0, 5]})
    kept = [(part, shard_rows(part, full)) for part in parts]
    assert [len(table) for _, table in kept] == [5, 5, 5, 4, 4, 4]
    joined, documents = join_shards([(part, table.assign(task="?", evaluation_seed=-1)) for part, table in kept])
    same(
        joined.sort_values(["task", "shots", "evaluation_seed", "place"], ascending=[False, True, True, True]).reset_index(drop=True), full
    )
    assert documents.empty
