"""What cannot be asked: items that are bad, demonstrations that cannot be shown, prompts that do not fit."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pandas
import pytest
from tiny import tiny_experiment
from toy_tasks import (
    CONFIGURATION,
    GENERATE,
    demonstrations_of,
    experiment_on,
    record,
    run,
    toy,
)

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.evaluation.preflight import asked, unaskable_tasks
from mm1_ablate.evaluation.scores import summarise


def test_bad_items_are_counted_and_named_and_the_score_is_over_the_others(model, tokenizer, tmp_path) -> None:
    fine = run(model, experiment_on([record(tmp_path, GENERATE)]), tokenizer)
    broken = record(tmp_path, toy(corrupt=["q1", "q4"], incomplete=["q2"], bad=1))
    table = run(model, experiment_on([broken]), tokenizer)
    good = ["q0", "q3", "q5", "q6", "q7", "q8"]
    answered = table[table["problem"] == ""]
    columns = ["shots", "item", "demonstration_set", "prediction", "score"]
    # Other questions, and what they draw, are as they would be without the bad ones.
    pandas.testing.assert_frame_equal(
        answered[columns].reset_index(drop=True), fine[fine["item"].isin(good)][columns].reset_index(drop=True), check_dtype=False
    )
    left_out = table[table["problem"] != ""]
    assert answered.groupby("shots")["item"].nunique().tolist() == [6, 6, 6]
    assert left_out.groupby("shots")["item"].nunique().tolist() == [4, 4, 4]
    reasons = Counter(problem.partition(": ")[0] for problem in left_out[left_out["shots"] == left_out["shots"].min()]["problem"])
    assert reasons == {"no annotation": 1, "no reference": 1, "truncated JPEG": 2}
    assert summarise(table)["shot_3/toy"] == pytest.approx(100 * answered.query("shots == 3")["score"].mean())
    assert set(table.loc[table["item"] == "q4", "problem"]) == {"truncated JPEG: q4"}
    assert table.loc[table["item"] == "q4", "score"].isna().all()


@pytest.mark.parametrize("policy", ["per_task", "per_query"])
def test_a_demonstration_that_cannot_be_shown_is_replaced_by_the_next_in_its_order(model, tokenizer, tmp_path, policy) -> None:
    fine = run(model, experiment_on([record(tmp_path, GENERATE)], demonstrations=policy, shots=[4]), tokenizer)
    corrupt, incomplete = demonstrations_of(fine, 4)["q0"][0], demonstrations_of(fine, 4)["q1"][1]
    bad = {corrupt, incomplete}
    path = record(tmp_path, toy(corrupt=[corrupt], incomplete=[incomplete]))
    for size in (2, 64):
        table = run(model, experiment_on([path], demonstrations=policy, shots=[1, 3], batch_items=size), tokenizer)
        three, one = demonstrations_of(table, 3), demonstrations_of(table, 1)
        for item, four in demonstrations_of(fine, 4).items():
            expected = [name for name in four if name not in bad]
            assert three[item][: len(expected)] == expected[:3] and len(three[item]) == 3
            assert one[item] == three[item][:1]
            own = table[(table["item"] == item) & (table["shots"] == 3)]["replaced"].item()
            assert all(name in own for name in four[:3] if name in bad)
        reasons = " ".join(table["replaced"].unique())
        assert f"truncated JPEG: {corrupt}" in reasons and f"no reference: {incomplete}" in reasons


def test_a_task_of_which_nothing_can_be_asked_is_an_error(model, tokenizer, tmp_path) -> None:
    names = [f"q{number}" for number in range(9)]
    with pytest.raises(ValueError, match=r"task toy: no items that can be evaluated: (no reference: q\d(; |$)){3}$"):
        run(model, experiment_on([record(tmp_path, toy(incomplete=names))]), tokenizer)
    with pytest.raises(ValueError, match="task toy at 0 shots: no item has a score under exact_match: truncated JPEG: q0"):
        summarise(run(model, experiment_on([record(tmp_path, toy(corrupt=names))], shots=[0]), tokenizer))
    with pytest.raises(ValueError, match="3 shots need 3 demonstrations"):
        run(model, experiment_on([record(tmp_path, toy(corrupt=[f"d{number}" for number in range(8)]))]), tokenizer)


def test_prompts_that_do_not_fit_are_found_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    path = record(tmp_path, GENERATE)

    def declared(length: int, **changes: Any) -> Experiment:
        fields = {**CONFIGURATION, "max_position_embeddings": length}
        return tiny_experiment(
            {"model.language_model.configuration": fields, "evaluation": {"tasks": [path], "shots": [0, 2, 3]}, **changes}
        )

    needed = asked(declared(1).evaluation, "miniature").needed["toy"]
    longest = max(sum(need[2:]) + 4 * need.images for need in needed)
    assert not unaskable_tasks(declared(longest))
    (too_long,) = unaskable_tasks(declared(longest - 1))
    expected = f"task toy at 3 shots needs {longest} tokens of context .* language model has {longest - 1}"
    assert re.search(expected, too_long.message) and too_long.path == ("evaluation", "shots")
    (short,) = unaskable_tasks(declared(30, **{"model.connector": {"type": "average_pool", "image_tokens": 1}}))
    assert "an image takes 1, " in short.message
