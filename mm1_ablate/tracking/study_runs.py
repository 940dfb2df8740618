"""The runs of a study: one of the comparison, below it one for each arm, below that one for each trial; earlier stages beside the arms.

In: a study, its store, and a comparison if there is one. Out: runs that say what the store says. A trial has a run from its start; while it
is trained its curve grows (`write_trial` writes what is new each time); its status is that of the store. What ended is written once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mm1_ablate.config.identity.fingerprint import digest as whole_digest
from mm1_ablate.config.identity.fingerprint import short
from mm1_ablate.config.passwords import without_passwords
from mm1_ablate.config.study import Arm, Study, Trial
from mm1_ablate.store.status import TrialState
from mm1_ablate.store.store import Store
from mm1_ablate.tracking.own_runs import CONTENT, KEY, LONGEST_TAG, OURS, PARENT, OwnRun, OwnRuns
from mm1_ablate.tracking.run_contents import (
    CURVE,
    Parameters,
    arm_metrics,
    arm_names,
    changes,
    curve_metrics,
    data_inputs,
    digest,
    settings_text,
    short_changes,
    short_metric,
    shown_scores,
    stage_parameters,
)
from mm1_ablate.tracking.run_files import RunFile, RunFiles, digest_of_folder, trial_files
from mm1_ablate.tracking.shown_study import ComparedArm, ComparedStudy

if TYPE_CHECKING:
    from mlflow import MlflowClient

STATUSES = {"done": "FINISHED", "failed": "FAILED", "running": "RUNNING", "interrupted": "KILLED", "missing": "SCHEDULED"}
"""By what the store says of a trial, what MLflow says."""
ENDED = ("done", "failed")
STEP, CURVE_BEGAN, TRIALS, FILES, DATA = (f"{OURS}{name}" for name in ("step", "curve", "trials", "files", "data"))
WITHOUT_FILES = "files missing"
"""Tag of runs whose files could not be written; another call tries again."""
EARLIER = "earlier"
"""The kind of runs that the study no longer has."""
COMPARISON = "study"
"""Key of the run of the comparison."""
NOT_COMPARED = "not compared yet"
"""The verdict of an arm before anything was compared."""
MOST_MISSING = 4
"""Trials that an arm's tag names."""


def is_stage(trial: Trial) -> bool:
    return not trial.evaluation_fingerprint


def key_of(trial: Trial) -> str:
    """What its run is found by: an earlier stage is not judged, so it is what it is trained as."""
    return f"stage/{short(trial.fingerprint)}" if is_stage(trial) else f"trial/{short(trial.evaluation_fingerprint)}"


class StudyRuns:
    """The runs of a study in its experiment."""

    def __init__(self, client: MlflowClient, experiment: str, study: Study, store: Store, address: str) -> None:
        self.client, self.study, self.store = client, study, store
        self.runs = OwnRuns(client, experiment)
        self.states = {key_of(trial): store.status(trial) for trial in (*study.stages, *study.trials)}
        self._how_they_ran = store.how_they_ran(study)
        self._names, self._parameters = arm_names(study), Parameters(study)
        tags = {"kind": "comparison", "study": study.name}
        self.comparison = self.runs.ensure(COMPARISON, "comparison", tags, metrics=())
        self.files = RunFiles(address, self.comparison.artifact_uri)
        self.arms = {arm.name: self._arm_run(arm) for arm in study.arms}

    # ------------------------------------------------------------ arms
    def _arm_run(self, arm: Arm) -> OwnRun:
        """The run of an arm, as far as it is known before anything is compared."""
        key, trials = f"arm/{arm.name}", self._trials_behind(arm)
        there = self.runs.by_key.get(key)
        known = set(there.tags.get(TRIALS, "").split()) if there else set()
        # What it was compared by is no longer there: its numbers are of another arm.
        other = there is not None and not known <= set(trials)
        tags = self._arm_tags(arm)
        if there is not None and not other and "verdict" in there.tags:
            tags["verdict"] = there.tags["verdict"]
            tags |= {name: there.tags[name] for name in ("also changed",) if name in there.tags}
        else:
            tags["verdict"] = NOT_COMPARED
        name = self._name_of(arm, tags["verdict"])
        return self.runs.ensure(key, name, tags, metrics=() if other else None, started=self._times(arm)[0])

    def _name_of(self, arm: Arm, verdict: str) -> str:
        """What an arm's run is called: MLflow shows a run's name first, and its tags behind all metrics, where a narrow window ends."""
        name = self._names[arm.name]
        return name if arm.name == arm.baseline or verdict == NOT_COMPARED else f"{name}: {verdict}"

    def _trials_behind(self, arm: Arm) -> list[str]:
        """What its comparison stands on, itself and its baseline; also trials that it may come to need."""
        both = dict.fromkeys((arm.name, arm.baseline))
        return [short(trial.evaluation_fingerprint) for name in both for trial in self.study.possible_trials_of(name)]

    def _arm_tags(self, arm: Arm) -> dict[str, str]:
        tags = {
            "kind": "arm",
            "study": self.study.name,
            "arm": arm.name,
            "baseline": arm.baseline,
            "changes": short_changes(arm),
            PARENT: self.comparison.run_id,
            TRIALS: " ".join(self._trials_behind(arm))[:LONGEST_TAG],
        }
        missing = self._missing(arm)
        return tags | ({"group": arm.group} if arm.group else {}) | ({"missing": missing} if missing else {})

    def _missing(self, arm: Arm) -> str:
        """Which trials of an arm gave no scores, and why; empty where none is missing."""
        trials = self.study.trials_of(arm.name)
        told = [
            f"seed {trial.seed} {state.status}" + (f" ({state.reason})" if state.status == "failed" else "")
            for trial in trials
            if (state := self.states[key_of(trial)]).status != "done"
        ]
        if not told:
            return ""
        more = f", and {len(told) - MOST_MISSING} more" if len(told) > MOST_MISSING else ""
        return f"{len(told)} of {len(trials)} trials: {', '.join(told[:MOST_MISSING])}{more}"[:LONGEST_TAG]

    def _times(self, arm: Arm) -> tuple[int | None, int | None]:
        """When the first of its trials began and the last ended, in milliseconds since the epoch."""
        states = [self.states[key_of(trial)] for trial in self.study.trials_of(arm.name)]
        began, ended = [one.started for one in states if one.started], [one.finished for one in states if one.finished]
        return (int(min(began) * 1000) if began else None), (int(max(ended) * 1000) if ended else None)

    def write_arms(self, compared: ComparedStudy | None, now: int) -> None:
        """Bring the arms' runs up to their trials and, if there is one, the comparison."""
        for arm in self.study.arms:
            run, judged = self.arms[arm.name], compared.arms.get(arm.name) if compared else None
            if judged is not None:
                run = self._write_compared(arm, judged, now)
            missing = self._missing(arm)
            if missing:
                self.runs.write(run, tags={"missing": missing})
            else:
                self.runs.remove_tag(run, "missing")
            trials = [self.states[key_of(trial)].status for trial in self.study.trials_of(arm.name)]
            self.runs.set_status(run, _status_of_all(trials), self._times(arm)[1])

    def _write_compared(self, arm: Arm, judged: ComparedArm, now: int) -> OwnRun:
        numbers = arm_metrics(judged, short_metric(self.study.sweep.compare.primary))
        tags = self._arm_tags(arm) | {"verdict": judged.verdict}
        if judged.also_changed:
            tags["also changed"] = judged.also_changed[:LONGEST_TAG]
        began, ended = self._times(arm)
        note = self._arm_note(arm, judged)
        name = self._name_of(arm, judged.verdict)
        run = self.runs.ensure(f"arm/{arm.name}", name, tags, metrics=numbers, started=began, note=note)
        self.runs.write_scores(run, numbers, ended or now, now)
        self.arms[arm.name] = run
        return run

    def _arm_note(self, arm: Arm, judged: ComparedArm) -> str:
        does, primary = changes([arm]), short_metric(self.study.sweep.compare.primary)
        if arm.name == arm.baseline:
            told = [f"The baseline `{arm.name}`: {primary} {judged.score}."]
        else:
            score = f"{primary} {judged.score}, {judged.difference or 'difference unknown'}"
            told = [f"**{judged.verdict}**: `{arm.name}` against `{arm.baseline}`: {score}."]
        told += [f"Changes: {does}."] if does else []
        told += [f"Also: {judged.also_changed}."] if judged.also_changed else []
        return "\n\n".join(told)

    # ------------------------------------------------------------ trials
    def write_trial(self, trial: Trial, state: TrialState | None = None) -> tuple[OwnRun | None, bool]:
        """Bring the run of a trial or earlier stage up to the store.

        Returns:
            It, or None where it never ran; and whether it has ended and was written as such now.
        """
        key = key_of(trial)
        state = self.states[key] = state or self.store.status(trial)
        if state.status == "missing" and not self._is_there(key):
            return None, False
        done = state.status == "done"
        scores = self.store.scores(trial) if done and not is_stage(trial) else {}
        outcome = digest([state.status, state.reason, scores]) if state.status in ENDED else ""
        there = self.runs.by_key.get(key)
        if there is not None and outcome and there.tags.get(CONTENT) == outcome:
            run = self._named(trial, state, scores, there.metrics.keys())
            self._write_files(run, trial, again=False)
            self.runs.set_status(run, STATUSES[state.status], _milliseconds(state.finished) or run.ended)
            return run, False
        curve = self.store.curve(trial)
        names = {name for name, _ in CURVE.values()} | set(shown_scores(scores)) if done else None
        run = self._named(trial, state, scores, names)
        if len(curve):
            run = self._write_curve(run, trial, state, curve, scores, names)
        self._write_inputs(run, trial)
        finished = _milliseconds(state.finished)
        if scores:
            self.runs.write_scores(run, shown_scores(scores), finished or run.started, finished or run.started)
        if outcome:
            self._write_files(run, trial, again=True)
        else:
            self.runs.remove_tag(run, CONTENT)
        self.runs.set_status(run, STATUSES[state.status], finished if state.status != "running" else None)
        if outcome:
            # Last: a run without it was cut short, and is written again.
            self.runs.write(run, tags={CONTENT: outcome})
        return run, bool(outcome)

    def _write_inputs(self, run: OwnRun, trial: Trial) -> None:
        """Write which data a run is about, once."""
        inputs = data_inputs(trial, self.store.planned_reads(self.store.trial_folder(trial)))
        said = digest([[one.dataset.name, one.dataset.digest] for one in inputs])
        if run.tags.get(DATA) != said and inputs:
            self.client.log_inputs(run.run_id, inputs)
            self.runs.write(run, tags={DATA: said})

    def _is_there(self, key: str) -> bool:
        """Whether something of a trial is shown that has not been said to be of an earlier one."""
        run = self.runs.by_key.get(key)
        return run is not None and not run.deleted and KEY in run.tags

    def _named(self, trial: Trial, state: TrialState, scores: Mapping[str, float], metrics: Iterable[str] | None) -> OwnRun:
        """The run of a trial, with all but what it measured."""
        former = None
        if not is_stage(trial) and key_of(trial) not in self.runs.by_key:
            former = self._evaluated_before(trial)
        return self.runs.ensure(
            key_of(trial),
            trial.name,
            self._trial_tags(trial),
            stage_parameters(trial) if is_stage(trial) else self._parameters.of(trial),
            metrics=None if metrics is None else set(metrics),
            started=_milliseconds(state.started or state.finished) or 0,
            note=self._trial_note(trial, state, scores),
            former=former,
        )

    def _evaluated_before(self, trial: Trial) -> OwnRun | None:
        """The run of the same training, evaluated otherwise, that no trial of the study has: evaluating again adds to it."""
        taken, same = {key_of(one) for one in self.study.possible_trials}, short(trial.fingerprint)
        others = [run for key, run in self.runs.by_key.items() if key.startswith("trial/") and key not in taken and KEY in run.tags]
        return next((run for run in others if run.tags.get("fingerprint") == same and not run.deleted), None)

    def _trial_tags(self, trial: Trial) -> dict[str, str]:
        arms = [self.study.arm(name) for name in trial.arms]
        parent = self.comparison if is_stage(trial) else self.arms[arms[0].name]
        tags = {
            "kind": "stage" if is_stage(trial) else "trial",
            "study": self.study.name,
            "arm": trial.arms[0],
            "arms": ", ".join(trial.arms)[:LONGEST_TAG],
            "seed": str(trial.seed),
            "fingerprint": short(trial.fingerprint),
            PARENT: parent.run_id,
        }
        if trial.earlier:
            tags["starts_from"] = short(trial.earlier[-1].fingerprint)
        if is_stage(trial):
            return tags | {"stage": f"{len(trial.earlier) + 1}: {trial.experiment.experiment}"}
        how = self._how_they_ran.get(trial.evaluation_fingerprint, {})
        tags |= {f"mlflow.source.{name}": how[key] for name, key in (("name", "command"), ("git.commit", "commit")) if how.get(key)}
        tags |= {"evaluation": short(trial.evaluation_fingerprint), "changes": changes(arms)}
        return tags | ({"group": arms[0].group} if arms[0].group else {})

    def _trial_note(self, trial: Trial, state: TrialState, scores: Mapping[str, float]) -> str:
        """What a trial is and became, in a sentence; of a failure its traceback."""
        does = changes([self.study.arm(name) for name in trial.arms])
        what = f"Stage {len(trial.earlier) + 1} of `{trial.arms[0]}`" if is_stage(trial) else f"Arm `{trial.arms[0]}`"
        what += f", seed {trial.seed}" + (f", which changes {does}" if does and not is_stage(trial) else "")
        if state.status == "failed":
            error = self.store.error(self.store.failed_folder(trial)) or ""
            return f"Failed: {state.reason}\n\n{what}.\n\n```\n{error[-5000:]}\n```"
        became = {"done": "trained" if is_stage(trial) else "trained and evaluated", "missing": state.reason}.get(
            state.status, state.status
        )
        compared = [name for name in self.study.sweep.compare.metrics if name in scores]
        shown = ", ".join(f"{short_metric(name)} {scores[name]:.1f}" for name in compared)
        return f"{what}: {became}{f'; {shown}' if shown else ''}."

    def _write_curve(
        self, run: OwnRun, trial: Trial, state: TrialState, curve: Any, scores: Mapping[str, float], names: Iterable[str] | None
    ) -> OwnRun:
        """Write the points that a run lacks. A curve that began anew, in a trial that was tried again from its start, gets a new run."""
        first = curve.iloc[0]
        began = f"{first.get('time', first.get('seconds', 0)):.3f}"
        if run.tags.get(CURVE_BEGAN, began) != began:
            run = self._anew(run, trial, state, scores, names)
        after = int(run.tags.get(STEP) or 0)
        last = int(curve["step"].iloc[-1])
        points = curve_metrics(curve, run.started, after)
        if points:
            self.runs.write(run, points, {STEP: str(max(last, after)), CURVE_BEGAN: began})
        return run

    def _anew(self, run: OwnRun, trial: Trial, state: TrialState, scores: Mapping[str, float], names: Iterable[str] | None) -> OwnRun:
        run.metrics["of an attempt before"] = 0.0  # which no run may have, so that it is replaced
        return self._named(trial, state, scores, names if names is not None else ())

    def _write_files(self, run: OwnRun, trial: Trial, again: bool) -> None:
        """Write the files of a trial that has ended, unless they are there."""
        lost = [
            f"{source}: {one['in_words']}" for source, counts in self.store.data_account(trial).items() for one in counts.get("lost", ())
        ]
        if lost:
            self.runs.write(run, tags={"lost data": without_passwords("; ".join(lost))[:LONGEST_TAG]})
        if not again and WITHOUT_FILES not in run.tags:
            return
        if all([self.files.log(run, one) for one in trial_files(trial, self.store)]):
            self.runs.remove_tag(run, WITHOUT_FILES)
        else:
            self.runs.write(run, tags={WITHOUT_FILES: str(self.files.problem)[:LONGEST_TAG]})

    # ------------------------------------------------------------ what is no longer there
    def retire(self) -> None:
        """Take runs of trials, stages and arms that the study no longer has out of the views. None of them is left running."""
        arms = {f"arm/{arm.name}" for arm in self.study.arms}
        current = {COMPARISON, *arms, *self.states}
        for key, run in list(self.runs.by_key.items()):
            if key in current or run.deleted:
                continue
            if run.tags.get("kind") != EARLIER:
                self.runs.write(run, tags={"kind": EARLIER})
            if run.status in ("RUNNING", "SCHEDULED") and not self._is_worked_on(run):
                self.runs.set_status(run, "KILLED")

    def _is_worked_on(self, run: OwnRun) -> bool:
        fingerprint = run.tags.get("fingerprint", "")
        return bool(fingerprint) and self.store.is_held(self.store.trial_folder(fingerprint))

    # ------------------------------------------------------------ the comparison
    def write_comparison(self, compared: ComparedStudy | None, remark: str) -> None:
        """The comparison's own run: the report, the table, all settings of the baseline, the verdict as its description."""
        run = self.comparison
        note = "\n\n".join(filter(None, [remark, compared.note if compared else ""]))
        if note:
            self.comparison = run = self.runs.ensure(
                COMPARISON, "comparison", {"kind": "comparison", "study": self.study.name}, metrics=(), note=note
            )
        baseline = self.study.arms[0].experiment
        texts = {"settings.yaml": settings_text(baseline)} | dict(compared.files if compared else {})
        if compared is not None and compared.table is not None:
            # As `log_table` does it, which would append to what an earlier call wrote.
            texts["comparison.json"] = json.dumps(json.loads(compared.table.to_json(orient="split", index=False)))
        report = compared.report if compared and compared.report and compared.report.exists() else None
        before = dict(part.split("=", 1) for part in run.tags.get(FILES, "").split())
        now = {name: whole_digest(text)[:12] for name, text in texts.items()}
        if report is not None:
            now["report"] = digest_of_folder(report)
        for name, text in texts.items():
            if before.get(name) != now[name] and self.files.log(run, RunFile(name, text=text)):
                before[name] = now[name]
        if report is not None and before.get("report") != now["report"]:
            before |= {"report": now["report"]} if self.files.replace_folder(run, report, "report") else {}
        tags = {FILES: " ".join(f"{name}={value}" for name, value in before.items())}
        if "comparison.json" in before:
            tags["mlflow.loggedArtifacts"] = json.dumps([{"path": "comparison.json", "type": "table"}])
        self.runs.write(run, tags=tags)
        finished = [state.finished for state in self.states.values() if state.finished]
        states = [self.states[key_of(trial)].status for trial in self.study.trials]
        self.runs.set_status(run, _status_of_all(states), _milliseconds(max(finished)) if finished else None)


def _status_of_all(states: Iterable[str]) -> str:
    """What a run says of the trials below it."""
    found = set(states)
    return STATUSES[next((status for status in ("running", "interrupted", "failed", "missing") if status in found), "done")]


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)
