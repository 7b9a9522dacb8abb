"""The methods on real timm models: what learns, how fast, and what is left behind."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from torch.nn.functional import cross_entropy

from finetune.backbones import Timm
from finetune.errors import RecipeError, TrainingError
from finetune.freezing import check_frozen, frozen_hashes, manifest, set_train_mode
from finetune.methods import FeatureExtraction, Full, LoRA, NormBias
from finetune.methods import lora as lora_module

FAMILIES = {
    "vit_tiny_patch16_224": {"img_size": 32, "patch_size": 8, "depth": 2},
    "swin_tiny_patch4_window7_224": {
        "img_size": 32, "window_size": 2, "embed_dim": 24, "depths": (1, 1), "num_heads": (1, 2),
    },
    "test_convnext": {},
    "test_resnet": {},
}  # fmt: skip


def build(name, **args):
    torch.manual_seed(0)
    return Timm(name=name, weights="none", args=FAMILIES.get(name, {}) | args).build(3)


def vit():
    return build("vit_tiny_patch16_224")


def learns(module):
    return set(manifest(module)["trainable"])


def train(module, inputs, updates=3, lr=0.05):
    learning = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=lr)
    labels = torch.arange(len(inputs["x"])) % 3
    for _ in range(updates):
        set_train_mode(module)
        optimizer.zero_grad()
        cross_entropy(module(**inputs), labels).backward()
        optimizer.step()


def test_full_trains_all_or_the_top_layers():
    network = vit()
    assert learns(Full().prepare(network)) == {n for n, _ in network.module.named_parameters()}
    layers = network.layers()
    assert learns(Full(train_layers=1).prepare(network)) == {"head.weight", "head.bias"}
    assert learns(Full(train_layers=2).prepare(network)) == {*layers[-2], *layers[-1]}


def test_more_layers_than_there_are_is_an_error_that_says_how_many():
    network = vit()
    with pytest.raises(RecipeError, match=f"train_layers=99.* has {len(network.layers())} layers"):
        Full(train_layers=99).prepare(network)


def test_layer_decay_falls_from_the_head_down():
    network = vit()
    layers = network.layers()
    scales = Full(layer_decay=0.5).lr_scales(network)
    assert scales["head.weight"] == 1.0
    assert [scales[layer[0]] for layer in layers] == [
        0.5**depth for depth in reversed(range(len(layers)))
    ]
    assert set(scales) == {n for n, _ in network.module.named_parameters()}
    assert set(Full().lr_scales(network).values()) == {1.0}


def test_layers_thaw_one_after_another_from_the_head_down():
    network = vit()
    layers = network.layers()
    starts = Full(unfreeze_epochs=2).start_epochs(network)
    assert starts["head.weight"] == 0
    assert [starts[layer[0]] for layer in layers] == [
        2.0 * depth for depth in reversed(range(len(layers)))
    ]
    assert set(Full().start_epochs(network).values()) == {0.0}


def test_frozen_batch_norm_in_full_fine_tuning():
    module = Full(freeze_norm=True).prepare(build("test_resnet"))
    frozen = frozen_hashes(module)
    train(module, {"x": torch.randn(4, 3, 32, 32)})
    check_frozen(module, frozen)
    assert "bn1.weight" not in learns(module) and "conv1.0.weight" in learns(module)


def test_norm_bias_trains_norms_biases_and_the_head_alone():
    names = learns(NormBias().prepare(vit()))
    assert {"head.weight", "blocks.0.norm1.weight", "blocks.0.attn.qkv.bias"} <= names
    assert not names & {"blocks.0.attn.qkv.weight", "pos_embed", "patch_embed.proj.weight"}
    resnet = NormBias().prepare(build("test_resnet"))
    assert {"bn1.weight", "bn1.bias", "fc.weight"} <= learns(resnet)
    assert "layer1.0.conv1.weight" not in learns(resnet)


def test_feature_extraction_leaves_the_head_alone_to_be_fitted():
    assert learns(FeatureExtraction().prepare(vit())) == {"head.weight", "head.bias"}


def test_strengths_are_read_from_text():
    assert FeatureExtraction.model_validate({"c": "0.1, 1,10"}).c == (0.1, 1.0, 10.0)
    assert FeatureExtraction.model_validate({"c": 2}).c == (2.0,)
    for wrong in ("", "0", "-1", "a", True, ()):
        with pytest.raises(ValidationError):
            FeatureExtraction.model_validate({"c": wrong})


@pytest.mark.parametrize("name", FAMILIES)
def test_lora_trains_saves_merges_and_loads_back(name, tmp_path):
    network = build(name)
    inputs = {"x": torch.randn(6, 3, 32, 32)}
    torch.manual_seed(1)
    module = LoRA(rank=2).prepare(network)
    facts = manifest(module)
    assert facts["trainable_parameters"] < 0.5 * facts["total_parameters"]
    frozen = frozen_hashes(module)
    untrained = module.eval()(**inputs)
    train(module, inputs)
    check_frozen(module, frozen)
    wanted = module.eval()(**inputs).detach()
    assert (wanted - untrained).abs().max() > 1e-3

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merged = LoRA().finish(module, inputs, tmp_path / "adapter", f"timm/{name}")
    assert merged is network.module
    fresh = build(name).module
    assert list(merged.state_dict()) == list(fresh.state_dict())
    torch.testing.assert_close(merged.eval()(**inputs), wanted, atol=1e-4, rtol=0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT looks for the public base on the hub
        again = PeftModel.from_pretrained(fresh, str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(again(**inputs), wanted, atol=1e-6, rtol=0)


def test_the_saved_adapter_names_no_local_path(tmp_path):
    module = LoRA().prepare(vit())
    inputs = {"x": torch.randn(1, 3, 32, 32)}
    LoRA().finish(module, inputs, tmp_path / "adapter", "timm/vit_tiny_patch16_224")
    files = {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()}
    assert set(files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert not any(str(tmp_path).encode() in content for content in files.values())
    config = json.loads(files["adapter_config.json"])
    assert config["base_model_name_or_path"] == "timm/vit_tiny_patch16_224"
    assert b"[More Information Needed]" not in files["README.md"]


def test_a_merge_that_changes_the_outputs_is_refused(tmp_path, monkeypatch):
    module = LoRA(rank=2).prepare(vit())
    inputs = {"x": torch.randn(6, 3, 32, 32)}
    train(module, inputs)
    monkeypatch.setattr(lora_module, "TOLERANCE", -1.0)
    with pytest.raises(TrainingError, match="Merging the adapter moves the logits"):
        LoRA().finish(module, inputs, tmp_path / "adapter", "timm/vit")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_the_head_is_trained_whole_and_in_float32():
    network = vit()
    network.module.bfloat16()
    module = LoRA(targets=".*").prepare(network)
    names = {name for name in learns(module) if "head" in name}
    assert len(names) == 2 and all("modules_to_save" in name for name in names)
    learning = [p for p in module.parameters() if p.requires_grad]
    assert all(p.dtype == torch.float32 for p in learning)


def test_lora_leaves_out_grouped_convolutions():
    module = LoRA(targets=r".*(conv_dw|fc1)").prepare(build("test_convnext"))
    assert not any("conv_dw" in name for name in learns(module))


def test_any_option_of_peft_goes_by_its_own_name(tmp_path):
    module = LoRA(rank=2, options={"use_dora": True, "bias": "lora_only"}).prepare(vit())
    assert any("lora_magnitude_vector" in name for name in learns(module))
    assert any(name.endswith("qkv.base_layer.bias") for name in learns(module))
    inputs = {"x": torch.randn(6, 3, 32, 32)}
    train(module, inputs)
    LoRA().finish(module, inputs, tmp_path / "adapter", "timm/vit")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (LoRA(targets="qkv"), r"targets='qkv' matches no module.*'\.\*qkv'.*blocks\.0\.attn\.qkv"),
        (LoRA(targets="head"), "matches no module"),
        (LoRA(targets="(qkv"), "is not a regular expression"),
        (LoRA(options={"use_dorra": True}), r"use_dorra.*Did you mean 'use_dora'"),
        (LoRA(options={"r": 4}), r"options\.r has a field of its own: give method\.rank"),
        (LoRA(options={"bias": "some"}), "PEFT does not take"),
        (LoRA(options={"init_lora_weights": "nonsense"}), "PEFT does not take"),
    ],
)
def test_what_lora_cannot_do_is_said(method, message):
    with pytest.raises(RecipeError, match=message):
        method.prepare(vit())


def test_a_model_without_a_plain_layer_to_adapt_is_refused():
    # NFNet standardises its convolutions' weights, so an update cannot be merged into them.
    with pytest.raises(RecipeError, match="matches no module"):
        LoRA(targets=r"stages\..*\.conv\d").prepare(build("test_nfnet"))
