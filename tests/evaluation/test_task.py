"""Records of tasks, prompts and demonstrations."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats
from tiny import TEXT, tiny_experiment

from mm1_ablate.config.evaluation import Evaluation, Sets
from mm1_ablate.config.identity.fingerprint import fingerprint
from mm1_ablate.config.task_record import Task, template_fields
from mm1_ablate.config.tasks import shipped_tasks, task_record
from mm1_ablate.data.documents import Image, Item
from mm1_ablate.data.tokenizer import Tokenizer
from mm1_ablate.evaluation.demonstrations import assigned_sets, demonstrations
from mm1_ablate.evaluation.prediction_shards import PredictionShard, shards_of
from mm1_ablate.evaluation.prompts import (
    Incomplete,
    TokenisedPrompt,
    continuation,
    cut,
    demonstration,
    question,
    render,
    right_answer,
    shown,
)
from mm1_ablate.evaluation.protocols import as_asked, load_task, openflamingo


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
        ({"family": "text", "prompt": "{question} {answer}", "fewest_shots": 1}, "without demonstrations"),
        ({"stopp": []}, "stopp"),
    ],
)
def test_a_record_that_cannot_be_meant_is_refused(change: dict, message: str) -> None:
    fields = load_task("miniature_vqa").model_dump(mode="json")
    with pytest.raises(ValidationError, match=message):
        Task.model_validate(fields | change)


def test_reading_a_record_imports_no_torch() -> None:
    code = "import sys; from mm1_ablate.evaluation import protocols; protocols.load_task('miniature_vqa'); sys.exit('torch' in sys.modules)"
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


# ---------------------------------------------------------------- what must never change
def shuffled(names: list[str], *key: str) -> list[str]:
    """Fisher-Yates from the front, with Python's generator seeded by the lines of a key."""
    generator, found = random.Random("\n".join(key)), list(names)
    for place in range(len(found)):
        other = generator.randrange(place, len(found))
        found[place], found[other] = found[other], found[place]
    return found


def test_what_is_drawn_by_a_seed_is_the_same_in_every_version() -> None:
    """Kept predictions are found again by what they depend on, so a seed has to mean the same demonstrations for good."""
    names = [one.id for one in POOL]
    assert ids(item("q"), 8, 7) == shuffled(names, "7", "t", "g", "per_task")[:8]
    assert ids(item("q"), 8, 7, policy="per_query") == shuffled(names, "7", "t", "g", "per_query", "q")[:8]
    drawn = demonstrations(item("q"), POOL, 8, 7, "t", Sets(sets=3), 2)
    assert [one.id for one in drawn] == shuffled(names, "7", "t", "g", "sets", "2")[:8]
    assert demonstrations(item("q"), POOL, 4, 7, "t", Sets(sets=3)) == demonstrations(item("q"), POOL, 4, 7, "t", Sets(sets=3), 0)
    queries = [item(f"q{number}") for number in range(9)]
    turns = shuffled([one.id for one in queries], "7", "t", "g", "dealt")
    assert assigned_sets(queries, Sets(sets=4), 7, "t") == [turns.index(one.id) % 4 for one in queries]
    assert assigned_sets(queries, "per_task", 7, "t") == [0] * 9 and assigned_sets(queries, "per_query", 7, "t") == [-1] * 9


def test_a_question_takes_the_next_demonstration_for_each_that_it_cannot_show() -> None:
    order = shuffled([one.id for one in POOL], "0", "t", "g", "per_task")
    asked: list[str] = []

    def usable(one: Item) -> bool:
        asked.append(one.id)
        return one.id != order[1]

    found = demonstrations(item("q", picture=order[0]), POOL, 3, 0, "t", "per_task", usable=usable)
    assert [one.id for one in found] == order[2:5] and asked == order[1:5]  # nothing is asked of the one with the question's picture
    assert demonstrations(item("q"), [], 0, 0, "t", "per_task") == ()
    without = [Item("p", "g", None, {}, ("a",)), Item("r", "g", None, {}, ("a",))]
    assert len(demonstrations(Item("q", "g", None, {}, ("a",)), without, 2, 0, "t", "per_task")) == 2
    with pytest.raises(ValueError) as error:
        demonstrations(item("q"), POOL[:3], 4, 0, "t", "per_task")
    assert str(error.value) == "evaluation.tasks: t, group 'g': 4 shots need 4 demonstrations, but there are 3 besides the question"


# ---------------------------------------------------------------- templates
def test_a_template_shows_images_where_they_stand_and_joins_its_texts() -> None:
    one = item("q", a="x", b="")
    template = "{b}{image}{b}{image} {a}-{b}{answer} {a}"
    assert render(template, one, {"a": "x", "b": "", "answer": "red"}) == (one.image, one.image, " x-red x")
    assert render(template, one, {"a": "x", "b": ""}, until="answer") == (one.image, one.image, " x-")
    assert render(template, one, {"a": "x", "b": "", "answer": "red"}, images=False) == (" x-red x",)
    assert render("", one, {}) == () and render("plain", one, {}) == ("plain",) and render("{b}", one, one.fields) == ()
    assert demonstration("{image} {a} {answer}", "|", one, images=False) == (" x red|",)
    assert shown(("before ", one.image, " behind")) == "before <image> behind"


def test_what_an_item_lacks_is_told_with_what_it_has() -> None:
    bare = Item("q", "g", None, {"b": "y", "a": "x"}, (), ("red", "blue"), 1)

    def told(prompt: str) -> tuple[str, str]:
        with pytest.raises(Incomplete) as error:
            question(prompt, bare)
        return error.value.reason, str(error.value)

    assert told("{image} {a}") == ("no image", "item q has no image, which the prompt '{image} {a}' shows")
    assert told("{a} {c}") == ("no field 'c'", "item q has no field 'c' (it has: a, b), which '{a} {c}' names")
    assert right_answer(bare) == "blue" and demonstration("{a} {answer}", "", bare) == ("x blue",)
    with pytest.raises(Incomplete, match=r"^item q has no reference, so it cannot demonstrate an answer$"):
        right_answer(Item("q", "g", None, {}, (), ("red", "blue")))


def test_a_question_ends_before_the_white_space_of_its_answer() -> None:
    one = item("q", a="x")
    assert question("{image}{a} \n{answer}.", one) == ((one.image, "x"), " \n")
    assert question("{image} \n{answer}", one) == ((one.image,), " \n")
    assert question("{image}{answer}", one) == ((one.image,), "")
    assert question("{image}{a} or {choice} is{answer}", one, "y") == ((one.image, "x or y is"), "")


def test_a_prompt_takes_what_its_texts_and_images_take() -> None:
    first, second = Image("a", lambda: None), Image("b", lambda: None)  # type: ignore[arg-type, return-value]
    prompt = TokenisedPrompt(((1, 2, 3), first, second, (4,)))
    assert prompt.images == [first, second] and prompt.text_tokens == 4
    assert prompt.length(lambda image: 10 if image.key == "a" else 100) == 114
    assert cut("red, blue. red", []) == ("red, blue. red", False) and cut(", red", [","]) == ("", True)


# ---------------------------------------------------------------- protocols
def test_a_record_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(LookupError) as error:
        load_task("vqa")
    assert str(error.value) == (
        f"no task 'vqa' (there are: {', '.join(sorted(shipped_tasks()))}, or the path of a record of your own, ending with .yaml)"
    )


def test_openflamingo_asks_captions_and_questions_in_its_own_words_and_leaves_the_rest() -> None:
    captions, questions = openflamingo(load_task("miniature_captions")), openflamingo(load_task("miniature_vqa"))
    assert captions.model_dump() == {
        "prompt": "{image}Output:{answer}", "separator": "<|endofchunk|>", "stop": ["Output", "<|endofchunk|>"], "max_new_tokens": 20,
    }  # fmt: skip
    assert questions.model_dump() == {
        "prompt": "{image}Question:{question} Short answer:{answer}", "separator": "<|endofchunk|>",
        "stop": ["Question", "Answer", "Short", ", ", "<|endofchunk|>"], "max_new_tokens": 5,
    }  # fmt: skip
    for name in ("miniature_facts", "arc_easy", "triviaqa"):
        assert not openflamingo(load_task(name)).model_fields_set


def test_what_the_experiment_says_goes_before_the_protocol_and_that_before_the_record() -> None:
    task = load_task("miniature_vqa")
    overrides = {"miniature_vqa": {"prompt": "{image}{question}?{answer}", "items": 3}}
    evaluation = Evaluation.model_validate({"tasks": ["miniature_vqa"], "protocol": "openflamingo", "overrides": overrides})
    asked = as_asked(task, evaluation)
    assert (asked.prompt, asked.separator, asked.max_new_tokens) == ("{image}{question}?{answer}", "<|endofchunk|>", 5)
    assert asked.items == task.items and asked.metrics == task.metrics
    assert as_asked(task, Evaluation(tasks=["miniature_vqa"])) is task


# ---------------------------------------------------------------- parts
def test_a_part_depends_on_all_that_its_predictions_depend_on_and_on_nothing_else() -> None:
    tasks = {"tasks": ["miniature_vqa", "miniature_facts"], "shots": [4, 0], "items": 6, "seed": 3}

    def parts(**changes: Any) -> dict[tuple[str, int, tuple[int, ...]], PredictionShard]:
        experiment = tiny_experiment({"evaluation": {**tasks, **changes}})
        return {(part.name, part.shots, part.seeds): part for part in shards_of(experiment, "weights")}

    found = parts(seeds=[1, 2])
    assert list(found) == [
        ("miniature_vqa", 0, (1, 2)), ("miniature_vqa", 4, (1,)), ("miniature_vqa", 4, (2,)), ("miniature_facts", 0, (1, 2)),
    ]  # fmt: skip
    identity = dict(found["miniature_vqa", 4, (2,)].identity)
    task = identity.pop("task")
    assert identity == {
        "training": "weights", "items": 6, "seed": 3, "split": "report", "before": {"shots": 4, "policy": "per_task", "seed": 2},
    }  # fmt: skip
    assert task["prompt"] == load_task("miniature_vqa").prompt and not {"metrics", "protocols"} & set(task)
    assert found["miniature_facts", 0, (1, 2)].identity["before"] == {"shots": 0}
    texts = parts(seeds=[1, 2], zero_shot={"text_only": 2}, demonstrations="per_query", precision="bf16-mixed")
    own = texts["miniature_vqa", 0, (1,)].identity
    assert own["before"] == {"text_only": 2, "policy": "per_query", "seed": 1} and own["precision"] == "bf16-mixed"
    assert texts["miniature_vqa", 4, (1,)].identity["before"] == {"shots": 4, "policy": "per_query", "seed": 1}
    assert texts["miniature_facts", 0, (1, 2)].identity["before"] == {"shots": 0}
    for part in found.values():
        assert PredictionShard.from_json(json.loads(json.dumps(part.to_json()))) == part
        assert part.to_json()["seeds"] == list(part.seeds) and part.fingerprint == fingerprint(dict(part.identity))
    losses = parts(losses={"text": {"source": TEXT, "documents": 3}}, seeds=[1, 2])
    assert {key: losses[key].fingerprint for key in found} == {key: part.fingerprint for key, part in found.items()}
    loss = losses["text", 0, (1, 2)]
    assert (loss.kind, loss.identity["loss"], loss.identity["training"], loss.identity["documents"]["documents"]) == (
        "loss",
        "text",
        "weights",
        3,
    )
