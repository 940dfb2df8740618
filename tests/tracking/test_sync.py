"""`mm1-ablate sync`: MLflow from the store alone, with the numbers of the report, by the command that a user gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import call
from mlflow import MlflowClient
from scored_study import write_scores

from mm1_ablate.commands.comparison import compare_study
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.store.store import Store
from mm1_ablate.store.study_files import commit_of


@pytest.fixture
def root(tiny_sweep: Path, tmp_path: Path) -> Path:
    """A store of a finished study in a git repository."""
    git = ["git", "-C", str(tiny_sweep.parent), "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "A study"]):
        subprocess.run([*git, *arguments], check=True)
    study, store = load_study(tiny_sweep), Store(tmp_path / "store")
    store.write_study(study)
    store.keep_texts(study, study.trials)
    write_scores(
        tiny_sweep, store.root, lambda trial, task, shots, place, item: item.references[0] if trial.seed or place % 2 else "nothing"
    )
    return store.root


def test_sync_writes_all_of_a_study_with_the_numbers_of_its_report_and_says_where_it_is(tiny_sweep: Path, root: Path) -> None:
    done = call("sync", tiny_sweep, "--store", root)
    assert done.exit_code == 0, done.output
    assert "has 3 arms and 6 trials of 'tiny', of which 6 were written now" in done.stdout and "mm1-ablate ui" in done.stdout
    again = call("sync", tiny_sweep, "--store", root)
    assert again.exit_code == 0 and "of which 0 were written now" in again.stdout

    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("mm1-ablate/tiny")
    assert experiment is not None
    comparison = compare_study(load_study(tiny_sweep), Store(root))
    arms = {run.data.tags["arm"]: run for run in client.search_runs([experiment.experiment_id], "tags.kind = 'arm'")}
    assert set(arms) == {row.name for row in comparison.rows}
    for row in comparison.rows:
        run, cell = arms[row.name], row.cells[comparison.primary]
        assert run.data.metrics["0-shot"] == pytest.approx(cell.mean, abs=0.005) and run.data.metrics["seeds"] == row.n
        assert run.data.tags["verdict"] == ("baseline" if row.is_baseline else row.verdict)
        if cell.estimate and cell.estimate.shown:
            told = [run.data.metrics[name] for name in ("0-shot difference", "low", "high")]
            assert told == pytest.approx([cell.estimate.difference, *cell.estimate.shown], abs=0.005)
    assert arms["without/text"].data.tags["changes"].startswith("removed mixture.text")
    verdicts = {row.name: row.verdict for row in comparison.rows}
    assert arms["without/text"].info.run_name == f"text: {verdicts['without/text']}", "of a single group its name is left out"
    assert arms["baseline"].info.run_name == "baseline"
    trial = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'")[0]
    assert trial.data.tags["mlflow.source.name"] and trial.data.tags["mlflow.source.git.commit"] == commit_of(tiny_sweep.parent)
    assert len(commit_of(tiny_sweep.parent)) == 40


def test_a_commit_says_that_files_were_changed_since_and_no_repository_has_none(tiny_sweep: Path, root: Path, tmp_path: Path) -> None:
    tiny_sweep.write_text(tiny_sweep.read_text() + "\n")
    assert commit_of(tiny_sweep.parent).endswith("+changes")
    assert commit_of(Path(root.anchor)) == ""


def test_sync_without_a_server_fails_with_a_sentence(tiny_sweep: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    failed = call("sync", tiny_sweep, "--store", root)
    assert failed.exit_code == 1 and "could not be written" in failed.output and "Traceback" not in failed.output
    nowhere = call("sync", tiny_sweep, "--store", root.with_name("none"))
    assert nowhere.exit_code == 2 and "there is no store" in nowhere.output


def test_neither_torch_nor_ray_nor_mlflow_is_imported_before_it_is_needed() -> None:
    program = "import sys; from mm1_ablate.tracking import live, ui; print({'torch', 'ray', 'mlflow', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "set()"
