"""What each step of a training does: its rates, gradients, losses and random numbers, held against numbers known from elsewhere."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import exp, log, sqrt
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
from tiny import tiny_experiment
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from transformers import AttentionInterface

from mm1_ablate.config.connector import Connector
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.preparation import preparations_of
from mm1_ablate.config.training import AdamW, Muon, Progress
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.loader import Batch, BatchLoader
from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.model.image_encoder import build_image_encoder
from mm1_ablate.model.multimodal import MultimodalModel, build
from mm1_ablate.model.packed_attention import NAME, packed_throughout
from mm1_ablate.training.activation_checkpointing import checkpointed_and_compiled
from mm1_ablate.training.checkpoint import random_state_dict, restore_random_state
from mm1_ablate.training.fit import fit, load_trained
from mm1_ablate.training.module import TrainingCallback
from mm1_ablate.training.optimisation import build_optimizers, learning_rate_share
from mm1_ablate.training.pace import Pace
from mm1_ablate.training.preparation import ContrastiveObjective, ReconstructiveObjective, prepare

ADAMW = {"type": "adamw", "learning_rate": 1e-3, "weight_decay": 0.0}
MUON = {"type": "muon", "learning_rate": 0.02, "rest": ADAMW}
SHARES = [0.5, 1, 1, 0.8, 0.4, 0.2]
"""Six steps, two of warm-up, then 1, 3/4, 1/4 and 0 of a cosine's way down to a fifth."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@dataclass
class Call:
    """What an optimiser was called with: the rate, decay and gradient of each parameter, by its identity."""

    rates: dict[int, float]
    decays: dict[int, float]
    gradients: dict[int, torch.Tensor]

    def norm(self, *parameters: nn.Parameter) -> float:
        """Of the gradients of some parameters, or of all."""
        wanted = [id(parameter) for parameter in parameters] or list(self.gradients)
        return sqrt(sum(float(self.gradients[one].double().square().sum()) for one in wanted if one in self.gradients))


@pytest.fixture
def calls() -> Iterator[list[Call]]:
    """Every call of any optimiser of torch's."""
    seen: list[Call] = []

    def look(optimizer: Optimizer, *_: Any) -> None:
        groups = [(group, parameter) for group in optimizer.param_groups for parameter in group["params"]]
        seen.append(
            Call(
                {id(parameter): float(group["lr"]) for group, parameter in groups},
                {id(parameter): float(group["weight_decay"]) for group, parameter in groups},
                {id(parameter): parameter.grad.detach().clone() for _, parameter in groups if parameter.grad is not None},
            )
        )

    handle = register_optimizer_step_pre_hook(look)
    yield seen
    handle.remove()


def trained(experiment: Experiment, folder: Path, seed: int = 0) -> MultimodalModel:
    model = fit(experiment, seed, None, None, folder, lambda progress: None)
    assert model is not None
    return model


ON_THE_CLOCK = {"seconds", "time", "tokens_per_second", "waiting_for_data", "memory"}
"""What two equal trainings have different of."""


def curve(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def batches(experiment: Experiment, steps: int, micro_batch_rows: int | None = None) -> list[list[Batch]]:
    loader = BatchLoader(
        experiment.data,
        load_tokenizer("miniature"),
        experiment.model.connector.image_tokens,
        ImagePipeline.of(experiment.model),
        seed=0,
        steps=steps,
        batch_rows=experiment.training.batch_rows,
        micro_batch_rows=micro_batch_rows,
    )
    return list(loader)


# ---------------------------------------------------------------- rates
@pytest.mark.parametrize("optimizer", [ADAMW, MUON], ids=["adamw", "muon"])
def test_each_step_has_the_rate_that_schedule_optimiser_and_part_say_and_the_curve_shows_it(
    optimizer: dict[str, Any], calls: list[Call], tmp_path: Path
) -> None:
    experiment = tiny_experiment(
        {
            "training.steps": 6,
            "training.warmup_steps": 2,
            "training.final_learning_rate": 0.2,
            "training.optimizer": optimizer,
            "model.image_encoder.learning_rate_scale": 0.25,
        }
    )
    model = trained(experiment, tmp_path)
    assert [point["learning_rate"] for point in curve(tmp_path)] == pytest.approx([1e-3 * share for share in SHARES])
    matrices = {
        id(part.weight) for part in model.language_model.model.layers.modules() if optimizer is MUON and isinstance(part, nn.Linear)
    }
    assert len(calls) == 6 * (2 if optimizer is MUON else 1)
    for step, share in enumerate(SHARES):
        own = calls[2 * step : 2 * step + 2] if optimizer is MUON else calls[step : step + 1]
        rates = {one: rate for call in own for one, rate in call.rates.items()}
        for name, parameter in model.named_parameters():
            peak = 0.02 if id(parameter) in matrices else 0.25e-3 if name.startswith("encoder.") else 1e-3
            assert rates[id(parameter)] == pytest.approx(peak * share), (step, name)


def test_mm1s_rate_is_of_the_language_models_parameters_without_embeddings(calls: list[Call], tmp_path: Path) -> None:
    """Of one block of Phi: norms, four projections, two of the perceptron, norms of queries and keys, and the last norm."""
    parameters = 2 * 32 + 4 * (32 * 32 + 32) + (64 * 32 + 64) + (32 * 64 + 32) + 2 * (16 + 16) + 2 * 32
    changes = {"training.steps": 1, "training.warmup_steps": 0, "training.optimizer": {"type": "adamw"}}
    for tied in (True, False):
        calls.clear()
        trained(tiny_experiment({**changes, "model.language_model.configuration.tie_word_embeddings": tied}), tmp_path / str(tied))
        (rate,) = set(calls[0].rates.values())
        assert rate == pytest.approx(exp(-0.4214 * log(parameters) - 0.5535))


def test_between_warm_up_and_end_the_rate_falls_as_a_cosine() -> None:
    """Quarter by quarter of the way down, as known: cos 45 degrees is the root of a half."""
    shares = [learning_rate_share(step, 49, 8, 0.0) for step in range(49)]
    assert shares[:8] == pytest.approx([step / 8 for step in range(1, 9)])
    assert [shares[8 + 10 * quarter] for quarter in range(5)] == pytest.approx([1, (1 + sqrt(0.5)) / 2, 0.5, (1 - sqrt(0.5)) / 2, 0])


@pytest.mark.parametrize("optimizer", [ADAMW, {**MUON, "rest": {**ADAMW, "learning_rate": 1e-3}}], ids=["adamw", "muon"])
def test_a_first_step_moves_the_encoder_by_its_share_of_the_rate(optimizer: dict[str, Any], tmp_path: Path) -> None:
    """Adam's first step is as long as the rate in every direction (Kingma and Ba 2015, section 2.1)."""
    changes = {"training.steps": 1, "training.warmup_steps": 0, "training.optimizer": optimizer}
    experiment = tiny_experiment({**changes, "model.image_encoder.learning_rate_scale": 0.25})
    before = {name: value.clone() for name, value in build(experiment, 0).state_dict().items()}
    after = trained(experiment, tmp_path).state_dict()
    moved = {name: float((after[name] - value).abs().max()) for name, value in before.items()}
    assert moved["encoder.vision.blocks.0.mlp.fc1.weight"] == pytest.approx(0.25e-3, rel=0.01)
    assert moved["connector.project.weight"] == pytest.approx(1e-3, rel=0.01)
    assert moved["language_model.model.embed_tokens.weight"] == pytest.approx(1e-3, rel=0.01)


# ---------------------------------------------------------------- optimisers
def steps_with(settings: AdamW | Muon, *gradients: torch.Tensor) -> list[torch.Tensor]:
    """How far a matrix of a language model moves in each step."""
    part = nn.Linear(gradients[0].shape[1], gradients[0].shape[0])
    part.get_input_embeddings = part.get_output_embeddings = lambda: None  # type: ignore[method-assign]
    with torch.no_grad():
        part.weight.fill_(1.0)
    optimizer = build_optimizers(settings, [(part, 1.0)], part, 1000)[0]
    moved = []
    for gradient in gradients:
        before = part.weight.detach().clone()
        part.weight.grad = gradient.clone()
        optimizer.step()
        moved.append(part.weight.detach() - before)
    return moved


@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.5, 0.99), (0.8, 0.8)])
def test_adamw_has_the_declared_betas(betas: tuple[float, float]) -> None:
    """Algorithm 1 of Kingma and Ba (2015) by hand: a gradient of 1, then of 0."""
    first, second = betas
    mean, square = first * (1 - first) / (1 - first**2), second * (1 - second) / (1 - second**2)
    settings = AdamW(learning_rate=0.01, weight_decay=0.0, betas=betas)
    moved = steps_with(settings, torch.ones(2, 3), torch.zeros(2, 3))
    torch.testing.assert_close(moved[0], torch.full((2, 3), -0.01), rtol=1e-4, atol=0)
    torch.testing.assert_close(moved[1], torch.full((2, 3), -0.01 * mean / sqrt(square)), rtol=1e-3, atol=0)


def muon(**settings: Any) -> Muon:
    return Muon(rest=AdamW(learning_rate=1e-3), **settings)


def test_muon_remembers_gradients_as_far_as_its_momentum_says() -> None:
    one, other = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0)).unbind()
    alone = steps_with(muon(momentum=0.0), other)[0]
    forgetful = steps_with(muon(momentum=0.0), one, other)[1]
    mindful = steps_with(muon(momentum=0.9), one, other)[1]
    torch.testing.assert_close(forgetful, alone, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(mindful, alone, atol=1e-3)


def test_muons_steps_are_as_long_as_its_rate_and_its_decay_takes_the_declared_share() -> None:
    gradient = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    short, long = (steps_with(muon(learning_rate=rate), gradient)[0] for rate in (0.01, 0.03))
    torch.testing.assert_close(long, 3 * short, rtol=1e-3, atol=1e-6)
    decayed = steps_with(muon(learning_rate=0.01, weight_decay=0.5), torch.zeros(4, 6))[0]
    torch.testing.assert_close(decayed, torch.full((4, 6), -0.005))
    assert not steps_with(muon(learning_rate=0.01), torch.zeros(4, 6))[0].any()


def test_declared_decay_is_of_matrices_alone_and_beside_muon_that_of_the_rest(calls: list[Call], tmp_path: Path) -> None:
    changes = {"training.steps": 1, "training.warmup_steps": 0}
    rest = {**ADAMW, "weight_decay": 0.03}
    for optimizer, of_blocks in ((rest, 0.03), ({**MUON, "weight_decay": 0.2, "rest": rest}, 0.2)):
        calls.clear()
        model = trained(tiny_experiment({**changes, "training.optimizer": optimizer}), tmp_path / str(of_blocks))
        decays = {one: decay for call in calls for one, decay in call.decays.items()}
        block = model.language_model.model.layers[0]
        assert decays[id(block.mlp.fc1.weight)] == of_blocks
        assert decays[id(model.connector.project.weight)] == decays[id(model.language_model.model.embed_tokens.weight)] == 0.03
        assert all(decays[id(parameter)] == 0 for parameter in model.parameters() if parameter.ndim < 2)


# ---------------------------------------------------------------- gradients
def test_a_step_learns_from_its_own_batch_alone_and_the_curve_tells_its_loss_and_what_was_in_it(calls: list[Call], tmp_path: Path) -> None:
    """With a rate of next to nothing the weights stay, so each step's gradient can be had from the model at its start."""
    changes = {"training.steps": 3, "training.batch_rows": 3, "training.micro_batch_rows": 1, "training.gradient_clip": None}
    experiment = tiny_experiment({**changes, "training.optimizer": {**ADAMW, "learning_rate": 1e-12}})
    trained(experiment, tmp_path)
    model = build(experiment, 0).train()
    tokens = images = documents = 0
    for (batch,), call, point in zip(batches(experiment, 3), calls, curve(tmp_path), strict=True):
        model.zero_grad()
        loss = cross_entropy(model(batch), batch.targets)
        loss.backward()
        loss = loss.detach()
        gradient = sqrt(sum(float(one.grad.double().square().sum()) for one in model.parameters() if one.grad is not None))
        assert call.norm() == pytest.approx(gradient, rel=1e-3)
        assert point["loss"] == pytest.approx(float(loss), rel=1e-5)
        tokens, images, documents = tokens + len(batch.tokens), images + len(batch.images), documents + len(batch.document_lengths)
        assert (point["tokens"], point["images"], point["documents"]) == (tokens, images, documents)
        assert point["gradient_norm"] == pytest.approx(gradient, rel=1e-3)
    assert images > documents > 9


@pytest.mark.parametrize("optimizer", [ADAMW, MUON], ids=["adamw", "muon"])
def test_gradients_that_are_too_long_are_shortened_to_the_bound_all_parts_alike(
    optimizer: dict[str, Any], calls: list[Call], tmp_path: Path
) -> None:
    changes = {"training.steps": 2, "training.warmup_steps": 0, "training.optimizer": optimizer}
    norms: dict[float | None, list[float]] = {}
    parts: dict[float | None, list[float]] = {}
    for bound in (None, 1e-3, 1e3):
        calls.clear()
        model = trained(tiny_experiment({**changes, "training.gradient_clip": bound}), tmp_path / str(bound))
        steps = (
            [calls[2 * step : 2 * step + 2] for step in range(2)] if optimizer is MUON else [calls[step : step + 1] for step in range(2)]
        )
        norms[bound] = [sqrt(sum(call.norm() ** 2 for call in own)) for own in steps]
        three = (model.encoder, model.connector, model.language_model)
        parts[bound] = [sqrt(sum(call.norm(*part.parameters()) ** 2 for call in steps[0])) for part in three]
    assert min(norms[None]) > 0.1, "else the bound would not be felt"
    assert norms[1e3] == pytest.approx(norms[None])
    assert norms[1e-3] == pytest.approx([1e-3, 1e-3], rel=1e-3)
    assert parts[1e-3] == pytest.approx([part * 1e-3 / norms[None][0] for part in parts[None]], rel=1e-2)


# ---------------------------------------------------------------- what is told of it
def test_what_is_reported_is_what_the_curve_shows(tmp_path: Path) -> None:
    told: list[Progress] = []
    fit(tiny_experiment({"training.steps": 3}), 0, None, None, tmp_path, told.append)
    points = curve(tmp_path)
    assert [(one.stage, one.step, one.steps, one.loss) for one in told] == [("train", point["step"], 3, point["loss"]) for point in points]
    assert [point["step"] for point in points] == [1, 2, 3]
    assert 0 <= points[0]["seconds"] <= points[1]["seconds"] <= points[2]["seconds"] < 600


def test_a_point_of_a_curve_is_about_all_steps_since_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same training, with points of one step each and of three; it is stopped in the middle of an interval, and resumed."""
    experiment = tiny_experiment({"training.steps": 6, "training.checkpoint_every_steps": 2, "training.gradient_clip": None})
    whole = trained(experiment, tmp_path / "each").state_dict()

    class Stopped(Exception):
        pass

    init = TrainingCallback.__init__
    monkeypatch.setattr(TrainingCallback, "__init__", lambda self, *args, **named: init(self, *args, **named, curve_points=2))
    save = lightning.Trainer.save_checkpoint

    def stop(self: lightning.Trainer, path: Path) -> None:
        save(self, path)
        raise Stopped

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(lightning.Trainer, "save_checkpoint", stop)
        trained(experiment, tmp_path / "three")
    assert not (tmp_path / "three" / "curve.jsonl").exists()
    after = trained(experiment, tmp_path / "three").state_dict()
    assert all(torch.equal(value, after[name]) for name, value in whole.items())
    each, three = curve(tmp_path / "each"), curve(tmp_path / "three")
    assert [point["step"] for point in three] == [3, 6]
    for point, steps in zip(three, (each[:3], each[3:]), strict=True):
        assert point["loss"] == pytest.approx(sum(step["loss"] for step in steps) / 3, rel=1e-6)
        assert point["gradient_norm"] == steps[-1]["gradient_norm"]
        assert point["tokens_per_second"] > 0 and 0 <= point["waiting_for_data"] <= 1 and point["memory"] > 1e7
    assert abs(three[-1]["time"] - time.time()) < 600


def test_what_is_waited_for_data_is_measured() -> None:
    pace = Pace()
    pace.begin(100)
    for _ in range(2):
        time.sleep(0.03)
        pace.step_begins()
        time.sleep(0.01)
        pace.step_ends()
    point = pace.measured(300)
    assert 0.5 < point["waiting_for_data"] < 0.95 and 0 < point["tokens_per_second"] < 200 / 0.08
    assert pace.measured(300)["tokens_per_second"] == 0


@pytest.mark.parametrize("threads", [0, 2])
def test_batches_are_prepared_by_the_declared_threads(threads: int, tmp_path: Path) -> None:
    seen: set[str] = set()
    experiment = tiny_experiment({"training.loader_threads": threads, "training.steps": 3})
    fit(experiment, 0, None, None, tmp_path, lambda progress: seen.update(thread.name for thread in threading.enumerate()))
    assert any(name.startswith("mm1-ablate-") for name in seen) == (threads > 0)


def test_a_curve_has_a_hundred_points_or_a_few_more() -> None:
    every = {steps: TrainingCallback(Path(), steps, 1, print).read_every for steps in (1, 100, 199, 200, 1050)}
    assert every == {1: 1, 100: 1, 199: 1, 200: 2, 1050: 10}


# ---------------------------------------------------------------- modes, micro-batches and random numbers
class Watching(Connector):
    """Says how it is called, and adds noise of three kinds to what it hands on."""

    type: str = f"{__name__}.Watching"
    noise: bool = False

    def build(self, encoder_width: int, grid_side: int, language_width: int) -> nn.Module:
        noise = self.noise

        class Module(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.project = nn.Linear(encoder_width, language_width)
                self.modes: list[bool] = []
                self.draws: list[float] = []

            def forward(self, patches: torch.Tensor) -> torch.Tensor:
                self.modes.append(self.training)
                if not (noise and self.training):
                    return self.project(patches)
                self.draws.append(float(torch.rand(())))
                return self.project(patches) + np.random.normal() + random.gauss(0.0, 1.0) + torch.randn(())

        return Module()


def watching(**changes: Any) -> Experiment:
    connector = {"type": f"{__name__}.Watching", "image_tokens": 4, "noise": changes.pop("noise", False)}
    return tiny_experiment({"model.connector": connector, **changes})


def test_a_model_is_trained_in_training_mode_and_handed_over_for_evaluation(tmp_path: Path) -> None:
    experiment = watching()
    model = trained(experiment, tmp_path)
    assert model.connector.modes and all(model.connector.modes)
    for one in (model, load_trained(experiment, 0, tmp_path)):
        assert not any(part.training for part in one.modules())


def test_a_batch_is_passed_in_micro_batches_of_the_declared_rows(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"training.steps": 2, "training.batch_rows": 6, "data.mixture": {"captioned": 1}}
    passes = {
        rows: len(trained(watching(**changes, **{"training.micro_batch_rows": rows}), tmp_path / str(rows)).connector.modes)
        for rows in (None, 6, 4, 1)
    }
    assert passes == {None: 2, 6: 2, 4: 4, 1: 12}


def test_noise_in_training_is_that_of_the_trials_seed(tmp_path: Path) -> None:
    experiment = watching(noise=True, **{"training.steps": 2, "training.batch_rows": 4, "training.micro_batch_rows": 1})
    draws = []
    for place, seed in enumerate((0, 1, 0)):
        torch.manual_seed(place)
        draws.append(trained(experiment, tmp_path / str(place), seed).connector.draws)
    assert draws[0] == draws[2] and not set(draws[0]) & set(draws[1])
    assert len(set(draws[0])) == len(draws[0]) > 3


def seeded(seed: int) -> None:
    np.random.seed(seed)
    random.seed(seed)


def test_a_stopped_trial_with_dropout_and_noise_resumes_to_bit_for_bit_the_same_weights_and_curve(tmp_path: Path) -> None:
    language_model = {
        "model_type": "gpt2",
        "configuration": {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 512, "resid_pdrop": 0.5, "embd_pdrop": 0.5},
    }
    declared: dict[str, Any] = {"training.steps": 6, "training.checkpoint_every_steps": 3, "model.language_model": language_model}
    experiment = watching(noise=True, **declared)
    seeded(1)
    whole = {name: value.clone() for name, value in trained(experiment, tmp_path / "whole").state_dict().items()}

    class Stopped(Exception):
        pass

    def stop(progress: Any) -> None:
        if progress.step == 5:
            raise Stopped

    seeded(1)
    with pytest.raises(Stopped):
        fit(experiment, 0, None, None, tmp_path / "stopped", stop)
    seeded(2)
    after = trained(experiment, tmp_path / "stopped").state_dict()
    assert all(torch.equal(value, after[name]) for name, value in whole.items())
    points = [
        [{name: value for name, value in point.items() if name not in ON_THE_CLOCK} for point in curve(tmp_path / name)]
        for name in ("whole", "stopped")
    ]
    assert points[0] == points[1] and len(points[0]) == 6
    kept = {"model.pt", "curve.jsonl", "data.json"}
    assert all({path.name for path in (tmp_path / name).iterdir()} == kept for name in ("whole", "stopped"))


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.rand(3).tolist(),
        lambda: np.random.random(3).tolist(),
        lambda: np.random.normal(size=3).tolist(),
        lambda: [random.random(), random.gauss(0, 1)],
    ],
    ids=["torch", "numpy", "numpy, normal", "python"],
)
def test_random_states_that_went_through_a_file_give_the_same_numbers_again(draw: Callable[[], list[float]], tmp_path: Path) -> None:
    draw()
    torch.save(random_state_dict(), tmp_path / "state")
    expected = draw()
    assert draw() != expected
    restore_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert draw() == expected


# ---------------------------------------------------------------- preparations
def prepared(kind: str, folder: Path, changes: dict[str, Any]) -> None:
    experiment = tiny_experiment(changes, prepared=True)
    prepare(next(one for one in preparations_of(experiment, 0) if one.kind == kind), folder, lambda progress: None)


@pytest.mark.parametrize("objective", ["contrastive", "reconstructive"])
def test_each_step_of_an_encoders_preparation_has_its_rate_decay_and_bound(objective: str, calls: list[Call], tmp_path: Path) -> None:
    """A warm-up of 6 % of the steps, then a cosine down to nothing."""
    declared = {"objective": objective, "steps": 34, "batch_images": 8, "learning_rate": 0.01}
    prepared("image_encoder", tmp_path, {f"model.image_encoder.preparation.{name}": value for name, value in declared.items()})
    assert len(calls) == 34
    assert all(len(set(call.rates.values())) == 1 for call in calls)
    rates = [min(call.rates.values()) for call in calls]
    assert rates[:3] == pytest.approx([0.005, 0.01, 0.01])
    # A quarter of the 31 steps down lies between steps 9 and 10.
    assert rates[9] > 0.01 * (1 + sqrt(0.5)) / 2 > rates[10] and rates[33] == pytest.approx(0, abs=1e-9)
    assert all(set(call.decays.values()) == {0.05} for call in calls)
    norms = [call.norm() for call in calls]
    assert max(norms) <= 1 + 1e-4 and any(norm == pytest.approx(1, abs=1e-3) for norm in norms)


def test_each_step_of_a_language_models_preparation_has_its_rate_and_its_own_order(calls: list[Call], tmp_path: Path) -> None:
    at = "model.language_model.preparation"
    prepared("language_model", tmp_path, {f"{at}.steps": 34, f"{at}.optimizer": {**ADAMW, "learning_rate": 0.002}})
    rates = [point["learning_rate"] for point in curve(tmp_path)]
    assert rates == pytest.approx([0.002 * learning_rate_share(step, 34, 2, 0.0) for step in range(34)])
    assert rates[:3] == pytest.approx([0.001, 0.002, 0.002]) and rates[-1] == pytest.approx(0, abs=1e-9)
    assert {path.name for path in tmp_path.iterdir()} == {"weights.pt", "curve.jsonl", "data.json"}
    calls.clear()
    prepared("language_model", tmp_path / "one", {f"{at}.steps": 1, f"{at}.optimizer": ADAMW})
    assert set(calls[0].rates.values()) == {1e-3}, "a single step has no warm-up"


class Given(nn.Module):
    """An encoder whose features are its input."""

    width = 3

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels


def test_the_contrastive_loss_is_clips() -> None:
    """Mean over both directions of the cross-entropy of each image's own caption among all of the batch (Radford et al. 2021, figure 3)."""
    torch.manual_seed(0)
    objective = ContrastiveObjective(Given(), 7)  # type: ignore[arg-type]
    nn.init.constant_(objective.log_scale, log(2.5))
    patches, tokens, starts = torch.randn(3, 4, 3), torch.tensor([0, 1, 2, 3, 4, 5]), torch.tensor([0, 1, 4])
    images = objective.image_head(patches.mean(1))
    bags = [objective.words.weight[own].mean(0) for own in ([0], [1, 2, 3], [4, 5])]
    texts = objective.text_head(torch.stack(bags))
    cosines = [[torch.cosine_similarity(image, text, dim=0).item() for text in texts] for image in images]
    parts = np.exp(2.5 * np.array(cosines))
    expected = -np.mean([np.log(parts[k, k] / parts[k].sum()) / 2 + np.log(parts[k, k] / parts[:, k].sum()) / 2 for k in range(3)])
    assert objective(patches, tokens, starts).item() == pytest.approx(expected, rel=1e-5)
    nn.init.constant_(objective.log_scale, 50.0)
    sharp = [softmax(100 * table) for table in (np.array(cosines), np.array(cosines).T)]
    bounded = -np.mean([np.log(np.diagonal(table)) for table in sharp])
    assert objective(patches, tokens, starts).item() == pytest.approx(bounded, rel=1e-3), "a temperature of a hundredth at least"


def softmax(values: np.ndarray) -> np.ndarray:
    """Over the last axis, in plain numpy."""
    parts = np.exp(values - values.max(-1, keepdims=True))
    return parts / parts.sum(-1, keepdims=True)


def test_the_reconstructive_loss_is_of_the_pixels_of_masked_patches_and_those_are_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """SimMIM (Xie et al. 2022): a linear head whose bias is a masked patch has nothing left to learn of it."""
    torch.manual_seed(0)
    encoder = build_image_encoder(tiny_experiment().model.image_encoder)
    objective = ReconstructiveObjective(encoder, 7)
    nothing = torch.empty(0)
    pixels = torch.randint(256, (1, 3, 24, 24), dtype=torch.uint8)
    drawn = torch.tensor([[0.61, 0.59, 0.6, 0.99]])  # of a grid of two by two the one right above is masked
    monkeypatch.setattr(torch, "rand", lambda *_, **__: drawn.clone())
    with torch.no_grad():
        objective.head.weight.zero_()
        patch = (pixels[0, :, :12, 12:].float() - encoder.mean[0]) / encoder.std[0]
        objective.head.bias.copy_(patch.flatten())
        assert float(objective(pixels, nothing, nothing)) == pytest.approx(0, abs=1e-10)
        objective.head.bias.add_(2.0)
        assert float(objective(pixels, nothing, nothing)) == pytest.approx(4.0, rel=1e-5)
    changed = pixels.clone()
    changed[0, :, :12, 12:] = 0
    seen: list[torch.Tensor] = []
    encoder.vision.norm_pre.register_forward_hook(lambda module, given, hidden: seen.append(hidden.detach().clone()))
    objective(pixels, nothing, nothing)
    objective(changed, nothing, nothing)
    torch.testing.assert_close(seen[0], seen[1], msg="what is masked does not reach the blocks")
    objective(255 - pixels, nothing, nothing)
    assert not torch.allclose(seen[0], seen[2])


# ---------------------------------------------------------------- blocks
@pytest.mark.parametrize("frozen", [False, True])
def test_blocks_are_computed_again_in_training_and_once_afterwards(frozen: bool) -> None:
    changes = {"training.activation_checkpointing": True, "model.language_model.frozen": frozen, "data.mixture": {"captioned": 1}}
    experiment = tiny_experiment(changes)
    model = build(experiment, 0).train()
    ((batch,),) = batches(experiment, 1)
    passes = {"encoder": 0, "language_model": 0}

    def count(part: str) -> Callable[..., None]:
        def counted(*_: Any) -> None:
            passes[part] += 1

        return counted

    model.encoder.vision.blocks[0].mlp.fc1.register_forward_hook(count("encoder"))
    model.language_model.model.layers[0].mlp.fc1.register_forward_hook(count("language_model"))
    before = {name: part.training for name, part in model.named_modules()}

    def passed() -> dict[str, int]:
        passes.update(dict.fromkeys(passes, 0))
        cross_entropy(model(batch), batch.targets).backward()
        return dict(passes)

    with checkpointed_and_compiled(model, experiment.training), packed_throughout(model.language_model):
        assert passed() == {"encoder": 2, "language_model": 2}
    assert passed() == {"encoder": 1, "language_model": 1}
    assert {name: part.training for name, part in model.named_modules()} == before


def test_attention_to_packed_documents_is_as_it_was_after_a_compiled_training() -> None:
    attention = AttentionInterface()[NAME]
    experiment = tiny_experiment({"training.compile": True})
    with checkpointed_and_compiled(build(experiment, 0), experiment.training):
        assert AttentionInterface()[NAME] is not attention
    assert AttentionInterface()[NAME] is attention
