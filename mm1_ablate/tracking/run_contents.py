"""What MLflow's runs hold: parameters, metrics and texts, under names and within lengths that MLflow takes.

In: studies, trials, curves, scores. Out: what a run of each is to have. Parameters are what is ablated, and what names the system; all
settings are in a file of the run.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.reads import Contents
from mm1_ablate.config.metric_name import MetricName
from mm1_ablate.config.passwords import hidden, without_passwords
from mm1_ablate.config.settings import Settings, is_identity
from mm1_ablate.config.study import Arm, Change, Study, Trial
from mm1_ablate.config.sweep.differences import in_words, leaves
from mm1_ablate.tracking.own_runs import LONGEST_TAG
from mm1_ablate.tracking.shown_study import ComparedArm

if TYPE_CHECKING:
    import pandas
    from mlflow.entities import DatasetInput, Metric

SHOWN_DECIMALS = 2
"""Of scores: MLflow shows every digit that it gets. The store keeps them all."""
DIGITS = 5
"""Of what is measured in training."""
LONGEST_PARAMETER = 500
"""Characters."""
MOST_PARAMETERS = 60
MOST_FILES, LONGEST_DIGEST = 20, 36
"""Of a source: files that are named, and digits of its digest that MLflow takes."""
CURVE = {
    "loss": ("loss", 1.0),
    "learning_rate": ("learning_rate", 1.0),
    "tokens": ("tokens", 1.0),
    "tokens_per_second": ("tokens_per_second", 1.0),
    "gradient_norm": ("gradient_norm", 1.0),
    "waiting_for_data": ("waiting_for_data", 1.0),
    "memory": ("memory_gb", 1e-9),
}
"""What is shown of a curve's points: the metric's name, and what the value is multiplied by."""
SYSTEM_NAMES = (
    *("model.image_encoder.type", "model.image_encoder.name", "model.image_encoder.image_size", "model.connector.type"),
    *("model.connector.image_tokens", "model.language_model.name", "model.language_model.model_type", "training.optimizer.type"),
    *("training.steps", "training.batch_rows"),
)
"""Settings that name the system, ablated or not."""


def short_metric(name: str) -> str:
    """A metric's name as MLflow shows it, whose columns are narrow: 'shot_8/average' is '8-shot', 'text_core/x' 'TextCore/x'."""
    try:
        metric = MetricName.parse(name)
    except ValueError:
        return allowed(name)
    return allowed(metric.title if metric.is_average else f"{metric.suite_title}/{metric.name.removeprefix('miniature_')}")


def allowed(name: str) -> str:
    """A name with only the characters that MLflow takes, and no part between slashes that a path would not keep."""
    parts = re.sub(r"[^\w\-. :/]", "-", name)[:250].split("/")
    return "/".join(f"-{part}" if part in ("", ".", "..") else part for part in parts)


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


# ---------------------------------------------------------------- names of arms, and what they change
def arm_names(study: Study) -> dict[str, str]:
    """For each arm a name that is told apart from the others in a narrow column: its group, then what not all of the group have.
    'connector/hidden=96,lr=1' among arms that all have lr=1 is 'connector/hidden=96'; of a single group the group is left out."""
    groups = {arm.group for arm in study.arms if arm.name != arm.baseline}
    short: dict[str, str] = {}
    for group in groups:
        inside = {arm.name: arm.name.removeprefix(f"{group}/") for arm in study.arms if arm.group == group and arm.name != arm.baseline}
        parts = {name: text.split(",") for name, text in inside.items()}
        counts = Counter(part for own in parts.values() for part in set(own))
        for name, own in parts.items():
            telling = [part for part in own if counts[part] < len(parts)] if len(parts) > 1 else own
            distinct = ",".join(telling) or inside[name]
            short[name] = distinct if len(groups) == 1 or name == group else f"{group}/{distinct}"
    named = {arm.name: short.get(arm.name, arm.name) for arm in study.arms}
    twice = {name for name, count in Counter(named.values()).items() if count > 1}
    return {name: name if shown in twice else shown for name, shown in named.items()}


def changes(arms: Sequence[Arm]) -> str:
    """All in which the arms of a trial differ from their baselines; of several that differ in other things, each with its name."""
    told = {arm.name: in_words(arm) for arm in arms}
    if len(set(told.values())) == 1:
        return _fitting(next(iter(told.values())), "; ")
    return _fitting("\n".join(f"{name}: {words or 'the baseline'}" for name, words in told.items()), "\n")


def short_changes(arm: Arm) -> str:
    """As `changes`, with the last two parts of each place: 'connector.image_tokens 4 → 16'."""
    shortened = replace(arm, changes=tuple(map(_shortened, arm.changes)), everywhere=tuple(map(_shortened, arm.everywhere)))
    return _fitting(in_words(shortened), "; ")


def _shortened(change: Change) -> Change:
    if change.section:  # what is below it is told from there
        above = change.section.split(".")[:-1]
        cut = len(".".join(above[:-1])) + 1 if len(above) > 1 else 0
        return replace(change, path=change.path[cut:], section=change.section[cut:])
    return replace(change, path=".".join(change.path.split(".")[-2:]))


def _fitting(text: str, between: str) -> str:
    """A text that is cut between two of its parts where it is too long for a tag."""
    return text if len(text) <= LONGEST_TAG else f"{text[:LONGEST_TAG].rpartition(between)[0] or text[:LONGEST_TAG]}{between}and more"


# ---------------------------------------------------------------- parameters
class Parameters:
    """The parameters of a study's trials: what the study ablates, and what names the system."""

    def __init__(self, study: Study) -> None:
        self._flat = {arm.name: leaves(arm.experiment) for arm in study.arms}
        self._removed = {arm.name: [change.path for change in arm.changes if change.removed] for arm in study.arms}
        changed = [change for arm in study.arms for change in arm.changes]
        told = [change.path for change in changed if change.declared or not change.path.startswith("data.sources.")]
        paths = dict.fromkeys(path for place in dict.fromkeys(told) for path in self._at(place))
        ablated = [path for path in paths if len({json.dumps(flat.get(path)) for flat in self._flat.values()}) > 1]
        named = [path for path in SYSTEM_NAMES if any(flat.get(path) is not None for flat in self._flat.values())]
        self.paths = [*dict.fromkeys([*ablated[:MOST_PARAMETERS], *named])]

    def _at(self, place: str) -> list[str]:
        """All settings at a place or below it, in any arm."""
        return list(dict.fromkeys(path for flat in self._flat.values() for path in flat if path == place or path.startswith(f"{place}.")))

    def of(self, trial: Trial) -> dict[str, str]:
        """The parameters of a trial of the study. What its arm removed is 'removed', a weight 0; what its parts do not have is 'none'."""
        arm = trial.arms[0]
        flat, removed = self._flat[arm], self._removed[arm]
        return {allowed(path): _parameter(path, flat, removed) for path in self.paths} | {"seed": str(trial.seed)}


def _parameter(path: str, flat: Mapping[str, Any], removed: Sequence[str]) -> str:
    if flat.get(path) is not None:
        value = flat[path]
        return (", ".join(map(str, value)) if isinstance(value, list) else str(value))[:LONGEST_PARAMETER]
    if any(path == place or path.startswith(f"{place}.") for place in removed):
        return "0" if path.startswith("data.mixture.") else "removed"
    return "none"


def stage_parameters(stage: Trial) -> dict[str, str]:
    """The parameters of an earlier stage, which no arm declares by itself."""
    flat = leaves(stage.experiment)
    return {path: str(flat[path])[:LONGEST_PARAMETER] for path in SYSTEM_NAMES if flat.get(path) is not None} | {"seed": str(stage.seed)}


def settings_text(experiment: Experiment) -> str:
    """All settings of an experiment that make a trial what it is, resolved, as YAML."""
    return yaml.safe_dump(_identity(experiment), sort_keys=False, allow_unicode=True, width=120)


def _identity(value: Any) -> Any:
    if isinstance(value, Settings):
        fields = type(value).model_fields.items()
        told = {field.alias or name: _identity(getattr(value, name)) for name, field in fields if is_identity(field)}
        return {name: entry for name, entry in told.items() if entry is not None}
    if isinstance(value, dict):
        return {str(name): _identity(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_identity(entry) for entry in value]
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


# ---------------------------------------------------------------- data
def data_inputs(trial: Trial, read: Mapping[str, Contents]) -> list[DatasetInput]:
    """The sources that a trial is trained on.

    Args:
        read: what it was planned to read, by place in the experiment.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for name, source in trial.experiment.data.sources.items():
        contents = read.get(f"data.sources.{name}")
        settings = source.model_dump(mode="json")
        files = [without_passwords(file.address) for file in contents.files[:MOST_FILES]] if contents else []
        told = {"uri": ", ".join(files) or f"{settings.get('type')}: {settings.get('content', name)}", "settings": hidden(settings)}
        found = contents.digest if contents else digest(hidden(settings))
        dataset = Dataset(name, found[:LONGEST_DIGEST], str(settings.get("type", "")), json.dumps(told)[:60000])
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", "training")]))
    return inputs


# ---------------------------------------------------------------- metrics
def curve_metrics(curve: pandas.DataFrame, began: int, after: int = 0) -> list[Metric]:
    """The points of a curve behind a step.

    Args:
        began: of the run, in milliseconds since the epoch: for curves whose points do not say when they were measured.
    """
    from mlflow.entities import Metric

    metrics = []
    for point in curve.to_dict("records"):
        if point["step"] <= after:
            continue
        at = int(1000 * point["time"]) if _known(point.get("time")) else began + int(1000 * (point.get("seconds") or 0))
        for key, (name, factor) in CURVE.items():
            if _known(point.get(key)):
                metrics.append(Metric(name, rounded(float(point[key]) * factor), at, int(point["step"])))
    return metrics


def rounded(value: float) -> float:
    """A number with as many digits as are looked at."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else value


def _known(value: Any) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


def shown_scores(scores: Mapping[str, float]) -> dict[str, float]:
    """A trial's scores by their short names."""
    return {short_metric(name): round(value, SHOWN_DECIMALS) for name, value in scores.items()}


def arm_metrics(arm: ComparedArm, primary: str) -> dict[str, float]:
    """An arm's numbers: '8-shot', '8-shot difference', 'low', 'high', 'p adjusted' of the primary metric; those of others with the metric's
    name before each; and 'seeds'.

    Args:
        primary: the short name of the primary metric.
    """
    found: dict[str, float | None] = {"seeds": float(arm.seeds)}
    for name, score in arm.scores.items():
        before = "" if name == primary else f"{name} "
        found |= {name: score.mean, f"{name} difference": score.difference}
        found |= {f"{before}low": score.low, f"{before}high": score.high, f"{before}p adjusted": score.p_adjusted}
    return {allowed(name): rounded(float(value)) for name, value in found.items() if value is not None and not math.isnan(value)}
