"""Kept activations of the frozen layers: the same losses, without computing them again."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch
from torch import nn

from finetune.backbones import Timm
from finetune.boundary import Activations, cached
from finetune.freezing import Frozen, set_train_mode
from finetune.methods import Full, LoRA

KEY = {"data": "noise"}
FAMILIES = {
    "vit_tiny_patch16_224": ({"img_size": 32, "patch_size": 8, "depth": 4}, 3),
    "swin_tiny_patch4_window7_224": (
        {"img_size": 64, "window_size": 2, "embed_dim": 24, "depths": (1, 1), "num_heads": (1, 1)},
        2,
    ),
    "test_convnext": ({}, 3),
    "test_resnet": ({}, 2),
    "test_efficientnet": ({}, 2),
    # Its blocks start with a path around them that a weight of 0 hides at first.
    "test_nfnet": ({}, 2),
    "test_vit2": ({"img_size": 32}, 3),
}


class Noise:
    """Fixed images, which count how often they are read."""

    def __init__(self, size, samples=24):
        self.images = torch.randn(
            samples, 3, size, size, generator=torch.Generator().manual_seed(1)
        )
        self.reads = 0

    def __len__(self):
        return len(self.images)

    def read(self, indices, epoch):
        self.reads += 1
        return {"image": self.images[torch.from_numpy(np.asarray(indices))]}

    def finish(self, raw):
        return {"x": raw["image"]}


def prepared(name, **more):
    args, top = FAMILIES[name]
    torch.manual_seed(0)
    network = Timm(name=name, weights="none", args=args | more).build(3)
    return Full(train_layers=top).prepare(network), Noise(args.get("img_size", 64))


def train(module, source, precision="no", epochs=3):
    """Return all losses of a short training; the last batch of an epoch is smaller."""
    labels = torch.arange(len(source)) % 3
    learning = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-3)
    losses = []
    torch.manual_seed(2)
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(source))
        for start in range(0, len(order), 10):
            rows = order[start : start + 10]
            set_train_mode(module)
            inputs = source.finish(source.read(rows, epoch))
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                outputs = module(**inputs).float()
            loss = nn.functional.cross_entropy(outputs, labels[torch.from_numpy(rows)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", FAMILIES)
def test_the_losses_are_the_same(name, tmp_path):
    wanted = train(*prepared(name))
    module, source = prepared(name)
    frozen = Frozen.of(module)
    kept, sentence = cached(module, source, tmp_path, KEY, batch_size=10)
    assert "are kept on disk" in sentence
    reads = source.reads
    losses = train(module, kept)
    assert source.reads == reads, "an epoch reads no image"
    np.testing.assert_allclose(losses, wanted, atol=1e-6, rtol=0)
    frozen.check(module)


def test_the_losses_are_the_same_in_bf16_and_channels_last(tmp_path):
    found = []
    for keep in (False, True):
        module, source = prepared("test_resnet")
        module.to(memory_format=torch.channels_last)
        if keep:
            source, _ = cached(module, source, tmp_path, KEY, batch_size=10, precision="bf16")
            activation = source.read(np.arange(4), 0)["boundary"]
            assert activation.dtype == torch.bfloat16
            assert activation.is_contiguous(memory_format=torch.channels_last)
        found.append(train(module, source, "bf16"))
    np.testing.assert_allclose(found[1], found[0], atol=1e-6, rtol=0)


class Turned(nn.Module):
    """A frozen body whose output lies in memory with its axes turned, and a mean over them."""

    def __init__(self):
        super().__init__()
        self.body, self.top = nn.Conv1d(1, 6, 3, padding=1), nn.Linear(6, 2)
        self.turn = nn.Identity()

    def forward(self, x):
        return self.top(self.turn(self.body(x[:, None]).transpose(1, 2)).mean(1))


def test_activations_lie_in_memory_as_they_did(tmp_path):
    # The order of a sum, and with it the last bit, follows the memory.
    module = Turned()
    module.body.requires_grad_(False)
    kept, _ = cached(module, Vectors(), tmp_path, KEY)
    activation = kept.read(np.arange(5), 0)["boundary"]
    assert activation.shape == (5, 4, 6) and activation.stride() == (24, 1, 4)


def test_the_frozen_layers_are_not_computed_again(tmp_path):
    module, source = prepared("vit_tiny_patch16_224")
    kept, sentence = cached(module, source, tmp_path, KEY)
    assert "up to blocks.1 " in sentence
    calls = []
    for block in module.blocks:
        block.attn.register_forward_hook(lambda part, *_: calls.append(part))
    module(**kept.finish(kept.read(np.arange(3), 0)))
    assert calls == [module.blocks[2].attn, module.blocks[3].attn]


def test_all_other_calls_of_the_module_are_as_before(tmp_path):
    module, source = prepared("vit_tiny_patch16_224")
    images = torch.randn(2, 3, 32, 32)
    names = list(module.state_dict())
    wanted = module.eval()(images)
    kept, _ = cached(module, source, tmp_path, KEY)
    module(**kept.finish(kept.read(np.arange(3), 0)))
    module.eval()
    assert torch.equal(module(images), wanted)
    assert torch.equal(module.forward_head(module.forward_features(images)), wanted)
    assert list(module.state_dict()) == names


def test_a_copy_of_the_module_stands_on_its_own(tmp_path):
    module, source = prepared("vit_tiny_patch16_224")
    kept, _ = cached(module, source, tmp_path, KEY)
    twin = copy.deepcopy(module)
    batch = kept.finish(kept.read(np.arange(3), 0))
    wanted = module.eval()(**batch)
    assert torch.equal(twin.eval()(**batch), wanted)
    with torch.no_grad():
        for parameter in module.blocks[:2].parameters():
            parameter.zero_()
    images = source.finish(source.read(np.arange(3), 0))
    torch.testing.assert_close(twin(**images), wanted)


def test_the_file_is_read_back_by_the_next_run(tmp_path):
    module, source = prepared("vit_tiny_patch16_224")
    first, _ = cached(module, source, tmp_path, KEY)
    module, source = prepared("vit_tiny_patch16_224")
    second, _ = cached(module, source, tmp_path, KEY)
    assert source.reads == 2, "only the samples that find the boundary"
    assert torch.equal(first.kept, second.kept)
    with torch.no_grad():
        module, source = prepared("vit_tiny_patch16_224")
        module.pos_embed += 0.1
    third, _ = cached(module, source, tmp_path, KEY)
    assert not torch.equal(first.kept, third.kept)
    files = [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
    assert len(files) == 2


def test_activations_do_not_depend_on_a_broken_off_run(tmp_path):
    module, source = prepared("test_convnext")
    first, _ = cached(module, source, tmp_path, KEY)
    wanted = first.kept.clone()
    (path,) = [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
    path.write_bytes(path.read_bytes()[:-8])
    module, source = prepared("test_convnext")
    second, _ = cached(module, source, tmp_path, KEY)
    assert torch.equal(second.kept, wanted)


def test_two_at_once_compute_once(tmp_path):
    found = []

    def run(module, source):
        kept, _ = cached(module, source, tmp_path, KEY)
        found.append((kept, source.reads))

    threads = [
        threading.Thread(target=run, args=prepared("vit_tiny_patch16_224")) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reads for _, reads in found) == [2, 3]
    assert torch.equal(found[0][0].kept, found[1][0].kept)


def refused(module, source, folder, reason, **options):
    before = set(vars(module.get_submodule(next(n for n, _ in module.named_children()))))
    kept, sentence = cached(module, source, folder, KEY, **options)
    assert kept is source
    assert reason in sentence
    assert not any("forward" in vars(part) for part in module.modules())
    assert set(vars(next(module.children()))) == before
    assert not folder.exists() or not [p for p in folder.iterdir() if p.suffix != ".lock"]


def test_dropout_below_the_boundary_is_refused(tmp_path):
    module, source = prepared("vit_tiny_patch16_224", pos_drop_rate=0.5)
    refused(module, source, tmp_path, "dropout acts in the frozen part")


def test_dropout_in_frozen_blocks_is_held_still_and_does_no_harm(tmp_path):
    module, source = prepared("vit_tiny_patch16_224", proj_drop_rate=0.5, drop_path_rate=0.3)
    _, sentence = cached(module, source, tmp_path, KEY)
    assert "are kept" in sentence


def test_too_little_room_is_said_with_figures(tmp_path):
    module, source = prepared("vit_tiny_patch16_224")
    reason = "they need 0.000313 GB, and 1e-06 GB are allowed"
    refused(module, source, tmp_path, reason, limit_bytes=1000)


def test_a_full_disk_leaves_the_source_as_it_is(tmp_path, monkeypatch):
    import os

    def full(*_):
        raise OSError(28, "No space left on device")

    module, source = prepared("vit_tiny_patch16_224")
    monkeypatch.setattr(os, "replace", full)
    refused(module, source, tmp_path, "No space left on device")


def test_where_everything_learns_there_is_no_boundary(tmp_path):
    network = Timm(name="test_resnet", weights="none").build(3)
    refused(Full().prepare(network), Noise(64), tmp_path, "no frozen boundary")


def test_updates_of_every_layer_leave_too_little_below(tmp_path):
    args, _ = FAMILIES["vit_tiny_patch16_224"]
    network = Timm(name="vit_tiny_patch16_224", weights="none", args=args).build(3)
    refused(LoRA(rank=2).prepare(network), Noise(32), tmp_path, "no frozen boundary")


def test_a_parameter_of_the_model_itself_has_no_place_in_the_order(tmp_path):
    module, source = prepared("vit_tiny_patch16_224")
    module.pos_embed.requires_grad_(True)
    refused(module, source, tmp_path, "no frozen boundary")


class Flipped(Noise):
    """Images that are another way round in every second epoch."""

    def read(self, indices, epoch):
        image = super().read(indices, epoch)["image"]
        return {"image": image.flip(3) if epoch % 2 else image}


def test_inputs_that_change_from_epoch_to_epoch_are_noticed(tmp_path):
    module, _ = prepared("vit_tiny_patch16_224")
    refused(module, Flipped(32), tmp_path, "the inputs differ between epochs")


def test_gradient_checkpointing_goes_without(tmp_path):
    module, source = prepared("vit_tiny_patch16_224")
    module.set_grad_checkpointing(True)
    refused(module, source, tmp_path, "gradient checkpointing")


class Around(nn.Module):
    """A frozen stem whose input is used again at the very end, through a gate that is shut."""

    def __init__(self):
        super().__init__()
        self.stem, self.middle = nn.Linear(4, 4), nn.Linear(4, 4)
        self.top = nn.Linear(4, 4)
        self.gate = nn.Parameter(torch.zeros(4), requires_grad=False)

    def forward(self, x):
        first = self.stem(x)
        return self.top(self.middle(first)) + self.gate * first


class Vectors:
    """Fixed vectors, and token-like integers beside them."""

    def __init__(self, tokens=False):
        self.rows = torch.randn(12, 4)
        self.tokens = tokens

    def __len__(self):
        return len(self.rows)

    def read(self, indices, epoch):
        return {"x": self.rows[torch.from_numpy(np.asarray(indices))]}

    def finish(self, raw):
        mask = {"mask": (raw["x"][:, 0] > 0).long()} if self.tokens else {}
        return raw | mask


def test_a_path_around_the_boundary_is_seen_even_through_a_shut_gate(tmp_path):
    module = Around()
    for part in (module.stem, module.middle):
        part.requires_grad_(False)
    kept, sentence = cached(module, Vectors(), tmp_path, KEY)
    assert isinstance(kept, Activations), sentence
    assert "up to stem " in sentence


class Masked(nn.Module):
    """A frozen embedding, and a mask that the top reads too."""

    def __init__(self):
        super().__init__()
        self.body, self.top = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 2)

    def forward(self, x, mask):
        return self.top(self.body(x) * mask[:, None])


def test_tokens_and_masks_reach_what_lies_above(tmp_path):
    module, source = Masked(), Vectors(tokens=True)
    module.body.requires_grad_(False)
    rows = np.arange(12)
    wanted = module(**source.finish(source.read(rows, 0)))
    kept, _ = cached(module, source, tmp_path, KEY)
    assert isinstance(kept, Activations)
    torch.testing.assert_close(module(**kept.finish(kept.read(rows, 0))), wanted)
