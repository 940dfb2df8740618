"""What MLflow's runs of trials hold: parameters, metrics and texts, under names and within lengths that MLflow takes."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mm1_ablate.config.metric_name import MetricName
from mm1_ablate.config.settings import Settings, is_identity
from mm1_ablate.config.study import Arm, Study, Trial
from mm1_ablate.config.sweep.differences import in_words

if TYPE_CHECKING:
    import pandas
    from mlflow.entities import Metric

LONGEST_TAG = 7900
"""Characters; MLflow takes 8000."""
MOST_POINTS = 500
"""Of a curve, each key."""
SHOWN_DECIMALS = 2
"""Of scores: MLflow shows every digit that it gets. The store keeps them all."""


def short_metric(name: str) -> str:
    """A metric's name as MLflow shows it, whose columns are narrow: 'shot_8/average' is '8-shot', 'text_core/x' 'TextCore/x'."""
    try:
        metric = MetricName.parse(name)
    except ValueError:
        return allowed(name)
    return allowed(metric.title if metric.is_average else f"{metric.suite_title}/{metric.name.removeprefix('miniature_')}")


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def changes(arms: Sequence[Arm]) -> str:
    """All in which the arms of a trial differ from their baselines; of several that differ in other things, each with its name."""
    told = {arm.name: in_words(arm) for arm in arms}
    if len(set(told.values())) == 1:
        return _fitting(next(iter(told.values())), "; ")
    return _fitting("\n".join(f"{name}: {words or 'the baseline'}" for name, words in told.items()), "\n")


def _fitting(text: str, between: str) -> str:
    """A text that is cut between two of its parts where it is too long for a tag."""
    return text if len(text) <= LONGEST_TAG else f"{text[:LONGEST_TAG].rpartition(between)[0] or text[:LONGEST_TAG]}{between}and more"


def parameters_of(trial: Trial) -> dict[str, str]:
    """What a trial is, flat: dotted paths of the experiment and their values. Where data comes from in detail is left to the store."""
    flat: dict[str, str] = {}

    def walk(path: str, value: Any) -> None:
        if isinstance(value, Settings):
            for name, declared in type(value).model_fields.items():
                if is_identity(declared) and name not in ("source", "sources"):
                    walk(f"{path}.{name}" if path else name, getattr(value, name))
        elif isinstance(value, dict):
            for name, entry in value.items():
                walk(f"{path}.{name}", entry)
        elif value is not None:
            flat[allowed(path)] = (", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))[:6000]

    walk("", trial.experiment)
    flat["data.sources"] = ", ".join(trial.experiment.data.sources)
    return flat


def curve_metrics(curve: pandas.DataFrame, began: int) -> list[Metric]:
    from mlflow.entities import Metric

    stride = max(1, -(-len(curve) // MOST_POINTS))
    metrics = []
    # From the end, so that the last point is among them.
    for point in curve.iloc[::-stride].to_dict("records"):
        at = began + int(1000 * point.get("seconds", 0))
        for key in ("loss", "learning_rate", "tokens", "images"):
            if isinstance(point.get(key), int | float):
                metrics.append(Metric(key, float(point[key]), at, int(point["step"])))
    return metrics


def score_metrics(scores: Mapping[str, float], at: int) -> list[Metric]:
    from mlflow.entities import Metric

    return [Metric(short_metric(name), round(value, SHOWN_DECIMALS), at, 0) for name, value in scores.items()]


def mean_metrics(results: pandas.DataFrame, study: Study) -> list[Metric]:
    """The arms' means of the compared metrics."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    wanted = results[results["metric"].isin(study.sweep.compare.metrics)]
    means = wanted.groupby(["arm", "metric"], sort=False)["value"].mean().reset_index()
    rows = zip(means["arm"], means["metric"], means["value"], strict=True)
    return [Metric(allowed(f"{short_metric(metric)} {arm}"), round(float(mean), SHOWN_DECIMALS), now, 0) for arm, metric, mean in rows]


def allowed(name: str) -> str:
    """A name with only the characters that MLflow takes, and no part between slashes that a path would not keep."""
    parts = re.sub(r"[^\w\-. :/]", "-", name)[:250].split("/")
    return "/".join(f"-{part}" if part in ("", ".", "..") else part for part in parts)
