"""A mapping that alters is merged into what is there, in every place that takes paths and values; replacing is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_files import EXPERIMENT, problems_of, study_of, the_problem, write_experiment

from mm1_ablate.config.study import Change, Study
from mm1_ablate.config.sweep.differences import in_words

WRITTEN = EXPERIMENT.replace("{type: muon}", "{type: muon, learning_rate: 0.01, momentum: 0.9}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_experiment(tmp_path, WRITTEN)
    return tmp_path


def fingerprint(study: Study, arm: str) -> str:
    return study.trials_of(arm)[0].fingerprint


@pytest.mark.parametrize(
    ("mapping", "paths"),
    [
        ("training: {steps: 3000}", "training.steps: 3000"),
        ("model.connector: {type: attention_pool}", "model.connector.type: attention_pool"),
        ("model: {connector: attention_pool}", "model.connector.type: attention_pool"),
        ("training: {optimizer: {type: adamw}}", "training.optimizer.type: adamw"),
        ("training: {optimizer: {rest: {learning_rate: 1e-4}}}", "training.optimizer.rest.learning_rate: 1e-4"),
        ("data: {mixture: {captioned: 100}}", "data.mixture.captioned: 100"),
        ("model.language_model: {configuration: {hidden_size: 48}}", "model.language_model.configuration.hidden_size: 48"),
        ("evaluation: {demonstrations: {sets: 2}}", "evaluation.demonstrations: {sets: 2}"),
        ("data.sources.text: {keep: {text_characters: {at_least: 3}}}", "data.sources.text.keep.text_characters.at_least: 3"),
        (
            "training: {steps: 90, optimizer: {momentum: 0.5}}, training.batch_rows: 4",
            "training.steps: 90, training.optimizer.momentum: 0.5, training.batch_rows: 4",
        ),
        ("data: {sources: {alt_text: {content: synthetic_captions}}}", "data.sources.alt_text.content: synthetic_captions"),
    ],
)
def test_a_mapping_does_what_the_paths_into_it_do(folder: Path, mapping: str, paths: str) -> None:
    study = study_of(folder, f"a: {{alter: {{{mapping}}}}}\nb: {{alter: {{{paths}}}}}\nc: {{grid: {{x: [{{{mapping}}}]}}}}")
    a, b, c = study.arms[1:]
    assert a.experiment == b.experiment == c.experiment
    assert sorted(a.changes, key=str) == sorted(b.changes, key=str) == sorted(c.changes, key=str)
    everywhere = study_of(folder, "", f"everywhere: {{{mapping}}}").arms[0]
    assert everywhere.experiment == a.experiment and sorted(everywhere.everywhere, key=str) == sorted(a.changes, key=str)


def test_a_longer_training_is_longer_and_nothing_else(folder: Path) -> None:
    study = study_of(folder, "longer: {alter: {training: {steps: 3000}}}")
    training = study.arm("longer").experiment.training
    assert (training.steps, training.batch_rows, training.optimizer.type, training.warmup_steps) == (3000, 8, "muon", 30)
    assert study.arm("longer").changes == (Change("training.steps", 500, 3000),)


def test_another_type_in_a_mapping_keeps_what_it_has_too_and_what_is_dropped_is_named(folder: Path) -> None:
    study = study_of(folder, "a: {alter: {model.connector: {type: attention_pool}}}\nb: {alter: {training: {optimizer: {type: adamw}}}}")
    assert study.arm("a").experiment.model.connector.image_tokens == 4
    assert study.arm("a").changes == (Change("model.connector.type", "average_pool", "attention_pool"),)
    b = study.arm("b")
    assert b.experiment.training.optimizer.learning_rate == 0.01
    assert {change.path for change in b.changes if change.dropped} == {
        "training.optimizer.momentum",
        *(f"training.optimizer.rest.{name}" for name in ("type", "learning_rate", "weight_decay", "betas")),
    }
    assert in_words(b) == (
        "training.optimizer.type muon → adamw; dropped with the type: training.optimizer.momentum 0.9, training.optimizer.rest; "
        "also changed: training.optimizer.weight_decay 0 → mm1, training.optimizer.betas none → [0.9, 0.95]"
    )


def test_types_are_changed_first_however_they_are_written(folder: Path) -> None:
    apart = "model: {connector: {depth: 1}}, model.connector: {type: c_abstractor}"
    study = study_of(folder, f"a: {{alter: {{{apart}}}}}\nb: {{alter: {{training: {{optimizer: {{rest: {{learning_rate: 1e-4}}}}}}}}}}")
    assert study.arm("a").experiment.model.connector.depth == 1
    # A setting that another edit's type does not have is an error, not lost.
    lost = "a: {alter: {training: {optimizer: {momentum: 0.5}}, training.optimizer: {type: adamw}}}"
    at, message, _ = the_problem(folder, lost)
    assert at.startswith("momentum") and "unknown key" in message


def test_an_earlier_stage_is_merged_too(tmp_path: Path) -> None:
    write_experiment(tmp_path, EXPERIMENT, "first.yaml")
    later = EXPERIMENT.replace("    preparation:\n      source: {type: miniature, data_type: captioned, content: synthetic_captions}\n", "")
    write_experiment(tmp_path, later + "starts_from: first.yaml\n")
    study = study_of(
        tmp_path, "a: {alter: {starts_from.training: {steps: 90}}}\nb: {alter: {starts_from: {training: {steps: 90}}, training.steps: 70}}"
    )
    assert study.arm("a").changes == (Change("starts_from.training.steps", 500, 90),)
    assert study.arm("b").changes == (Change("starts_from.training.steps", 500, 90), Change("training.steps", 500, 70))
    twice = "a: {alter: {starts_from: {training: {steps: 90}}, starts_from.training.steps: 70}}"
    assert the_problem(tmp_path, twice)[1].startswith("starts_from.training.steps is set twice")


def test_what_a_protocol_sets_can_be_altered_and_removed_without_being_written(tmp_path: Path) -> None:
    write_experiment(tmp_path, EXPERIMENT + "  protocol: openflamingo\n")
    study = study_of(
        tmp_path,
        """
        a: {remove: evaluation.zero_shot}
        b: {alter: {evaluation.zero_shot.text_only: 3}}
        c: {alter: {evaluation: {zero_shot: {text_only: 3}}}}
        """,
    )
    assert study.arm("a").changes == (Change("evaluation.zero_shot", {"text_only": 2}, None, removed=True),)
    for name in "bc":
        assert study.arm(name).changes == (Change("evaluation.zero_shot.text_only", 2, 3),)


def test_an_included_sweep_that_sets_the_same_everywhere_has_the_same_baseline(folder: Path) -> None:
    (folder / "other.yaml").write_text(
        "sweep: other\nexperiment: experiment.yaml\neverywhere: {training: {steps: 90}}\n"
        "ablations: {b: {alter: {training.batch_rows: 4}}}\n"
    )
    study = study_of(folder, "a: {alter: {training.batch_rows: 2}}", "include: other.yaml\neverywhere: {training.steps: 90}")
    assert [(arm.name, arm.baseline) for arm in study.arms] == [("baseline", "baseline"), ("a", "baseline"), ("b", "baseline")]


# ------------------------------------------------------------- replacing
def test_replacing_a_section_is_reported_and_shown(folder: Path) -> None:
    study = study_of(
        folder,
        """
        a: {replace: {data.mixture: {captioned: 100}}}
        b: {replace: {training: {steps: 3000}}, alter: {training.batch_rows: 8}, remove: data.mixture.text}
        c: {replace: {model.connector: attention_pool}, alter: {model.connector.image_tokens: 9}}
        """,
    )
    a, b, c = study.arms[1:]
    assert a.experiment.data.mixture == {"captioned": 100}
    assert in_words(a) == "data.mixture.captioned 45 → 100; data.mixture.interleaved 45 → none; data.mixture.text 10 → none"
    assert (b.experiment.training.warmup_steps, b.experiment.training.batch_rows) == (2000, 8)
    assert "training.warmup_steps 30 → 2000" in in_words(b) and "without training.optimizer.rest" in in_words(b)
    assert (c.experiment.model.connector.type, c.experiment.model.connector.image_tokens) == ("attention_pool", 9)


def test_axes_and_everywhere_may_replace_too(folder: Path) -> None:
    study = study_of(
        folder,
        """
        listed: {grid: {mix: [{replace: {data.mixture: {captioned: 100}}}, {data.mixture: {captioned: 66}}]}}
        labelled: {grid: {mix: {captions: {replace: {data.mixture: {captioned: 50}}, training.steps: 90}}}}
        """,
        "everywhere: {training.steps: 80, replace: {training.optimizer: {type: muon}}}",
    )
    mixtures = [arm.experiment.data.mixture for arm in study.arms]
    assert mixtures == [
        {"captioned": 45, "interleaved": 45, "text": 10},
        {"captioned": 100},
        {"captioned": 66, "interleaved": 45, "text": 10},
        {"captioned": 50},
    ]
    assert [arm.experiment.training.optimizer.momentum for arm in study.arms] == [0.95] * 4
    assert study.arm("labelled/captions").experiment.training.steps == 90
    assert in_words(study.arms[0]).startswith("everywhere: training.steps 500 → 80; training.optimizer.learning_rate 0.01 → 0.015; ")


def test_an_axis_may_hold_sections(folder: Path) -> None:
    path = study_of(folder, "g: {grid: {training: [{steps: 90}, {steps: 80, batch_rows: 4}]}}")
    named = study_of(folder, "g: {grid: {length: [{training: {steps: 90}}, {training: {steps: 80, batch_rows: 4}}]}}")
    for study in (path, named):
        assert [(arm.experiment.training.steps, arm.experiment.training.batch_rows) for arm in study.arms[1:]] == [(90, 8), (80, 4)]


# ------------------------------------------------------------- mistakes
@pytest.mark.parametrize(
    ("ablations", "at", "message", "hint"),
    [
        (
            "a: {alter: {training.steps: 9, data.packing: {}}}",
            "data.packing",
            "an empty mapping changes nothing",
            "write it under `replace`",
        ),
        ("a: {alter: {training: {steps: 400}, training.steps: 300}}", "training.steps", "is set twice: by", "keep one of the two"),
        ("a: {alter: {training.steps: 300}, replace: {training: {steps: 4}}}", "training: {", "is set twice: by", "keep one"),
        ("a: {alter: {model.connector: attention_pool, model.connector.type: c_abstractor}}", "model.connector", "set twice", "keep one"),
        ("a: {grid: {training: [{steps: 90}], training.steps: [80]}}", "training.steps", "two axes set training.steps", ""),
        ("a: {alter: {training: {stepz: 90}}}", "stepz", "unknown key; expected one of steps", "did you mean 'steps'"),
        ("a: {alter: {training: {steps: few}}}", "few", "expected a whole number above 0, not 'few'", ""),
        ("a: {alter: {training: {steps: 20}}}", "20", "training.warmup_steps: expected fewer than the 20 steps", ""),
        (
            "a: {alter: {model: {language_model: {configuration: {hiden_size: 48}}}}}",
            "hiden_size",
            "there is no such entry; model.language_model.configuration has hidden_size, num_hidden_layers",
            "did you mean 'hidden_size'",
        ),
        (
            "a: {alter: {model.language_model: {configuration: {rope_theta: 48}}}}",
            "rope_theta",
            "there is no such entry",
            "to add an entry, write all of model.language_model.configuration under `replace`",
        ),
        ("a: {alter: {model.language_model: {name: gpt2}}}", "{name", "declare either name", "under `replace` it replaces it"),
        (
            "a: {alter: {data: {mixture: {text: 5}}}, remove: data.mixture.text}",
            "text: 5",
            "is altered, but the same arm removes data.mixture.text",
            "keep one of the two",
        ),
        ("a: {replace: {data.mixture: {text: 5}}, remove: data.mixture.text}", "data.mixture", "the same arm removes", "keep one"),
        ("a: {alter: {replace: 5}}", "5", "expected a mapping, not empty, from paths to their new values", ""),
        ("a: {replace: {training.stepz: 5}}", "training.stepz", "no such path", "did you mean 'training.steps'"),
        ("a: {replace: {training.steps: 5}, grid: {training.steps: [4]}}", "{training", "not replace and grid", ""),
    ],
)
def test_mistakes_in_mappings_are_reported_where_they_are(folder: Path, ablations: str, at: str, message: str, hint: str) -> None:
    pointed, told, hinted = the_problem(folder, ablations)
    assert pointed.startswith(at) and message in told and hint in hinted


def test_what_is_wrong_in_everywhere_is_reported_at_its_key(folder: Path) -> None:
    found = problems_of(folder, "a: {alter: {training.batch_rows: 4}}", "everywhere: {training: {stepz: 5}, replace: {data.packng: {}}}")
    assert [problem.path for problem in found] == ["everywhere.training.stepz", "everywhere.replace.data.packng"]
