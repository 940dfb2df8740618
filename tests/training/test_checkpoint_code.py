"""Checkpoints are read from stores that others may write in: whatever is in them, none of it is run."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict

from mm1_ablate.training import checkpoint


class Leaves:
    """What a pickle runs when it is loaded: a mark is left."""

    def __init__(self, mark: Path, how: Callable[..., Any] = exec) -> None:
        self.mark, self.how = mark, how

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return self.how, (f"open({str(self.mark)!r}, 'w')",)


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    sum((parameter.float() ** 2).sum() for parameter in module.parameters()).backward()
    optimizer.step()
    return module, optimizer


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    module, optimizer = trained()
    state: dict[str, Any] = {"state_dict": get_model_state_dict(module), "optimizer_0": get_optimizer_state_dict(module, optimizer)}
    state_dict_saver.save(state, checkpoint_id=tmp_path / "last.ckpt.1-a")
    return tmp_path / "last.ckpt.1-a"


def test_shards_are_loaded_as_they_were_written(shards: Path) -> None:
    torch.manual_seed(7)
    module, optimizer = trained()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    checkpoint._load_shards(shards, module, [optimizer])
    expected: dict[str, Any] = {"state_dict": get_model_state_dict(trained()[0])}
    torch.distributed.checkpoint.load(expected, checkpoint_id=shards)
    for name, value in module.state_dict().items():
        assert torch.equal(value, expected["state_dict"][name]) and not torch.equal(value, before[name])
    assert optimizer.state_dict()["param_groups"][0]["lr"] == 1e-2


@pytest.mark.parametrize("how", [exec, eval])
def test_an_index_of_shards_runs_nothing(shards: Path, tmp_path: Path, how: Callable[..., Any]) -> None:
    (shards / ".metadata").write_bytes(pickle.dumps(Leaves(tmp_path / "ran", how)))
    module, optimizer = trained()
    with pytest.raises(BaseException, match="has no place there"):
        checkpoint._load_shards(shards, module, [optimizer])
    assert not (tmp_path / "ran").exists()


def test_an_index_reaches_no_module_by_way_of_torchs() -> None:
    for module, name in (
        ("torch.distributed.checkpoint.filesystem", "os.system"),
        ("torch.distributed.checkpoint.filesystem", "os"),
        ("torch.distributed.checkpoint.filesystem", "pickle"),
        ("torch", "load"),
        ("torch.serialization", "load"),
        ("pathlib", "os"),
        ("collections", "_sys"),
    ):
        with pytest.raises(pickle.UnpicklingError):
            checkpoint._IndexUnpickler(io.BytesIO()).find_class(module, name)


def test_values_beside_the_tensors_run_nothing(shards: Path, tmp_path: Path) -> None:
    content = io.BytesIO()
    torch.save({"a": Leaves(tmp_path / "ran")}, content)
    content.seek(0)
    with pytest.raises(pickle.UnpicklingError):
        checkpoint._LoadsNoCode().load_bytes(None, content)  # type: ignore[arg-type]
    assert not (tmp_path / "ran").exists()


def test_a_model_and_a_checkpoint_run_nothing(tmp_path: Path) -> None:
    torch.save({"shards": Leaves(tmp_path / "ran")}, tmp_path / "last.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.shards_of(tmp_path / "last.ckpt")
    assert not (tmp_path / "ran").exists()
