"""Records of tasks, prompts and demonstrations."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from mm1_ablate.config.evaluation import Sets
from mm1_ablate.config.identity.fingerprint import fingerprint
from mm1_ablate.config.task_record import Task, template_fields
from mm1_ablate.config.tasks import shipped_tasks, task_record
from mm1_ablate.data.documents import Image, Item
from mm1_ablate.data.tokenizer import Tokenizer
from mm1_ablate.evaluation.demonstrations import assigned_sets, demonstrations
from mm1_ablate.evaluation.prompts import continuation, demonstration, question
from mm1_ablate.evaluation.protocols import load_task


def item(name: str, group: str = "g", picture: str | None = None, **fields: str) -> Item:
    image = Image(picture or name, lambda: None)  # type: ignore[arg-type, return-value]
    return Item(name, group, image, fields, ("red", "dark red"))


POOL = [item(f"d{number}") for number in range(30)]


def ids(query: Item, shots: int, seed: int = 0, task: str = "t", policy: str = "per_task", pool: list[Item] = POOL) -> list[str]:
    return [chosen.id for chosen in demonstrations(query, pool, shots, seed, task, policy)]  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["per_task", "per_query"])
def test_fewer_shots_are_the_first_of_more(policy: str) -> None:
    most = ids(item("q"), 8, policy=policy)
    assert len(set(most)) == 8
    assert all(ids(item("q"), shots, policy=policy) == most[:shots] for shots in range(8))


def test_demonstrations_depend_on_seed_task_group_and_policy_only() -> None:
    expected = ids(item("q"), 8)
    assert ids(item("another"), 8) == expected
    for changed in (
        ids(item("q"), 8, seed=1),
        ids(item("q"), 8, task="u"),
        ids(item("q", group="h"), 8),
        ids(item("q"), 8, policy="per_query"),
    ):
        assert changed != expected
    assert ids(item("another"), 8, policy="per_query") != ids(item("q"), 8, policy="per_query")


def test_a_question_is_never_among_its_own_demonstrations() -> None:
    first, second, *_ = ids(item("q"), 8)
    assert first not in ids(item(first), 8)
    assert ids(item(first), 1) == [second]
    assert ids(item("q", picture=first), 1) == [second]


def test_too_few_demonstrations_is_an_error_that_says_where() -> None:
    with pytest.raises(ValueError, match="t, group 'g': 31 shots"):
        ids(item("q"), 31)


def test_a_prompt_is_demonstrations_and_a_question_without_the_space_before_the_answer() -> None:
    asked = item("q", cue="card", link="->")
    parts, space = question("{image} {cue} {link} {answer}", asked)
    assert parts == (asked.image, " card ->") and space == " "
    assert demonstration("{image} {cue} {link} {answer}", " | ", asked) == (asked.image, " card -> red | ")
    assert question("{image} {answer}", asked) == ((asked.image,), " ")
    with pytest.raises(LookupError, match="item q has no field 'colour'"):
        question("{image} {colour} {answer}", asked)
    with pytest.raises(ValueError, match="plain field"):
        template_fields("{image} {answer!r}")


def test_a_choice_is_tokenised_with_the_text_before_it() -> None:
    characters = Tokenizer(lambda text: list(text.replace(" r", "R").encode()), lambda ids: bytes(ids).decode(), 256, 0, 0)
    assert bytes(continuation(("is it",), " ", "red", characters)) == b"Red"
    assert bytes(continuation((item("q").image,), " ", "red", characters)) == b"Red"  # type: ignore[arg-type]


def test_shipped_records_are_valid_and_have_an_identity_of_their_own() -> None:
    names = shipped_tasks()
    assert all(load_task(name).task == name for name in names)
    assert len({fingerprint(task_record(name)) for name in names}) == len(names)
    with pytest.raises(LookupError, match="no task 'miniature_vqs'"):
        load_task("miniature_vqs")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prompt": "{image}"}, "answer} once"),
        ({"prompt": "{question} {answer}"}, "image family"),
        ({"metrics": ["choice_accuracy"]}, "of kind choose"),
        ({"metrics": ["exact_match", "exact_match"]}, "twice"),
        ({"metrics": ["exact_mach"]}, "no type 'exact_mach'"),
        ({"stop": ["{answer}"]}, "own fields"),
        ({"stopp": []}, "stopp"),
    ],
)
def test_a_record_that_cannot_be_meant_is_refused(change: dict, message: str) -> None:
    fields = load_task("miniature_vqa").model_dump(mode="json")
    with pytest.raises(ValidationError, match=message):
        Task.model_validate(fields | change)


def test_reading_a_record_imports_no_torch() -> None:
    code = "import sys; from mm1_ablate.evaluation import protocols; task.load_task('miniature_vqa'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---------------------------------------------------------------- the luck of the draw
@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 12), seed=st.integers(0, 999), policy=st.sampled_from(["per_task", "per_query"]))
def test_as_many_shots_as_there_are_items_show_each_of_them_once(size: int, seed: int, policy: str) -> None:
    pool = POOL[:size]
    assert sorted(ids(item("q"), size, seed, policy=policy, pool=pool)) == sorted(one.id for one in pool)


def test_every_item_is_as_likely_as_any_other_in_every_place() -> None:
    """2,000 draws of three out of five against the uniform distribution; a fair draw fails this one time in ten thousand."""
    drawn = [ids(item("q"), 3, seed, pool=POOL[:5]) for seed in range(2000)]
    for place in range(3):
        counts = Counter(one[place] for one in drawn)
        assert len(counts) == 5 and stats.chisquare(list(counts.values())).pvalue > 1e-4
    assert stats.chisquare(list(Counter(map(tuple, drawn)).values())).pvalue > 1e-4 and len(set(map(tuple, drawn))) == 60


def test_names_that_run_together_alike_draw_apart() -> None:
    assert ids(item("q", group="11"), 8, task="t") != ids(item("q", group="1"), 8, task="t1") != ids(item("q", group="1"), 8, 1, task="t")
    assert ids(item("q"), 8, seed=1) != ids(item("q"), 8, seed=-1)


def test_queries_are_dealt_by_chance_each_group_by_itself_and_each_seed_anew() -> None:
    """Two sets; the groups take turns, so that dealing both together would not give each set half of each."""
    queries = [item(f"q{number}", group="ab"[number // 3 % 2]) for number in range(60)]
    numbers = {seed: assigned_sets(queries, Sets(sets=2), seed, "t") for seed in range(3)}
    for own in numbers.values():
        for group in "ab":
            members = [number for number, query in zip(own, queries, strict=True) if query.group == group]
            assert members.count(0) == members.count(1) == 15
            assert members not in ([0, 1] * 15, [1, 0] * 15)
    assert len(set(map(tuple, numbers.values()))) == 3
    assert assigned_sets(queries, Sets(sets=2), 0, "other") != numbers[0]
