"""Records of tasks, prompts and demonstrations."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from mm1_ablate.data.documents import Image, Item
from mm1_ablate.data.tokenizer import Tokenizer
from mm1_ablate.evaluation.demonstrations import demonstrations
from mm1_ablate.evaluation.prompts import continuation, demonstration, question, template_fields
from mm1_ablate.evaluation.task import Task, load_task
from mm1_ablate.spec.fingerprint import fingerprint
from mm1_ablate.spec.tasks import shipped_tasks, task_record


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
    code = "import sys; from mm1_ablate.evaluation import task; task.load_task('miniature_vqa'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
