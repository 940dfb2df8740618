"""A source whose data type has no share in any mixture is never read: told before a run, at its line, and by `mm1-ablate data`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import call
from config_files import EXPERIMENT, pointed_at, study_of, write_experiment, write_sweep

UNREAD = "    recaptions: {type: miniature, data_type: synthetic_captioned, content: synthetic_captions}\n"
DECLARED = EXPERIMENT.replace("    interleaved: {type", UNREAD + "    interleaved: {type")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_experiment(tmp_path, DECLARED)
    return tmp_path


def test_a_source_without_a_share_is_warned_of_at_its_line(folder: Path) -> None:
    (warning,) = study_of(folder, "without: {remove_each: [data.mixture.text, data.mixture.interleaved]}").warnings
    assert warning.path == "data.sources.recaptions" and pointed_at(warning).startswith(
        ("recaptions:", "{type: miniature, data_type: synth")
    )
    assert "never read" in warning.message and "synthetic_captioned" in warning.message and "data.mixture" in warning.message


def test_a_weight_of_zero_is_no_share(folder: Path) -> None:
    write_experiment(folder, DECLARED.replace("text: 10}", "text: 10, synthetic_captioned: 0}"))
    assert [warning.path for warning in study_of(folder).warnings] == ["data.sources.recaptions"]


@pytest.mark.parametrize(
    "ablations, rest",
    [
        ("with: {alter: {data.mixture.synthetic_captioned: 20}}", ""),
        ("", "everywhere: {data.mixture.synthetic_captioned: 20}"),
    ],
)
def test_a_source_that_some_arm_reads_is_meant(folder: Path, ablations: str, rest: str) -> None:
    assert not study_of(folder, ablations, rest).warnings


@pytest.mark.parametrize(
    "ablations, rest",
    [
        ("without: {remove_each: [data.mixture.text, data.mixture.interleaved]}", ""),
        ("none: {alter: {data.mixture.text: 0}}", ""),
        ("single: {remove: data.mixture.text}", ""),
        ("", "everywhere: {data.mixture.text: 0}"),
    ],
)
def test_what_a_sweep_removes_or_alters_is_meant(tmp_path: Path, ablations: str, rest: str) -> None:
    assert not study_of(tmp_path, ablations, rest).warnings


def test_a_source_that_a_sweep_adds_everywhere_and_never_reads_is_warned_of_there(tmp_path: Path) -> None:
    added = "{type: miniature, data_type: synthetic_captioned, content: synthetic_captions}"
    (warning,) = study_of(tmp_path, rest=f"everywhere: {{data.sources.recaptions: {added}}}").warnings
    assert warning.file.endswith("sweep.yaml") and "recaptions" in f"{warning.path} {warning.message}"


def test_a_source_of_an_earlier_stage_is_warned_of_where_the_stage_is_named(folder: Path) -> None:
    write_experiment(folder, DECLARED, "first.yaml")
    preparation = EXPERIMENT[EXPERIMENT.index("    preparation:") : EXPERIMENT.index("  connector:")]
    write_experiment(folder, EXPERIMENT.replace(preparation, "") + "starts_from: first.yaml\n")
    (warning,) = study_of(folder).warnings
    assert warning.path == "starts_from.data.sources.recaptions" and pointed_at(warning) == "starts_from: first.yaml"


def test_validate_and_plan_say_it_and_end_well(folder: Path, tmp_path: Path) -> None:
    sweep = write_sweep(folder)
    for command, more in (("validate", []), ("plan", ["--store", tmp_path / "store"])):
        done = call(command, sweep, *more)
        assert done.exit_code == 0 and "data.sources.recaptions" in done.stdout and "never read" in " ".join(done.stdout.split())


def test_data_names_the_sources_that_a_training_never_reads(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    sweep = write_sweep(folder, "without: {remove_each: [data.mixture.text, data.mixture.interleaved]}")
    told = "Never read, because the data type has no share in the mixture: recaptions (synthetic_captioned)."
    assert told in " ".join(call("data", sweep, "--to", page).stdout.split()) and told in page.read_text()
    found = json.loads(call("data", sweep, "--arm", "without/text", "--to", page, "--json").stdout)
    assert found["never_read"] == {"recaptions": "synthetic_captioned", "text": "text"}
