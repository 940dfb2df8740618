"""Tasks as far as a study declares them: records and their files looked at when the study is read, told where they are named, and part of
what a score is; prompts that do not fit told before anything is trained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import call
from config_files import load_experiment, pointed_at, problems_of, study_of, write_experiment, write_sweep
from task_files import RECORD, ROWS, write_evaluation, write_task

from mm1_ablate.config.errors import Diagnostic
from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.yaml_file import FileErrors, FileProblem
from mm1_ablate.evaluation.preflight import unaskable_tasks


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MM1_ABLATE_BENCHMARKS", raising=False)
    study = tmp_path / "study"
    write_task(study / "tasks")
    write_evaluation(study, tasks=["miniature_vqa", "tasks/colours.yaml"], shots=[0, 8])
    return study


def evaluated(study: Study, arm: str = "baseline") -> tuple[str, str]:
    trial = study.trials_of(arm)[0]
    return trial.fingerprint, trial.evaluation_fingerprint


def the_problem_of(path: Path, checks: Any = ()) -> FileProblem:
    with pytest.raises(FileErrors) as caught:
        load_study(path, "check", checks)
    (problem,) = caught.value.problems
    return problem


# ------------------------------------------------------------- what a score is
def test_evaluations_of_the_past_are_those_of_today(tmp_path: Path):
    # If this changes, everybody's finished evaluations are made again.
    assert evaluated(study_of(tmp_path))[1] == "90cdfc81ace90ba560e3e8f53a1e0b46e5619faad2f5c462d593b6befe627a56"


def test_what_a_record_and_its_files_say_is_part_of_a_score_and_where_they_are_is_not(folder: Path, tmp_path: Path):
    before = evaluated(study_of(folder))
    moved = folder.rename(tmp_path / "elsewhere")
    assert evaluated(study_of(moved)) == before

    def changed() -> bool:
        training, evaluation = evaluated(study_of(moved))
        assert training == before[0]
        return evaluation != before[1]

    tasks = moved / "tasks"
    write_task(tasks, rows=[*ROWS[:-1], {**ROWS[-1], "right": 0}])
    assert changed()
    write_task(tasks, prompt="{question} = {answer}")
    assert changed()
    write_task(tasks, metrics=["choice_accuracy_normalised"])
    assert changed()
    # The same record under another name and in another folder, its data in a third place.
    write_task(tasks)
    (tasks / "data").rename(tmp_path / "data")
    (tasks / "colours.yaml").unlink()
    write_task(moved / "records", "renamed", items={**RECORD["items"], "folder": str(tmp_path / "data"), "published": "nowhere"})
    write_evaluation(moved, tasks=["miniature_vqa", "records/renamed.yaml"], shots=[0, 8])
    assert not changed()


def test_arms_on_other_records_of_one_name_are_other_arms_and_on_equal_records_none(folder: Path):
    write_task(folder / "other", prompt="{question} = {answer}")
    write_task(folder / "copy")
    line = "{alter: {evaluation.tasks: [miniature_vqa, %s/colours.yaml]}}"
    study = study_of(folder, f"other: {line % 'other'}")
    assert evaluated(study, "other")[0] == evaluated(study)[0] and evaluated(study, "other")[1] != evaluated(study)[1]
    (problem,) = problems_of(folder, f"copy: {line % 'copy'}")
    assert "changes nothing" in problem.message


def test_paths_of_records_are_relative_to_the_file_that_writes_them(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_task(tmp_path / "sweeps" / "tasks", prompt="{question} = {answer}")
    sweep = tmp_path / "sweeps" / "sweep.yaml"
    sweep.write_text(
        "sweep: s\nexperiment: ../study/experiment.yaml\nseeds: [0]\n"
        "compare: {primary: text_core/colours, metrics: [text_core/colours]}\n"
        "ablations:\n  its-own: {alter: {evaluation.tasks: [tasks/colours.yaml]}}\n  smaller: {alter: {training.steps: 400}}\n"
    )
    for place, named in ((tmp_path, "sweeps/sweep.yaml"), (folder / "tasks", "../../sweeps/sweep.yaml")):
        monkeypatch.chdir(place)
        study = load_study(Path(named))
        tasks = {arm.name: arm.experiment.evaluation.tasks[-1] for arm in study.arms}
        assert tasks["baseline"] == tasks["smaller"] == str(folder / "tasks" / "colours.yaml")
        assert tasks["its-own"] == str(tmp_path / "sweeps" / "tasks" / "colours.yaml")


# ------------------------------------------------------------- what is wrong with them
def test_a_benchmark_that_is_not_there_is_reported_where_its_task_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MM1_ABLATE_BENCHMARKS", raising=False)
    path = write_evaluation(tmp_path, tasks=["miniature_vqa", "arc_easy"], shots=[0, 8])
    for load in (load_experiment, load_study):
        with pytest.raises(FileErrors) as caught:
            load(path)
        (problem,) = caught.value.problems
        assert pointed_at(problem) == "arc_easy" and problem.path == "evaluation.tasks[1]"
        assert "task 'arc_easy'" in problem.message and "MM1_ABLATE_BENCHMARKS is not set" in problem.message
    monkeypatch.setenv("MM1_ABLATE_BENCHMARKS", str(tmp_path / "benchmarks"))
    problem = the_problem_of(path)
    assert pointed_at(problem) == "arc_easy" and "ARC-Easy" in problem.message
    assert "${MM1_ABLATE_BENCHMARKS}" in problem.message and "published at" in problem.message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": []}, "no row is usable"),
        ({"rows": [{"name": "a"}]}, "none of the first rows can be used"),
        ({"items": {**RECORD["items"], "queries": {"file": "nowhere.jsonl"}}}, "no file matches"),
        ({"promt": "x"}, "colours.yaml:16:1: promt: unknown key"),
        ({"prompt": "{question}"}, "expected {answer} once"),
        ({"metrics": ["choice_acuracy"]}, "there is no type 'choice_acuracy'"),
    ],
)
def test_a_record_that_is_wrong_is_reported_where_it_is_named(folder: Path, changes: dict[str, Any], message: str):
    rows = changes.pop("rows", ROWS)
    write_task(folder / "tasks", rows=rows, **changes)
    problem = the_problem_of(folder / "experiment.yaml")
    assert pointed_at(problem) == "tasks/colours.yaml" and message in problem.message
    assert problem.file.endswith("experiment.yaml") and "colours.yaml" in problem.message


def test_wrong_tasks_of_edits_are_reported_at_the_edits_with_all_other_problems(folder: Path):
    told = problems_of(
        folder,
        """
        elsewhere: {alter: {evaluation.tasks: [miniature_vqa, nowhere.yaml]}}
        benchmark: {alter: {evaluation.tasks: [miniature_vqa, sciq]}}
        again: {alter: {evaluation.tasks: [sciq], training.steps: 400}}
        tuning: {alter: {evaluation.split: development}}
        misspelt: {remove: data.sources.txt}
        """,
    )
    assert [pointed_at(problem).partition("]")[0].partition("}")[0] for problem in told] == [
        "nowhere.yaml", "sciq", "development", "data.sources.txt",
    ]  # fmt: skip
    assert "no file" in told[0].message and "MM1_ABLATE_BENCHMARKS" in told[1].message and "no development split" in told[2].message


def test_names_inside_records_are_those_that_groups_and_metrics_name(folder: Path):
    tasks = {"tasks": ["miniature_vqa", "tasks/colours.yaml"], "shots": [0, 8]}
    write_evaluation(folder, **tasks, groups={"both": {"tasks": ["colours", "miniature_vqa"]}})
    assert not study_of(folder, rest="compare: {primary: text_core/both, metrics: [text_core/both]}").provisional
    (problem,) = problems_of(folder, rest="compare: {primary: text_core/colour, metrics: [text_core/both]}")
    assert pointed_at(problem).startswith("text_core/colour") and problem.hint == "did you mean 'colours'?"
    write_evaluation(folder, **tasks, groups={"both": {"tasks": ["colour", "miniature_vqa"]}})
    assert "'colour' is neither an evaluated task" in the_problem_of(folder / "experiment.yaml").message
    write_task(folder / "tasks", "same")
    write_evaluation(folder, tasks=["tasks/colours.yaml", "tasks/same.yaml"])
    assert "another task has the same name, 'colours'" in the_problem_of(folder / "experiment.yaml").message


def test_without_data_no_task_is_looked_at_and_identities_are_provisional(folder: Path):
    real = study_of(folder)
    write_evaluation(folder, tasks=["miniature_vqa", "tasks/colours.yaml", "vqav2"], shots=[0, 8])
    (folder / "tasks" / "data" / "test.jsonl").unlink()
    study = load_study(folder / "experiment.yaml", "nowhere", [unaskable_tasks])
    assert study.provisional and not real.provisional
    assert study.trials[0].fingerprint == real.trials[0].fingerprint


def test_reading_a_study_and_its_tasks_imports_nothing_heavy(folder: Path):
    program = (
        "import sys; from pathlib import Path; from mm1_ablate.config.sweep.expand import load_study\n"
        "from mm1_ablate.evaluation.preflight import unaskable_tasks\n"
        f"load_study(Path({str(folder / 'experiment.yaml')!r}), 'check', [unaskable_tasks])\n"
        "print([name for name in ('torch', 'pyarrow', 'transformers', 'pandas') if name in sys.modules])"
    )
    # The model's context is transformers' to know, unless it is written.
    tree = yaml.safe_load((folder / "experiment.yaml").read_text())
    tree["model"]["language_model"]["configuration"]["max_position_embeddings"] = 512
    write_experiment(folder, yaml.safe_dump(tree))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


# ------------------------------------------------------------- prompts that do not fit
def test_a_context_that_is_too_short_is_reported_at_the_shots_with_task_and_number(folder: Path):
    tree = yaml.safe_load((folder / "experiment.yaml").read_text())
    tree["model"]["language_model"]["configuration"]["max_position_embeddings"] = 60
    tree["evaluation"] = {"tasks": ["miniature_vqa"], "shots": [0, 2, 8]}
    path = write_experiment(folder, yaml.safe_dump(tree))
    problem = the_problem_of(path, [unaskable_tasks])
    assert problem.path == "evaluation.shots" and "miniature_vqa at 8 shots needs" in problem.message
    assert "the language model has 60" in problem.message
    assert load_study(path).trials, "whether prompts fit is asked by those who begin something"


def test_an_arm_whose_prompts_do_not_fit_is_reported_at_the_edit_that_makes_them_so(folder: Path):
    tree = yaml.safe_load((folder / "experiment.yaml").read_text())
    tree["model"]["language_model"]["configuration"]["max_position_embeddings"] = 160
    tree["evaluation"] = {"tasks": ["miniature_vqa"], "shots": [0, 8]}
    write_experiment(folder, yaml.safe_dump(tree))
    path = write_sweep(
        folder,
        """
        shorter: {alter: {model.language_model.configuration.max_position_embeddings: 100}}
        both: {alter: {training.steps: 400, model.connector.image_tokens: 16}}
        more: {alter: {evaluation.shots: [0, 8, 16]}}
        fine: {alter: {training.steps: 300}}
        """,
        "compare: {metrics: [shot_0/average]}",
    )
    with pytest.raises(FileErrors) as caught:
        load_study(path, "check", [unaskable_tasks])
    told = [(pointed_at(problem), problem.message) for problem in caught.value.problems]
    assert [place.partition("}")[0].partition(" ")[0] for place, _ in told] == ["100", "16", "[0,"]
    assert "the language model has 100" in told[0][1] and "an image takes 16" in told[1][1] and "at 16 shots" in told[2][1]


def test_what_can_be_asked_is_counted_once_and_kept(folder: Path, monkeypatch: pytest.MonkeyPatch):
    from mm1_ablate.evaluation import preflight

    prepared: list[str] = []
    prepare = preflight.prepare_requests

    def counted(task: Any, *given: Any) -> Any:
        prepared.append(task.task)
        return prepare(task, *given)

    monkeypatch.setattr(preflight, "prepare_requests", counted)
    grid = "grid: {grid: {training.steps: [100, 200], model.connector.image_tokens: [9, 16]}}"
    path = write_sweep(folder, grid, "seeds: [0, 1]\ncompare: {primary: shot_0/average, metrics: [shot_0/average]}")
    for _ in range(2):
        load_study(path, "check", [unaskable_tasks])
    assert sorted(prepared) == ["colours", "miniature_vqa"]
    write_task(folder / "tasks", rows=ROWS[:2])
    load_study(path, "check", [unaskable_tasks])
    assert prepared[2:] == ["colours"]
    write_task(folder / "tasks", rows=ROWS[:2], metrics=["choice_accuracy_normalised"])
    load_study(path, "check", [unaskable_tasks])
    assert len(prepared) == 3


def test_a_wording_that_asks_nothing_is_reported_in_a_sentence(folder: Path):
    wording = {"miniature_vqa": {"prompt": "{image} What?"}}
    write_evaluation(folder, tasks=["tasks/colours.yaml", "miniature_vqa"], shots=[0], overrides=wording)
    problem = the_problem_of(folder / "experiment.yaml", [unaskable_tasks])
    assert problem.path == "evaluation.overrides.miniature_vqa.prompt"
    assert problem.message == "the task cannot be evaluated like this: prompt: expected {answer} once, found it 0 times"


def test_too_few_demonstrations_are_reported_where_the_task_is_named(folder: Path):
    rows = [{"name": str(number), "text": "red", "image": "0.png"} for number in range(3)]
    items = {
        "type": "records", "folder": "data", "id": "name", "references": "text", "image": "{image}",
        "queries": {"file": "test.jsonl"}, "demonstrations": {"file": "test.jsonl"},
    }  # fmt: skip
    from PIL import Image

    write_task(
        folder / "tasks", rows=rows, family="image", kind="generate", items=items, prompt="{image} {answer}", metrics=["exact_match"]
    )
    Image.new("RGB", (8, 8)).save(folder / "tasks" / "data" / "0.png")
    write_evaluation(folder, tasks=["tasks/colours.yaml"], shots=[0, 4])
    problem = the_problem_of(folder / "experiment.yaml", [unaskable_tasks])
    assert pointed_at(problem) == "tasks/colours.yaml" and "4 shots need 4 demonstrations" in problem.message


def test_a_check_is_reported_once_however_many_arms_it_is_true_of(tmp_path: Path):
    path = write_sweep(tmp_path, "fewer: {alter: {training.steps: 400}}\nfewest: {alter: {training.steps: 300}}")
    with pytest.raises(FileErrors) as caught:
        load_study(path, "check", [lambda experiment: [Diagnostic(("evaluation", "shots"), "never")]])
    (problem,) = caught.value.problems
    assert problem.message == "never" and Path(problem.file).name == "experiment.yaml"


@pytest.mark.parametrize("command", ["validate", "plan", "run", "evaluate"])
def test_commands_that_begin_something_refuse_what_does_not_fit(folder: Path, command: str, monkeypatch: pytest.MonkeyPatch):
    tree = yaml.safe_load((folder / "experiment.yaml").read_text())
    tree["model"]["language_model"]["configuration"]["max_position_embeddings"] = 60
    write_experiment(folder, yaml.safe_dump(tree))
    monkeypatch.chdir(folder)
    done = call(command, "experiment.yaml")
    assert done.exit_code == 2 and "experiment.yaml:28:3: evaluation.shots: task miniature_vqa at 8 shots needs" in done.stderr, done.stderr
    assert not (folder / "ablations").exists()
