"""The experiment of a study in MLflow: found by the store's own mark, made, restored, with its note and its views.

In: a study and its store. Out: an experiment of that study in that store alone. Two stores that show a study of one name on one server have
an experiment each: the second is named by its mark too. An experiment that people rename stays the study's; one that they delete is
restored.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_ablate.config.identity.fingerprint import digest
from mm1_ablate.config.passwords import without_passwords
from mm1_ablate.config.study import Study
from mm1_ablate.store.store import Store
from mm1_ablate.tracking.notes import mark_of, merged, split
from mm1_ablate.tracking.own_runs import NOTE, NOTE_MARK, OURS
from mm1_ablate.tracking.run_contents import allowed, short_metric
from mm1_ablate.tracking.server import tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

STORE_MARK, STUDY = f"{OURS}store", f"{OURS}study"
LONGEST_NOTE = 4900
"""Characters of an experiment's tag: MLflow takes 5000 in its older versions."""
OF_AN_EARLIER_VERSION = "; see the run 'comparison'."
"""With what the notes end that versions without a mark wrote."""
ARMS, TRIALS, CHARTS = "arms", "trials", "charts"
"""Keys of the views."""


def mark_of_store(store: Store) -> str:
    """What tells a store from others on a server; it is kept in the store, and stays where the store is moved. A copy gets another."""
    file = store.root / "mlflow.json"
    store.download(file)
    record: dict[str, str] = store.files.read_record(file, dict[str, str])
    place = str(store.root.resolve()) if store.address == str(store.root) else store.address
    if record.get("store") and (record.get("place") == place or not _has_mark(record.get("place", ""), record["store"])):
        return record["store"]
    record = {"store": uuid.uuid4().hex[:12], "place": place}
    try:
        store.write_json(file, record)
    except OSError:  # of a store that may only be read
        return digest(place)[:12]
    return record["store"]


def _has_mark(place: str, mark: str) -> bool:
    """Whether a folder on this machine is the store of a mark."""
    try:
        return bool(json.loads(Path(place, "mlflow.json").read_text(encoding="utf-8")).get("store") == mark)
    except (OSError, ValueError, AttributeError):
        return False


def experiment_of(client: MlflowClient, study: Study, store: Store) -> Experiment:
    """The experiment of a study, made if need be, with its views."""
    from mlflow.entities import ViewType

    mark = mark_of_store(store)
    own = f"tags.`{STORE_MARK}` = '{mark}' AND tags.`{STUDY}` = '{digest(study.name)[:12]}'"
    there = next(iter(client.search_experiments(ViewType.ALL, filter_string=own)), None) or _of_an_earlier_version(client, study, store)
    if there is None:
        there = _made(client, study, store, mark)
    elif there.lifecycle_stage == "deleted":
        client.restore_experiment(there.experiment_id)
    tags = _marks(study, mark) | {
        # Not documented, and harmless where they are not understood: no sidebar for chat traces, and tables that show what was asked.
        "mlflow.experimentKind": "custom_model_development",
        **{f"mlflow.sharedViewState.{key}": json.dumps(view) for key, view in views(study).items()},
    }
    write_tags(client, there, tags)
    return there


def write_tags(client: MlflowClient, experiment: Experiment, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        if experiment.tags.get(key) != value:
            client.set_experiment_tag(experiment.experiment_id, key, value)


def write_note(client: MlflowClient, experiment: Experiment, lines: list[str], rows: list[str], after: list[str]) -> None:
    """Write our part of an experiment's note.

    Args:
        rows: of a table, of which as many are kept as there is room for.
    """
    there, mark = experiment.tags.get(NOTE, ""), experiment.tags.get(NOTE_MARK, "")
    if not mark and there.endswith(OF_AN_EARLIER_VERSION):
        there = ""
    before, behind = split(there, mark)
    room = LONGEST_NOTE - len(before) - len(behind) - 10
    kept = len(rows)
    text = ""
    while True:
        more = [] if kept == len(rows) else ["", f"{len(rows) - kept} more arms are in the view of the arms."]
        text = without_passwords("\n".join([*lines, *rows[:kept], *more, *after]))
        if len(text) <= room or kept <= 2:
            break
        kept -= 1
    whole = merged(there, mark, text, LONGEST_NOTE)
    if whole != there:
        own = whole.removeprefix(before).removesuffix(behind).strip("\n")
        write_tags(client, experiment, {NOTE: whole, NOTE_MARK: mark_of(own)})


# ---------------------------------------------------------------- find and make
def _marks(study: Study, mark: str) -> dict[str, str]:
    return {STORE_MARK: mark, STUDY: digest(study.name)[:12]}


def _of_an_earlier_version(client: MlflowClient, study: Study, store: Store) -> Experiment | None:
    """An experiment by the study's name that no store has marked, if it is of this one."""
    there = client.get_experiment_by_name(_name(study))
    if there is None or STORE_MARK in there.tags:
        return None
    if "MLFLOW_TRACKING_URI" not in os.environ or there.lifecycle_stage == "deleted":
        return there
    runs = client.search_runs([there.experiment_id], "tags.folder LIKE '%'", max_results=1000)
    return there if not runs or any(Path(run.data.tags["folder"]).is_relative_to(store.root) for run in runs) else None


def _made(client: MlflowClient, study: Study, store: Store, mark: str) -> Experiment:
    """A new experiment, or that of another process of the same store which was faster."""
    from mlflow.exceptions import MlflowException

    local = not tracking_uri(store).startswith(("http", "databricks"))
    places = (store.root / "mlartifacts" / store.study_folder(study).name).as_uri() if local else None
    for name in (_name(study), f"{_name(study)} (store {mark[:6]})"):
        try:
            return client.get_experiment(client.create_experiment(name, artifact_location=places, tags=_marks(study, mark)))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            there = client.get_experiment_by_name(name)
            if there is not None and there.tags.get(STORE_MARK) == mark:
                return there
    raise FileExistsError(f"two experiments of other stores have the name {_name(study)}; rename one of them in MLflow")


def _name(study: Study) -> str:
    return f"mm1-ablate/{study.name}"


# ---------------------------------------------------------------- views
def address_of(experiment: str, view: str) -> str:
    """The path of a view below the server's address."""
    charts = "&compareRunsMode=CHART" if view == CHARTS else ""
    return f"/#/experiments/{experiment}/runs?viewStateShareKey={view}&workflowType=machine_learning{charts}"


def views(study: Study) -> dict[str, dict[str, Any]]:
    """The state of the page for each view: the arms in one flat table, the largest loss first; the trials; the arms in charts."""
    metrics = list(dict.fromkeys(map(short_metric, [study.sweep.compare.primary, *study.sweep.compare.metrics])))
    primary = metrics[0]
    judged = [f"{primary} difference", "low", "high", primary, "seeds"]
    # MLflow puts metrics before tags, each in the order of the alphabet: few columns, so that verdicts are seen without scrolling.
    columns = [_tag("verdict"), *map(_metric, judged), *map(_tag, ("changes", "missing"))]
    of_arms = {
        "searchFilter": "tags.kind = 'arm'",
        "orderByKey": f"metrics.`{allowed(primary)} difference`",
        "orderByAsc": True,
        "groupBy": None,
    }
    return {
        ARMS: {**of_arms, "selectedColumns": columns},
        TRIALS: {
            "searchFilter": "tags.kind = 'trial'",
            "orderByKey": "attributes.start_time",
            "orderByAsc": False,
            "groupBy": None,
            "selectedColumns": [*map(_tag, ("arm", "seed")), *map(_metric, (*metrics, "loss")), "attributes.`Duration`", _tag("changes")],
        },
        CHARTS: {**of_arms, **_charts([*metrics, *(f"{name} difference" for name in metrics)])},
    }


def _metric(name: str) -> str:
    return f"metrics.`{allowed(name)}`"


def _tag(name: str) -> str:
    return f"tags.`{name}`"


def _charts(metrics: list[str]) -> dict[str, Any]:
    """Bars of the compared averages, in this order."""
    section = "compared"
    bars = [
        {
            "uuid": f"bar-{number}",
            "type": "BAR",
            "metricKey": allowed(name),
            "runsCountToCompare": 50,
            "metricSectionId": section,
            "deleted": False,
            "isGenerated": False,
        }
        for number, name in enumerate(metrics)
    ]
    sections = [
        {"uuid": section, "name": "Compared averages", "display": True, "isReordered": True, "deleted": False, "isGenerated": False}
    ]
    return {"compareRunCharts": bars, "compareRunSections": sections, "selectedColumns": [_tag("verdict")]}
