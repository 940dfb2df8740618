"""A trial's training: resuming, accumulation, what starts from what, and what the numbers of the paper say."""

from __future__ import annotations

import json
import logging
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tiny import tiny_experiment

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.model import LanguageModel
from mm1_ablate.config.preparation import preparations_of
from mm1_ablate.config.training import AdamW
from mm1_ablate.model.language_model import block_matrices, build_language_model
from mm1_ablate.model.profiler import count_parameters
from mm1_ablate.training.fit import fit, lightning_trainer, load_trained
from mm1_ablate.training.optimisation import build_optimizers, learning_rate_share, mm1_learning_rate
from mm1_ablate.training.preparation import prepare


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def silent(progress) -> None:
    pass


def run(experiment: Experiment, folder: Path, seed: int = 0, report=silent) -> dict[str, torch.Tensor]:
    folder.mkdir(exist_ok=True)
    return {name: value.clone() for name, value in fit(experiment, seed, None, None, folder, report).state_dict().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


class Stopped(Exception):
    pass


def stop_at(step: int):
    def report(progress) -> None:
        if progress.step >= step:
            raise Stopped

    return report


@pytest.mark.parametrize("optimizer", [{"type": "adamw", "learning_rate": 1e-3}, {"type": "muon"}])
def test_a_stopped_trial_resumes_to_bit_for_bit_the_same_weights_and_curve(tmp_path, optimizer):
    experiment = tiny_experiment({"training.steps": 8, "training.checkpoint_every_steps": 3, "training.optimizer": optimizer})
    whole = run(experiment, tmp_path / "whole")
    with pytest.raises(Stopped):
        run(experiment, tmp_path / "stopped", report=stop_at(5))
    assert (tmp_path / "stopped" / "last.ckpt").exists()
    assert_same(run(experiment, tmp_path / "stopped"), whole)

    def curve(name: str) -> list[tuple[int, float, int]]:
        points = map(json.loads, (tmp_path / name / "curve.jsonl").read_text().splitlines())
        return [(point["step"], point["loss"], point["tokens"]) for point in points]

    assert curve("stopped") == curve("whole")
    assert [step for step, _, _ in curve("whole")] == list(range(1, 9))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    experiment = tiny_experiment()
    first = run(experiment, tmp_path / "first")
    assert_same(first, run(experiment, tmp_path / "again"))
    other = run(experiment, tmp_path / "other", seed=1)
    assert not torch.equal(first["connector.project.weight"], other["connector.project.weight"])


def test_gradient_accumulation_changes_nothing_but_memory(tmp_path):
    whole = run(tiny_experiment(), tmp_path / "whole")
    parts = run(tiny_experiment({"training.micro_batch_rows": 1}), tmp_path / "parts")
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=2e-4, rtol=1e-3)


def test_a_trained_model_is_read_back_as_it_was(tmp_path):
    experiment = tiny_experiment()
    weights = run(experiment, tmp_path)
    assert_same(dict(load_trained(experiment, 0, tmp_path).state_dict()), weights)


def test_a_frozen_encoder_stays_as_prepared_and_a_trained_one_moves(tmp_path):
    for frozen in (True, False):
        experiment = tiny_experiment({"model.image_encoder.frozen": frozen}, prepared=True)
        folders = {preparation.kind: tmp_path / f"{preparation.kind}{frozen}" for preparation in preparations_of(experiment, 0)}
        for preparation in preparations_of(experiment, 0):
            prepare(preparation, folders[preparation.kind], silent)
        prepared = torch.load(folders["image_encoder"] / "weights.pt")
        model = fit(experiment, 0, folders["image_encoder"], folders["language_model"], folders["image_encoder"] / "trial", silent)
        same = all(torch.equal(value, prepared[name]) for name, value in model.encoder.state_dict().items())
        assert same == frozen


@pytest.mark.parametrize("objective", ["contrastive", "reconstructive"])
def test_preparing_an_encoder_teaches_it_and_repeats_bit_for_bit(tmp_path, objective):
    changes = {"model.image_encoder.preparation.objective": objective, "model.image_encoder.preparation.steps": 40}
    experiment = tiny_experiment(changes, prepared=True)
    preparation = next(found for found in preparations_of(experiment, 0) if found.kind == "image_encoder")
    losses: list[float] = []
    prepare(preparation, tmp_path / "first", lambda progress: losses.append(progress.loss))
    assert losses[-1] < losses[0]
    prepare(preparation, tmp_path / "again", silent)
    assert_same(torch.load(tmp_path / "first" / "weights.pt"), torch.load(tmp_path / "again" / "weights.pt"))


def test_cached_features_are_what_the_frozen_encoder_gives(tmp_path):
    from mm1_ablate.data.images import ImagePipeline
    from mm1_ablate.model.multimodal import build

    experiment = tiny_experiment({"model.image_encoder.frozen": True}, prepared=True)
    preparation = next(found for found in preparations_of(experiment, 0) if found.kind == "image_encoder")
    prepare(preparation, tmp_path, silent)
    source = experiment.data.sources["synthetic_captions"].open(0)
    images = [part for index in range(5) for part in source[index].parts if not isinstance(part, str)]
    model = build(experiment, 0, tmp_path / "weights.pt").eval()
    cached = ImagePipeline.of(experiment.model, tmp_path).load(images)
    assert cached.is_floating_point()
    with torch.no_grad():
        fresh = model.encoder(ImagePipeline(experiment.model.image_encoder.image_size).load(images))
    torch.testing.assert_close(cached, fresh, atol=1e-4, rtol=1e-4)


def test_loss_falls(tmp_path):
    run(tiny_experiment({"training.steps": 40, "training.optimizer": {"type": "muon"}}), tmp_path)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_loss_that_is_no_number_stops_the_trial_and_says_where(tmp_path):
    wild = {"training.optimizer": {"type": "adamw", "learning_rate": 1e30}, "training.gradient_clip": None, "training.warmup_steps": 0}
    words = r"^the loss is (nan|inf) at step [1-4] of 4; a lower learning rate or gradient clipping may help$"
    with pytest.raises(ArithmeticError, match=words):
        run(tiny_experiment(wild), tmp_path)


@pytest.mark.parametrize(("parameters", "rate"), [(1.2e9, 8.6e-5), (3e9, 5.8e-5), (7e9, 4.1e-5), (30e9, 2.2e-5)])
def test_the_learning_rate_rule_gives_the_rates_that_the_paper_prints(parameters, rate):
    assert mm1_learning_rate(parameters) == pytest.approx(rate, rel=0.03)


@pytest.mark.parametrize(("declared", "taken"), [({}, 0.1), ({"weight_decay": 0.05}, 0.05)])
def test_a_step_without_gradients_takes_a_tenth_of_the_learning_rate_of_every_matrix_and_nothing_of_vectors(declared, taken):
    """MM1's weight decay of 0.1 x the learning rate is of an optimiser that does not multiply it by the learning rate once more."""
    part = torch.nn.Linear(4, 3)
    before = {name: value.detach().clone() for name, value in part.named_parameters()}
    (optimizer,) = build_optimizers(AdamW(**declared), [(part, 1.0)], part, parameters := 1_200_000_000)
    for parameter in part.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(part.weight.detach(), before["weight"] * (1 - taken * mm1_learning_rate(parameters)))
    assert torch.equal(part.bias.detach(), before["bias"])


def test_warm_up_is_linear_and_the_cosine_ends_where_declared():
    shares = [learning_rate_share(step, 100, 10, 0.1) for step in range(100)]
    assert shares[0] == pytest.approx(0.1) and shares[9] == pytest.approx(1.0) and shares[10] == pytest.approx(1.0)
    assert shares[-1] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in pairwise(shares[10:]))


def test_muon_takes_the_block_matrices_and_adamw_all_the_rest():
    from mm1_ablate.model.multimodal import build

    experiment = tiny_experiment({"training.optimizer": {"type": "muon"}})
    model = build(experiment, 0)
    optimizers = build_optimizers(experiment.training.optimizer, [(model, 1.0)], model.language_model, 1000)
    held = [{id(parameter) for group in optimizer.param_groups for parameter in group["params"]} for optimizer in optimizers]
    assert not held[0] & held[1]
    assert held[0] | held[1] == {id(parameter) for parameter in model.parameters()}
    assert id(model.language_model.get_input_embeddings().weight) in held[1]
    assert id(model.language_model.model.layers[0].mlp.fc1.weight) in held[0]


def test_a_table_of_positions_is_no_matrix_of_a_block():
    settings = LanguageModel(model_type="gpt2", configuration={"n_embd": 32, "n_head": 4, "n_layer": 1})
    model = build_language_model(settings, 50, 0, 1)
    assert {name for name, parameter in model.named_parameters() if any(parameter is matrix for matrix in block_matrices(model))} == {
        f"transformer.h.0.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_weights_are_in_float32_whatever_type_a_copied_configuration_names(name):
    configuration = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1, "intermediate_size": 32, name: "bfloat16"}
    model = build_language_model(LanguageModel(model_type="llama", configuration=configuration), 50, 0, 1)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_counted_parameters_are_those_of_the_model_built():
    from mm1_ablate.model.multimodal import build

    experiment = tiny_experiment()
    model, counts = build(experiment, 0), count_parameters(experiment)
    assert counts["total"] == sum(parameter.numel() for parameter in model.parameters())
    assert counts["connector"] == sum(parameter.numel() for parameter in model.connector.parameters())


def test_encoders_that_are_prepared_through_other_layers_are_other_artifacts():
    def encoder(layer: int):
        changes = {"model.image_encoder.depth": 2, "model.image_encoder.feature_layer": layer}
        return next(found for found in preparations_of(tiny_experiment(changes, prepared=True), 0) if found.kind == "image_encoder")

    assert encoder(-1).fingerprint != encoder(-2).fingerprint


def test_an_encoder_is_prepared_on_fewer_images_than_a_batch_holds(tmp_path):
    experiment = tiny_experiment({"model.image_encoder.preparation.batch_images": 200}, prepared=True)
    prepare(next(found for found in preparations_of(experiment, 0) if found.kind == "image_encoder"), tmp_path, silent)
    assert (tmp_path / "weights.pt").exists()


def test_features_are_kept_whether_or_not_the_first_trial_freezes_the_encoder(tmp_path):
    for frozen in (True, False):
        experiment = tiny_experiment({"model.image_encoder.frozen": frozen}, prepared=True)
        prepare(next(found for found in preparations_of(experiment, 0) if found.kind == "image_encoder"), tmp_path / str(frozen), silent)
        assert (tmp_path / str(frozen) / "features-1" / "keys.json").exists()


def test_only_lightnings_own_advice_is_silenced(tmp_path: Path) -> None:
    root, own = logging.getLogger(), logging.getLogger("lightning.pytorch")
    before = root.level
    own.setLevel(logging.INFO)
    trainer = lightning_trainer(tmp_path)
    assert (root.level, own.level) == (before, logging.ERROR)
    assert trainer.default_root_dir == str(tmp_path / "lightning")
    assert trainer.max_epochs == 1 and not trainer.loggers and not trainer.checkpoint_callbacks and trainer.progress_bar_callback is None
