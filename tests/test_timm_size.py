"""`backbone.img_size` sets the input of every family, and is kept in what is saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.backbones import Timm


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_the_input_size_is_set_and_saved(name: str, tmp_path: Path) -> None:
    network = Timm(name=name, weights="none", img_size=96).build(2)
    assert network.inputs.size == (96, 96)
    network.save(tmp_path, ("cat", "dog"))
    again = Timm(name=str(tmp_path)).build(2, ("cat", "dog"))
    assert again.inputs.size == (96, 96)
