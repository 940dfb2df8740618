"""Whose mistake it is: an experiment's own at its own line, an edit's at the edit without which all would be well."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_files import EXPERIMENT, pointed_at, problems_of, the_problem, write_experiment, write_sweep

from mm1_ablate.config.errors import Diagnostic
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.yaml_file import FileErrors, FileProblem

SHIPPED = Path(__file__).resolve().parents[2]


def fewer_heads(experiment: Experiment) -> list[Diagnostic]:
    """A check as the rooms above have them."""
    found = []
    if experiment.model.language_model.configuration.get("num_attention_heads", 4) != 4:
        found.append(Diagnostic(("model", "language_model", "configuration", "num_attention_heads"), "expected 4 heads"))
    if experiment.model.connector.image_tokens == 9 and experiment.training.batch_rows == 4:
        found.append(Diagnostic(("model", "language_model", "model_type"), f"none for 9 of {experiment.training.steps}"))
    return found


def found_by_checks(folder: Path, ablations: str = "", rest: str = "") -> list[FileProblem]:
    with pytest.raises(FileErrors) as caught:
        load_study(write_sweep(folder, ablations, rest), "nowhere", [fewer_heads])
    return caught.value.problems


# ------------------------------------------------------------- a type that names nothing, with company
TYPO = "there is no type 'avrage_pool'"


@pytest.mark.parametrize(
    ("ablations", "rest"),
    [
        ("a: {grid: {model.connector.type: [avrage_pool], model.connector.image_tokens: [4]}}", ""),
        ("a: {grid: {model.connector.image_tokens: [4, 9], model.connector.type: [c_abstractor, avrage_pool]}}", ""),
        ("a: {grid: {x: {one: {model.connector.type: avrage_pool, model.connector.image_tokens: 4}}}}", ""),
        ("a: {alter: {model.connector.type: avrage_pool, model.connector.image_tokens: 4, model.connector.frozen: true}}", ""),
        ("a: {alter: {model.connector: avrage_pool, model.connector.image_tokens: 4}}", ""),
        ("a: {alter: {model.connector: {type: avrage_pool}, model.connector.image_tokens: 4}}", ""),
        ("", "everywhere: {model.connector.type: avrage_pool, model.connector.image_tokens: 4}"),
    ],
)
def test_a_misspelt_type_is_named_at_its_value_whatever_is_altered_beside_it(tmp_path: Path, ablations: str, rest: str) -> None:
    at, message, hint = the_problem(tmp_path, ablations, rest)
    assert at.startswith("avrage_pool") and TYPO in message and hint == "did you mean 'average_pool'?"
    assert "no such path" not in message


def test_a_misspelt_type_is_named_in_an_earlier_stage_and_of_an_optimiser(tmp_path: Path) -> None:
    write_experiment(tmp_path, name="first.yaml")
    write_experiment(
        tmp_path,
        EXPERIMENT.replace("    preparation:\n      source: {type: miniature, data_type: captioned, content: synthetic_captions}\n", "")
        + "starts_from: first.yaml\n",
    )
    at, message, hint = the_problem(
        tmp_path, "a: {alter: {starts_from.model.connector.type: avrage_pool, starts_from.model.connector.image_tokens: 4}}"
    )
    assert at.startswith("avrage_pool") and TYPO in message and "average_pool" in hint
    at, message, hint = the_problem(tmp_path, "a: {alter: {training.optimizer.type: adam, training.optimizer.betas: [0.9, 0.99]}}")
    assert at.startswith("adam,") and "expected 'adamw' or 'muon', not 'adam'" in message and hint == "did you mean 'adamw'?"


def test_a_misspelt_type_is_named_beside_the_other_mistakes_of_its_arm(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, "a: {alter: {model.connector.type: avrage_pool, model.connector.image_tokens: 4, training.step: 3}}")
    assert [pointed_at(problem).split(",")[0] for problem in problems] == ["avrage_pool", "training.step: 3}}"]


# ------------------------------------------------------------- whose mistake
def test_a_mistake_of_the_experiment_is_reported_there_whatever_the_sweep_sets_everywhere(tmp_path: Path) -> None:
    write_experiment(tmp_path, EXPERIMENT.replace("num_hidden_layers: 3", "num_hidden_layers: 3, num_attention_heads: 5"))
    everywhere = "everywhere: {model.preparation_seed: 0, evaluation.items: 7, training.steps: 400}"
    (problem,) = found_by_checks(tmp_path, "a: {alter: {model.connector.image_tokens: 9}}", everywhere)
    assert Path(problem.file).name == "experiment.yaml" and pointed_at(problem).startswith("5}")


def test_a_mistake_of_what_is_set_everywhere_is_reported_at_the_edit_that_makes_it(tmp_path: Path) -> None:
    everywhere = "everywhere: {model.preparation_seed: 0, model.connector.image_tokens: 9, training.batch_rows: 4, evaluation.items: 7}"
    (problem,) = found_by_checks(tmp_path, "", everywhere)
    assert Path(problem.file).name == "sweep.yaml" and problem.path == "everywhere.model.connector.image_tokens"
    assert problem.message == "model.language_model.model_type: none for 9 of 500"


def test_a_mistake_of_an_arm_is_reported_at_the_edit_that_makes_it(tmp_path: Path) -> None:
    arm = "a: {alter: {model.preparation_seed: 0, training.batch_rows: 4, model.connector.image_tokens: 9}}"
    (problem,) = found_by_checks(tmp_path, arm)
    assert problem.path == "ablations.a.alter.training.batch_rows"
    write_experiment(tmp_path, EXPERIMENT.replace("batch_rows: 8", "batch_rows: 4"))
    (problem,) = found_by_checks(tmp_path, arm)
    assert problem.path == "ablations.a.alter.model.connector.image_tokens"


def test_a_mistake_that_an_arm_has_in_other_words_is_the_experiments(tmp_path: Path) -> None:
    write_experiment(
        tmp_path, EXPERIMENT.replace("batch_rows: 8", "batch_rows: 4").replace("image_tokens: 4}\n  lang", "image_tokens: 9}\n  lang")
    )
    (problem,) = found_by_checks(tmp_path, "a: {alter: {training.steps: 400}}", "everywhere: {evaluation.items: 7}")
    assert Path(problem.file).name == "experiment.yaml" and problem.message.endswith("none for 9 of 500")


@pytest.mark.parametrize(
    "edits",
    [
        "{model.preparation_seed: 0, model.image_encoder.patches_per_side: 1}",
        "{model.image_encoder.patches_per_side: 1, model.preparation_seed: 0}",
    ],
)
def test_what_does_not_go_together_is_reported_at_the_edit_that_makes_it_so(tmp_path: Path, edits: str) -> None:
    for ablations, rest in (("", f"everywhere: {edits}"), (f"a: {{alter: {edits}}}", "")):
        at, message, _ = the_problem(tmp_path, ablations, rest)
        assert at.startswith("1") and message.startswith("model.connector.image_tokens: 4 image tokens cannot be pooled")


def test_files_that_are_missing_are_the_experiments_though_the_sweep_weighs_them(tmp_path: Path) -> None:
    source = "{type: text, data_type: text, files: no/*.txt}"
    write_experiment(tmp_path, EXPERIMENT.replace("text: {type: miniature, data_type: text, content: text}", f"text: {source}"))
    (problem,) = problems_of(tmp_path, "", "everywhere: {data.sources.text.weight: 2}")
    assert Path(problem.file).name == "experiment.yaml" and "no/*.txt" in problem.message
    # What the sweep replaces everywhere is not asked for.
    load_study(write_sweep(tmp_path, "", "everywhere: {data.sources.text: {type: miniature, data_type: text, content: text}}"))
    (problem,) = problems_of(tmp_path, "", "everywhere: {data.sources.text.files: other/*.txt, data.sources.text.weight: 2}")
    assert Path(problem.file).name == "sweep.yaml" and pointed_at(problem).startswith("other/*.txt")


def test_a_wrong_configuration_beside_the_quickstart_is_reported_in_the_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mm1_ablate.plan.preflight import preflight

    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "experiments").mkdir()
    (tmp_path / "sweeps" / "quickstart.yaml").write_text((SHIPPED / "sweeps" / "quickstart.yaml").read_text())
    text = (SHIPPED / "experiments" / "miniature.yaml").read_text()
    (tmp_path / "experiments" / "miniature.yaml").write_text(text.replace("num_attention_heads: 4", "num_attention_heads: 5"))
    with pytest.raises(FileErrors) as caught:
        preflight(tmp_path / "sweeps" / "quickstart.yaml")
    (problem,) = caught.value.problems
    assert Path(problem.file).name == "miniature.yaml" and problem.path.startswith("model.language_model") and problem.line > 20
