"""Muon over all matrices of one shape at once: it is torch's Muon, to the bit where it iterates in the same precision."""

from __future__ import annotations

import pytest
import torch

from mm1_ablate.training import batched_muon
from mm1_ablate.training.batched_muon import BatchedMuon, orthogonalised

SHAPES = [(12, 12), (12, 12), (48, 12), (12, 48), (12, 12), (48, 12), (7, 3)]
COEFFICIENTS = (3.4445, -4.775, 2.0315)


def trained(kind: type[torch.optim.Muon], steps: int = 5) -> list[torch.Tensor]:
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    optimizer = kind(parameters, lr=0.02, momentum=0.9, weight_decay=0.1)
    for step in range(steps):
        for number, parameter in enumerate(parameters):
            parameter.grad = torch.randn(parameter.shape)
            if number == step:  # one that learns nothing in this step
                parameter.grad = None
        optimizer.step()
    return [parameter.detach() for parameter in parameters] + [optimizer.state[parameter]["momentum_buffer"] for parameter in parameters]


def test_weights_and_state_are_those_of_torch_bit_for_bit_in_its_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        batched_muon,
        "orthogonalised",
        lambda matrices, coefficients, steps, epsilon, dtype: orthogonalised(matrices, coefficients, steps, epsilon),
    )
    for ours, torchs in zip(trained(BatchedMuon), trained(torch.optim.Muon), strict=True):
        assert torch.equal(ours, torchs)


def test_on_a_cpu_weights_are_those_of_torch_up_to_its_rounding() -> None:
    for ours, torchs in zip(trained(BatchedMuon), trained(torch.optim.Muon), strict=True):
        torch.testing.assert_close(ours, torchs, atol=0.01, rtol=0.02)


@pytest.mark.parametrize("shape", [(3, 12, 12), (3, 24, 12), (3, 12, 24)])
def test_what_is_orthogonalised_keeps_singular_vectors_and_has_singular_values_near_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    matrices = torch.randn(shape)
    result = orthogonalised(matrices, COEFFICIENTS, 5, 1e-7, torch.float32)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    inside = left.mT @ result @ right.mT
    values = torch.diagonal(inside, dim1=1, dim2=2)
    assert (values > 0.3).all() and (values < 1.3).all()
    torch.testing.assert_close(inside, torch.diag_embed(values), atol=1e-3, rtol=0)


def test_a_matrix_without_a_gradient_to_speak_of_stays() -> None:
    assert not orthogonalised(torch.zeros(2, 3, 4), COEFFICIENTS, 5, 1e-7).any()
