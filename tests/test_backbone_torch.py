"""Any torch module as a backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from finetune.backbones import TorchModel
from finetune.errors import BackboneError, RecipeError
from finetune.recipe import load


class Tiny(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.body = nn.Conv2d(4, 6, 3)
        self.top = nn.Linear(6, outputs)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.body(self.stem(pixels)).mean((2, 3)) * self.scale
        return self.top(hidden)


def tied(outputs: int) -> nn.Module:
    module = Tiny(outputs)
    module.alias = module.stem
    return module


MODEL = TorchModel(Tiny, head="top", size=(8, 8))


def test_the_contract(tmp_path: Path) -> None:
    network = MODEL.build(3, ("a", "b", "c"))
    module = network.module.eval()
    assert network.layers() == [
        ["scale"],
        ["stem.0.weight", "stem.0.bias"],
        ["body.weight", "body.bias"],
        ["top.weight", "top.bias"],
    ]
    assert network.head() == ["top"]
    inputs = {"pixels": torch.randn(2, 3, 8, 8)}
    assert network.inputs.forward_argument == "pixels"
    features = network.features(inputs)
    weight, bias = network.get_head()
    torch.testing.assert_close(features @ weight.T + bias, module(**inputs))
    network.set_head(torch.ones(3, 6), torch.zeros(3))
    assert torch.equal(network.get_head()[0], torch.ones(3, 6))
    assert network.tune_for(torch.device("cpu"), "bf16") == []
    assert network.origin == {"name": "Tiny"}
    assert network.reloader is None
    network.save(tmp_path, ("a", "b", "c"))
    again = MODEL.saved(tmp_path).build(3).module
    assert torch.equal(again(**inputs), module(**inputs))


def test_parts_under_two_names_are_saved(tmp_path: Path) -> None:
    model = TorchModel(tied, head="top", size=(8, 8))
    network = model.build(3)
    network.save(tmp_path, None)
    again = model.saved(tmp_path).build(3)
    assert torch.equal(again.module.stem[0].weight, network.module.stem[0].weight)


@pytest.mark.parametrize("head", ["tpo", "body", "stem.0"])
def test_a_head_that_is_no_linear_layer(head: str) -> None:
    with pytest.raises(BackboneError, match=r"linear layer with 3 outputs.*this model: top\."):
        TorchModel(Tiny, head=head).build(3)


def test_weights_of_another_model(tmp_path: Path) -> None:
    MODEL.build(5).save(tmp_path, None)
    with pytest.raises(BackboneError, match=r"do not fit the model: .*size mismatch"):
        MODEL.saved(tmp_path).build(3)
    with pytest.raises(BackboneError, match="cannot be read"):
        MODEL.saved(tmp_path / "nowhere").build(3)


def test_activations_cannot_be_recomputed() -> None:
    with pytest.raises(BackboneError, match=r"micro_batch_size"):
        MODEL.build(3).checkpoint_activations()


def test_a_recipe_takes_it_and_says_that_yaml_cannot() -> None:
    recipe = load("vit-digits").override(backbone=MODEL)
    assert recipe.backbone == MODEL
    with pytest.raises(RecipeError, match=r"backbone is an object of the class TorchModel"):
        recipe.to_yaml()
