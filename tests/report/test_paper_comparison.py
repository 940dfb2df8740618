"""The paper's numbers beside ours: which rows arms correspond to, and how reports show them."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from config_files import study_of, the_problem
from made_up import made_up_study, noisy_results
from rich.console import Console

from mm1_ablate.config.paper_results import Counterparts, results
from mm1_ablate.report.comparison import StudyComparison, compare
from mm1_ablate.report.html import html
from mm1_ablate.report.markdown import markdown
from mm1_ablate.report.paper_comparison import paper_tables
from mm1_ablate.report.text import print_comparison

SHORT = "short: {alter: {training.steps: 300}}"
LONG = "long: {alter: {training.steps: 600}}"


# ---------------------------------------------------------------- the data file
def test_the_data_file_has_the_papers_numbers_by_our_names() -> None:
    tables = results().tables
    assert [len(table.numbers()) for table in tables.values()] == [10, 9, 5, 4, 4, 2, 3]
    assert tables["table1_image_encoder"].numbers()["CLIP-OpenAI ViT-L 336 px"] == {
        "shot_0/average": 39.3, "shot_4/average": 62.2, "shot_8/average": 66.1
    }  # fmt: skip
    assert tables["figure5b_text_only"].numbers()["captioned + text"]["text_core/average"] == 54.8
    final = tables["table3_final_models"].numbers()["MM1-30B"]
    assert (final["shot_0/coco"], final["shot_8/vqav2"], final["shot_16/okvqa"]) == (70.3, 70.9, 59.3)


# ---------------------------------------------------------------- what a sweep says
def test_arms_are_rows_by_their_names_or_as_declared(tmp_path: Path) -> None:
    ablations = "figure: {grid: {mix: {66/33: {data.mixture.text: 33}, 86/14: {data.mixture.text: 14}}}}\n" + SHORT
    study = study_of(tmp_path, ablations, "paper: {table: figure5c_image_text, rows: {baseline: 91/9}}")
    assert list(study.published[0].rows.items()) == [("baseline", "91/9"), ("figure/86/14", "86/14"), ("figure/66/33", "66/33")]
    assert study.published[0].numbers("short") == {}


@pytest.mark.parametrize(
    ("paper", "at", "message", "hint"),
    [
        ("{table: figure5_text}", "figure5_text", "there is no table", "figure5"),
        ("{table: figure5d_synthetic_captions, rows: {shrt: with VeCap}}", "shrt", "there is no arm 'shrt'", "'short'"),
        ("{table: figure5d_synthetic_captions, rows: {short: with VeCup}}", "with VeCup", "has no row 'with VeCup'", "'with VeCap'"),
        ("{table: figure5d_synthetic_captions}", "paper", "no arm has the name of a row", ""),
    ],
)
def test_a_row_that_the_paper_lacks_is_an_error(tmp_path: Path, paper: str, at: str, message: str, hint: str) -> None:
    pointed, told, hinted = the_problem(tmp_path, SHORT, f"paper: {paper}")
    assert pointed.startswith(at) and message in told and hint in hinted


def test_lessons_take_the_papers_numbers_unless_they_have_words_of_their_own(tmp_path: Path) -> None:
    rest = """
    paper: {table: figure5c_image_text, rows: {baseline: 91/9, short: 100/0}}
    expect:
      - {arm: short, metric: text_core/average, is: below, because: a}
      - {arm: short, metric: shot_8/average, is: below, because: b, paper: as I read it}
      - {arm: long, metric: shot_8/average, is: below, because: not in the paper}
      - {arm: long, than: short, metric: shot_8/average, is: below, because: nor this}
      - {arm: short, metric: shot_8/miniature_vqa, is: below, because: nor single tasks}
    """
    expected = study_of(tmp_path, f"{SHORT}\n{LONG}", rest).sweep.expect
    assert [expectation.paper for expectation in expected] == [
        "100/0 against 91/9: 52.2 against 54.0 on TextCore",
        "as I read it",
        "",
        "",
        "",
    ]


# ---------------------------------------------------------------- what a report shows
@pytest.fixture(scope="module")
def comparison() -> StudyComparison:
    study = made_up_study(["mix/one", "mix/other", "alone"])
    rows = {"mix/one": "100/0", "baseline": "50/50"}
    study = replace(
        study, published=(Counterparts("figure5a_caption_interleaved", rows), Counterparts("figure4_connector", {"alone": FOUR}))
    )
    return compare(study, noisy_results(study, {"baseline": 50.0, "mix/one": 20.0, "mix/other": 50.0, "alone": 30.0})[0])


FOUR = "average_pool,224 px 64 tokens"


def test_scores_stand_above_the_papers_with_differences_where_both_have_them(comparison: StudyComparison) -> None:
    five, four = paper_tables(comparison)
    assert [row.label for row in five.rows] == ["100/0", "50/50"]
    assert five.titles == ["arm", "in the paper", "TextCore", "0-shot", "4-shot", "8-shot"]
    one, baseline = ({title: cell for title, cell in zip(five.titles[2:], row.cells, strict=True)} for row in five.rows)
    assert one["8-shot"][1] == "45.0 (−17.2)" and baseline["8-shot"][1] == "62.2"
    mean = comparison.row("mix/one").cells["shot_8/average"]
    assert mean.estimate is not None and one["8-shot"][0] == f"{mean.mean:.1f} (−{abs(mean.estimate.difference):.1f})"
    # Its baseline is no row of figure 4, so neither side has a difference; and the figure has no TextCore.
    assert four.titles[2:] == ["0-shot", "4-shot", "8-shot"]
    assert four.rows[0].cells[2] == (f"{comparison.row('alone').cells['shot_8/average'].mean:.1f}", "58.7")


def test_every_output_shows_them(comparison: StudyComparison) -> None:
    written = io.StringIO()
    print_comparison(comparison, Console(file=written, width=120))
    for text in (markdown(comparison), html(comparison), written.getvalue()):
        assert "Compared with the paper" in text and "Figure 5a" in text and "45.0 (−17.2)" in text and FOUR.split(",")[0] in text
    (five, _) = json.loads(json.dumps(comparison.to_json(), allow_nan=False))["published"]
    assert five["table"] == "figure5a_caption_interleaved" and five["rows"][0]["metrics"]["shot_8/average"] == 45.0


def test_a_study_that_has_no_counterpart_says_nothing_of_the_paper() -> None:
    study = made_up_study(["arm"])
    text = markdown(compare(study, noisy_results(study, {"baseline": 50.0, "arm": 20.0})[0]))
    assert "Compared with the paper" not in text
