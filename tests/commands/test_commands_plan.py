"""Commands that look at a study: plan, status, report, ui, doctor; none of them trains anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import yaml
from command_line import call

from mm1_ablate.run.cluster import check_ray
from mm1_ablate.store import health
from mm1_ablate.tracking.ui import check_mlflow


def test_plan_shows_every_trial_and_what_seeds_can_detect(tiny_sweep: Path, tmp_path: Path):
    done = call("plan", tiny_sweep, "--store", tmp_path / "store")
    assert done.exit_code == 0
    for word in (
        "baseline ",
        "without/interleaved",
        "0, 1",
        "2 run",
        "never run",
        "6 distinct trials",
        "2 seeds: smallest detectable difference",
        "CPU",
    ):
        assert word in done.stdout


def test_plan_as_json_is_only_json(tiny_sweep: Path, tmp_path: Path):
    done = call("plan", tiny_sweep, "--store", tmp_path / "store", "--json")
    content = json.loads(done.stdout)
    assert {"trials", "rows", "distinct_trials"} <= content.keys()
    assert {trial["status"] for trial in content["trials"]} == {"run"}


def test_several_sweeps_are_planned_together(tiny_sweep: Path, tmp_path: Path):
    other = tiny_sweep.with_name("other.yaml")
    other.write_text(tiny_sweep.read_text().replace("sweep: tiny", "sweep: other"))
    content = json.loads(call("plan", tiny_sweep, other, "--store", tmp_path / "store", "--json").stdout)
    assert content["rows"] == 12 and content["distinct_trials"] == 6


@pytest.mark.parametrize("command", [["plan"], ["plan", "--json"], ["run"]])
def test_a_budget_that_is_too_small_is_exit_3_and_nothing_starts(command: list[str], tiny_sweep: Path, tmp_path: Path):
    tiny_sweep.write_text(tiny_sweep.read_text() + "budget: {cpu_hours: 0.0000001}\n")
    done = call(*command, tiny_sweep, "--store", tmp_path / "store")
    assert done.exit_code == 3
    assert "the budget allows 1e-07" in done.stderr
    assert not (tmp_path / "store").exists()
    if "--json" in command:
        assert json.loads(done.stdout)["over_budget"]


def test_the_store_may_be_named_by_the_environment(tiny_sweep: Path, tmp_path: Path):
    done = call("status", tiny_sweep, "--json", MM1_ABLATE_STORE=str(tmp_path / "elsewhere"))
    assert json.loads(done.stdout)["store"] == str(tmp_path / "elsewhere")


def test_a_plan_whose_sizes_are_known_imports_no_torch(tiny_sweep: Path, tmp_path: Path):
    assert call("plan", tiny_sweep, "--store", tmp_path / "store").exit_code == 0
    program = (
        "import sys\nfrom mm1_ablate.cli import app\n"
        "try:\n    app(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'torch', 'ray', 'mlflow', 'transformers'} & set(sys.modules)"
    )
    arguments = ["plan", str(tiny_sweep), "--store", str(tmp_path / "store")]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True, cwd=tmp_path)


def test_an_encoder_of_timm_that_passed_its_check_is_not_made_again(tiny_sweep: Path, tmp_path: Path):
    cache, store = tmp_path / "cache", tmp_path / "store"
    experiment = tiny_sweep.parent.parent / "experiments" / "tiny.yaml"
    settings = yaml.safe_load(experiment.read_text())
    settings["model"]["image_encoder"] = {"type": "timm", "name": "test_vit", "image_size": 32, "patch_size": 16, "weights": None}
    experiment.write_text(yaml.safe_dump(settings))
    program = (
        "import sys\nfrom mm1_ablate.cli import app\n"
        "try:\n    app(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(len({'torch', 'timm'} & set(sys.modules)))"
    )

    def imported(name: str) -> str:
        experiment.write_text(yaml.safe_dump(settings).replace("test_vit", name))
        command = [sys.executable, "-c", program, "plan", str(tiny_sweep), "--store", str(store)]
        environment = os.environ | {"MM1_ABLATE_CACHE": str(cache)}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        return done.stdout.splitlines()[-1] if done.returncode == 0 else done.stderr

    assert [imported("test_vit"), imported("test_vit")] == ["2", "0"]
    # What is wrong stays wrong, however often it is asked.
    assert [("did you mean" in imported("test_vitt")) for _ in range(2)] == [True, True]


def test_status_names_every_trial_of_an_empty_store(tiny_sweep: Path, tmp_path: Path):
    done = call("status", tiny_sweep, "--store", tmp_path / "store", "--json")
    content = json.loads(done.stdout)
    assert content["counts"] == {"missing": 6} and len(content["trials"]) == 6
    assert "6 missing" in call("status", tiny_sweep, "--store", tmp_path / "store").stdout


def test_report_of_an_empty_store_is_all_holes(tiny_sweep: Path, tmp_path: Path):
    (tmp_path / "store").mkdir()
    done = call("report", tiny_sweep, "--store", tmp_path / "store", "--json")
    assert done.exit_code == 0, done.stderr
    content = json.loads(done.stdout)
    assert {"arms", "holes", "expectations"} <= content.keys()
    assert len(content["holes"]) == 6 and all(arm["n"] == 0 for arm in content["arms"])


def test_ui_without_a_store_says_what_to_do(tmp_path: Path):
    done = call("ui", "--store", tmp_path / "nothing")
    assert done.exit_code == 1 and "--store" in done.stderr


def test_doctor_has_a_line_for_each_thing_and_a_remedy_for_each_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(health, "LEAST_DISK", 1e18)
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    done = call("doctor", "--store", blocked / "store")
    assert done.exit_code == 1
    lines = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith(("ok", "problem"))}
    assert set(lines) == {"python", "packages", "cpu", "gpu", "store", "disk", "ray", "mlflow"}
    assert lines["python"].startswith("ok") and lines["ray"].startswith("ok")
    assert lines["disk"].startswith("problem")
    assert "to do: free" in done.stdout


def test_doctor_gives_advice_that_helps_and_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import ray

    def refuse(**options: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(ray, "init", refuse)
    assert "--force" not in check_ray(None).remedy and "everybody's Ray" in check_ray(None).remedy
    (tmp_path / "mlflow.db").write_text("no database")
    check = check_mlflow(tmp_path)
    assert not check.ok and "mm1-ablate ui SWEEP" in check.remedy


@pytest.mark.parametrize("command", ["plan", "status", "report", "run"])
def test_a_store_that_is_no_folder_is_exit_2_and_a_sentence(
    command: str, tiny_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "file"
    file.write_text("not a folder")
    address = call(command, tiny_sweep, "--store", "https://bucket/store")
    assert address.exit_code == 2 and "is not a store" in address.stderr and "s3://BUCKET/PREFIX" in address.stderr
    assert not (tmp_path / "https:").exists()
    for store in (file, file / "below"):
        done = call(command, tiny_sweep, "--store", store)
        assert done.exit_code == 2 and f"{file}" in done.stderr and "--store DIR" in done.stderr, (store, done.exception)


def test_a_store_that_cannot_be_written_is_a_sentence(tiny_sweep: Path):
    for command in ("report", "run"):
        done = call(command, tiny_sweep, "--store", "/proc/nowhere/store")
        assert done.exit_code == 2 and "/proc/nowhere" in done.stderr and "Traceback" not in done.stderr, done.exception


@pytest.mark.parametrize("columns", [80, 100, 130, 160])
def test_a_plan_fits_the_terminal_and_keeps_names_and_reasons(columns: int, tiny_sweep: Path, tmp_path: Path):
    tiny_sweep.write_text(tiny_sweep.read_text().replace("  without:", "  without-one-of-the-sources:"))
    done = call("plan", tiny_sweep, "--store", tmp_path / "store", COLUMNS=str(columns))
    table = done.stdout.split("\n\n")[0].splitlines()
    assert max(map(len, table)) <= columns
    assert any(line.rstrip().endswith("never run") for line in table)
    assert sum("interleaved" in line for line in table) == 1, done.stdout
    assert ("LM" in table[0]) == (columns >= 130) and ("text tokens" in table[0]) == (columns >= 100)


def test_arms_that_other_code_trained_are_flagged(tiny_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from mm1_ablate.commands.comparison import compare_study
    from mm1_ablate.config.sweep.expand import load_study
    from mm1_ablate.store.store import Store

    study, store = load_study(tiny_sweep), Store(tmp_path / "store")
    for trial in study.trials:
        code = "0.1.0+bbbbbbbb" if trial.name == "without/text/seed-1" else "0.1.0+aaaaaaaa"
        monkeypatch.setattr("mm1_ablate.store.status.code_version", lambda code=code: code)
        folder = store.write_trial(trial)
        with store.hold(folder):
            store.start(folder, "train")
            (folder / "model.pt").touch()
            items = {"task": ["miniature_vqa"], "family": ["image"], "shots": [0], "item": ["a"], "metric": ["exact"], "score": [1.0]}
            store.write_evaluation(trial.fingerprint, trial.evaluation_fingerprint, pandas.DataFrame(items), {"shot_0/average": 1.0})
            store.finish(folder)
    comparison = compare_study(study, store)
    assert "code 0.1.0+aaaaaaaa → 0.1.0+aaaaaaaa (seed 0), 0.1.0+bbbbbbbb (seed 1)" in comparison.row("without/text").also_changed
    assert not any(part.startswith("code") for part in comparison.row("without/interleaved").also_changed)
