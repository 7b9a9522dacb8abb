"""Frozen means bit-identical: weights, and the statistics of BatchNorm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from finetune.backbones import Timm
from finetune.errors import TrainingError
from finetune.freezing import (
    check_frozen,
    digest,
    freeze_batch_norm,
    frozen_hashes,
    manifest,
    norm_parameters,
    set_train_mode,
)
from finetune.methods import Full


def resnet():
    torch.manual_seed(0)
    return Timm(name="test_resnet", weights="none").build(3)


def train(module):
    set_train_mode(module)
    learning = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.1)
    module(torch.randn(4, 3, 32, 32)).square().mean().backward()
    optimizer.step()


def test_the_manifest_counts_and_names_what_learns():
    network = resnet()
    module = Full(train_layers=1).prepare(network)
    facts = manifest(module)
    assert facts["trainable"] == ["fc.weight", "fc.bias"]
    assert facts["trainable_parameters"] == 3 * 96 + 3
    assert facts["total_parameters"] == sum(p.numel() for p in module.parameters())


def test_frozen_parts_stay_bit_identical_in_training():
    module = Full(train_layers=2).prepare(resnet())
    frozen = frozen_hashes(module)
    before = {name: digest(tensor) for name, tensor in module.state_dict().items()}
    train(module)
    check_frozen(module, frozen)
    moved = {n for n, tensor in module.state_dict().items() if digest(tensor) != before[n]}
    assert {name.split(".")[0] for name in moved} == {"layer4", "fc"}
    assert "bn1.running_mean" in frozen
    assert "layer4.0.bn1.running_mean" not in frozen


def test_one_altered_weight_fails_the_check_by_name():
    module = Full(train_layers=2).prepare(resnet())
    frozen = frozen_hashes(module)
    with torch.no_grad():
        module.layer1[0].conv1.weight[0, 0, 0, 0] += 1e-6
    with pytest.raises(TrainingError, match=r"have moved in training: layer1\.0\.conv1\.weight\."):
        check_frozen(module, frozen)


def test_one_altered_buffer_fails_the_check_by_name():
    module = Full(train_layers=2).prepare(resnet())
    frozen = frozen_hashes(module)
    module.layer1[0].bn1.running_mean[0] += 1e-6
    with pytest.raises(TrainingError, match=r"moved in training: layer1\.0\.bn1\.running_mean\."):
        check_frozen(module, frozen)


def test_plain_train_mode_is_caught():
    module = Full(train_layers=2).prepare(resnet())
    frozen = frozen_hashes(module)
    module.train()(torch.randn(4, 3, 32, 32))
    with pytest.raises(TrainingError, match=r"running_mean.* and \d+ more"):
        check_frozen(module, frozen)


def test_train_mode_holds_frozen_norms_and_dropout():
    module = nn.Sequential(
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False), nn.Dropout(0.5)),
        nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)),
    )
    module[0].requires_grad_(False)
    set_train_mode(module)
    assert not any(part.training for part in module[0].modules())
    assert all(part.training for part in module[1].modules())
    module.requires_grad_(True)
    set_train_mode(module)
    assert all(part.training for part in module.modules())


def test_a_norm_without_parameters_goes_with_what_is_around_it():
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2))
    module[0].requires_grad_(False)
    set_train_mode(module)
    assert module.training and not module[1].training


def test_frozen_batch_norm_keeps_its_statistics_while_all_else_learns():
    module = resnet().module
    freeze_batch_norm(module)
    frozen = frozen_hashes(module)
    assert {"bn1.weight", "bn1.running_var", "bn1.num_batches_tracked"} <= set(frozen)
    train(module)
    check_frozen(module, frozen)


def test_norm_parameters_of_every_kind_are_found():
    for name, expected in [
        ("test_vit", "blocks.0.norm1.weight"),
        ("test_resnet", "layer1.0.bn1.bias"),
        ("test_convnext", "stages.0.blocks.0.norm.weight"),
    ]:
        module = Timm(name=name, weights="none").build(3).module
        found = norm_parameters(module)
        assert expected in found
        assert not any(
            name.endswith(("conv1.weight", "qkv.weight", "fc1.weight")) for name in found
        )


def test_a_hash_does_not_depend_on_the_memory_format():
    tensor = torch.randn(2, 3, 4, 5)
    assert digest(tensor) == digest(tensor.to(memory_format=torch.channels_last))
    assert digest(tensor) != digest(tensor.reshape(3, 2, 4, 5))
    assert digest(torch.zeros(())) != digest(torch.zeros((), dtype=torch.int64))
    assert digest(tensor.bfloat16()) != digest(tensor)
