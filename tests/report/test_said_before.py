"""What was said before the scores and what after: a study that is run, edited, looked at and edited again, as its report tells it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_line import call
from scored_study import write_scores

from mm1_ablate.commands.comparison import compare_study
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.data.documents import Item
from mm1_ablate.report.comparison import StudyComparison
from mm1_ablate.report.html import html
from mm1_ablate.report.markdown import markdown
from mm1_ablate.report.text import headline
from mm1_ablate.store.store import Store

FELL = "  - {arm: without/text, metric: 0-shot, is: below, by: 5, because: it must fall}\n"
ROSE = "  - {arm: without/text, metric: 0-shot, is: above, because: it must rise}\n"
SAME = "  - {arm: without/interleaved, metric: 0-shot, is: within, by: 60, because: it is the same}\n"
SWEEP = f"""\
sweep: tiny
experiment: ../experiments/tiny.yaml
everywhere: {{evaluation.items: 40}}
seeds: [0, 1, 2]
ablations:
  without:
    remove_each: [data.mixture.interleaved, data.mixture.text]
compare:
  primary: shot_0/average
  metrics: [shot_0/average, shot_0/miniature_vqa]
expect:
{FELL}"""


class Researcher:
    """Edits a sweep, runs it (without training) and reads its report."""

    def __init__(self, sweep: Path, root: Path) -> None:
        self.sweep, self.root = sweep, root
        sweep.write_text(SWEEP)

    @property
    def store(self) -> Store:
        return Store(self.root)

    def edit(self, old: str, new: str) -> None:
        text = self.sweep.read_text()
        assert old in text
        self.sweep.write_text(text.replace(old, new))

    def expect(self, *lines: str) -> None:
        text = self.sweep.read_text()
        self.sweep.write_text(text[: text.index("expect:")] + ("expect:\n" + "".join(lines) if lines else ""))

    def run(self, *arms: str) -> None:
        """Arms get scores, by default all: without text nearly all answers are wrong, otherwise nearly none."""
        self.store.declare(load_study(self.sweep))

        def answer(trial: object, task: object, shots: int, place: int, item: Item) -> str:
            name, seed = trial.arms[0], trial.seed  # type: ignore[attr-defined]
            right = place % 10 == seed % 3 if name == "without/text" else place % 10 != (seed + len(name)) % 3
            return str(item.references[0]) if right else "nothing"

        write_scores(self.sweep, self.root, answer, arms or None)

    def report(self) -> StudyComparison:
        study, store = load_study(self.sweep), self.store
        store.declare(study)
        return compare_study(study, store)

    def read(self) -> list[str]:
        """What the command `report` shows, its page, its document and its numbers, without line breaks."""
        done = call("report", self.sweep, "--store", self.root)
        assert done.exit_code == 0, (done.stderr, done.exception)
        folder = self.store.study_folder(load_study(self.sweep)) / "report"
        texts = [done.stdout, *((folder / name).read_text() for name in ("report.html", "report.md", "comparison.json"))]
        return [" ".join(text.split()) for text in texts]

    def verdicts(self) -> list[tuple[str, str]]:
        return [(one.verdict, one.said.words) for one in self.report().expectations if one.said]


@pytest.fixture
def researcher(tiny_sweep: Path, tmp_path: Path) -> Researcher:
    return Researcher(tiny_sweep, tmp_path / "store")


BEFORE = "declared before any score"
AFTER = "declared after 9 of 9 trials had scores: exploratory"


# ---------------------------------------------------------------- expectations
def test_what_came_before_is_confirmed_or_refuted_what_came_after_is_exploratory(researcher: Researcher):
    researcher.expect(FELL, SAME)
    researcher.run()
    assert researcher.verdicts() == [("confirmed", BEFORE)] * 2
    assert all("Declared before any score, by 20" in text for text in researcher.read()[:3])
    researcher.expect(FELL, SAME, ROSE, FELL.replace("by: 5", "by: 1"))
    assert researcher.verdicts() == [("confirmed", BEFORE)] * 2 + [("exploratory: against", AFTER), ("exploratory: in line", AFTER)]
    comparison = researcher.report()
    assert headline(comparison).endswith("; of 4 lessons 2 confirmed, 1 exploratory: in line, 1 exploratory: against.")
    for text in researcher.read()[:3]:
        assert AFTER in text and "2 of 4 were declared before any score; 2 came after scores and are exploratory" in text
    found = comparison.to_json()["expectations"]
    assert [one["declared"]["when"] for one in found] == ["before", "before", "after", "after"]
    assert found[0]["declared"]["time"] < found[2]["declared"]["time"]


def test_a_claim_that_follows_the_result_does_not_help_or_harm_those_before_it(researcher: Researcher):
    researcher.expect(FELL, SAME)
    researcher.run()
    alone = [one.p_adjusted for one in researcher.report().expectations]
    researcher.expect(FELL, SAME, *(FELL.replace("by: 5", f"by: {points}") for points in range(1, 5)))
    assert [one.p_adjusted for one in researcher.report().expectations[:2]] == alone


def test_other_reasons_and_another_order_are_the_same_claim(researcher: Researcher):
    researcher.expect(FELL, SAME)
    researcher.run()
    researcher.expect(SAME.replace("it is the same", "nothing changes"), "  # a comment\n" + FELL)
    assert researcher.verdicts() == [("confirmed", BEFORE)] * 2 and not researcher.report().withdrawn


def test_of_a_baseline_that_another_sweep_has_trained_no_difference_is_known(researcher: Researcher):
    researcher.run("baseline")
    researcher.expect(FELL, SAME)
    researcher.run()
    assert researcher.verdicts() == [("confirmed", BEFORE), ("confirmed", "declared before any score of without/interleaved")]


@pytest.mark.parametrize(
    ("old", "new"),
    [("evaluation.items: 40", "evaluation.items: 40, training.steps: 5"), ("seeds: [0, 1, 2]", "seeds: [3, 4, 5]")],
)
def test_trained_otherwise_or_with_other_seeds_an_idea_is_tested_anew(researcher: Researcher, old: str, new: str):
    researcher.run()
    researcher.expect(FELL, SAME)
    assert researcher.verdicts()[1] == ("exploratory: in line", AFTER)
    researcher.edit(old, new)
    researcher.run()
    assert [verdict for verdict, _ in researcher.verdicts()] == ["confirmed"] * 2
    assert not researcher.report().remarks_on_declarations


def test_seeds_that_are_added_make_nothing_of_it_said_before(researcher: Researcher):
    researcher.run()
    researcher.expect(FELL, SAME)
    researcher.report()
    researcher.edit("seeds: [0, 1, 2]", "seeds: [0, 1, 2, 3]")
    researcher.run()
    assert researcher.verdicts() == [("confirmed", BEFORE), ("exploratory: in line", AFTER)]


def test_an_average_over_other_tasks_is_another_claim(researcher: Researcher):
    researcher.run()
    researcher.edit("evaluation.items: 40", "evaluation.items: 40, evaluation.tasks: [miniature_vqa, miniature_captions]")
    researcher.run()
    ((verdict, words),) = researcher.verdicts()
    assert verdict == "exploratory: in line" and words == "what 0-shot is made of was changed after 9 of 9 trials had scores: exploratory"
    (remark,) = researcher.report().remarks_on_declarations
    assert remark.startswith("What 0-shot is made of (tasks, items, demonstrations) was changed after 9 of 9 trials had scores (")


# ---------------------------------------------------------------- withdrawn
def test_what_was_withdrawn_or_changed_after_the_scores_is_listed_with_what_came_out(researcher: Researcher):
    researcher.expect(ROSE, SAME)
    researcher.run()
    assert [one.verdict for one in researcher.report().expectations] == ["refuted", "confirmed"]
    corrected = researcher.report().expectations[1].p_adjusted
    researcher.expect(SAME)
    comparison = researcher.report()
    (gone,) = comparison.withdrawn
    assert gone.claim == "without/text above its baseline on 0-shot" and gone.verdict == "refuted"
    assert gone.withdrawn.startswith("declared before any score (20") and "withdrawn on 20" in gone.withdrawn
    assert gone.withdrawn.endswith("after 9 of 9 trials had scores")
    assert comparison.expectations[0].p_adjusted == corrected, "it still counts in its family"
    *texts, numbers = researcher.read()
    assert all(f"{gone.claim}" in text and gone.withdrawn in text for text in texts) and gone.withdrawn in numbers
    assert headline(comparison).endswith("; of 1 lesson 1 confirmed.")
    # Changed: the former text is listed, and the other way round is no prediction.
    researcher.expect(SAME, FELL)
    comparison = researcher.report()
    assert [one.verdict for one in comparison.expectations] == ["confirmed", "exploratory: in line"]
    assert "changed on 20" in comparison.withdrawn[0].withdrawn and comparison.withdrawn[0].verdict == "refuted"
    # Declared again it is what it was: it had been said before.
    researcher.expect(SAME, ROSE)
    comparison = researcher.report()
    assert [one.verdict for one in comparison.expectations] == ["confirmed", "refuted"]
    ((verdict, words),) = [(one.verdict, one.withdrawn) for one in comparison.withdrawn]
    assert verdict == "exploratory: in line" and words.startswith("declared after 9 of 9 trials had scores (20")


def test_what_was_changed_before_any_score_does_not_count(researcher: Researcher):
    researcher.expect(ROSE, SAME)
    researcher.store.declare(load_study(researcher.sweep))
    researcher.expect(SAME)
    researcher.run()
    comparison = researcher.report()
    (gone,) = comparison.withdrawn
    assert gone.withdrawn.endswith("before any score of it")
    researcher.root = researcher.root.with_name("another")
    researcher.run()  # as if it had never been declared
    assert researcher.report().expectations[0].p_adjusted == comparison.expectations[0].p_adjusted


def test_of_an_arm_that_is_gone_nothing_comes_out_and_its_end_is_told(researcher: Researcher):
    researcher.expect(FELL, SAME)
    researcher.run()
    researcher.report()
    researcher.expect(SAME)
    researcher.edit("interleaved, data.mixture.text]", "interleaved]")
    comparison = researcher.report()
    (gone,) = comparison.withdrawn
    assert (gone.verdict, gone.reason) == ("no verdict", "its trials are no longer those of the sweep")
    (remark,) = comparison.remarks_on_declarations
    assert remark.startswith("Taken out of the comparisons after 6 of 6 trials had scores (") and ": without/text; " in remark


# ---------------------------------------------------------------- what verdicts hang on
@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "primary: shot_0/average",
            "primary: shot_0/miniature_vqa",
            "The primary metric was changed from 0-shot to 0-shot miniature vqa after",
        ),
        (
            "compare:",
            "compare:\n  smallest_difference_of_interest: 50",
            "The smallest difference of interest was changed from 1 to 50 after",
        ),
        ("compare:", "compare:\n  confidence: 0.5", "The confidence level was changed from 0.95 to 0.5 after"),
    ],
)
def test_what_verdicts_hang_on_is_told_where_it_was_changed_after_scores(researcher: Researcher, old: str, new: str, told: str):
    researcher.store.declare(load_study(researcher.sweep))
    researcher.edit(old, new)
    researcher.run()
    assert not researcher.report().remarks_on_declarations, "there were no scores"
    researcher.edit(new, old)
    researcher.report()
    assert not researcher.report().remarks_on_declarations, "that it had been declared first"
    shutil.rmtree(researcher.root)
    researcher.run()
    researcher.report()
    researcher.edit(old, new)
    comparison = researcher.report()
    (remark,) = comparison.remarks_on_declarations
    assert remark.startswith(f"{told} 9 of 9 trials had scores (20") and remark.endswith("exploratory.")
    ((verdict, words),) = researcher.verdicts()
    if "confidence" in new:
        assert (verdict, words) == ("exploratory: in line", "the confidence level was changed after 9 of 9 trials had scores: exploratory")
    else:
        assert (verdict, words) == ("confirmed", BEFORE), "it hangs on neither"
    assert "primary" not in old or all(remark in text for text in researcher.read())


def test_arms_that_are_added_later_are_told_and_those_that_had_scores_are_exploratory(researcher: Researcher):
    researcher.expect()
    researcher.edit("interleaved, data.mixture.text]", "interleaved]")
    researcher.run()
    researcher.edit("interleaved]", "interleaved, data.mixture.captioned]")
    researcher.run()
    (remark,) = researcher.report().remarks_on_declarations
    assert (
        remark.startswith("Added to the comparisons after 6 of 9 trials had scores")
        and "before any score of their own: without/captioned" in remark
    )
    # Another sweep has scored it already.
    other = researcher.sweep.with_name("other.yaml")
    shutil.copy(researcher.sweep, other)
    again = Researcher(other, researcher.root)
    again.edit("sweep: tiny", "sweep: other")
    again.expect()
    again.run()
    researcher.edit("captioned]", "captioned, data.mixture.text]")
    remarks = researcher.report().remarks_on_declarations
    assert any("their own among them: without/text; their verdicts are exploratory" in one for one in remarks)


def test_a_sweep_over_trials_that_another_has_scored_is_exploratory(researcher: Researcher):
    researcher.run()
    other = Researcher(researcher.sweep, researcher.root)
    other.edit("sweep: tiny", "sweep: other")
    assert other.verdicts() == [("exploratory: in line", AFTER)]
    assert list(other.report().remarks_on_declarations) == [
        "The sweep was first seen after 9 of 9 trials had scores: its verdicts are exploratory."
    ]


# ---------------------------------------------------------------- where the record does not reach
def forget(researcher: Researcher) -> None:
    """As a store of a version without the record."""
    study, store = load_study(researcher.sweep), researcher.store
    store.write_study(study)
    shutil.rmtree(store.study_folder(study) / "declarations", ignore_errors=True)


def test_in_a_store_of_an_earlier_version_it_is_not_recorded_and_judged_all_the_same(researcher: Researcher):
    researcher.run()
    forget(researcher)
    for _ in range(2):
        assert researcher.verdicts() == [("confirmed", "when it was declared is not recorded")]
    assert list(researcher.report().remarks_on_declarations) == [
        "When the comparison was declared is not recorded: the study was run by an earlier version."
    ]
    assert all("before any score" not in text and "before the run" not in text for text in researcher.read())
    # What is added now is recorded.
    researcher.expect(FELL, SAME)
    assert researcher.verdicts()[1] == ("exploratory: in line", AFTER)


def test_the_kept_text_of_a_run_proves_what_it_says(researcher: Researcher):
    study = load_study(researcher.sweep)
    researcher.store.keep_texts(study, study.trials)
    researcher.run()
    forget(researcher)
    assert researcher.verdicts() == [("confirmed", BEFORE)] and not researcher.report().remarks_on_declarations
    researcher.expect(FELL, SAME)
    assert researcher.verdicts() == [("confirmed", BEFORE), ("exploratory: in line", AFTER)]


def test_a_comparison_without_a_record_claims_nothing(researcher: Researcher):
    from made_up import made_up_study, scores

    from mm1_ablate.report.comparison import compare

    claim = {"arm": "arm", "metric": "shot_8/average", "is": "below", "because": "so"}
    study = made_up_study(["arm"], expect=[claim])
    comparison = compare(study, scores(study, {"baseline": [50, 51, 52], "arm": [10, 11, 12.5]}))
    assert [one.said for one in comparison.expectations] == [None] and comparison.expectations[0].verdict == "confirmed"
    for text in (markdown(comparison), html(comparison)):
        assert "before any score" not in text and "before the run" not in text


@pytest.mark.parametrize("how", ["cut", "removed"])
def test_a_damaged_or_missing_entry_is_named_and_what_only_it_said_is_not_known(researcher: Researcher, how: str):
    researcher.run()
    researcher.expect(FELL, SAME)
    researcher.report()
    folder = researcher.store.study_folder(load_study(researcher.sweep)) / "declarations"
    first, _ = sorted(folder.iterdir())
    first.write_bytes(first.read_bytes()[:100]) if how == "cut" else first.unlink()
    comparison = researcher.report()
    assert [one.verdict for one in comparison.expectations] == ["exploratory: in line"] * 2
    assert any(str(first) in remark and "not recorded" in remark for remark in comparison.remarks_on_declarations)


def test_a_run_that_has_nothing_to_do_leaves_the_record_as_it_is(researcher: Researcher, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    researcher.run()
    folder = researcher.store.study_folder(load_study(researcher.sweep)) / "declarations"

    def record() -> dict[str, tuple[bytes, int]]:
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}

    before = record()
    for command in ("run", "evaluate", "report", "status", "plan"):
        done = call(command, researcher.sweep, "--store", researcher.root)
        assert done.exit_code == 0, (command, done.stderr, done.exception)
        assert record() == before
    assert "recorded" not in done.stdout
    researcher.expect(FELL, SAME)
    told = call("plan", researcher.sweep, "--store", researcher.root).stdout
    assert "tiny: declares something else than was recorded" in told and "with 9 of 9 trials that have scores" in " ".join(told.split())
    assert record() == before
    assert call("run", researcher.sweep, "--store", researcher.root).exit_code == 0
    assert len(record()) == 2 and before.items() < record().items()
