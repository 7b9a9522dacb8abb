"""The micro-batch that memory has room for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from toy import difference, fit, stripes

from finetune import room

NET = nn.Sequential(nn.Linear(8, 1000), nn.ReLU(), nn.BatchNorm1d(1000), nn.Linear(1000, 2))
EACH = 4 * (8 + 2 * 1000)
"""Bytes kept of a sample: the input, and the outputs of ReLU and BatchNorm."""


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = NET

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


@pytest.mark.parametrize(
    ("room_for", "size"), [(512, 512), (511, 256), (100, 64), (1, 1), (0.1, 1)]
)
def test_it_is_halved_until_it_fits(room_for: float, size: int) -> None:
    before = {name: tensor.clone() for name, tensor in NET.state_dict().items()}
    state = torch.get_rng_state()
    inputs = {"x": torch.randn(2, 8, generator=torch.Generator().manual_seed(0))}
    assert room.micro_batch(Named(), inputs, 512, room_for * EACH) == size
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[n], t) for n, t in NET.state_dict().items())


def test_there_is_memory() -> None:
    assert 2**28 < room.memory() < 2**50


def test_a_run_takes_what_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(stripes(), tmp_path / "whole")
    assert whole.facts["micro_batch_size"] == 8
    # A sample of this net keeps about a kilobyte, and an eighth of the memory is for that.
    monkeypatch.setattr(room, "memory", lambda: 32_000)
    cut = fit(stripes(), tmp_path / "cut")
    assert cut.facts["micro_batch_size"] in (1, 2, 4)
    assert any("as many as memory has room for" in s for s in cut.folder.sentences)
    assert difference(whole.module.state_dict(), cut.module.state_dict()) < 1e-6
    asked = fit(stripes(micro_batch_size=8), tmp_path / "asked")
    assert asked.facts["micro_batch_size"] == 8
