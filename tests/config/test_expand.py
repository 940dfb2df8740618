"""A sweep becomes arms and trials: names, what is removed or altered, and what is trained once for several rows."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from config_files import EXPERIMENT, problems_of, study_of, the_problem, write_experiment, write_sweep

from mm1_ablate.config.study import Change
from mm1_ablate.config.sweep.expand import BASELINE, load_study


def names(folder: Path, ablations: str, rest: str = "") -> list[str]:
    return [arm.name for arm in study_of(folder, ablations, rest).arms]


# ------------------------------------------------------------- arms and their names
def test_remove_each_gives_an_arm_for_each_path(tmp_path: Path) -> None:
    study = study_of(tmp_path, "leave-one-out: {remove_each: [data.mixture.captioned, data.mixture.text]}")
    assert [arm.name for arm in study.arms] == ["baseline", "leave-one-out/captioned", "leave-one-out/text"]
    assert study.arm("leave-one-out/text").experiment.data.mixture == {"captioned": 45, "interleaved": 45}
    assert study.arm("leave-one-out/text").changes == (Change("data.mixture.text", 10, None, removed=True),)
    assert {arm.baseline for arm in study.arms} == {BASELINE}


def test_paths_that_end_alike_get_longer_names(tmp_path: Path) -> None:
    paths = "[data.mixture.text, data.sources.interleaved.images, data.sources.interleaved, model.image_encoder.preparation]"
    found = names(
        tmp_path,
        f"g: {{remove_each: {paths}, when_removed: shrink}}",
        "everywhere: {data.sources.more: {type: miniature, data_type: interleaved, content: interleaved}}",
    )
    assert found[1:] == ["g/text", "g/images", "g/interleaved", "g/preparation"]
    everywhere = "everywhere: {data.sources.more: {type: miniature, data_type: interleaved, content: interleaved}}"
    assert names(tmp_path, "g: {remove_each: [data.mixture.interleaved, data.sources.interleaved]}", everywhere)[1:] == [
        "g/mixture.interleaved",
        "g/sources.interleaved",
    ]


def test_remove_and_alter_together_are_one_arm(tmp_path: Path) -> None:
    study = study_of(tmp_path, "less: {remove: data.mixture.text, alter: {training.steps: 400, data.mixture.captioned: 1}}")
    experiment = study.arm("less").experiment
    assert experiment.data.mixture == {"captioned": 1, "interleaved": 45} and experiment.training.steps == 400


def test_a_grid_is_the_product_of_its_axes_without_its_exceptions(tmp_path: Path) -> None:
    ablations = """
        figure-4:
          grid:
            model.connector.type: [average_pool, attention_pool, c_abstractor]
            size:
              - {model.image_encoder.image_size: 24, model.connector.image_tokens: 4}
              - {model.image_encoder.image_size: 96, model.connector.image_tokens: 9}
          except: [{model.connector.type: average_pool, model.connector.image_tokens: 9}]
    """
    assert names(tmp_path, ablations)[1:] == [
        "figure-4/average_pool,image_size=24,image_tokens=4",
        "figure-4/attention_pool,image_size=24,image_tokens=4",
        "figure-4/attention_pool,image_size=96,image_tokens=9",
        "figure-4/c_abstractor,image_size=24,image_tokens=4",
        "figure-4/c_abstractor,image_size=96,image_tokens=9",
    ]


def test_names_of_points_leave_out_what_a_named_axis_holds_constant(tmp_path: Path) -> None:
    ablations = """
        g:
          grid:
            mix:
              - {data.mixture.captioned: 1, data.mixture.interleaved: 0.5, data.mixture.text: 1}
              - {data.mixture.captioned: 2, data.mixture.interleaved: 0.5, data.mixture.text: 1}
            training.gradient_clip: [null, 2.0]
            evaluation.shots: [[0, 8], [8]]
    """
    assert names(tmp_path, ablations)[1] == "g/captioned=1,gradient_clip=none,shots=0+8"


def test_names_of_points_are_short_and_unique_whatever_the_values(tmp_path: Path) -> None:
    source = "{type: miniature, data_type: text, content: text, world_seed: %d}"
    ablations = f"g: {{grid: {{data.sources.text: [{source % 1}, {source % 2}], training.steps: [200, 300]}}}}"
    found = names(tmp_path, ablations)[1:]
    assert len(set(found)) == 4 and max(map(len, found)) < 50
    tokenizers = "g: {grid: {model.language_model.tokenizer: [a/b, a-b]}}"
    assert len(set(names(tmp_path, tokenizers))) == 3


def test_a_group_may_have_a_baseline_of_its_own(tmp_path: Path) -> None:
    write_experiment(tmp_path, EXPERIMENT.replace("steps: 500", "steps: 700"), "other.yaml")
    study = study_of(tmp_path, "a: {alter: {training.batch_rows: 4}, experiment: other.yaml}\nb: {alter: {training.batch_rows: 4}}")
    assert [(arm.name, arm.baseline) for arm in study.arms] == [
        (BASELINE, BASELINE),
        ("a/baseline", "a/baseline"),
        ("a", "a/baseline"),
        ("b", BASELINE),
    ]
    assert [arm.experiment.training.steps for arm in study.arms] == [500, 700, 700, 500]


def test_everywhere_reaches_the_baseline_and_all_arms(tmp_path: Path) -> None:
    study = study_of(tmp_path, "a: {alter: {training.batch_rows: 4}}\nb: {alter: {training.steps: 90}}", "everywhere: {training.steps: 60}")
    assert [arm.experiment.training.steps for arm in study.arms] == [60, 60, 90]
    assert study.arm("a").changes == (Change("training.batch_rows", 8, 4),)


def test_an_experiment_file_is_a_study_of_its_baseline_alone(tmp_path: Path) -> None:
    text = EXPERIMENT.replace("experiment: small", "experiment: my/own system") + "  shots: [0, 4]\n"
    study = load_study(write_experiment(tmp_path, text))
    assert study.name == "my-own system"
    assert [trial.name for trial in study.trials] == ["baseline/seed-0"]
    assert study.sweep.compare.primary == "shot_4/average"


# ------------------------------------------------------------- trials
def test_every_arm_is_trained_with_every_seed_baseline_first(tmp_path: Path) -> None:
    study = study_of(tmp_path, "a: {alter: {training.steps: 60}}", "seeds: [3, 1]")
    assert [trial.name for trial in study.trials] == ["baseline/seed-3", "baseline/seed-1", "a/seed-3", "a/seed-1"]
    assert [trial.seed for trial in study.trials_of("a")] == [3, 1]
    assert len({trial.fingerprint for trial in study.trials}) == 4


def test_arms_that_resolve_to_the_same_experiment_share_their_trials(tmp_path: Path) -> None:
    ablations = """
        figure-5a: {grid: {mix: [{data.mixture.captioned: 50, data.mixture.interleaved: 50, data.mixture.text: 0}]}}
        figure-5c: {remove: data.mixture.text}
        low: {alter: {model.image_encoder.image_size: 16}}
    """
    study = study_of(tmp_path, ablations, "seeds: [0, 1]")
    point = "figure-5a/captioned=50,interleaved=50,text=0"
    assert [arm.name for arm in study.arms] == [BASELINE, point, "figure-5c", "low"]
    assert [(trial.name, trial.arms) for trial in study.trials[2:4]] == [
        (f"{point}/seed-0", (point, "figure-5c")),
        (f"{point}/seed-1", (point, "figure-5c")),
    ]
    assert study.trials_of("figure-5c") == study.trials_of(point)
    assert len(study.trials) == 6


def test_an_arm_that_is_only_evaluated_differently_keeps_the_training_fingerprint(tmp_path: Path) -> None:
    study = study_of(tmp_path, "a: {alter: {evaluation.demonstrations: per_query}}")
    (baseline,), (arm,) = study.trials_of(BASELINE), study.trials_of("a")
    assert baseline.fingerprint == arm.fingerprint and baseline.evaluation_fingerprint != arm.evaluation_fingerprint


def test_ten_thousand_trials_are_expanded_in_seconds(tmp_path: Path) -> None:
    steps, clips = ", ".join(str(1000 + step) for step in range(50)), ", ".join(str(clip + 2) for clip in range(40))
    path = write_sweep(tmp_path, f"g: {{grid: {{training.steps: [{steps}], training.gradient_clip: [{clips}]}}}}", "seeds: [0, 1, 2, 3, 4]")
    start = time.process_time()
    assert len(load_study(path).trials) == 10_005
    assert time.process_time() - start < 20


# ------------------------------------------------------------- removing
@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("data.mixture.text", None),
        ("data.sources.synthetic_captions", None),
        ("model.image_encoder.preparation", None),
        ("training.gradient_clip", None),
        ("data.packing.max_images", None),
        ("data.sources.interleaved.images", False),
    ],
)
def test_what_is_optional_can_be_removed(tmp_path: Path, path: str, left: object) -> None:
    (change,) = study_of(tmp_path, f"without: {{remove: {path}}}").arm("without").changes
    assert change.path == path and change.removed and change.new is left and change.old not in (None, False)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("training.steps", "cannot be removed; alter it instead"),
        ("model.connector", "cannot be removed; alter it instead"),
        ("evaluation.tasks.0", "cannot be removed; alter it instead"),
        ("model.image_encoder.frozen", "already off"),
        ("model.preparation_seed", "already None"),
    ],
)
def test_what_is_not_optional_cannot(tmp_path: Path, path: str, why: str) -> None:
    at, message, _ = the_problem(tmp_path, f"without: {{remove: [{path}]}}")
    assert at.startswith(path) and why in message


def test_other_sources_take_over_when_one_of_a_type_is_removed(tmp_path: Path) -> None:
    data = study_of(tmp_path, "a: {remove: data.sources.alt_text}").arm("a").experiment.data
    assert {name: str(share) for name, share in data.shares().items()} == {
        "synthetic_captions": "9/20",
        "interleaved": "9/20",
        "text": "1/10",
    }


def test_the_last_source_of_a_type_with_weight_is_removed_by_its_mixture_path(tmp_path: Path) -> None:
    at, message, hint = the_problem(tmp_path, "a: {remove: [data.sources.text]}")
    assert at.startswith("data.sources.text") and "no other source feeds data.mixture.text, which has weight 10" in message
    assert hint == "remove data.mixture.text instead"
    both = "a: {remove: [data.sources.alt_text, data.sources.synthetic_captions]}"
    assert "data.mixture.captioned" in the_problem(tmp_path, both)[1]
    assert names(tmp_path, "a: {remove: [data.sources.text, data.mixture.text]}") == [BASELINE, "a"]


def test_shrinking_keeps_what_the_other_data_see(tmp_path: Path) -> None:
    ablations = """
        a: {remove: data.mixture.text, when_removed: shrink}
        b: {remove: [data.mixture.text, data.mixture.captioned], alter: {data.when_removed: shrink}}
        c: {remove_each: [data.sources.alt_text], when_removed: shrink}
    """
    study = study_of(tmp_path, ablations)
    a, b, c = (study.arm(name) for name in ("a", "b", "c/alt_text"))
    assert (a.experiment.training.steps, a.experiment.training.warmup_steps) == (450, 27)
    assert [(change.path, change.old, change.new) for change in a.changes[2:]] == [
        ("training.steps", 500, 450),
        ("training.warmup_steps", 30, 27),
    ]
    assert (b.experiment.training.steps, b.experiment.data.mixture) == (225, {"interleaved": 45})
    assert (c.experiment.training.steps, c.experiment.data.mixture) == (388, {"captioned": 22.5, "interleaved": 45, "text": 10})


def test_what_shrinks_for_the_baseline_shrinks_for_every_arm(tmp_path: Path) -> None:
    study = study_of(
        tmp_path,
        "a: {remove: data.mixture.text}\nb: {remove: data.mixture.text, when_removed: renormalise}",
        "everywhere: {data.when_removed: shrink}",
    )
    assert [arm.experiment.training.steps for arm in study.arms] == [500, 450, 500]


def test_filling_hands_the_share_to_another_type(tmp_path: Path) -> None:
    ablations = """
        a: {remove: data.mixture.text, when_removed: {fill_with: captioned}}
        b: {remove: data.sources.alt_text, when_removed: {fill_with: text}}
    """
    study = study_of(tmp_path, ablations)
    assert study.arm("a").experiment.data.mixture == {"captioned": 55, "interleaved": 45}
    assert study.arm("b").experiment.data.mixture == {"captioned": 22.5, "interleaved": 45, "text": 32.5}
    assert "which was removed" in the_problem(tmp_path, "a: {remove: data.mixture.text, when_removed: {fill_with: text}}")[1]


# ------------------------------------------------------------- altering
def test_another_type_keeps_the_settings_that_it_has_too(tmp_path: Path) -> None:
    ablations = """
        a: {alter: {model.connector.type: c_abstractor}}
        b: {alter: {model.connector.depth: 1, model.connector.type: c_abstractor}}
        c: {alter: {model.connector: attention_pool}}
        d: {alter: {training.optimizer.type: adamw}}
    """
    study = study_of(tmp_path, ablations, "everywhere: {training.optimizer.weight_decay: 0.5, training.optimizer.momentum: 0.5}")
    connectors = [study.arm(name).experiment.model.connector.model_dump() for name in "abc"]
    assert [(connector["type"], connector["image_tokens"], connector.get("depth")) for connector in connectors] == [
        ("c_abstractor", 4, 3),
        ("c_abstractor", 4, 1),
        ("attention_pool", 4, None),
    ]
    assert study.arm("d").experiment.training.optimizer.model_dump()["weight_decay"] == 0.5
    types = study_of(tmp_path, "g: {grid: {model.connector.type: [attention_pool]}}").arms[1]
    assert types.name == "g/attention_pool" and types.changes == (Change("model.connector.type", "average_pool", "attention_pool"),)


def test_settings_that_the_experiment_leaves_at_their_default_can_be_altered(tmp_path: Path) -> None:
    write_experiment(tmp_path, EXPERIMENT.replace("  optimizer: {type: muon}\n", ""))
    study = study_of(tmp_path, "a: {alter: {training.optimizer.learning_rate: 1e-3, data.packing.max_images: 2}}")
    assert study.arm("a").changes == (Change("training.optimizer.learning_rate", "mm1", 1e-3), Change("data.packing.max_images", 16, 2))


def test_a_default_keeps_its_other_settings_when_one_of_them_is_altered(tmp_path: Path) -> None:
    rest = study_of(tmp_path, "a: {alter: {training.optimizer.rest.learning_rate: 1e-4}}").arm("a").experiment.training.optimizer.rest
    assert (rest.learning_rate, rest.weight_decay) == (1e-4, 0.0)


def test_a_data_type_or_source_that_the_baseline_lacks_can_be_added(tmp_path: Path) -> None:
    write_experiment(tmp_path, EXPERIMENT.replace(", text: 10}", "}"))
    added = "{type: miniature, data_type: text, content: text, world_seed: 7}"
    study = study_of(
        tmp_path, f"a: {{alter: {{data.mixture.text: 10}}}}\nb: {{alter: {{data.mixture.text: 10, data.sources.more: {added}}}}}"
    )
    assert study.arm("a").changes == (Change("data.mixture.text", None, 10),)
    assert "more" in study.arm("b").experiment.data.sources


def test_a_key_of_a_free_mapping_must_be_there_already(tmp_path: Path) -> None:
    assert names(tmp_path, "a: {alter: {model.language_model.configuration.hidden_size: 48}}") == [BASELINE, "a"]
    at, message, hint = the_problem(tmp_path, "a: {alter: {model.language_model.configuration.hiden_size: 48}}")
    assert at.startswith("model.language_model.configuration.hiden_size") and "no such path" in message
    assert hint == "did you mean 'model.language_model.configuration.hidden_size'?"


def test_defaults_of_the_comparison_follow_what_is_evaluated(tmp_path: Path) -> None:
    study = study_of(tmp_path, "", "everywhere: {evaluation.shots: [0, 8]}")
    assert study.sweep.compare.metrics == ["text_core/average", "shot_0/average", "shot_8/average"]
    assert problems_of(tmp_path, "", "everywhere: {evaluation.shots: [0, 4]}")[0].path == "compare.primary"
