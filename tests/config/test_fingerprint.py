"""What a trial is: the same whatever makes no difference, another where something does, and stable over the years."""

from __future__ import annotations

import random
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from config_files import EXPERIMENT, load_experiment, write_experiment
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mm1_ablate.config.data import FillWith, Packing
from mm1_ablate.config.evaluation import Evaluation
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity import fingerprint as identity
from mm1_ablate.config.identity.fingerprint import canonical, evaluation_identity, fingerprint, integer_ratios, short, training_identity
from mm1_ablate.config.paths import plain
from mm1_ablate.config.preparation import preparations_of
from mm1_ablate.config.settings import HowItRuns, Settings
from mm1_ablate.config.sweep.overrides import Edit, altered
from mm1_ablate.config.tasks import task_identities
from mm1_ablate.config.training import AdamW, Muon, Training
from mm1_ablate.data.items.miniature import MiniatureItems
from mm1_ablate.data.sources.miniature import Miniature
from mm1_ablate.evaluation.prediction_shards import shards_of

TREE: dict[str, Any] = plain(Experiment.model_validate(yaml.safe_load(EXPERIMENT)))


def changed(**changes: Any) -> Experiment:
    """The small experiment with values at paths (`__` for the dots) changed."""
    edits = [Edit(path.replace("__", "."), value, whole=isinstance(value, dict)) for path, value in changes.items()]
    result = altered(TREE, edits)
    assert not result.diagnostics
    return Experiment.model_validate(result.tree)


def trained(experiment: Experiment, seed: int = 0) -> str:
    return fingerprint(training_identity(experiment, seed))


BASE = trained(changed())


def test_fingerprints_of_the_past_are_those_of_today() -> None:
    # If one of these changes, every finished trial of every user is trained again: add fields with defaults instead.
    assert trained(changed()) == "418db1e9137e9dca8fd4280c30c12954672131bdee65c33bb236c5ad9657df86"
    assert (
        trained(changed(training__optimizer__rest={"type": "adamw", "betas": [0.9, 0.99]}, data__mixture__text=0.5), 3)
        == "78a2995eba0c9dc58134269f897fcdb28e1df5782b7c38cb8224fd5861803d93"
    )
    assert fingerprint(evaluation_identity(changed(), BASE)) == "8478c5e4335a6a311395bb53f1e458d3b706742f2c7fc8cd30bc398a7b7fa5d4"
    assert preparations_of(changed(), 0)[0].fingerprint == "c57e6adab1ac4d76ef75013086945e14c178b2b224f2f2d1c399696a5dfd8c10"


@pytest.mark.parametrize(
    "changes",
    [
        {"data__mixture": {"captioned": 9, "interleaved": 9, "text": 2}},
        {"data__mixture": {"text": 1, "interleaved": 4.5, "captioned": 4.5}},
        {"data__sources__alt_text__weight": 3.0, "data__sources__synthetic_captions__weight": 3},
        {"data__sources__text__weight": 7},
        {"data__sources__text__images": True},
        {"data__when_removed": "shrink"},
        {"data__packing__max_images": 16},
        {"training__steps": 500.0},
        {"training__micro_batch_rows": 2},
        {"training__checkpoint_every_steps": 7},
        {"training__optimizer": {"type": "muon", "rest": {"type": "adamw", "learning_rate": 3e-3, "weight_decay": 0}}},
        {"training__gradient_clip": 1},
        {"evaluation__items": 3},
        {"evaluation__shots": [0]},
        {"experiment": "another name"},
        {"description": "text"},
        {"model__image_encoder__preparation__source__weight": 2},
        {"model__connector": "average_pool"},
    ],
)
def test_what_makes_no_difference_is_left_out(changes: dict[str, Any]) -> None:
    assert trained(changed(**changes)) == BASE


@pytest.mark.parametrize(
    "changes",
    [
        {"data__mixture__text": 11},
        {"data__sources__alt_text__weight": 2},
        {"data__sources__text__world_seed": 1},
        {"data__count": "tokens"},
        {"data__packing__row_tokens": 64},
        {"model__connector__type": "attention_pool"},
        {"model__image_encoder__preparation": None},
        {"model__image_encoder__preparation__steps": 1},
        {"model__preparation_seed": 0},
        {"model__language_model__configuration__hidden_size": 48},
        {"training__steps": 501},
        {"training__optimizer__type": "adamw"},
        {"training__gradient_clip": None},
        {"training__precision": "bf16-mixed"},
    ],
)
def test_what_shapes_the_weights_is_kept(changes: dict[str, Any]) -> None:
    assert trained(changed(**changes)) != BASE


def test_a_model_belongs_to_the_words_that_it_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other words under the miniature tokenizer's name are another model; one with a tokenizer of its own is left alone."""
    named = changed(model__language_model={"name": "EleutherAI/pythia-14m"}, model__image_encoder__preparation=None)
    before = trained(named)
    monkeypatch.setattr(identity, "MINIATURE_WORDS", identity.MINIATURE_WORDS + 1)
    assert trained(changed()) != BASE and trained(named) == before
    assert trained(changed(model__language_model__tokenizer="gpt2")) != BASE


def test_data_that_changes_under_the_same_settings_is_told_apart_by_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """In trials, preparations, tasks and the parts of an evaluation; a version of 1 is as good as none."""

    def identities(version: int) -> list[str]:
        monkeypatch.setattr(Miniature, "version", version)
        monkeypatch.setattr(MiniatureItems, "version", version)
        experiment = changed()
        prepared = [part.fingerprint for part in preparations_of(experiment, 0)]
        asked = fingerprint(evaluation_identity(experiment, "weights", task_identities(experiment.evaluation)))
        return [trained(experiment), *prepared, asked, *(part.fingerprint for part in shards_of(experiment, "weights"))]

    first, second = identities(1), identities(2)
    assert len(first) > 5 and all(one != other for one, other in zip(first, second, strict=True))
    monkeypatch.setattr(Miniature, "version", 1)
    assert canonical(Miniature(content="text", data_type="text")) == {"type": "miniature", "data_type": "text", "content": "text"}


def test_seeds_are_part_of_a_trial() -> None:
    assert len({trained(changed(), seed) for seed in range(5)}) == 5


def test_a_type_without_weight_and_its_sources_are_as_good_as_absent() -> None:
    without = changed(data__mixture={"captioned": 45, "interleaved": 45})
    assert trained(changed(data__mixture__text=0)) == trained(without)
    sources = {name: source for name, source in TREE["data"]["sources"].items() if name != "text"}
    assert trained(changed(data__mixture={"captioned": 1, "interleaved": 1}, data__sources=sources)) == trained(without)


def test_the_name_of_a_source_is_kept_because_it_orders_its_documents() -> None:
    sources = {("texts" if name == "text" else name): source for name, source in TREE["data"]["sources"].items()}
    assert trained(changed(data__sources=sources)) != BASE


def test_an_option_added_later_with_a_default_leaves_fingerprints_alone() -> None:
    class Extra(Settings):
        smoothing: float = 0.0

    class LaterPacking(Packing):
        overlap: int = 0
        extra: Extra = Extra()

    class LaterTraining(Training):
        ema: float | None = None
        packing: LaterPacking = LaterPacking()
        nodes: Annotated[int, HowItRuns] = 1

    written = {"steps": 5, "warmup_steps": 1}
    now = canonical(Training(**written))
    assert canonical(LaterTraining(**written)) == now
    assert canonical(LaterTraining(**written, nodes=4, ema=None)) == now
    assert canonical(LaterTraining(**written, ema=0.5)) == {**now, "ema": 0.5}
    assert canonical(LaterTraining(**written, packing=LaterPacking(overlap=1))) == {**now, "packing": {"overlap": 1}}


def test_a_whole_section_at_its_default_is_left_out_and_types_are_kept() -> None:
    assert canonical(Muon()) == {"type": "muon"}
    assert canonical(Muon(rest=AdamW())) == {"type": "muon", "rest": {"type": "adamw"}}
    assert canonical(AdamW(learning_rate=1.0, betas=(0.5, 0.0))) == {"type": "adamw", "learning_rate": 1, "betas": [0.5, 0]}


def test_one_and_true_are_different_things() -> None:
    class Switch(Settings):
        switch: int | bool = 1

    assert canonical(Switch(switch=True)) == {"switch": True}
    assert fingerprint({"a": 1}) == fingerprint({"a": 1.0}) != fingerprint({"a": True})


@pytest.mark.parametrize("value", [date(2024, 1, 1), {1: 2}, {"a": object()}, float("nan"), [float("inf")], b"x", {1, 2}, Path("x")])
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="no canonical form"):
        fingerprint(value)


def test_scores_depend_on_the_weights_the_evaluation_and_the_records_of_tasks() -> None:
    experiment = changed()
    one = fingerprint(evaluation_identity(experiment, BASE))
    assert fingerprint(evaluation_identity(changed(evaluation__batch_items=3), BASE)) == one
    assert fingerprint(evaluation_identity(changed(evaluation__items=3), BASE)) != one
    assert fingerprint(evaluation_identity(experiment, "another")) != one
    with_record = fingerprint(evaluation_identity(experiment, BASE, {"vqa": Evaluation(tasks=["miniature_vqa"])}))
    assert with_record != one
    assert fingerprint(evaluation_identity(experiment, BASE, {"vqa": Evaluation(tasks=["miniature_vqa"], seed=1)})) != with_record


def test_people_see_twelve_digits() -> None:
    assert len(BASE) == 64 and short(BASE) == BASE[:12]


def test_settings_of_other_kinds_have_a_form_too() -> None:
    assert canonical(FillWith(fill_with="text")) == {"fill_with": "text"}


# ------------------------------------------------------------- properties
weights = st.one_of(st.integers(0, 1000), st.floats(0, 1000, allow_nan=False, allow_subnormal=False).map(lambda weight: round(weight, 3)))
mixtures = st.fixed_dictionaries({"captioned": weights, "interleaved": weights, "text": weights}).filter(
    lambda mixture: any(mixture.values())
)
quiet = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def shuffled(tree: Any, order: random.Random) -> Any:
    if isinstance(tree, dict):
        keys = order.sample(list(tree), len(tree))
        return {key: shuffled(tree[key], order) for key in keys}
    return tree


# YAML 1.1 takes U+0085 for a line break, which PyYAML writes as such.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\x85"), max_size=20)


@quiet
@given(mixture=mixtures, order=st.randoms(use_true_random=False))
def test_the_order_of_keys_makes_no_difference(mixture: dict[str, Any], order: random.Random) -> None:
    experiment = changed(data__mixture=mixture)
    assert trained(Experiment.model_validate(shuffled(plain(experiment), order))) == trained(experiment)


@quiet
@given(mixture=mixtures, factor=st.integers(1, 100))
def test_equal_ratios_are_the_same_mixture(mixture: dict[str, Any], factor: int) -> None:
    whole = integer_ratios(mixture)
    assert integer_ratios({name: weight * factor for name, weight in whole.items()}) == whole
    assert trained(changed(data__mixture={name: weight * factor for name, weight in whole.items()})) == trained(
        changed(data__mixture=mixture)
    )


@quiet
@given(mixture=mixtures, rate=st.floats(1e-9, 10), clip=st.one_of(st.none(), st.floats(1e-6, 1e6)), words=TEXT)
def test_an_experiment_written_to_yaml_and_read_again_is_the_same(
    tmp_path: Path, mixture: dict[str, Any], rate: float, clip: float | None, words: str
) -> None:
    experiment = changed(
        data__mixture=mixture,
        training__optimizer__learning_rate=rate,
        training__gradient_clip=clip,
        model__language_model__configuration={"note": words, "rate": rate, "no": "yes", "when": "2024-01-01"},
    )
    for tree in (experiment.model_dump(mode="json"), plain(experiment)):
        again = load_experiment(write_experiment(tmp_path, yaml.safe_dump(tree, allow_unicode=True)))
        assert trained(again) == trained(experiment)
