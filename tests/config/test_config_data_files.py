"""Data in files, as far as a study declares it: part of what a trial is, looked at when the study is read, found beside the file that
names it, and ablated in one line of a sweep."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_files import EXPERIMENT, load_experiment, pointed_at, problems_of, study_of, the_problem, write_experiment, write_sweep
from lines_files import LINES, write_data, write_lines_experiment, write_lines_study

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.fingerprint import fingerprint, training_identity
from mm1_ablate.config.preparation import preparations_of
from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.yaml_file import FileErrors


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data/ and an experiment whose text comes from there; remembered digests stay out of the user's cache."""
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    return write_lines_study(tmp_path / "study")


def identity(study: Study, arm: str = "baseline") -> str:
    return study.trials_of(arm)[0].fingerprint


# ------------------------------------------------------------- what a trial is
def test_contents_are_part_of_a_trial_and_places_are_not(folder: Path, tmp_path: Path):
    before = identity(study_of(folder))
    moved = folder.rename(tmp_path / "elsewhere")
    assert identity(study_of(moved)) == before
    (moved / "data" / "second.txt").write_text("three!\n")
    assert identity(study_of(moved)) != before
    (moved / "data" / "second.txt").write_text("three\n")
    assert identity(study_of(moved)) == before
    (moved / "data" / "second.txt").rename(moved / "data" / "third.txt")
    assert identity(study_of(moved)) != before


def test_a_source_without_files_is_what_it_was(tmp_path: Path):
    write_experiment(tmp_path)
    experiment = Experiment.model_validate(yaml.safe_load(EXPERIMENT))
    assert identity(study_of(tmp_path)) == fingerprint(training_identity(experiment, 0))
    assert "contents" not in str(training_identity(experiment, 0))
    assert preparations_of(experiment, 0)[0].contents == ""


def test_files_that_feed_nothing_are_not_looked_at(folder: Path):
    tree = yaml.safe_load((folder / "experiment.yaml").read_text())
    tree["data"]["sources"]["unused"] = LINES | {"files": "nowhere/*.txt", "data_type": "synthetic_captioned"}
    before = identity(study_of(folder))
    write_experiment(folder, yaml.safe_dump(tree))
    assert identity(study_of(folder)) == before


def test_an_arm_on_other_files_is_another_trial_and_on_equal_files_none(folder: Path, tmp_path: Path):
    write_data(folder / "other", first="one\ntwo\n", second="four\n")
    write_data(folder / "copy", first="one\ntwo\n", second="three\n")
    study = study_of(folder, "other: {alter: {data.sources.text.files: 'other/*.txt'}}")
    assert identity(study, "other") != identity(study)
    assert study.arm("other").changes[0].path == "data.sources.text.files"
    _, message, _ = the_problem(folder, "copy: {alter: {data.sources.text.files: 'copy/*.txt'}}")
    assert "changes nothing" in message


def test_what_an_encoder_learns_from_is_part_of_it_and_its_maker_need_not_look(folder: Path):
    tree = yaml.safe_load((folder / "experiment.yaml").read_text())
    tree["model"]["image_encoder"]["preparation"]["source"] = LINES | {"data_type": "captioned", "files": "data/first.txt"}
    path = write_experiment(folder, yaml.safe_dump(tree))
    (before,) = preparations_of(load_experiment(path), 0)
    (folder / "data" / "first.txt").write_text("one\n2\n")
    (after,) = preparations_of(load_experiment(path), 0)
    assert before.fingerprint != after.fingerprint
    (folder / "data" / "first.txt").unlink()
    again = type(before).model_validate(before.model_dump(mode="json"))
    assert again.fingerprint == before.fingerprint


# ------------------------------------------------------------- looked at when it is read
WRONG = {
    "no files": ({"files": "dta/*.txt"}, "dta/*.txt", "no file matches"),
    "no field": ({"must_have": "caption"}, "caption", "has no 'caption'"),
    "no permission": ({"files": "secret/*.txt"}, "secret/*.txt", "cannot be read: Permission denied"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_data_is_reported_at_its_place_in_the_experiment(folder: Path, case: str):
    source, pointed, message = WRONG[case]
    write_data(folder / "secret", only="REFUSED")
    path = write_lines_experiment(folder, **source)
    for load in (load_experiment, load_study):
        with pytest.raises(FileErrors) as caught:
            load(path)
        (problem,) = caught.value.problems
        assert problem.file.endswith("experiment.yaml") and message in problem.message
        line = path.read_text().splitlines()[problem.line - 1]
        assert line[problem.column - 1 :].strip("'") == pointed


def test_wrong_data_of_an_edit_is_reported_at_the_edit_with_all_other_problems(folder: Path):
    problems = problems_of(
        folder,
        """
        elsewhere: {alter: {data.sources.text.files: nowhere.txt}}
        again: {alter: {data.sources.text.files: nowhere.txt, training.steps: 400}}
        other: {alter: {data.sources.text.must_have: seven}}
        misspelt: {remove: data.sources.txt}
        """,
    )
    told = [(pointed_at(problem).partition("}")[0], problem.message) for problem in problems]
    assert [place for place, _ in told] == ["nowhere.txt", "seven", "data.sources.txt"]
    assert "no file matches" in told[0][1] and "no 'seven'" in told[1][1] and "no such path" in told[2][1]


def test_wrong_data_of_the_baseline_hides_no_other_problem(folder: Path):
    write_lines_experiment(folder, files="nowhere.txt")
    problems = problems_of(folder, "misspelt: {remove: data.sources.txt}\nfewer: {alter: {training.steps: 400}}")
    assert [Path(problem.file).name for problem in problems] == ["experiment.yaml", "sweep.yaml"]


def test_a_sweep_may_say_where_the_data_is(folder: Path):
    write_lines_experiment(folder, files="/data/of/somebody/else/*.txt")
    study = study_of(folder, rest="everywhere: {data.sources.text.files: data/*.txt}")
    expected = write_lines_experiment(folder)
    assert identity(study) == load_study(expected).trials[0].fingerprint


def test_distinct_settings_are_looked_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch):
    from lines_source import Lines

    looked: list[str] = []
    monkeypatch.setattr(Lines, "check", lambda self: looked.append("check"))
    contents = Lines.contents
    monkeypatch.setattr(Lines, "contents", lambda self: looked.append("contents") or contents(self))
    study = study_of(
        folder, "grid: {grid: {training.steps: [100, 200], data.sources.text.keep.text_characters.at_most: [3, 9]}}", "seeds: [0, 1, 2]"
    )
    assert len(study.trials) == 15 and len({trial.fingerprint for trial in study.trials}) == 15
    # The files are the same for all arms; what is kept of them is not, and a column that it names might be missing.
    assert looked.count("contents") == 1 and looked.count("check") == 3


@pytest.mark.parametrize("files", ["nowhere/*.txt", "secret/*.txt"])
def test_without_data_nothing_is_looked_at_and_identities_are_provisional(folder: Path, files: str):
    write_data(folder / "secret", only="REFUSED")
    real = study_of(folder)
    path = write_sweep(folder, "other: {alter: {data.sources.text.files: 'other/*.txt'}}")
    write_lines_experiment(folder, files=files)
    study = load_study(path, "nowhere")
    assert study.provisional and not real.provisional
    assert len({identity(study), identity(study, "other"), identity(real)}) == 3


def test_a_study_without_files_is_never_provisional(tmp_path: Path):
    path = write_sweep(tmp_path)
    assert not load_study(path, "nowhere").provisional
    assert identity(load_study(path, "nowhere")) == identity(load_study(path))


# ------------------------------------------------------------- where relative paths start
def test_paths_are_relative_to_the_file_that_writes_them(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_data(tmp_path / "sweeps" / "data", first="of the sweep")
    sweep = tmp_path / "sweeps" / "sweep.yaml"
    sweep.write_text(
        "sweep: s\nexperiment: ../study/experiment.yaml\nseeds: [0]\nablations:\n"
        "  its-own: {alter: {data.sources.text.files: data/first.txt}}\n"
        "  smaller: {alter: {training.steps: 400}}\n"
    )
    for place, named in ((tmp_path, "sweeps/sweep.yaml"), (folder / "data", "../../sweeps/sweep.yaml")):
        monkeypatch.chdir(place)
        study = load_study(Path(named))
        files = {arm.name: arm.experiment.data.sources["text"].files for arm in study.arms}
        assert files["baseline"] == files["smaller"] == (str(folder / "data" / "*.txt"),)
        assert files["its-own"] == (str(tmp_path / "sweeps" / "data" / "first.txt"),)


def test_reading_a_study_of_files_imports_nothing_heavy(folder: Path):
    program = (
        "import sys; from pathlib import Path; from mm1_ablate.config.sweep.expand import load_study\n"
        f"load_study(Path({str(folder / 'experiment.yaml')!r}))\n"
        "print([name for name in ('torch', 'pyarrow', 'fsspec', 'numpy.random') if name in sys.modules])"
    )
    search = [str(Path(__file__).parent), *sys.path]
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {search!r}\n{program}"], capture_output=True, text=True)
    assert done.stdout.strip().replace(", 'numpy.random'", "").replace("'numpy.random'", "") == "[]", done.stdout + done.stderr


# ------------------------------------------------------------- one line of a sweep
BOUNDED = "data.sources.bounded.keep"
ONE_LINE: list[tuple[str, str, dict[str, Any]]] = [
    # the line, what becomes of a removed share, and what it makes of the experiment, by path (None: gone)
    ("remove: data.sources.alt_text", "", {"data.sources.alt_text": None, "data.mixture.captioned": 45}),
    ("remove: data.sources.synthetic_captions", "", {"data.sources.synthetic_captions": None}),
    ("remove: data.mixture.text", "", {"data.mixture.text": None, "data.mixture.captioned": 45}),
    ("remove: data.sources.interleaved.images", "", {"data.sources.interleaved.images": False}),
    ("remove: data.sources.interleaved.interleaving", "", {"data.sources.interleaved.interleaving": False}),
    ("alter: {data.sources.text.keep.text_characters.at_most: 200}", "", {"data.sources.text.keep.text_characters.at_most": 200}),
    ("alter: {data.sources.text.keep.text_characters: {at_least: 5}}", "", {"data.sources.text.keep.text_characters.at_least": 5}),
    ("alter: {data.sources.alt_text.keep.image_side.at_least: 64}", "", {"data.sources.alt_text.keep.image_side.at_least": 64}),
    (
        "alter: {data.sources.text.keep.columns.similarity.at_least: 0.3}",
        "",
        {"data.sources.text.keep.columns.similarity": {"at_least": 0.3, "at_most": None}},
    ),
    (f"alter: {{{BOUNDED}.columns.score.at_least: 0.5}}", "", {f"{BOUNDED}.columns.score": {"at_least": 0.5, "at_most": 0.9}}),
    (
        f"alter: {{{BOUNDED}.columns.other.at_least: 5}}",
        "",
        {f"{BOUNDED}.columns.other.at_least": 5, f"{BOUNDED}.columns.score.at_most": 0.9},
    ),
    (f"remove: {BOUNDED}.columns.score", "", {f"{BOUNDED}.columns": {}}),
    (f"remove: {BOUNDED}.text_characters", "", {f"{BOUNDED}.text_characters.at_least": None, f"{BOUNDED}.columns.score.at_most": 0.9}),
    (f"remove: {BOUNDED}.text_characters.at_least", "", {f"{BOUNDED}.text_characters.at_least": None}),
    (f"remove: {BOUNDED}", "", {f"{BOUNDED}.columns": {}, f"{BOUNDED}.text_characters.at_least": None}),
    ("alter: {data.sources.bounded.max_epochs: 1}", "", {"data.sources.bounded.max_epochs": 1}),
    ("alter: {data.packing.long_documents: drop}", "", {"data.packing.long_documents": "drop"}),
    (
        "remove: data.mixture.interleaved",
        "renormalise",
        {"data.mixture.interleaved": None, "data.mixture.captioned": 45, "training.steps": 500},
    ),
    ("remove: data.mixture.interleaved", "shrink", {"data.mixture.interleaved": None, "training.steps": 275}),
    (
        "remove: data.mixture.interleaved",
        "{fill_with: synthetic_captioned}",
        {"data.mixture.interleaved": None, "data.mixture.synthetic_captioned": 45, "training.steps": 500},
    ),
    (
        "remove: data.sources.alt_text",
        "{fill_with: synthetic_captioned}",
        {"data.sources.alt_text": None, "data.mixture.captioned": 22.5, "data.mixture.synthetic_captioned": 22.5},
    ),
]


def write_whole_experiment(folder: Path) -> None:
    """The small experiment on miniature and file sources, with a source that has bounds, and recaptions as a type of their own."""
    tree = yaml.safe_load((folder / "experiment.yaml").read_text())
    keep = {"columns": {"score": {"at_most": 0.9}}, "text_characters": {"at_least": 2}}
    tree["data"]["sources"]["bounded"] = LINES | {"keep": keep}
    tree["data"]["sources"]["recaptions"] = {"type": "miniature", "data_type": "synthetic_captioned", "content": "synthetic_captions"}
    write_experiment(folder, yaml.safe_dump(tree))


@pytest.mark.parametrize(("line", "when_removed", "expected"), ONE_LINE)
def test_each_removal_is_one_line_of_a_sweep(folder: Path, line: str, when_removed: str, expected: dict[str, Any]):
    write_whole_experiment(folder)
    arm = study_of(folder, f"arm:\n  {line}\n" + (f"  when_removed: {when_removed}\n" if when_removed else "")).arm("arm")
    tree = arm.experiment.model_dump(mode="json")
    found = {path: _at(tree, path) for path in expected}
    assert found == expected


def _at(tree: Any, path: str) -> Any:
    for part in path.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("alter: {data.sources.text.kep.text_characters.at_most: 200}", "no such path", "data.sources.text.keep.text_characters.at_most"),
        ("alter: {data.sources.text.keep.columns.score.at_lest: 1}", "no such path", ""),
        ("alter: {data.sources.txt.keep.columns.score.at_least: 1}", "no such path", "data.sources.text.keep"),
        ("alter: {data.sources.newcomer.weight: 1}", "no such path", ""),
        ("remove: data.sources.text.keep.text_characters", "already None", ""),
        ("remove: data.sources.text.keep.columns.score", "no such path", ""),
        ("remove: data.packing", "cannot be removed", ""),
        ("remove: model.connector", "cannot be removed", ""),
        ("remove: training.optimizer", "cannot be removed", ""),
        ("alter: {data.sources.text.keep.text_characters: {at_least: 9, at_most: 3}}", "nothing would be kept", ""),
    ],
)
def test_a_line_that_means_nothing_is_an_error(folder: Path, line: str, message: str, hint: str):
    _, told, suggested = the_problem(folder, f"arm:\n  {line}")
    assert message in told and hint in suggested


def test_held_out_documents_are_part_of_an_evaluation_and_not_of_a_training(folder: Path):
    tree = yaml.safe_load((folder / "experiment.yaml").read_text())
    write_data(folder / "held_out", only="seen by nobody\n")
    tree["evaluation"]["losses"] = {"text": {"source": LINES | {"files": "held_out/*.txt"}}}
    path = write_experiment(folder, yaml.safe_dump(tree))
    (before,) = load_study(path).trials
    write_data(folder / "held_out", only="seen by somebody\n")
    (after,) = load_study(path).trials
    assert before.fingerprint == after.fingerprint and before.evaluation_fingerprint != after.evaluation_fingerprint
    (folder / "held_out" / "only.txt").unlink()
    with pytest.raises(FileErrors, match=r"evaluation\.losses\.text\.source\.files: no file matches"):
        load_study(path)


# ------------------------------------------------------------- the formats that people have
def write_formats(folder: Path) -> None:
    """An experiment on a tar of captioned images, a parquet of interleaved pages and JSON lines, all of them beside it."""
    import io
    import json
    import tarfile

    import pyarrow as pa
    import pyarrow.parquet
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(stream, "PNG")
    picture = stream.getvalue()
    data = folder / "data"
    data.mkdir(parents=True)
    (data / "text.jsonl").write_text("".join(json.dumps({"text": f"text {number}", "score": number / 4}) + "\n" for number in range(4)))
    with tarfile.open(data / "00000.tar", "w") as tar:
        for key in ("a", "b"):
            metadata = json.dumps({"similarity": 0.3, "alt": f"other caption {key}"}).encode()
            for extension, content in (("png", picture), ("txt", f"caption {key}".encode()), ("json", metadata)):
                entry = tarfile.TarInfo(f"{key}.{extension}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    pages = pa.table({"images": [[picture, None], [None, picture]], "texts": [[None, "one"], ["two", None]]})
    pyarrow.parquet.write_table(pages, data / "pages.parquet")
    tree = yaml.safe_load(EXPERIMENT)
    tree["data"]["sources"] = {
        "pairs": {"type": "webdataset", "files": "data/{00000..00000}.tar", "data_type": "captioned"},
        "pages": {"type": "obelics", "files": "data/pages.parquet", "data_type": "interleaved"},
        "text": {"type": "text", "files": "data/*.jsonl", "data_type": "text"},
    }
    write_experiment(folder, yaml.safe_dump(tree, sort_keys=False))


FORMAT_LINES = [
    # the line, and what is wrong with it, if anything is
    ("remove: data.mixture.captioned", ""),
    ("remove: data.sources.pages.images", ""),
    ("remove: data.sources.pages.interleaving", ""),
    ("alter: {data.sources.text.keep.text_characters.at_most: 200}", ""),
    ("alter: {data.sources.text.keep.columns.score.at_least: 0.5}", ""),
    ("alter: {data.sources.pairs.keep.columns.similarity.at_least: 0.3}", ""),
    ("alter: {data.sources.pairs.keep.image_side.at_least: 64}", ""),
    ("alter: {data.sources.pairs.caption_field: json.alt}", ""),
    ("alter: {data.sources.text.files: data/text.jsonl}", "changes nothing"),
    ("alter: {data.sources.text.files: data/texts.jsonl}", "no file matches"),
    ("alter: {data.sources.text.files: data/pages.parquet}", "text"),
    ("alter: {data.sources.text.field: content}", "text"),
    ("alter: {data.sources.text.keep.columns.scor.at_least: 0.5}", "score"),
    ("alter: {data.sources.pairs.caption_field: json.alternative}", "json.alt"),
    ("alter: {data.sources.pages.files: data/text.jsonl}", "parquet"),
    ("remove: data.sources.pages", "no other source feeds"),
]


@pytest.mark.parametrize(("line", "wrong"), FORMAT_LINES)
def test_lines_of_a_sweep_on_the_formats_that_people_have(tmp_path: Path, line: str, wrong: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    write_formats(tmp_path / "study")
    if wrong:
        _, message, hint = the_problem(tmp_path / "study", f"arm: {{{line}}}")
        assert wrong in message + hint and not message.startswith("cannot be read")
    else:
        study = study_of(tmp_path / "study", f"arm: {{{line}}}")
        assert identity(study, "arm") != identity(study)
