"""Profiles of parts: sums over a model, the rules where a part cannot be run, and what blocks that are alike take together."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from tiny import tiny_experiment
from torch import nn

from mm1_ablate.model import profiler
from mm1_ablate.model.profile import ModelProfile, PartProfile
from mm1_ablate.model.profiler import profile_language_model


def test_parameters_of_a_model_are_those_of_its_parts_without_the_frozen_ones() -> None:
    model = ModelProfile(PartProfile(1000), PartProfile(200, counted=False, reason="why"), PartProfile(30, without_embeddings=7))
    alike = {"image_encoder": 1000, "connector": 200, "language_model": 30, "total": 1230, "without_embeddings": 7}
    for frozen, trained in (((), 1230), (("image_encoder",), 230), (("image_encoder", "language_model"), 200)):
        settings = tiny_experiment({f"model.{part}.frozen": True for part in frozen}).model
        assert model.parameters(settings) == {**alike, "trained": trained}
    assert model.not_counted == {"connector": "why"}


class Asks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return self.linear(given) * float(given.sum())


def profiled(part: nn.Module, run: Any, known: PartProfile, blocks: Any = (), shorten: Any = None, units: int = 1) -> PartProfile:
    return profiler._profile(part, blocks, shorten, run, units, "32-true", known, 3)


def test_a_part_that_cannot_be_run_takes_what_the_usual_rules_say() -> None:
    """Of 3 tokens for each image: 2 operations for each weight forward, 4 backward, 16 activations of 4 bytes for each channel."""

    def asked(known: PartProfile) -> PartProfile:
        with torch.device("meta"):
            part = Asks()
        return profiled(part, lambda units: part(torch.empty(1, 2)), known)

    encoder = asked(PartProfile(100, width=8, blocks=5))
    assert (encoder.forward, encoder.backward, encoder.saved) == (2 * 100 * 3, 4 * 100 * 3, 4 * 16 * 8 * 5 * 3)
    assert (encoder.attention, encoder.copies, encoder.counted) == (0, 0, False)
    language = asked(PartProfile(100, width=8, blocks=5, head=30, vocabulary=9))
    assert (language.forward, language.backward, language.attention) == (2 * 70 * 3, 4 * 70 * 3, 4 * 8 * 5)
    assert language.reason == encoder.reason == "it cannot be run without values"


def test_what_goes_wrong_is_told_in_its_first_line() -> None:
    for error, words in (
        (RuntimeError("  \n first\nsecond"), "RuntimeError: first"),
        (KeyError("a"), "KeyError: 'a'"),
        (ValueError(), "ValueError: no message"),
        (profiler.NoFormula("in words"), "in words"),
    ):
        assert profiler._why(error) == words


class Stack(nn.Module):
    """A linear layer, and blocks that are linear layers."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.first = nn.Linear(3, widths[0])
        self.blocks = nn.ModuleList(nn.Linear(one, other) for one, other in pairwise(widths))

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        given = self.first(given)
        for block in self.blocks:
            given = block(given)
        return given


@pytest.mark.parametrize("widths", [(4, 4), (4, 4, 4), (4, 4, 4, 4), (4, 4, 4, 4, 4, 4, 4), (4, 6, 5, 7, 4)])
def test_blocks_that_are_alike_are_run_twice_at_most_and_count_all(widths: tuple[int, ...]) -> None:
    """Two operations for each weight and row forward. Back, as many for the weights, and as many for what they were given, which the first
    layer need not know."""
    with torch.device("meta"):
        part = Stack(*widths)
    cut: list[int] = []

    def shorten(count: int) -> None:
        cut.append(count)
        del part.blocks[count:]

    found = profiled(part, lambda units: part(torch.empty(units, 3)), PartProfile(1), part.blocks, shorten, units=2)
    blocks = sum(one * other for one, other in pairwise(widths))
    assert found.counted and found.forward == 2 * (3 * widths[0] + blocks)
    assert found.backward == 2 * (3 * widths[0] + 2 * blocks)
    assert found.saved == 4 * (3 + sum(widths[:-1])), "what each layer was given, in float32"
    assert cut == ([2, 1] if len(widths) > 3 and len(set(widths)) == 1 else [])


def test_a_language_model_takes_for_a_token_what_its_layers_multiply() -> None:
    """Llama with grouped queries: two layers of 4 heads of 8 channels, 2 heads of keys and values, a perceptron with a gate."""
    layers, width, inside, pairs = 2, 32, 48, 2 * 8
    configuration = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2,
                     "intermediate_size": inside, "max_position_embeddings": 512}  # fmt: skip
    settings = tiny_experiment({"model.language_model": {"model_type": "llama", "configuration": configuration}}).model.language_model
    found = profile_language_model(settings, 100, 0, 1, "32-true")
    matrices = layers * (2 * width * width + 2 * width * pairs + 3 * width * inside)
    assert found.counted and found.matrices == matrices and found.head == 100 * width and found.vocabulary == 100
    assert found.parameters == matrices + 2 * 100 * width + layers * 2 * width + width
    assert found.without_embeddings == matrices + layers * 2 * width + width
    assert found.largest_block == matrices // layers + 2 * width and (found.width, found.blocks) == (width, layers)
    assert found.cache == layers * 2 * pairs and found.attention == layers * 4 * width
    assert found.forward == 2 * matrices and found.backward == 4 * matrices, "without the head, which ran at one position"
    frozen = profile_language_model(settings.model_copy(update={"frozen": True}), 100, 0, 1, "32-true")
    assert frozen.forward == pytest.approx(found.forward) and frozen.backward == 2 * matrices


def test_experts_count_once_for_each_row_that_goes_through_one_of_them() -> None:
    assert profiler._grouped_product((10, 4), (3, 4, 5)) == 2 * 10 * 4 * 5
    assert profiler._grouped_product((3, 10, 4), (3, 4, 5)) == 2 * 3 * 10 * 4 * 5
    assert profiler._largest([]) == 0 and profiler._largest([nn.Linear(2, 2), nn.Linear(3, 2)]) == 8
