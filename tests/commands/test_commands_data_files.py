"""Commands on data in files: what is wrong is told before anything starts, data is made ready first, bad and repeated data is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pytest
import yaml
from command_line import call
from lines_files import WORDS, write_lines_sweep
from lines_source import Lines

from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.data.cache import NotEnoughSpace
from mm1_ablate.store.store import Store


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny sweep, its text from 40 lines in a file of their own."""
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    return write_lines_sweep(tmp_path)


def data_of(sweep: Path) -> Path:
    return sweep.parent.parent / "experiments" / "data" / "first.txt"


def wrong_pattern(sweep: Path) -> str:
    """Misspell the pattern; where the experiment says it, as `file:line:column`."""
    experiment = sweep.parent.parent / "experiments" / "tiny.yaml"
    experiment.write_text(experiment.read_text().replace("data/*.txt", "dta/*.txt"))
    lines = experiment.read_text().splitlines()
    (line,) = [number for number, text in enumerate(lines) if "dta/*.txt" in text]
    return f"tiny.yaml:{line + 1}:{lines[line].index('dta') + 1}"


# ------------------------------------------------------------- before anything starts
@pytest.mark.parametrize("command", ["validate", "plan", "run"])
def test_data_that_is_not_there_is_exit_2_at_its_line(sweep: Path, tmp_path: Path, command: str):
    place = wrong_pattern(sweep)
    store = () if command == "validate" else ("--store", tmp_path / "store")
    done = call(command, sweep, *store)
    assert done.exit_code == 2 and place in done.stderr and "no file matches" in done.stderr and "experiments" in done.stderr
    assert not (tmp_path / "store").exists()


def test_data_that_is_not_there_as_json(sweep: Path):
    wrong_pattern(sweep)
    (problem,) = json.loads(call("validate", sweep, "--json").stdout)["files"][0]["problems"]
    assert problem["path"] == "data.sources.text.files" and problem["file"].endswith("experiments/tiny.yaml")


def test_validate_and_plan_can_leave_the_data_alone_and_say_what_that_means(sweep: Path, tmp_path: Path):
    wrong_pattern(sweep)
    assert call("validate", sweep, "--without-data").exit_code == 0
    done = call("plan", sweep, "--without-data", "--store", tmp_path / "store")
    assert done.exit_code == 0 and "provisional" in done.stdout
    content = json.loads(call("plan", sweep, "--without-data", "--json", "--store", tmp_path / "store").stdout)
    assert content["provisional"] is True


def test_only_validate_and_plan_take_without_data(sweep: Path):
    for command in ("validate", "plan", "run", "status", "report", "evaluate"):
        assert ("--without-data" in call(command, "--help").stdout) == (command in ("validate", "plan"))


def test_a_plan_that_looked_is_not_provisional(sweep: Path, tmp_path: Path):
    content = json.loads(call("plan", sweep, "--json", "--store", tmp_path / "store").stdout)
    assert content["provisional"] is False
    assert all(trial["epochs"]["text"] > 0 for trial in content["trials"] if "without/text" not in trial["name"])


def test_a_plan_does_not_read_large_data_to_count_it(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def large(self: Lines, report: Any = None) -> None:
        report("indexing", 0, 10**12)
        raise AssertionError("a plan began to read a terabyte")

    monkeypatch.setattr(Lines, "make_ready", large)
    done = call("plan", sweep, "--store", tmp_path / "store")
    assert done.exit_code == 0 and "token counts are as declared" in done.stdout, done.stderr


def test_a_plan_says_which_arms_read_again_what_the_baseline_reads_once(sweep: Path, tmp_path: Path):
    # 4 steps of 2 rows hold a few lines: of the 40 lines a part, and a single line again and again.
    data_of(sweep).with_name("few.txt").write_text("the goat is in the barn .\n")
    arm = f"  few: {{alter: {{data.sources.text.files: {data_of(sweep).parent}/few.txt}}}}"
    sweep.write_text(sweep.read_text().replace("compare:", f"{arm}\ncompare:"))
    data_of(sweep).write_text(WORDS * 10)
    done = call("plan", sweep, "--store", tmp_path / "store")
    assert "repeated data: few reads source 'text' about" in done.stdout, done.stdout + done.stderr
    assert json.loads(call("plan", sweep, "--json", "--store", tmp_path / "store").stdout)["repeats"]


def test_a_plan_says_of_what_trials_would_fail(sweep: Path, tmp_path: Path):
    data_of(sweep).write_text(WORDS + "words that nobody knows\n" * 100)
    done = call("plan", sweep, "--store", tmp_path / "store")
    assert done.exit_code == 0 and "trials will fail because of their data: words that the miniature tokenizer does not know" in done.stdout


@pytest.mark.parametrize("command", ["validate", "plan", "run"])
def test_data_that_begins_with_words_that_the_tokenizer_does_not_know_is_exit_2(sweep: Path, tmp_path: Path, command: str):
    data_of(sweep).write_text("words nobody knows\n")
    done = call(command, sweep, *([] if command == "validate" else ["--store", tmp_path / "store"]))
    assert done.exit_code == 2 or (command, done.exit_code) == ("validate", 1)
    assert "texts of data.sources.text contain others: words, nobody, knows; declare the tokenizer" in done.output


def test_a_plan_says_that_data_will_not_last(sweep: Path, tmp_path: Path):
    experiment = sweep.parent.parent / "experiments" / "tiny.yaml"
    tree = yaml.safe_load(experiment.read_text())
    for source in tree["data"]["sources"].values():
        source["max_epochs"] = 2
    experiment.write_text(yaml.safe_dump(tree, sort_keys=False))
    assert "the data is used up" not in call("plan", sweep, "--store", tmp_path / "store").stdout
    tree["training"]["steps"] = 4000
    experiment.write_text(yaml.safe_dump(tree, sort_keys=False))
    done = call("plan", sweep, "--store", tmp_path / "store")
    assert done.exit_code == 0, done.output
    assert "trials will fail because of their data: baseline/seed-0: the data is used up before step 4,000" in " ".join(done.stdout.split())


# ------------------------------------------------------------- made ready
def test_run_makes_data_ready_once_before_trials_start(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made: list[str] = []

    def make_ready(self: Lines, report: Any = None) -> None:
        report(f"indexing {self.found()[0].name}", 10_000_000, 20_000_000)
        made.append(str(self.files))
        raise NotEnoughSpace("index", tmp_path, 10**18)

    monkeypatch.setattr("mm1_ablate.plan.model_statistics.count_rows", lambda experiment: (_ for _ in ()).throw(OSError("not here")))
    monkeypatch.setattr(Lines, "make_ready", make_ready)
    done = call("run", sweep, "--store", tmp_path / "store")
    assert done.exit_code == 2 and len(made) == 1
    assert "indexing first.txt: 20 MB" in done.stdout
    assert "data.sources.text cannot be prepared: index needs about" in done.stderr and "MM1_ABLATE_CACHE" in done.stderr
    assert "nothing was started" in done.stderr and not (tmp_path / "store" / "trials").exists()


def test_a_source_is_made_ready_once_for_all_arms_that_read_it(sweep: Path, tmp_path: Path):
    from rich.console import Console

    from mm1_ablate.commands.prepare_data import make_ready, sources_to_be_read
    from mm1_ablate.plan.plan import plan

    study = load_study(sweep)
    planned = plan(study, Store(tmp_path / "store"))
    places = [".".join(map(str, place)) for place, _ in sources_to_be_read(study, planned).values()]
    assert sorted(places) == ["data.sources.interleaved", "data.sources.synthetic_captions", "data.sources.text"]
    make_ready(study, planned, Console(force_terminal=True, width=100))


# ------------------------------------------------------------- what came of the data
def account(bad: int = 0, epochs: float = 0.5) -> dict[str, Any]:
    """What a trial writes of one source's data."""
    reasons = {"line that begins with BAD": bad} if bad else {}
    examples = {reason: ["line 3", "line 17"] for reason in reasons}
    rest = {"documents": 40, "images": 0, "tokens": 400, "bad_share": bad / 40, "split": 0, "pieces": 0, "dropped": {"too many images": 2}}
    return {"drawn": 4000, "epochs": epochs, "bad": reasons, "left_out": {}, "examples": examples, **rest}


@pytest.fixture
def finished(sweep: Path, tmp_path: Path) -> Store:
    """A store in which every trial is done; without interleaved data text is read twice, and one trial met bad data."""
    store = Store(tmp_path / "store")
    for trial in load_study(sweep).trials:
        folder = store.write_trial(trial)
        with store.hold(folder):
            store.start(folder, "train")
            (folder / "model.pt").touch()
            items = {"task": ["miniature_vqa"], "family": ["image"], "shots": [0], "item": ["a"], "metric": ["exact"], "score": [1.0]}
            store.write_evaluation(trial.fingerprint, trial.evaluation_fingerprint, pandas.DataFrame(items), {"shot_0/average": 1.0})
            store.finish(folder)
        again = "without/interleaved" in trial.name
        accounts = {"text": account(3 if trial.seed else 1, 2.0 if again else 0.5), "synthetic_captions": account(0, 0.25)}
        (folder / "data.json").write_text(json.dumps(accounts))
    return store


def test_status_names_unreadable_data(sweep: Path, finished: Store):
    done = call("status", sweep, "--store", finished.root)
    assert done.stdout.count("3 unreadable in text") == 3, done.stdout + done.stderr
    trials = json.loads(call("status", sweep, "--store", finished.root, "--json").stdout)["trials"]
    assert [trial["unreadable"] for trial in trials[:2]] == [{"text": 1}, {"text": 3}]


def test_the_report_lists_bad_data_and_flags_data_that_is_repeated(sweep: Path, finished: Store, tmp_path: Path):
    done = call("report", sweep, "--store", finished.root, "--to", tmp_path / "written.md")
    assert done.exit_code == 0, done.stderr
    bad = "text: 3 line that begins with BAD, in 4,000 documents drawn (first: line 3, line 17)"
    flag = "repeats data: text is read 2.00 times, in the baseline 0.50"
    assert bad in done.stdout and flag in done.stdout
    folder = finished.study_folder(load_study(sweep)) / "report"
    for text in ((folder / "report.md").read_text(), (folder / "report.html").read_text(), (tmp_path / "written.md").read_text()):
        assert "Data that was skipped or cut" in text and "line 17" in text and "too many images" in text and flag in text
    content = json.loads(call("report", sweep, "--store", finished.root, "--json").stdout)
    arms = {arm["name"]: arm for arm in content["arms"]}
    assert any("repeats data: text" in line for line in arms["without/interleaved"]["brought_along"])
    assert not any("repeats data" in line for line in arms["without/text"]["brought_along"])
    assert arms["baseline"]["costs"]["epochs of text"] == 0.5
    (unreadable,) = [loss for loss in content["data_losses"] if loss["kind"] == "unreadable"]
    assert (unreadable["source"], unreadable["count"], unreadable["trials"]) == ("text", 3, 6)
    assert "epochs of synthetic_captions (within 2%)" in content["held_constant"]


def test_a_report_without_losses_has_no_section_for_them(sweep: Path, finished: Store):
    for path in finished.root.glob("trials/*/data.json"):
        path.unlink()
    assert call("report", sweep, "--store", finished.root).exit_code == 0
    folder = finished.study_folder(load_study(sweep)) / "report"
    assert "skipped or cut" not in (folder / "report.md").read_text() + (folder / "report.html").read_text()


def test_what_became_of_the_data_is_in_mlflow(sweep: Path, finished: Store):
    from mlflow import MlflowClient

    from mm1_ablate.tracking.mlflow_runs import track
    from mm1_ablate.tracking.server import tracking_uri

    study = load_study(sweep)
    tracked = track(study, finished)
    client = MlflowClient(tracking_uri(finished))
    run = tracked.trial_runs[study.trials[0].evaluation_fingerprint]
    assert "data.json" in [file.path for file in client.list_artifacts(run)]
    assert json.loads(Path(client.download_artifacts(run, "data.json")).read_text())["text"]["bad"] == {"line that begins with BAD": 1}


def test_reports_are_made_of_data_that_has_changed_in_no_part_that_counts(sweep: Path, finished: Store):
    counts = json.loads(call("status", sweep, "--store", finished.root, "--json").stdout)["counts"]
    assert counts == {"done": 6}
    data_of(sweep).write_text(WORDS + "one more\n")
    # Trials without text do not read the file that changed.
    assert json.loads(call("status", sweep, "--store", finished.root, "--json").stdout)["counts"] == {"missing": 4, "done": 2}
