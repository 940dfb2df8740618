"""Mistakes in sweep files: each is told at its line and column, with what was expected and a suggestion, all of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_files import EXPERIMENT, pointed_at, problems_of, study_of, the_problem, write_experiment, write_sweep

from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.yaml_file import FileErrors


@pytest.mark.parametrize(
    ("ablations", "at", "hint"),
    [
        ("a: {remove: [data.mixture.txt]}", "data.mixture.txt", "data.mixture.text"),
        ("a: {remove: mixture.text}", "mixture.text", "data.mixture.text"),
        ("a: {remove_each: [data.mixture.text, data.sources.alt_txt]}", "data.sources.alt_txt", "data.sources.alt_text"),
        ("a: {alter: {training.step: 3}}", "training.step:", "training.steps"),
        ("a: {alter: {model.conector.type: c_abstractor}}", "model.conector.type", "model.connector.type"),
        ("a: {alter: {model.connector.hidden: 3}}", "model.connector.hidden", None),
        ("a: {alter: {data.sources.txt.weight: 3}}", "data.sources.txt.weight", "data.sources.text.weight"),
        ("a: {grid: {training.batch_row: [3, 4]}}", "3, 4", "training.batch_rows"),
        ("a: {grid: {size: [{model.image_encoder.image_sise: 16}]}}", "model.image_encoder.image_sise", "model.image_encoder.image_size"),
    ],
)
def test_an_unknown_path_is_reported_with_the_nearest(tmp_path: Path, ablations: str, at: str, hint: str | None) -> None:
    problem = problems_of(tmp_path, ablations)[0]
    assert pointed_at(problem).startswith(at)
    assert "no such path" in problem.message
    assert problem.hint == (f"did you mean '{hint}'?" if hint else "")


def test_a_path_below_none_names_what_is_none(tmp_path: Path) -> None:
    write_experiment(
        tmp_path,
        EXPERIMENT.replace("    preparation:\n      source: {type: miniature, data_type: captioned, content: synthetic_captions}\n", ""),
    )
    _, message, hint = the_problem(tmp_path, "a: {alter: {model.image_encoder.preparation.steps: 3}}")
    assert "model.image_encoder.preparation is None here" in message and "as a whole" in hint


def test_a_path_everywhere_and_in_except_is_checked_too(tmp_path: Path) -> None:
    assert the_problem(tmp_path, "", "everywhere: {training.step: 3}")[2] == "did you mean 'training.steps'?"
    grid = "a: {grid: {training.steps: [300, 400]}, except: [{training.step: 300}]}"
    at, message, hint = the_problem(tmp_path, grid)
    assert at.startswith("training.step: 300") and "no axis of this grid sets it" in message and hint == "did you mean 'training.steps'?"


@pytest.mark.parametrize(
    "ablations",
    [
        "same: {alter: {training.steps: 500}}",
        "same: {alter: {training.steps: 5.0e+2}}",
        "same: {alter: {data.mixture.captioned: 45.0}}",
        "same: {alter: {data.mixture: {captioned: 9, interleaved: 9, text: 2}}}",
        "same: {alter: {training.micro_batch_rows: 2}}",
        "same: {alter: {data.when_removed: shrink}}",
        "same: {alter: {model.connector.type: average_pool}}",
        "same: {alter: {data.sources.text.weight: 3}}",
    ],
)
def test_an_arm_that_changes_nothing_is_an_error(tmp_path: Path, ablations: str) -> None:
    at, message, _ = the_problem(tmp_path, ablations)
    assert at.startswith("same:") and "arm 'same' is identical to baseline: " in message


def test_removing_a_type_without_weight_changes_nothing(tmp_path: Path) -> None:
    write_experiment(tmp_path, EXPERIMENT.replace("text: 10}", "text: 0}"))
    assert "changes nothing" in the_problem(tmp_path, "a: {remove: data.mixture.text}")[1]


def test_a_point_of_a_grid_that_is_the_baseline_says_how_to_leave_it_out(tmp_path: Path) -> None:
    grid = "g: {grid: {model.connector.type: [average_pool, c_abstractor]}%s}"
    _, message, hint = the_problem(tmp_path, grid % "")
    assert "identical to baseline" in message and hint == "add {model.connector.type: average_pool} to the group's `except`"
    study_of(tmp_path, grid % ", except: [{model.connector.type: average_pool}]")


@pytest.mark.parametrize(
    ("ablations", "at", "message"),
    [
        ("a: {alter: {model.connector.image_tokens: 5}}", "5}", "the nearest are 4 and 9"),
        ("a: {alter: {model.connector.image_tokens: 25}}", "25}", "cannot be pooled from a grid of 4 x 4 patches"),
        (
            "a: {alter: {model.image_encoder.patches_per_side: 1}}",
            "1}",
            "model.connector.image_tokens: 4 image tokens cannot be pooled from a grid of 1 x 1",
        ),
        ("a: {alter: {model.connector: {type: c_abstractor, image_tokens: 5}}}", "5}", "the nearest are 4 and 9"),
        ("g: {grid: {model.connector.image_tokens: [9, 25]}}", "25]", "in arm 'g/image_tokens=25': "),
    ],
)
def test_token_counts_that_a_grid_of_patches_cannot_give(tmp_path: Path, ablations: str, at: str, message: str) -> None:
    told = the_problem(tmp_path, ablations)
    assert told[0].startswith(at) and message in told[1]


def test_points_that_fail_for_the_same_reason_are_reported_once(tmp_path: Path) -> None:
    axes = "model.connector.type: [c_abstractor, average_pool], model.connector.image_tokens: [5], training.steps: [200, 300]"
    assert "and 3 more" in the_problem(tmp_path, f"g: {{grid: {{{axes}}}}}")[1]


@pytest.mark.parametrize(
    ("ablations", "at", "message"),
    [
        ("a: {alter: {data.mixture: {captioned: 0, interleaved: 0, text: 0}}}", "{captioned", "every weight is zero"),
        ("a: {remove: [data.mixture.captioned, data.mixture.interleaved, data.mixture.text]}", "data.mixture", "every weight is zero"),
        ("a: {alter: {data.mixture.text: -1}}", "-1", "expected a number of at least 0, not -1"),
        ("a: {alter: {training.steps: many}}", "many", "expected a whole number above 0, not 'many'"),
        ("a: {alter: {training.steps: true}}", "true", "expected a whole number above 0, not true"),
        ("a: {alter: {training.steps: 20}}", "20", "training.warmup_steps: expected fewer than the 20 steps"),
        ("a: {alter: {model.connector.type: c_abstracter}}", "c_abstracter", "there is no type 'c_abstracter'"),
        ("a: {alter: {training.optimizer: {type: adamw, lerning_rate: 1}}}", "lerning_rate", "unknown key"),
        ("a: {alter: {training.optimizer.type: adamw, training.optimizer.momentum: 0.5}}", "training.optimizer.momentum", "no such path"),
        ("a: {alter: {evaluation.tasks: [miniature_vqs]}}", "miniature_vqs", "there is no task 'miniature_vqs'"),
        ("a: {alter: {data.mixture: [1]}}", "[1]", "expected a mapping"),
        ("a: {alter: {data.sources.text.images: false}}", "false", "data.sources.text: "),
    ],
)
def test_an_arm_that_is_no_valid_experiment_is_reported_at_its_value(tmp_path: Path, ablations: str, at: str, message: str) -> None:
    problem = problems_of(tmp_path, ablations)[0]
    assert pointed_at(problem).startswith(at) and message in problem.message


@pytest.mark.parametrize(
    ("arm", "at"),
    [
        ("remove: [data.mixture.text], alter: {data.mixture.text: 3}", "data.mixture.text: 3"),
        (
            "remove: [model.image_encoder.preparation], alter: {model.image_encoder.preparation.steps: 3}",
            "model.image_encoder.preparation.steps",
        ),
        ("remove: [data.mixture.text], alter: {data.sources.text.world_seed: 3}", "data.sources.text.world_seed"),
    ],
)
def test_what_is_removed_cannot_be_altered_in_the_same_arm(tmp_path: Path, arm: str, at: str) -> None:
    told = the_problem(tmp_path, f"a: {{{arm}}}")
    assert told[0].startswith(at) and "the same arm removes" in told[1] and told[2]


@pytest.mark.parametrize(
    ("ablations", "at", "message"),
    [
        ("a: {}", "{}", "expected one of remove, remove_each, alter, replace, grid or seeds"),
        (
            "a: {remove: data.mixture.text, grid: {training.steps: [300]}}",
            "{training",
            "alter, replace, grid and seeds (remove",
        ),
        ("a: {alter: {training.steps: 3}, except: [{training.steps: 3}]}", "[{training", "no grid"),
        ("a: {alter: {training.steps: 3}, when_removed: shrink}", "shrink", "removes nothing"),
        ("a: {remove_each: []}", "[]", "expected text, or a list, not empty, of texts"),
        ("a: {remove_each: [data.mixture.text, data.mixture.text]}", "data.mixture.text]", "listed twice"),
        ("a: {grid: {training.steps: [300, 300.0]}}", "300.0", "same value as entry 1"),
        ("a: {grid: {training.steps: []}}", "[]", "not empty"),
        ("a: {grid: {training.steps: 300}}", "300", "expected a list"),
        ("a: {grid: {mix: [3, 4]}}", "mix", "a named axis needs a list of mappings"),
        ("a: {grid: {training.steps: [300], b: [{training.steps: 400}]}}", "b:", "two axes set training.steps"),
        ("a: {grid: {training.steps: [300]}, except: [{training.steps: 400}]}", "{training.steps: 400}", "matches no point"),
        ("a: {grid: {training.steps: [300]}, except: [{training.steps: 300}]}", "except", "excludes every point of the grid"),
        ("baseline: {alter: {training.steps: 300}}", "baseline", "already used by the baseline of the sweep"),
        (
            "a/text: {alter: {training.steps: 300}}\na: {remove_each: [data.mixture.text]}",
            "data.mixture.text",
            "already used by group 'a/text'",
        ),
        ("'a,b': {alter: {training.steps: 300}}", "'a,b'", "expected a name"),
        ("a: {alter: {training.steps: 300}, alterr: 3}", "alterr", "unknown key"),
        ("a: {alter: {training.steps: 300, training.steps: 400}}", "training.steps: 400", "given twice"),
    ],
)
def test_groups_that_do_not_say_what_they_mean(tmp_path: Path, ablations: str, at: str, message: str) -> None:
    told = the_problem(tmp_path, ablations)
    assert told[0].startswith(at) and message in told[1]


@pytest.mark.parametrize(
    ("rest", "at", "message"),
    [
        ("seeds: []", "[]", "not empty"),
        ("seeds: [1, 2, 1]", "[1, 2, 1]", "seed 1 is given more than once"),
        ("seeds: [-1]", "-1", "of at least 0"),
        ("seeds: [0.5]", "0.5", "expected a whole number"),
        ("sedes: [1]", "sedes", "unknown key"),
        ("resources: {gpus: -1}", "-1", "of at least 0"),
        ("resources: {cpus: 0}", "0}", "above 0"),
        ("resources: {gpus: 1.5}", "1.5", "whole number"),
        ("budget: {gpu_hours: -5}", "-5", "of at least 0"),
        ("budget: {gpu_ours: 5}", "gpu_ours", "unknown key"),
        ("compare: {primary: shot_5/average}", "shot_5/average", "is not evaluated: evaluation.shots has 0, 4, 8"),
        ("compare: {primary: average}", "average", "expected shot_<k>/<name> or text_core/<name>"),
        ("compare: {metrics: [shot_8/average, shot_8/avrage]}", "shot_8/avrage", "'avrage' is not one of average, miniature_attributes"),
        ("compare: {confidence: 95}", "95", "above 0 and below 1"),
    ],
)
def test_the_rest_of_a_sweep_is_checked(tmp_path: Path, rest: str, at: str, message: str) -> None:
    told = the_problem(tmp_path, "", rest)
    assert told[0].startswith(at) and message in told[1]


@pytest.mark.parametrize(
    ("expectation", "at", "message", "hint"),
    [
        ("arm: lest, metric: shot_8/average, is: below", "lest", "there is no arm 'lest'; the arms are less", "did you mean 'less'?"),
        ("arm: baseline, metric: shot_8/average, is: below", "baseline", "is a baseline", "or name another arm with 'than'"),
        ("arm: less, metric: shot8/average, is: below", "shot8/average", "is not a metric", "did you mean 'shot_8/average'?"),
        ("arm: less, metric: shot_16/average, is: below", "shot_16/average", "is not evaluated", "add 16 to evaluation.shots"),
        ("arm: less, metric: text_core/miniature_vqs, is: below", "text_core", "is not evaluated", "did you mean 'miniature_vqa'?"),
        ("arm: less, metric: shot_8/average, is: less", "less, because", "expected 'above', 'below' or 'within', not 'less'", ""),
        ("arm: less, metric: shot_8/average, is: within", "{arm: less", "points above 0, which 'within' needs", ""),
    ],
)
def test_expectations_are_about_arms_and_metrics_that_are_there(tmp_path: Path, expectation: str, at: str, message: str, hint: str) -> None:
    told = the_problem(tmp_path, "less: {remove: data.mixture.text}", f"expect: [{{{expectation}, because: it was so}}]")
    assert told[0].startswith(at) and message in told[1] and told[2] == hint


def test_metrics_that_are_there_are_accepted(tmp_path: Path) -> None:
    metrics = "[shot_0/miniature_vqa, text_core/miniature_text_qa, shot_4/miniature_attributes.exact_match]"
    expectation = "{arm: less, metric: shot_8/miniature_vqa, is: within, by: 2, because: it was so}"
    study_of(tmp_path, "less: {remove: data.mixture.text}", f"compare: {{metrics: {metrics}}}\nexpect: [{expectation}]")


@pytest.mark.parametrize(
    ("rest", "arms"),
    [
        ("resources: {workers: 16}", "is 8 in 'baseline' and 1 more"),
        ("resources: {workers: 8}", "is 2 in 'few'"),
        ("resources: {workers: 2}", ""),
    ],
)
def test_every_worker_needs_a_row_of_each_step(tmp_path: Path, rest: str, arms: str) -> None:
    few = "few: {alter: {training.batch_rows: 2}}"
    if not arms:
        assert study_of(tmp_path, few, rest).arms
        return
    at, message, _ = the_problem(tmp_path, few, rest)
    workers = rest.split()[-1].rstrip("}")
    assert at.startswith(workers) and f"{workers} workers needs a row in every step" in message and arms in message


def test_an_experiment_that_is_not_there_is_reported_where_it_is_named(tmp_path: Path) -> None:
    path = write_sweep(tmp_path)
    path.write_text("sweep: small\nexperiment: experimnt.yaml\n")
    with pytest.raises(FileErrors) as caught:
        load_study(path)
    (problem,) = caught.value.problems
    assert (problem.line, problem.column, problem.hint) == (2, 13, "did you mean 'experiment.yaml'?")
    at, message, _ = the_problem(tmp_path, "a: {remove: data.mixture.text, experiment: ../other.yaml}")
    assert at.startswith("../other.yaml") and "no experiment file" in message


def test_a_sweep_in_the_place_of_an_experiment_is_reported_where_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("sweep: other\nexperiment: experiment.yaml\nseeds: [0]\n")
    at, message, hint = the_problem(tmp_path, "a: {experiment: other.yaml, alter: {training.steps: 7}}")
    assert at.startswith("other.yaml, alter") and "other.yaml is a sweep; expected an experiment file" in message
    assert hint == "the experiment of this sweep is 'experiment.yaml'"
    path = tmp_path / "sweep.yaml"
    path.write_text("sweep: small\nexperiment: other.yaml\n")
    with pytest.raises(FileErrors, match=r"sweep.yaml:2:13: experiment: .*other.yaml is a sweep; expected an experiment file"):
        load_study(path)


def test_mistakes_in_the_experiment_are_reported_in_its_own_file(tmp_path: Path) -> None:
    write_experiment(tmp_path, EXPERIMENT.replace("batch_rows", "batch_row"))
    problems = problems_of(tmp_path, "a: {remove: data.mixture.text}", "sedes: [1]")
    assert [(Path(problem.file).name, pointed_at(problem)[:9]) for problem in problems] == [
        ("experiment.yaml", "batch_row"),
        ("sweep.yaml", "sedes: [1"),
    ]
    assert str(problems[0]).startswith(f"{tmp_path}/experiment.yaml:23:3: training.batch_row: unknown key")


def test_a_file_that_is_no_sweep_at_all(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    for text, message in (
        ("- 1\n", "a mapping with sweep, experiment"),
        ("a: 1\n", "is missing"),
        ("sweep: [\n", "not YAML"),
        ("", "empty"),
    ):
        path.write_text(text)
        with pytest.raises(FileErrors, match=message):
            load_study(path)


def test_all_mistakes_of_all_kinds_are_reported_at_once(tmp_path: Path) -> None:
    ablations = """
        a: {remove: [data.mixture.txt]}
        b: {alter: {training.steps: 500}}
        c: {alter: {training.steps: many, training.batch_row: 3}}
        d: {grid: {training.steps: [300]}, except: [{training.steps: 301}]}
        e: {alter: {training.steps: 300}, alterr: 3}
        f: {remove_each: 5}
        f: {remove: data.mixture.text}
    """
    rest = """
        seeds: [0, 0]
        everywhere: {training.warmup: 3}
        compare: {primary: shot_5/average}
        budget: {gpu_hours: -1}
        expect:
          - {arm: a, metric: shot_8/average, is: belw, because: x}
          - {arm: a, metric: shot_5/average, is: below, because: x}
    """
    problems = problems_of(tmp_path, ablations, rest)
    assert [problem.path for problem in problems] == [
        "seeds",
        "everywhere.training.warmup",
        "compare.primary",
        "budget.gpu_hours",
        "expect[0].is",
        "expect[1].metric",
        "ablations.a.remove[0]",
        "ablations.b",
        "ablations.c.alter.training.batch_row",
        "ablations.d.except[0]",
        "ablations.e.alterr",
        "ablations.f",
    ]


def test_a_problem_reads_as_one_would_say_it(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, "leave-one-out:\n  remove_each:\n    - data.mixture.interleavd")
    assert str(problem) == (
        f"{tmp_path}/sweep.yaml:8:9: ablations.leave-one-out.remove_each[0]: data.mixture.interleavd: no such path; "
        "data.mixture has captioned, interleaved, text (did you mean 'data.mixture.interleaved'?)\n"
        "    8 |       - data.mixture.interleavd\n"
        "      |         ^"
    )


JUNK = [
    None,
    True,
    -1,
    0.5,
    "x",
    [],
    {},
    [1],
    [[]],
    [{}],
    {"x": 1},
    {"type": 5},
    {"data.mixture.text": "many"},
    {"model.connector": 5},
    {"data": {}},
]
WHOLE = {
    "sweep": "small",
    "experiment": "experiment.yaml",
    "seeds": [0],
    "everywhere": {"training.steps": 400},
    "ablations": {
        "a": {"remove": ["data.mixture.text"], "alter": {"training.steps": 300}, "when_removed": {"fill_with": "captioned"}},
        "b": {"remove_each": ["data.sources.alt_text"]},
        "c": {"grid": {"training.steps": [100, 200], "x": [{"training.batch_rows": 4}]}, "except": [{"training.steps": 100}]},
    },
    "compare": {"primary": "shot_8/average", "metrics": ["shot_8/average"]},
    "expect": [{"arm": "a", "metric": "shot_8/average", "is": "below", "by": 5, "because": "x"}],
    "resources": {"cpus": 1},
}


def replacements(tree: Any, junk: Any) -> Iterator[Any]:
    """The tree with each of its values, one at a time, replaced by junk."""
    yield junk
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from ({**tree, key: below} for below in replacements(value, junk))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from ([*tree[:index], below, *tree[index + 1 :]] for below in replacements(value, junk))


@pytest.mark.parametrize("junk", JUNK, ids=str)
def test_whatever_stands_anywhere_is_reported_and_never_a_crash(tmp_path: Path, junk: Any) -> None:
    write_experiment(tmp_path)
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(WHOLE))
    assert len(load_study(path).arms) == 4
    for tree in replacements(WHOLE, junk):
        path.write_text(yaml.safe_dump(tree))
        try:
            load_study(path)
        except FileErrors as errors:
            assert errors.problems
