"""What people read: the terminal table, Markdown, the page, pictures and files."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_study, noisy_results, scores
from rich.console import Console

from mm1_ablate import __version__
from mm1_ablate.config.metric_name import metric_title
from mm1_ablate.report import figures
from mm1_ablate.report.cells import Measure, amount
from mm1_ablate.report.comparison import StudyComparison, compare
from mm1_ablate.report.figures import curves, drawn, forest, png, shots, svg
from mm1_ablate.report.formats import number, percent, probability, signed
from mm1_ablate.report.html import _inline as inline
from mm1_ablate.report.html import html, report_version, write_report
from mm1_ablate.report.markdown import markdown, write_markdown
from mm1_ablate.report.metric_info import LOSS
from mm1_ablate.report.terminal import folded
from mm1_ablate.report.text import headline, print_comparison, wide_table

LONG = "model.connector.c_abstractor-16"
TRUTH = {"baseline": 50.0, "leave-one-out/interleaved": 20.0, "leave-one-out/text": 50.0, f"connector/{LONG}"[:30]: 55.0, "alone": 30.0}


@pytest.fixture(scope="module")
def comparison() -> StudyComparison:
    arms = [name for name in TRUTH if name != "baseline"]
    expected = {"arm": "alone", "metric": "shot_8/average", "is": "below", "by": 5, "because": "<b>everything</b> matters"}
    study = made_up_study(arms, description="A study & its <table>.", expect=[expected])
    results, items = noisy_results(study, TRUTH)
    results = results[(results["arm"] != "alone") | (results["seed"] != 2)]
    return compare(study, results, [("alone", 2, "ran out of memory")], items, {name: [Measure("image tokens", 4)] for name in TRUTH})


@pytest.fixture(scope="module")
def losses() -> pd.DataFrame:
    random = np.random.default_rng(0)
    table = pd.MultiIndex.from_product([TRUTH, range(3), range(0, 300, 3)], names=["arm", "seed", "step"]).to_frame(index=False)
    return table.assign(loss=4 / (1 + table["step"] / 50) + 0.1 * random.normal(size=len(table)))


def terminal(comparison: StudyComparison, width: int) -> str:
    stream = io.StringIO()
    print_comparison(comparison, Console(file=stream, width=width, force_terminal=False))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120, 160, 200])
def test_terminal_fits_and_loses_nothing_by_squeezing(comparison: StudyComparison, width: int) -> None:
    text = terminal(comparison, width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text


def test_terminal_of_100_columns_shows_all_arms_metrics_intervals_and_verdicts(comparison: StudyComparison) -> None:
    text = terminal(comparison, 100)
    for word in ("TextCore", "0-shot", "4-shot", "8-shot", "interleaved", "worse", "no verdict:", "ran out of memory", "±", "Holm"):
        assert word in text
    cell = comparison.row("leave-one-out/interleaved").cells["shot_8/average"]
    assert cell.estimate is not None
    assert f"{signed(cell.estimate.difference)} ± {number(cell.estimate.half_width)}" in text


def test_wide_terminal_shows_both_ends_of_intervals(comparison: StudyComparison) -> None:
    cell = comparison.row("leave-one-out/interleaved").cells["shot_8/average"]
    assert cell.estimate is not None
    assert f"[{signed(cell.estimate.low)}, {signed(cell.estimate.high)}]" in terminal(comparison, 160)


def test_narrow_terminal_keeps_the_primary_metric_and_says_what_is_left_out(comparison: StudyComparison) -> None:
    text = terminal(comparison, 70)
    assert "8-shot" in text.splitlines()[1] and "in the report; a wider terminal shows" in text


def test_markdown_says_the_verdict_then_the_lessons_then_a_table_for_each_group(comparison: StudyComparison) -> None:
    text = markdown(comparison)
    assert text.splitlines()[2].startswith("8-shot against the baseline – worse: leave-one-out/interleaved")
    assert text.index("| lesson |") < text.index("### leave-one-out") < text.index("### Single changes") < text.index("How it was measured")
    for heading, arms in (("leave-one-out", ["leave-one-out/interleaved", "leave-one-out/text"]), ("Single changes", ["alone"])):
        section = text.split(f"### {heading}\n")[1].split("##")[0]
        table = [line for line in section.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
        assert all(any(line.startswith(f"| {name} |") for line in table) for name in ["baseline", *arms])
    assert "](" not in text


def test_markdown_is_written_to_a_folder_or_a_file_with_its_pictures_where_it_looks_for_them(
    comparison: StudyComparison, losses: pd.DataFrame, tmp_path: Path
) -> None:
    for target, document in ((tmp_path / "there", tmp_path / "there" / "report.md"), (tmp_path / "results.md", tmp_path / "results.md")):
        assert write_markdown(target, comparison, losses)[0] == document
        links = re.findall(r"!\[.+?\]\((.+?)\)", document.read_text())
        assert len(links) == 5 and all((document.parent / link).read_bytes().startswith(b"\x89PNG") for link in links)
    assert (tmp_path / "results" / "forest.png").exists()


def test_table_is_rounded_to_one_decimal(comparison: StudyComparison) -> None:
    table = wide_table(comparison)
    assert list(table["arm"]) == [row.name for row in comparison.rows]
    assert {"8-shot", "8-shot difference", "8-shot low", "8-shot high", "verdict"} <= set(table.columns)
    found = table["8-shot difference"].dropna()
    assert len(found) == 4 and (found.round(1) == found).all()


def test_page_needs_nothing_from_elsewhere(comparison: StudyComparison, losses: pd.DataFrame) -> None:
    page = html(comparison, {name: svg(figure) for name, figure in drawn(comparison, losses).items()}, "sweep: made-up\n")
    assert "http:" not in page and "https:" not in page and "<script" not in page and "<link" not in page
    assert not re.search(r"""(?:src|href)=["'](?!#)""", page)
    assert page.count("<svg") == 5 and 'name="viewport"' in page and "prefers-color-scheme: dark" in page


def test_page_says_the_verdict_before_the_table_and_escapes_what_users_wrote(comparison: StudyComparison) -> None:
    page = html(comparison, sweep_text="expect: <script>")
    assert page.index("8-shot against the baseline") < page.index("<table")
    assert "&lt;b&gt;everything&lt;/b&gt;" in page and "A study &amp; its &lt;table&gt;." in page and "&lt;script&gt;" in page
    for word in ("ran out of memory", "removed data.mixture.interleaved", "8-shot vqa", "image tokens", "Benjamini-Hochberg"):
        assert word in page


def test_pictures_are_pictures(comparison: StudyComparison, losses: pd.DataFrame) -> None:
    for figure in (forest(comparison), shots(comparison), curves(comparison, losses)):
        assert figure is not None
        assert png(figure).startswith(b"\x89PNG") and b"<svg" in svg(figure)


def test_pictures_are_the_same_bytes_each_time(comparison: StudyComparison) -> None:
    first, second = forest(comparison), forest(comparison)
    assert first is not None and second is not None and svg(first) == svg(second)


def test_nothing_is_drawn_where_there_is_nothing_to_draw(comparison: StudyComparison) -> None:
    bare = compare(made_up_study([]), pd.DataFrame(columns=["arm", "seed", "metric", "value"]))
    assert forest(bare) is None and shots(bare) is None and curves(comparison, None) is None
    assert "nothing to compare" in html(bare) and terminal(bare, 100)


def test_a_study_without_any_scores_can_be_drawn() -> None:
    empty = compare(made_up_study(["arm"]), pd.DataFrame(columns=["arm", "seed", "metric", "value"]))
    figure = forest(empty)
    assert figure is not None and png(figure)
    assert "no verdict: missing trials" in html(empty) and "no verdict: missing trials" in terminal(empty, 100)


def test_report_is_written_whole(comparison: StudyComparison, losses: pd.DataFrame, tmp_path: Path) -> None:
    files = write_report(tmp_path / "report", comparison, losses, "sweep: made-up\n")
    names = {"report.html", "report.md", "comparison.csv", "comparison.json", "forest.png", "shots.png", "curves.png"}
    assert names <= {file.name for file in files} and files[0].name == "report.html"
    assert all(file.stat().st_size for file in files)
    assert json.loads((tmp_path / "report" / "comparison.json").read_text())["arms"][0]["name"] == "baseline"
    assert not (tmp_path / "report" / "effects.png").exists()
    (tmp_path / "report" / "effects.png").touch()
    (tmp_path / "report" / "notes.txt").touch()
    write_report(tmp_path / "report", comparison)
    left = {file.name for file in (tmp_path / "report").iterdir()}
    assert not {"effects.png", "curves.png", "curves.svg"} & left and "notes.txt" in left, "pictures of what is gone do not stay"
    long = pd.read_csv(tmp_path / "report" / "comparison.csv")
    assert {"arm", "metric", "mean", "difference", "low", "high", "p_adjusted"} <= set(long.columns)


def test_numbers_and_titles() -> None:
    assert (number(55.26), signed(-37.14), signed(0.01), signed(2.0), number(float("nan"))) == ("55.3", "−37.1", "0.0", "+2.0", "–")
    assert (metric_title("shot_8/average"), metric_title("text_core/average"), metric_title("shot_4/miniature_vqa")) == (
        "8-shot",
        "TextCore",
        "4-shot miniature vqa",
    )


def test_long_names_fold_where_their_parts_meet() -> None:
    assert folded("model.connector.type=c_abstractor", 20) == "model.connector.\ntype=c_abstractor"
    assert folded("short", 20) == "short" and folded("x" * 25, 10) == "\n".join(["x" * 10, "x" * 10, "x" * 5])


def test_what_is_significant_is_coloured_by_its_direction_and_all_else_is_dim(comparison: StudyComparison) -> None:
    stream = io.StringIO()
    print_comparison(comparison, Console(file=stream, width=160, force_terminal=True, color_system="standard", legacy_windows=False))
    cell = comparison.row("leave-one-out/interleaved").cells["shot_8/average"]
    assert cell.estimate is not None and f"\x1b[1;31m{signed(cell.estimate.difference)}\x1b[0m\x1b[31m [" in stream.getvalue()
    cell = comparison.row("leave-one-out/text").cells["shot_8/average"]
    assert cell.estimate is not None and f"{signed(cell.estimate.difference)}\x1b[2m [" in stream.getvalue()


def test_pictures_of_a_page_take_its_ink_and_keep_their_size_and_say_what_they_show() -> None:
    head = b'<?xml version="1.0"?>\n<!DOCTYPE svg>\n<svg xmlns:xlink="http://x" width="%bpt" height="100pt" viewBox="0 0 9 9" xmlns="http://y">'
    body = (
        b'<metadata>\n<by>me</by>\n</metadata><g style="fill: #1f2328; stroke: #6e7781"/>'
        b'<g style="fill: #d0d7de"/><g style="fill: #ffffff"/>'
        b"<text style=\"font-family: 'DejaVu Sans'\">a</text></svg>"
    )
    inner = (
        '<g style="fill: currentColor; stroke: var(--muted)"/><g style="fill: var(--line)"/><g style="fill: var(--page)"/>'
        '<text style="font-family: system-ui">a</text></svg>'
    )
    for points, pixels, limit in ((449.9, 600, "100%"), (450.0, 600, "none"), (300.0, 400, "100%")):
        told = str(inline(head % str(points).encode() + body, "Effects in grids"))
        style = f'role="img" aria-label="Effects in grids" style="width:{pixels}px;max-width:{limit};height:auto"'
        assert " ".join(told.split()) == f'<svg {style} viewBox="0 0 9 9">{inner}'
    assert inline(None, "anything") is None


def test_a_version_of_reports_is_the_packages_and_eight_digits_of_what_makes_them(tmp_path: Path) -> None:
    for name, text in (("a.py", "x"), ("page.jinja", "y"), ("style.css", "z")):
        (tmp_path / name).write_text(text)
    version = report_version.__wrapped__
    told = version(tmp_path)
    assert re.fullmatch(re.escape(__version__) + r"\+[0-9a-f]{8}", told)
    (tmp_path / "notes.txt").write_text("of no effect")
    assert version(tmp_path) == told == version(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert version(tmp_path) != told
    (tmp_path / "b.py").rename(tmp_path / "a.py")
    for name in ("a.py", "page.jinja", "style.css"):
        (tmp_path / name).write_text("changed")
        assert version(tmp_path) != told
        told = version(tmp_path)


def test_a_document_in_a_file_has_its_pictures_in_a_folder_of_its_name(
    comparison: StudyComparison, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(figures, "drawn", lambda comparison, losses: {"forest": losses, "curves": losses})
    monkeypatch.setattr(figures, "png", lambda figure: figure)
    there = tmp_path / "new folder"
    written = write_markdown(there / "my results.md", comparison, b"png")  # type: ignore[arg-type]
    pictures = there / "my results"
    assert written == [there / "my results.md", pictures / "forest.png", pictures / "curves.png"]
    assert [path.read_bytes() for path in written[1:]] == [b"png"] * 2
    text = written[0].read_text(encoding="utf-8")
    assert "![Differences from the baseline, with intervals](my%20results/forest.png)" in text
    assert text.endswith("\n\n![Training loss against steps](my%20results/curves.png)\n")
    written = write_markdown(there / "folder", comparison, b"png")  # type: ignore[arg-type]
    assert written == [there / "folder" / name for name in ("report.md", "forest.png", "curves.png")]
    assert "](forest.png)" in written[0].read_text(encoding="utf-8")


def test_files_of_a_report_hold_no_password_and_are_whole(comparison: StudyComparison, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(figures, "drawn", lambda comparison, losses: {"forest": losses})
    monkeypatch.setattr(figures, "png", lambda figure: b"png of " + figure)
    monkeypatch.setattr(figures, "svg", lambda figure: b"<svg >" + figure + b"</svg>")
    address = "from https://somebody:hunter2@host/data – ±"
    told = replace(comparison, remarks=(address,), holes=(replace(comparison.holes[0], reason=address),))
    written = write_report(tmp_path / "a" / "b", told, b"losses", f"data: {address}")  # type: ignore[arg-type]
    names = ["report.html", "report.md", "comparison.json", "comparison.csv", "forest.png", "forest.svg"]
    assert written == [tmp_path / "a" / "b" / name for name in names]
    texts = {path.name: path.read_text(encoding="utf-8") for path in written}
    assert (texts["forest.png"], texts["forest.svg"]) == ("png of losses", "<svg >losses</svg>")
    assert "losses</svg>" in texts["report.html"] and "](forest.png)" in texts["report.md"]
    for name in ("report.html", "report.md", "comparison.json"):
        assert "https://***@host/data – ±" in texts[name] and "hunter2" not in texts[name]
    assert texts["comparison.json"].startswith('{\n "study": "made-up",\n') and texts["comparison.json"].endswith("]\n}\n")
    assert texts["comparison.csv"].startswith("arm,group,baseline,metric,mean,")


def test_amounts_are_told_in_three_digits_and_small_ones_whole() -> None:
    told = [
        amount(value)
        for value in (
            9_999,
            10_000,
            12_345.0,
            999_999,
            1_000_000,
            999_400,
            999.7e6,
            1.234e9,
            5.678e12,
            1234,
            16,
            0.5,
            2.3456,
            -20_000,
            "as it is",
        )
    ]
    assert told == ["9,999", "10k", "12.3k", "1M", "1M", "999k", "1G", "1.23G", "5.68T", "1,234", "16", "0.5", "2.35", "-20k", "as it is"]


@pytest.mark.parametrize(
    ("value", "told"),
    [(float("nan"), ""), (0.00099, "p < 0.001"), (0.001, "p 0.001"), (0.0994, "p 0.099"), (0.1, "p 0.10"), (0.996, "p 1.00")],
)
def test_probabilities_have_three_decimals_where_they_matter(value: float, told: str) -> None:
    assert probability(value) == told


def test_digits_of_losses_change_at_ten_and_at_a_hundred() -> None:
    assert [number(value, LOSS) for value in (9.9994, 10.0, 99.99, 100.0, -10.0, -0.0)] == [
        "9.999",
        "10.00",
        "99.99",
        "100.0",
        "−10.00",
        "0.000",
    ]
    assert [signed(value, LOSS) for value in (0.0005, 0.00049, -0.0005, -100.0)] == ["+0.001", "0.000", "−0.001", "−100.0"]
    assert [signed(value) for value in (0.05, 0.0499, -0.05, None)] == ["+0.1", "0.0", "−0.1", "–"]
    assert number(None) == "–" and percent(0.95) == "95 %" and percent(0.999) == "99.9 %"


def test_intervals_are_in_brackets_as_soon_as_there_is_room_and_columns_go_only_where_there_is_none() -> None:
    """Three columns apart: names of 8, verdicts of 28 beside brackets and of 18 beside ±, the cells of two columns."""
    study = made_up_study(["arm"], compare={"metrics": ["shot_0/average", "shot_8/average"]})
    values = {"baseline": [50.0, 51.0, 50.5], "arm": [60.0, 62.0, 59.5]}
    table = pd.concat([scores(study, values, metric) for metric in ("shot_0/average", "shot_8/average")])
    told = compare(study, table)
    brackets, plus_minus = len("+10.0 [+7.5, +12.5]"), len("+10.0 ± 2.5")
    wide, narrow = 8 + 3 + 2 * (brackets + 3) + 28, 8 + 3 + 2 * (plus_minus + 3) + 18
    for width, first, columns in ((wide, "+10.0 [+7.5, +12.5]", 2), (wide - 1, "+10.0 ± 2.5", 2), (narrow, "+10.0 ± 2.5", 2),
                                  (narrow - 1, "+10.0 ± 2.5", 1)):  # fmt: skip
        text = terminal(told, width)
        assert all(len(line) <= width for line in text.splitlines())
        (line,) = [line for line in text.split("against the baseline")[0].splitlines() if "+10.0" in line]
        assert line.count(first) == columns == line.count("+10.0")
        assert ("0-shot is in the report" in text) == (columns == 1)


def test_the_headline_of_a_large_study_is_one_sentence_that_counts_and_names_the_largest() -> None:
    arms = {
        **{f"down/{number}": 20.0 + number for number in range(9)},
        **{f"up/{number}": 70.0 + number for number in range(2)},
        "open": 50.5,
    }
    study = made_up_study(list(arms))
    results, items = noisy_results(study, {"baseline": 50.0, **arms})
    comparison = compare(study, results, items=items)
    told = headline(comparison)
    counts = {verdict: sum(row.verdict == verdict for row in comparison.rows) for verdict in ("worse", "better")}
    assert counts["worse"] == 9 and counts["better"] == 2
    assert (
        told.startswith("8-shot against the baseline – 9 of 12 arms worse, most of all down/") and "; 2 better, most of all up/1 (+" in told
    )
    assert told.count(". ") == 0 and len(told) < 300 and "down/3" not in told
    small = compare(made_up_study(["down/0", "open"]), results[results["arm"].isin(["baseline", "down/0", "open"])], items=items)
    assert headline(small).startswith("8-shot against the baseline – worse: down/0 (−") and "; leaning: open (+" in headline(small)
