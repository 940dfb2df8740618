"""A report with everything that one can hold, as people read it: word for word what lies in tests/golden/report.

Where a wording is to change, `WRITE_WHOLE_REPORT=1 pytest tests/report/test_whole_report.py` writes these files again, and the difference
is for a person to read: the texts hold because somebody did.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_study, noisy_results, scores
from rich.console import Console

from mm1_ablate.config.declarations import Declaration, History, declared
from mm1_ablate.config.paper_results import Counterparts
from mm1_ablate.config.study import Grid, Study
from mm1_ablate.report.cells import Measure
from mm1_ablate.report.comparison import StudyComparison, compare
from mm1_ablate.report.html import html
from mm1_ablate.report.markdown import markdown
from mm1_ablate.report.metric_info import scale_of
from mm1_ablate.report.task_scores import ScoreBounds, TaskScore, TaskScores, UnscoredItems
from mm1_ablate.report.text import print_comparison, wide_table
from mm1_ablate.report.verdicts import FalseVerdicts, Rate

FOLDER = Path(__file__).parents[1] / "golden" / "report"
BASE = np.array([50.0, 51.0, 50.5])
GRID = {("average", "small"): "baseline"} | {
    point: "grid/" + ",".join(point) for point in product(("average", "attention"), ("small", "large")) if point != ("average", "small")
}
DIFFERENCES: Mapping[str, list[float]] = {
    "mixture/images": [8.0, 8.1, 8.3],
    "mixture/text": [-12.0, -12.4, -12.1],
    "grid/average,large": [5.1, 5.0, 5.3],
    "grid/attention,small": [0.8, -0.9, 0.3],
    "grid/attention,large": [6.6, 3.4, 5.4],
    "same": [0.03, -0.02, 0.01],
    "nearly": [2.0, 3.2, 2.6],
    "wild": [-7.0, 9.0, 3.0],
    "gone": [1.0, float("nan"), 2.0],
    "own/reference": [-20.0, -20.4, -20.1],
    "own/little": [-19.6, -20.0, -19.71],
    "own/still": [-18.0, -18.4, -18.1],
    "lost/reference": [3.0, 3.4, float("nan")],
    "lost/arm": [2.0, 2.1, 2.4],
    "never": [float("nan")] * 3,
}
BASELINES = {"own/little": "own/reference", "own/still": "own/reference", "lost/arm": "lost/reference"}
OF_ANOTHER_FILE = {"mixture": "first", "grid": "first", "own": "second", "lost": "second"}
EXPECTED = [
    {"arm": "mixture/text", "is": "below", "by": 5, "because": "images | carry it", "paper": "43.2 against 62.2"},
    {"arm": "mixture/images", "is": "above", "by": 20, "because": "more images, much more"},
    {"arm": "mixture/text", "is": "above", "because": "text is enough"},
    {"arm": "wild", "is": "within", "by": 2, "because": "it makes no difference"},
    {"arm": "mixture/images", "is": "within", "by": 1, "because": "nor does this"},
    {"arm": "same", "is": "within", "by": 1, "because": "nor this"},
    {"arm": "same", "than": "mixture/text", "is": "above", "because": "text is worse than nothing"},
    {"arm": "gone", "is": "below", "because": "it is gone"},
    {"arm": "ghost", "is": "above", "because": "it never was"},
    {"arm": "baseline", "is": "above", "because": "it is better than itself"},
    {"arm": "same", "than": "ghost", "is": "above", "because": "it is better than what never was"},
    {"arm": "never", "is": "above", "because": "it has no scores"},
    {"arm": "same", "is": "below", "metric": "shot_4/unheard_of", "because": "nobody measured it"},
    {"arm": "mixture/images", "is": "below", "by": 5, "because": "the wrong way"},
    {"arm": "mixture/images", "is": "above", "by": 5, "because": "the right way"},
    {"arm": "mixture/images", "is": "below", "by": 0.01, "metric": "loss/text", "because": "losses fall"},
    {"arm": "mixture/text", "is": "below", "by": 20, "because": "text is nearly all"},
    {"arm": "nearly", "is": "above", "because": "one of many"},
    {"arm": "own/still", "is": "above", "because": "it does not vary"},
]
METRICS = ["loss/text", "shot_0/average", "shot_8/average"]


def costs(arm: str) -> list[Measure]:
    return [
        Measure("parameters", 1_240_000 if "attention" in arm else 1_200_000),
        Measure("image tokens", 16),
        Measure("tokens", {"mixture/text": 300_000.0, "wild": 401_000.0}.get(arm, 400_000.0), "seen"),
        Measure("documents", 12_000.0 if arm == "mixture/text" else 9_000.0, "seen"),
        Measure("text", 2.5 if arm == "mixture/text" else 0.5, "epochs"),
        Measure("evaluation items", "1,919 (bcde)" if arm == "gone" else "1,920 (abcd)"),
        Measure("code", "0.1.0+aa (seed 0), 0.1.0+bb (seeds 1, 2)" if arm == "wild" else "0.1.0+aa", "code"),
        *([Measure("code of mean.py", "1234" if arm == "same" else "5678", "code")] if arm in ("same", "nearly") else []),
    ]


def task_columns() -> TaskScores:
    arms = ["baseline", *DIFFERENCES]
    columns = {}
    for name, family, task, shots, rule, primary, bounds in (
        ("shot_0/miniature_vqa", "image", "miniature_vqa", 0, "exact_match", True, ScoreBounds(24.0, "unanswerable", 100.0)),
        ("shot_8/miniature_vqa", "image", "miniature_vqa", 8, "exact_match", True, ScoreBounds(24.0, "unanswerable", 100.0)),
        ("shot_8/captions.cider_raw", "image", "captions", 8, "cider_raw", False, ScoreBounds(3.25, "a dog on a lawn " * 4, None)),
        ("text_core/facts", "text", "facts", 0, "choice_accuracy", True, ScoreBounds(25.0, "", 97.5)),
        ("loss/text", "loss", "text", 0, "loss", True, ScoreBounds()),
    ):
        items = {arm: 238 if arm == "gone" and task == "miniature_vqa" else 1240 for arm in arms}
        own = {arm: bounds for arm in arms} if bounds.floor is not None else {}
        columns[name] = TaskScore(name, family, task, shots, rule, primary, scale_of(family, rule), items, own)
    unasked = (
        UnscoredItems("captions", "truncated JPEG", 2, tuple(arms), ("a", "b")),
        UnscoredItems("miniature_vqa", "no image", 1002, ("gone",), ("x-1", "x-2", "x-3")),
    )
    return TaskScores(columns, unasked)


ACCOUNTS: list[dict[str, dict[str, Any]]] = [
    {
        "captions": {
            "drawn": 12_000,
            "bad": {"not an image": 7, "empty caption": 1},
            "left_out": {"image side below 30 pixels": 1203},
            "examples": {"not an image": ["00000.tar/00007", "00001.tar/00003"]},
            "split": 2,
            "pieces": 5,
            "dropped": {"longer than a row": 4},
            "lost": [{"in_words": "2 of 9 files cannot be read", "of": "documents", "documents": 2000, "first": ["a.tar"]}],
        },
        "text": {"documents": 50, "bad": {"empty text": 2}},
    },
    {"captions": {"drawn": 9_000, "bad": {"not an image": 9}, "examples": {"not an image": ["00000.tar/00007"]}}},
]  # fmt: skip


@pytest.fixture(scope="module")
def comparison() -> StudyComparison:
    sweep = {
        "compare": {"metrics": METRICS, "smallest_difference_of_interest": 1},
        "expect": [{"metric": "shot_8/average", **one} for one in EXPECTED],
        "description": "What carries few-shot learning?",
    }
    study = made_up_study([*DIFFERENCES, "twin"], baselines=BASELINES, same={"twin": "mixture/text"}, **sweep)
    two = {"letter": ("a", "b"), "number": ("1", "2")}
    study = replace(
        study,
        sweep_of_group=OF_ANOTHER_FILE,
        families=tuple("second" if one["because"].startswith(("text", "the", "nor")) else "made-up" for one in EXPECTED),
        grids={
            "grid": Grid({"model.connector.type": ("average", "attention"), "size": ("small", "large")}, GRID),
            "crossed": Grid(two, dict(zip(product("ab", "12"), ("baseline", "mixture/images", "nearly", "mixture/text"), strict=True))),
            "holed": Grid(two, dict(zip(product("ab", "12"), ("baseline", "same", "gone", "wild"), strict=True))),
            "empty": Grid(two, dict(zip(product("ab", "12"), ("baseline", "same", "never", "wild"), strict=True))),
        },
        published=(Counterparts("figure5a_caption_interleaved", {"baseline": "50/50", "mixture/text": "100/0"}),),
    )
    tables = []
    of_metrics = (
        ("shot_8/average", BASE, 1.0),
        ("shot_0/average", BASE - 20, 0.5),
        ("loss/text", BASE / 20, -0.01),
        ("shot_8/miniature_vqa", BASE - 30, 2.0),
    )
    for metric, base, part in of_metrics:  # fmt: skip
        truth = {"baseline": list(base), **{arm: list(base + part * np.array(own)) for arm, own in DIFFERENCES.items()}}
        truth["twin"] = truth["mixture/text"]
        tables.append(scores(study, truth, metric))
    told = compare(
        study,
        pd.concat(tables),
        [("gone", 1, "ran out of memory")],
        costs={arm: costs(arm) for arm in ("baseline", *DIFFERENCES)},
        accounts=ACCOUNTS,
        tasks=task_columns(),
        warnings=["sweep.yaml:3:5: this has no effect"],
        history=history_of(study),
    )
    verdicts = FalseVerdicts(9, 3, 0.05, Rate(2, 100), Rate(21, 100))
    return replace(told, false_verdicts=verdicts, descriptions={"mixture": "What is the mixture good for?"})


def history_of(study: Study) -> History:
    """Declared before any score: all but one expectation, another one that is gone now, and another margin."""
    now = declared(study)
    gone = {"arm": "mixture/text", "metric": "shot_8/average", "is": "above", "by": 3, "family": "second", "measured": "abc"}
    kept = [one for one in now["expectations"] if one["arm"] != "nearly"]
    first = {**now, "expectations": [*kept, gone], "smallest_difference_of_interest": 2}
    everything = Declaration(0, now, frozenset()).trials
    return History((Declaration(1_790_000_000, first, frozenset()), Declaration(1_790_090_000, now, everything)))


def few(seeds: int, arms: int = 3, spread: float = 1.0, **sweep: Any) -> StudyComparison:
    """A study of little: some arms that differ by a point, two and so on, with some luck, and nothing else."""
    names = [f"arm-{number}" for number in range(1, arms + 1)]
    study = made_up_study(names, seeds=range(seeds), **{"compare": {"metrics": ["shot_8/average"]}, **sweep})
    luck = spread * np.random.default_rng(0).normal(size=(arms, seeds))
    truth = {name: list(np.resize(BASE, seeds) + place + 1 + own) for place, (name, own) in enumerate(zip(names, luck, strict=True))}
    return compare(study, scores(study, {"baseline": list(np.resize(BASE, seeds)), **truth}))


def of_losses() -> StudyComparison:
    """Less is better; seeds are not those of the baseline; an expectation by itself, and no verdict is false."""
    expect = [{"arm": "lower", "metric": "loss/text", "is": "below", "because": "it learns more"}]
    about = {"primary": "loss/text", "metrics": ["loss/text"], "smallest_difference_of_interest": 0.1}
    study = made_up_study(["lower", "higher"], seeds=range(6), compare=about, expect=expect)
    study = replace(study, arms=tuple(replace(arm, seeds=(0, 1, 2) if arm.name == "baseline" else (3, 4, 5)) for arm in study.arms))
    nothing, base = [float("nan")] * 3, BASE / 20
    truth = {"baseline": [*base, *nothing], "lower": [*nothing, *(base - 0.5)], "higher": [*nothing, *(base + 12)]}
    told = compare(study, scores(study, truth, "loss/text"))
    return replace(told, false_verdicts=FalseVerdicts(6, 3, 0.05, Rate(0, 50), Rate(3, 50)))


def with_items() -> StudyComparison:
    """Item scores of all columns but one, whose results are of other items."""
    study = made_up_study(["arm"], compare={"confidence": 0.9, "smallest_difference_of_interest": 2.5})
    results, items = noisy_results(study, {"baseline": 50, "arm": 40}, items=20)
    results.loc[results["metric"] == "shot_4/average", "value"] += 3
    return compare(study, results, items=items)


SMALL = {
    "one seed": lambda: few(1),
    "two seeds": lambda: few(2),
    "many arms": lambda: few(3, 12, 6.0),
    "no arms": lambda: few(3, 0),
    "losses": of_losses,
    "items": with_items,
}


def held(name: str, text: str) -> None:
    """Whether a text is the one that is stored under this name."""
    path = FOLDER / name
    text = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    if os.environ.get("WRITE_WHOLE_REPORT"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [100, 160])
def test_the_terminal(comparison: StudyComparison, width: int) -> None:
    stream = io.StringIO()
    print_comparison(comparison, Console(file=stream, width=width, force_terminal=False))
    held(f"terminal_{width}.txt", stream.getvalue())


def test_small_studies() -> None:
    told = []
    for name, made in SMALL.items():
        comparison, stream = made(), io.StringIO()
        print_comparison(comparison, Console(file=stream, width=78, force_terminal=False))
        told.append(f"======== {name}\n\n{stream.getvalue()}\n-------- as Markdown\n\n{markdown(comparison)}")
    held("small_studies.txt", "\n\n".join(told))


def test_the_markdown_document(comparison: StudyComparison) -> None:
    held("report.md", markdown(comparison, {"forest": "forest.png", "effects": "effects.png"}))


def test_the_page_but_for_its_style(comparison: StudyComparison) -> None:
    page = html(comparison, sweep_text="sweep: made-up\n")
    held("report.html", re.sub(r"(?s)<style>.*?</style>", "", page))


def rounded(value: Any) -> Any:
    """Numbers to six digits, which all machines agree on."""
    if isinstance(value, dict):
        return {key: rounded(own) for key, own in value.items()}
    if isinstance(value, list):
        return [rounded(own) for own in value]
    return float(f"{round(value, 9):.6g}") if isinstance(value, float) else value


def test_the_tables_of_numbers(comparison: StudyComparison) -> None:
    held("comparison.json", json.dumps(rounded(json.loads(json.dumps(comparison.to_json()))), indent=1, ensure_ascii=False))
    held("comparison.csv", comparison.long().round(9).to_csv(index=False, float_format="%.6g"))
    held("table.csv", wide_table(comparison).to_csv(index=False))
