"""Axes of grids whose points have labels of their own, which stand in the names of arms."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_files import study_of, the_problem

MIX = """
figure-5a:
  grid:
    mix:
      100/0: {data.mixture.captioned: 100, data.mixture.interleaved: 0}
      captioned + text: {data.mixture.interleaved: 0}
"""
TWO_AXES = """
g:
  grid:
    connector:
      averaged: {model.connector.type: average_pool}
      attended: {model.connector.type: attention_pool}
    training.steps: [400, 500]
  except:
    - {connector: averaged, training.steps: 500}
"""


def test_labels_are_the_names_of_arms(tmp_path: Path) -> None:
    study = study_of(tmp_path, MIX)
    assert [arm.name for arm in study.arms] == ["baseline", "figure-5a/100/0", "figure-5a/captioned + text"]
    assert study.arm("figure-5a/100/0").experiment.data.mixture == {"captioned": 100, "interleaved": 0, "text": 10}
    assert dict(study.grids["figure-5a"].axes) == {"mix": ("100/0", "captioned + text")}


def test_labels_go_with_values_and_say_what_is_left_out(tmp_path: Path) -> None:
    study = study_of(tmp_path, TWO_AXES)
    assert [arm.name for arm in study.arms[1:]] == ["g/averaged,steps=400", "g/attended,steps=400", "g/attended,steps=500"]
    assert study.grids["g"].cells["averaged", "500"] == "baseline"


@pytest.mark.parametrize(
    ("ablations", "at", "message", "hint"),
    [
        (TWO_AXES.replace("{connector: averaged,", "{connector: average,"), "average,", "there is no 'average' on this axis", "averaged"),
        (TWO_AXES.replace("{model.connector.type: attention_pool}", "{model.connector.type: average_pool}"), "{model", "'averaged'", ""),
        ("g: {grid: {training.steps: {few: {training.steps: 400}}}}", "training.steps", "is a path, so its values are a list", ""),
        (
            MIX.replace("data.mixture.interleaved: 0}\n      cap", "data.mixture.interlaced: 0}\n      cap"),
            "data.mixture.interlaced",
            "",
            "inter",
        ),
        (MIX.replace("100/0:", "'=100':"), "'=100'", "letters, digits", ""),
        (MIX.replace("{data.mixture.interleaved: 0}", "{}"), "{}", "not empty", ""),
    ],
)
def test_mistakes_are_reported_where_they_are(tmp_path: Path, ablations: str, at: str, message: str, hint: str) -> None:
    pointed, told, hinted = the_problem(tmp_path, ablations)
    assert pointed.startswith(at) and message in told and hint in hinted
