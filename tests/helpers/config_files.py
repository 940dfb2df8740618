"""Small experiment and sweep files for the tests of what users declare."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent, indent

import pytest

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import Look
from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.yaml_file import FileErrors, FileProblem

EXPERIMENT = """\
experiment: small
data:
  mixture: {captioned: 45, interleaved: 45, text: 10}
  sources:
    alt_text: {type: miniature, data_type: captioned, content: alt_text}
    synthetic_captions: {type: miniature, data_type: captioned, content: synthetic_captions}
    interleaved: {type: miniature, data_type: interleaved, content: interleaved}
    text: {type: miniature, data_type: text, content: text}
  packing: {row_tokens: 128, nominal_image_tokens: 4}
model:
  image_encoder:
    type: vision_transformer
    image_size: 48
    patches_per_side: 4
    preparation:
      source: {type: miniature, data_type: captioned, content: synthetic_captions}
  connector: {type: average_pool, image_tokens: 4}
  language_model:
    model_type: phi
    configuration: {hidden_size: 96, num_hidden_layers: 3}
training:
  steps: 500
  batch_rows: 8
  warmup_steps: 30
  optimizer: {type: muon}
evaluation:
  tasks: [miniature_attributes, miniature_vqa, miniature_text_qa]
"""


def write_experiment(folder: Path, text: str = EXPERIMENT, name: str = "experiment.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def load_experiment(path: Path, look: Look = "check") -> Experiment:
    """The experiment of a file, read as a study of that one system."""
    return load_study(path, look).arms[0].experiment


def write_sweep(folder: Path, ablations: str = "", rest: str = "") -> Path:
    """A sweep over the experiment above. `ablations` is the YAML of its groups, `rest` that of other keys."""
    if not (folder / "experiment.yaml").exists():
        write_experiment(folder)
    text = "sweep: small\nexperiment: experiment.yaml\n"
    if "seeds:" not in rest:
        text += "seeds: [0]\n"
    text += dedent(rest).strip() + "\n"
    if ablations:
        text += "ablations:\n" + indent(dedent(ablations).strip(), "  ") + "\n"
    path = folder / "sweep.yaml"
    path.write_text(text)
    return path


def study_of(folder: Path, ablations: str = "", rest: str = "") -> Study:
    return load_study(write_sweep(folder, ablations, rest))


def problems_of(folder: Path, ablations: str = "", rest: str = "") -> list[FileProblem]:
    with pytest.raises(FileErrors) as caught:
        study_of(folder, ablations, rest)
    return caught.value.problems


def pointed_at(problem: FileProblem) -> str:
    """What the source says from the line and column of a problem on."""
    return Path(problem.file).read_text().splitlines()[problem.line - 1][problem.column - 1 :]


def the_problem(folder: Path, ablations: str = "", rest: str = "") -> tuple[str, str, str]:
    """The only problem of a sweep: what it points at in the file, its message, its hint."""
    problems = problems_of(folder, ablations, rest)
    assert len(problems) == 1, [str(problem) for problem in problems]
    return pointed_at(problems[0]), problems[0].message, problems[0].hint
