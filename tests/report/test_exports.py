"""A comparison in files of the reader's choice: what each ending writes, LaTeX that compiles, a PDF that loses nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from command_line import call
from hypothesis import given
from hypothesis import strategies as st
from made_up import made_up_study, noisy_results
from scored_study import write_scores

from mm1_ablate.report.cells import Measure
from mm1_ablate.report.comparison import StudyComparison, compare
from mm1_ablate.report.exports import ENDINGS, unwritable, write_export
from mm1_ablate.report.formats import bracketed, number, signed
from mm1_ablate.report.latex import CHARACTERS, escaped, latex
from mm1_ablate.report.pdf import VARIABLE, browser, write_pdf

HOSTILE = 'a_b/50%~{x}^2 & #$\\<é>|"−±×→'
LONG = "connector/c_abstractor,hidden=96,image_size=48,image_tokens=16"


@pytest.fixture(scope="module")
def comparison() -> StudyComparison:
    truth = {"baseline": 50.0, "leave-one-out/interleaved": 20.0, "leave-one-out/text": 50.0, LONG: 55.0, HOSTILE: 30.0}
    study = made_up_study([name for name in truth if name != "baseline"], description="100 % of it & <more>.")
    results, items = noisy_results(study, truth, items=40)
    return compare(study, results, [], items)


def compiled(text: str, folder: Path) -> tuple[list[str], str]:
    """A document with the tables, set by LaTeX: complaints, and the words on its pages."""
    (folder / "tables.tex").write_text(text, encoding="utf-8")
    preamble = text.partition("\n")[0].removeprefix("% In the preamble: ")
    document = rf"\documentclass{{article}}{preamble}\begin{{document}}\input{{tables}}\end{{document}}"
    (folder / "paper.tex").write_text(document, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "paper.tex"], cwd=folder, capture_output=True, encoding="latin-1", check=False
    )
    assert (folder / "paper.pdf").exists(), done.stdout[-3000:]
    return [line for line in done.stdout.splitlines() if line.startswith(("!", "Overfull", "Missing"))], words_of(folder / "paper.pdf")


def words_of(pdf: Path) -> str:
    if not shutil.which("pdftotext"):
        pytest.skip("pdftotext (poppler-utils) is not installed: what a PDF says cannot be read")
    return subprocess.run(["pdftotext", "-layout", pdf, "-"], capture_output=True, encoding="utf-8", check=True).stdout


# ---------------------------------------------------------------- endings
def test_what_is_written_follows_the_ending(comparison: StudyComparison, tmp_path: Path) -> None:
    begins = {".tex": "% In the preamble", ".csv": "arm,group,baseline,metric,mean", ".md": "# made-up", ".html": "<!DOCTYPE html>"}
    for ending in (*begins, ".HTML"):
        path = tmp_path / "new folder" / f"table{ending}"
        assert unwritable(path) is None
        written = write_export(path, comparison)
        assert written[0] == path and path.is_file() and path.read_text(encoding="utf-8").startswith(begins[ending.lower()])
        assert ending == ".md" or written == [path]
    table = pd.read_csv(tmp_path / "new folder" / "table.csv")
    own = table[(table["arm"] == LONG) & (table["metric"] == "shot_8/average")].iloc[0]
    assert own["mean"] == pytest.approx(comparison.row(LONG).cells["shot_8/average"].mean)


def test_a_path_without_ending_and_a_folder_that_exists_become_a_folder(comparison: StudyComparison, tmp_path: Path) -> None:
    (tmp_path / "results.tex").mkdir()
    for folder in (tmp_path / "there", tmp_path / "results.tex"):
        assert unwritable(folder) is None and write_export(folder, comparison)[0] == folder / "report.md"


def test_what_cannot_be_written_is_refused_with_a_sentence_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told = call("report", tmp_path / "no-such-sweep.yaml", "--to", tmp_path / "table.docx")
    assert told.exit_code == 2 and "table.docx: nothing is known to write into a file that ends in .docx" in told.stderr
    assert all(ending in told.stderr for ending in ENDINGS) and "no-such-sweep" not in told.stderr
    (tmp_path / "taken").touch()
    assert "taken: is a file" in str(unwritable(tmp_path / "taken"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr("mm1_ablate.report.pdf.PLACES", ())
    assert "none was found: install Chromium" in str(unwritable(tmp_path / "table.pdf")) and VARIABLE in str(unwritable(tmp_path / "a.PDF"))


def test_the_command_writes_the_file_and_says_where(tiny_sweep: Path, tmp_path: Path) -> None:
    write_scores(tiny_sweep, tmp_path / "store", lambda trial, task, shots, place, item: item.references[0] if place % 2 else "nothing")
    done = call("report", tiny_sweep, "--store", tmp_path / "store", "--to", tmp_path / "paper" / "table.tex")
    assert done.exit_code == 0, done.output
    assert f"written: {tmp_path / 'paper' / 'table.tex'}\n" in done.stdout and "pictures" not in done.stdout
    assert r"\toprule" in (tmp_path / "paper" / "table.tex").read_text()
    (tmp_path / "file").touch()
    wrong = call("report", tiny_sweep, "--store", tmp_path / "store", "--to", tmp_path / "file" / "table.tex")
    assert wrong.exit_code == 2 and "name a file or a folder that can be written" in wrong.stderr


# ---------------------------------------------------------------- LaTeX
def rows_of(text: str) -> list[list[str]]:
    """Cells of all lines of tables."""
    lines = [line.removesuffix(r" \\") for line in text.splitlines() if line.endswith(r" \\") and not line.startswith(r"\multicolumn")]
    return [re.split(r"(?<!\\) & ", line) for line in lines]


def test_latex_has_scores_differences_intervals_and_verdicts_of_every_arm(comparison: StudyComparison) -> None:
    text = latex(comparison)
    assert r"\usepackage{booktabs,array}" in text.splitlines()[0] and all(text.count(rule) for rule in (r"\toprule", r"\midrule"))
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == text.count(r"\bottomrule")
    assert {len(cells) for cells in rows_of(text)} == {2 + len(comparison.metrics)}
    assert rows_of(text)[0] == ["Arm", "$n$", "TextCore", "0-shot", "4-shot", r"\textbf{8-shot}"]
    for row in comparison.rows:
        for cell in (row.cells[metric] for metric in comparison.metrics):
            assert number(cell.mean) in text
            if cell.estimate:
                bold = r"\boldmath" if comparison.is_significant(cell) else ""
                assert f"({bold and '{' + bold}${signed(cell.estimate.difference).replace('−', '-')}$" in text
                assert escaped(bracketed(cell.estimate)) in text
        assert row.verdict in text


def test_the_caption_says_what_n_intervals_and_bold_mean(comparison: StudyComparison) -> None:
    caption = latex(comparison).split(r"\caption{")[1].splitlines()[0]
    for words in ("means over $n$ training seeds", r"95 \% confidence interval, from a paired t over training seeds", "evaluation items",
                  "over 4 comparisons", "bold"):  # fmt: skip
        assert words in caption


def test_a_large_study_has_a_table_for_each_group_with_its_baseline_and_captions_that_point_to_the_first() -> None:
    arms = [f"{group}/{number}" for group in ("mix", "connector") for number in range(6)]
    study = made_up_study(arms)
    results, _ = noisy_results(study, dict.fromkeys(["baseline", *arms], 50.0), items=4)
    text = latex(compare(study, results))
    assert text.count(r"\begin{table}") == 2 == sum(cells[0] == "baseline" for cells in rows_of(text))
    labels, references = re.findall(r"\\label\{(.+?)\}", text), re.findall(r"\\ref\{(.+?)\}", text)
    assert labels == ["tab:made-up", "tab:made-up-2"] and references == ["tab:made-up"]


@given(st.text(max_size=60))
def test_no_text_of_a_user_is_a_command_to_latex(text: str) -> None:
    told = escaped(text)
    for written in sorted(CHARACTERS.values(), key=len, reverse=True):
        told = told.replace(written, "")
    assert not re.search(r"[\\{}&%$#_^\n]", told)


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX on this machine: only the structure of its tables is tested")
def test_latex_is_set_without_complaint_and_within_the_width_of_a_page(comparison: StudyComparison, tmp_path: Path) -> None:
    complaints, words = compiled(latex(comparison), tmp_path)
    assert complaints == []
    assert "a_b" in words and "50%" in words and "{x}" in words and "tokens=16" in words
    for row in comparison.rows:
        assert number(row.cells["shot_8/average"].mean) in words


# ---------------------------------------------------------------- PDF
@pytest.mark.skipif(browser() is None, reason="no Chromium on this machine: no PDF is printed")
def test_a_pdf_has_every_arm_metric_and_note(comparison: StudyComparison, tmp_path: Path) -> None:
    assert write_export(tmp_path / "report.pdf", comparison) == [tmp_path / "report.pdf"]
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF-")
    words = words_of(tmp_path / "report.pdf")
    for row in comparison.rows:
        assert number(row.cells["text_core/average"].mean) in words
    assert "Methods" in words and "Task by task" in words


@pytest.mark.skipif(browser() is None, reason="no Chromium on this machine: no PDF is printed")
def test_on_paper_no_column_is_cut_however_many_tasks_and_measures_there_are(tmp_path: Path) -> None:
    tasks = [f"task_number_{number}" for number in range(13)]
    study = made_up_study([LONG, "mix/b"])
    results, items = noisy_results(study, {"baseline": 50.0, LONG: 20.0, "mix/b": 49.0}, items=4, tasks=tasks)
    costs = {
        name: [Measure(f"measure number {number}", f"{number},00{place}") for number in range(15)]
        for place, name in enumerate(("baseline", LONG, "mix/b"))
    }
    write_export(tmp_path / "report.pdf", compare(study, results, [], items, costs), sweep_text="x" * 400)
    words = " ".join(words_of(tmp_path / "report.pdf").split())
    assert all(words.count(value) for value in ("14,000", "14,001", "14,002")), "the last measure of all three arms"
    placed = subprocess.run(["pdftotext", "-bbox", tmp_path / "report.pdf", "-"], capture_output=True, encoding="utf-8", check=True).stdout
    width = float(re.search(r'<page width="([\d.]+)"', placed)[1])  # type: ignore[index]
    ends = [float(end) for end in re.findall(r'xMax="([\d.]+)"', placed)]
    assert len(ends) > 800 and max(ends) <= width - 20, "within the margins"


def test_a_browser_that_fails_is_named_with_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = tmp_path / "browser"
    failing.write_text("#!/bin/sh\necho cannot open display >&2\nexit 3\n")
    failing.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(failing))
    assert browser() == str(failing)
    with pytest.raises(Exception, match="browser did not print: cannot open display; name another browser"):
        write_pdf(tmp_path / "a.pdf", "<p>")
    assert not (tmp_path / "a.pdf").exists()
