"""Commands about files: help, init, validate, schema; and how each tells what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import REPOSITORY
from typer.testing import CliRunner

from mm1_ablate.cli import app

HEAVY = ("torch", "ray", "mlflow", "pandas", "transformers", "lightning", "matplotlib", "scipy")


def call(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def imported_by(*arguments: object, folder: Path) -> set[str]:
    """Which of the heavy packages a command imports, in a process of its own."""
    program = (
        "import sys, json\nfrom mm1_ablate.cli import app\n"
        f"try:\n    app({[str(argument) for argument in arguments]!r})\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('HEAVY', json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=folder, check=True)
    return set(json.loads(done.stdout.rpartition("HEAVY ")[2]))


def test_help_imports_nothing_heavy(tmp_path: Path):
    assert imported_by("--help", folder=tmp_path) == set()


def test_help_of_every_command_names_its_options():
    commands = ("init", "validate", "plan", "run", "status", "report", "ui", "schema", "doctor", "evaluate")
    overview = call("--help").output
    for command in commands:
        assert command in overview
        shown = call(command, "--help")
        assert shown.exit_code == 0
        assert ("--store" in shown.output) == (command not in ("init", "validate", "schema"))
        assert ("--json" in shown.output) == (command in ("validate", "plan", "status", "report"))


def help_of(*command: str):
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, [*command, "--help"])


def test_help_shows_arguments_as_people_write_them_and_whole_sentences():
    overview = help_of().output
    assert not [line for line in overview.splitlines() if line.endswith("...") and "Usage" not in line], "a summary is cut off"
    for command in (line.split()[0] for line in overview.partition("Commands:")[2].partition("Exit codes")[0].splitlines() if line.strip()):
        shown = help_of(command).output
        assert not set("<>{}") & set(shown.replace("<=", "").replace(">=", "")), shown


def test_validate_reads_a_sweep_without_heavy_imports_once_its_model_passed_its_checks(tiny_sweep: Path):
    assert call("validate", tiny_sweep).exit_code == 0
    assert imported_by("validate", tiny_sweep, folder=tiny_sweep.parent) == set()


def test_validate_says_what_the_file_declares(tiny_sweep: Path):
    done = call("validate", tiny_sweep)
    assert done.exit_code == 0
    assert "3 arms" in done.stdout and "6 trials" in done.stdout


def test_validate_as_json_is_only_json(tiny_sweep: Path):
    done = call("validate", tiny_sweep, tiny_sweep, "--json")
    report = json.loads(done.stdout)
    assert report["valid"] and len(report["files"]) == 2
    assert report["files"][0]["name"] == "tiny" and report["files"][0]["rows"] == report["files"][0]["distinct_trials"] == 6


def test_every_error_of_a_file_is_shown_with_its_place(tiny_sweep: Path):
    text = tiny_sweep.read_text()
    tiny_sweep.write_text(text.replace("seeds:", "seed:").replace("primary:", "primry:"))
    done = call("validate", tiny_sweep)
    assert done.exit_code == 2 and not done.stdout
    assert "tiny.yaml:3:1" in done.stderr and "seeds" in done.stderr
    assert "tiny.yaml:8:3" in done.stderr and "primary" in done.stderr


def test_errors_as_json_have_file_line_column_and_message(tiny_sweep: Path):
    tiny_sweep.write_text(tiny_sweep.read_text().replace("data.mixture.text", "data.mixture.txt"))
    done = call("validate", tiny_sweep, "--json")
    assert done.exit_code == 2
    (problem,) = json.loads(done.stdout)["files"][0]["problems"]
    assert problem["line"] == 6 and problem["column"] > 1
    assert "txt" in problem["message"] and "text" in problem["message"] + str(problem["hint"])


@pytest.mark.parametrize("command", ["validate", "plan", "run", "status", "report", "evaluate", "ui"])
def test_a_wrong_path_is_exit_2_with_the_nearest_file(command: str, tiny_sweep: Path):
    done = call(command, tiny_sweep.with_name("tinny.yaml"))
    assert done.exit_code == 2
    assert f"did you mean {tiny_sweep}" in done.stderr


@pytest.mark.parametrize("command", ["plan", "run", "status", "report", "evaluate", "ui"])
def test_a_wrong_file_is_exit_2_before_anything_is_done(command: str, tiny_sweep: Path):
    tiny_sweep.write_text(tiny_sweep.read_text().replace("seeds: [0, 1]", "seeds: []"))
    store = tiny_sweep.parent / "store"
    done = call(command, tiny_sweep, "--store", store)
    assert done.exit_code == 2
    assert "tiny.yaml:3:" in done.stderr
    assert not store.exists()


def test_a_directory_is_not_a_sweep(tiny_sweep: Path):
    done = call("validate", tiny_sweep.parent)
    assert done.exit_code == 2 and "is a directory" in done.stderr and "tiny.yaml" in done.stderr


def test_init_writes_a_sweep_that_is_valid_from_anywhere(tmp_path: Path):
    done = call("init", tmp_path / "mine")
    assert done.exit_code == 0
    sweep = tmp_path / "mine" / "sweeps" / "first.yaml"
    assert str(sweep) in done.stdout
    checked = call("validate", sweep)
    assert checked.exit_code == 0, checked.stderr
    assert "#" in sweep.read_text()


def test_init_overwrites_nothing(tmp_path: Path):
    (tmp_path / "experiments").mkdir()
    mine = tmp_path / "experiments" / "miniature.yaml"
    mine.write_text("mine")
    done = call("init", tmp_path)
    assert done.exit_code == 2 and "miniature.yaml" in done.stderr
    assert mine.read_text() == "mine" and not (tmp_path / "sweeps").exists()


def test_schema_accepts_what_validate_accepts_and_refuses_what_it_refuses(tiny_sweep: Path):
    jsonschema = pytest.importorskip("jsonschema")
    import yaml

    folder = tiny_sweep.parent / "schemas"
    assert call("schema", folder).exit_code == 0
    for name, path in (("sweep", tiny_sweep), ("experiment", tiny_sweep.parent.parent / "experiments" / "tiny.yaml")):
        schema = json.loads((folder / f"{name}.schema.json").read_text())
        validator = jsonschema.Draft202012Validator(schema)
        validator.check_schema(schema)
        content = yaml.safe_load(path.read_text())
        assert list(validator.iter_errors(content)) == []
        assert list(validator.iter_errors({**content, "sede": 1}))


def test_files_that_init_writes_fit_the_schemas_that_they_name(tmp_path: Path):
    jsonschema = pytest.importorskip("jsonschema")
    import yaml

    call("init", tmp_path)
    for path in [*tmp_path.glob("sweeps/*.yaml"), *tmp_path.glob("experiments/*.yaml")]:
        first = path.read_text().splitlines()[0]
        schema = path.parent / first.partition("$schema=")[2]
        assert schema.is_file(), first
        jsonschema.validate(yaml.safe_load(path.read_text()), json.loads(schema.read_text()))


def test_the_shipped_schemas_are_those_that_the_command_writes(tmp_path: Path):
    call("schema", tmp_path)
    for path in tmp_path.iterdir():
        assert (REPOSITORY / "schemas" / path.name).read_text() == path.read_text(), "run: mm1-ablate schema schemas"


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("sweeps/**/*.yaml")), ids=lambda path: path.name)
def test_every_shipped_sweep_is_valid(path: Path):
    done = call("validate", "--without-data", path)
    assert done.exit_code == 0, done.stderr


def test_the_experiment_that_init_writes_is_the_shipped_one(tmp_path: Path):
    call("init", tmp_path)
    assert (tmp_path / "experiments" / "miniature.yaml").read_text() == (REPOSITORY / "experiments" / "miniature.yaml").read_text()
