"""Studies in one table: numbers and verdicts stay those of each study, and what was measured otherwise is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import call
from made_up import made_up_study, noisy_results
from scored_study import write_scores

from mm1_ablate.report.cells import Measure
from mm1_ablate.report.comparison import compare
from mm1_ablate.report.exports import write_export
from mm1_ablate.report.side_by_side import Side, joined, refusals


def side(name: str, arms: list[str], seeds: tuple[int, ...] = (0, 1, 2), items: str = "1,920 (abcd)", **settings: Any) -> Side:
    study = replace(made_up_study(arms, seeds=seeds, **settings), name=name)
    if seeds != (0, 1, 2):
        trials = tuple(replace(trial, evaluation_fingerprint=f"{name}-{trial.evaluation_fingerprint}") for trial in study.trials)
        study = replace(study, trials=trials)
    results, table = noisy_results(study, {"baseline": 50.0, **{arm: 50.0 - 10 * place for place, arm in enumerate(arms, 1)}}, items=20)
    costs = {arm.name: [Measure("evaluation items", items)] for arm in study.arms}
    return Side(study, replace(compare(study, results, [], table, costs), study=name))


def test_arms_of_all_studies_stand_in_one_table_with_the_numbers_and_verdicts_that_they_have_alone(tmp_path: Path) -> None:
    first, second = side("connectors", ["pool/a", "b"]), side("mixtures", ["mix/a", "b"])
    assert refusals([first, second]) == []
    both = joined([first, second])
    names = ["baseline", "connectors/pool/a", "connectors/b", "mixtures/mix/a", "mixtures/b"]
    assert [row.name for row in both.rows] == names and both.study == "connectors and mixtures"
    for one in (first, second):
        for row in one.comparison.rows[1:]:
            own = both.row(f"{one.name}/{row.name}")
            assert (own.cells, own.verdict, own.notes, own.baseline) == (dict(row.cells), row.verdict, row.notes, "baseline")
    assert list(both.families.values()) == [2, 2]
    assert "verdict is corrected within that study" in both.remarks[0]
    for ending in (".tex", ".html", ".csv"):
        text = write_export(tmp_path / f"both{ending}", both)[0].read_text(encoding="utf-8")
        assert "connectors" in text and "mixtures" in text


def test_a_baseline_of_other_seeds_is_a_row_of_its_own() -> None:
    first, second = side("one", ["a"]), side("two", ["a"], seeds=(5, 6, 7))
    both = joined([first, second])
    assert [row.name for row in both.rows] == ["baseline", "one/a", "two/baseline", "two/a"]
    assert both.row("two/a").baseline == "two/baseline" and both.row("two/baseline").is_baseline
    assert any("other seeds" in remark for remark in both.remarks)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"experiment": {"training.steps": 7}}, "another baseline: training.steps"),
        ({"experiment": {"evaluation.items": 3}}, "other items or another way to ask them: evaluation.items"),
        ({"items": "1,919 (bcde)"}, "other items: 1,920 (abcd) and 1,919 (bcde)"),
        ({"compare": {"confidence": 0.9}}, "their verdicts are about other things: 8-shot, at 0.9"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(settings: dict[str, Any], reason: str) -> None:
    (told,) = refusals([side("one", ["a"]), side("two", ["b"], **settings)])
    assert told.startswith("'two' and 'one' cannot be compared: ") and reason in told


def test_a_study_is_named_once() -> None:
    assert refusals([side("one", ["a"]), side("one", ["b"])]) == ["one is named more than once: give each study once"]


def test_the_command_shows_and_writes_one_table_or_says_why_not(tiny_sweep: Path, tmp_path: Path) -> None:
    text = tiny_sweep.read_text()
    other = tiny_sweep.with_name("other.yaml")
    other.write_text(text.replace("sweep: tiny", "sweep: other").replace("data.mixture.interleaved, ", ""))
    for sweep in (tiny_sweep, other):
        write_scores(sweep, tmp_path / "store", lambda trial, task, shots, place, item: item.references[0] if place % 2 else "nothing")
    done = call("report", tiny_sweep, other, "--store", tmp_path / "store", "--to", tmp_path / "both.csv")
    assert done.exit_code == 0, done.output
    assert "tiny and other: scores and differences" in done.stdout and f"written: {tmp_path / 'both.csv'}" in done.stdout
    arms = json.loads(call("report", tiny_sweep, other, "--store", tmp_path / "store", "--json").stdout)["arms"]
    assert [arm["name"] for arm in arms] == ["baseline", "tiny/without/interleaved", "tiny/without/text", "other/without/text"]
    experiment = tmp_path / "experiments" / "second.yaml"
    experiment.write_text((tmp_path / "experiments" / "tiny.yaml").read_text().replace("items: 4", "items: 3"))
    other.write_text(other.read_text().replace("tiny.yaml", "second.yaml"))
    wrong = call("report", tiny_sweep, other, "--store", tmp_path / "store")
    assert wrong.exit_code == 2 and "'other' and 'tiny' cannot be compared: other items" in wrong.stderr and not wrong.stdout
