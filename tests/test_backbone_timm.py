"""timm models as backbones: one contract over the families, and what is refused in which words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.backbones import Timm, reload_timm
from finetune.errors import BackboneError
from finetune.methods.lora import adaptable

CLASSES = ("cat", "dog", "emu")
SWIN = {"window_size": 2, "embed_dim": 24, "depths": (1, 1), "num_heads": (1, 2)}

# name -> fields, and what LoRA adapts by default
FAMILIES: dict[str, tuple[dict[str, Any], str]] = {
    "test_vit": ({"img_size": 32}, r"blocks\.\d\.attn\.(qkv|proj)"),
    "deit_tiny_distilled_patch16_224": (
        {"img_size": 32, "args": {"depth": 1}}, r"blocks\.0\.attn\.(qkv|proj)",
    ),
    "eva02_tiny_patch14_224": (
        {"img_size": 28, "args": {"depth": 1}}, r"blocks\.0\.attn\.(qkv|proj|[qkv]_proj)",
    ),
    "swin_tiny_patch4_window7_224": (
        {"img_size": 32, "args": SWIN}, r"layers\.\d\.blocks\.0\.attn\.(qkv|proj)",
    ),
    "test_convnext": ({"img_size": 32}, r"stages\.\d\.blocks\.\d\.mlp\.fc[12]"),
    "test_resnet": ({"img_size": 32}, r"layer\d\.\d\.conv\d"),
    "test_efficientnet": ({"img_size": 32}, r"blocks\.\d\.\d\.conv\w*"),
    "mobilenetv4_conv_small_035": ({"img_size": 32}, r"blocks\.\d\.\d(\.\w+)?\.conv\w*"),
    "regnetx_002": ({"img_size": 32}, r"s\d\.b\d\.conv\d\.conv"),
    "test_maxvit": ({"img_size": 64}, r"stages\..*\.attn\.(qkv|proj)"),
    "poolformer_s12": ({"img_size": 32}, r"stages\.\d\.blocks\.\d\.mlp\.fc[12]"),
}  # fmt: skip
TWO_HEADS = ("deit_tiny_distilled_patch16_224",)


def backbone(name: str, **fields: Any) -> Timm:
    return Timm(**({"name": name, "weights": "none"} | FAMILIES[name][0] | fields))


def vit(**fields: Any) -> Timm:
    return backbone("test_vit", **fields)


def images(network: Any, count: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"x": torch.randn(count, 3, *network.inputs.size, generator=generator)}


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> str:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_contract(name: str, tmp_path: Path, photo: str) -> None:
    torch.manual_seed(0)
    network = backbone(name).build(3, CLASSES)
    module = network.module.eval()
    parameters = [n for n, _ in module.named_parameters()]

    layers = network.layers()
    assert sorted(n for layer in layers for n in layer) == sorted(parameters)
    assert layers[-1] == [n for n in parameters if n.startswith(tuple(network.head()))]
    assert len(layers) >= 3
    assert all(layers)

    modules = dict(module.named_modules())
    targets = [n for n in modules if re.fullmatch(network.lora_targets(), n)]
    targets = [n for n in targets if adaptable(modules[n])]
    assert targets
    assert [n for n in targets if not re.fullmatch(FAMILIES[name][1], n)] == []

    inputs = images(network)
    with torch.inference_mode():
        features, outputs = network.features(inputs), module(**inputs)
    assert outputs.shape == (2, 3)
    if name in TWO_HEADS:
        with pytest.raises(BackboneError, match=r"\(head, head_dist\) is not one linear layer"):
            network.get_head()
    else:
        weight, bias = network.get_head()
        assert weight.shape == (3, features.shape[1])
        torch.testing.assert_close(features @ weight.T + bias, outputs)
        fitted = torch.randn_like(weight), torch.randn_like(bias)
        network.set_head(*fitted)
        assert all(torch.equal(a, b) for a, b in zip(network.get_head(), fitted, strict=True))

    network.save(tmp_path, CLASSES, "single_label_classification")
    with torch.inference_mode():
        ours = module(**_native(network, photo)).numpy()
    for load in (reload_timm.by_timm, reload_timm.by_transformers):
        logits, labels = load(str(tmp_path), [photo])
        assert np.abs(np.array(logits) - ours).max() <= 1e-5 * max(1, np.abs(ours).max())
        assert labels == list(CLASSES)


def _native(network: Any, photo: str) -> dict[str, torch.Tensor]:
    raw, failures = network.inputs.read([{"image": {"path": photo, "bytes": None}}])
    assert not failures
    return dict(network.inputs.finish(raw))
