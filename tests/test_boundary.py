"""Kept activations of the frozen layers: the same losses, without computing them again."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch
import toy
from conftest import TINY_VIT
from torch import nn

from finetune import (
    Augmentation,
    Full,
    LoRA,
    Timm,
    boundary,
    build,
    extraction,
    finetune,
)
from finetune.boundary import cached
from finetune.environment import accelerator
from finetune.folder import opened
from finetune.freezing import check_frozen, frozen_hashes, set_train_mode
from finetune.loop import Fit
from finetune.relay import NoBoundary, NotKept
from recipes.vit_digits import recipe as digits

FAMILIES = {
    "vit_tiny_patch16_224": ({"img_size": 16, "patch_size": 8, "depth": 4}, 3),
    "swin_tiny_patch4_window7_224": (
        {"img_size": 32, "window_size": 2, "embed_dim": 24, "depths": (1, 1), "num_heads": (1, 1)},
        2,
    ),
    "test_convnext": ({}, 3),
    "test_resnet": ({}, 2),
    "test_efficientnet": ({}, 2),
    # Its blocks start with a path around them that a weight of 0 hides at first.
    "test_nfnet": ({}, 2),
    "test_vit2": ({"img_size": 32}, 3),
}
VIT = "vit_tiny_patch16_224"


class Noise:
    """Fixed images, which count how often they are read."""

    lengths = None

    def __init__(self, size, samples=24):
        random = torch.Generator().manual_seed(1)
        self.images = torch.randn(samples, 3, size, size, generator=random)
        self.reads = 0

    def __len__(self):
        return len(self.images)

    def read(self, indices, epoch):
        self.reads += 1
        return {"image": self.images[torch.from_numpy(indices)]}

    def finish(self, raw):
        return {"x": raw["image"]}


def prepared(name=VIT, method=None, **more):
    args, top = FAMILIES[name]
    torch.manual_seed(0)
    network = Timm(name=name, weights="none", args=args | more).build(3)
    module = (method or Full(train_layers=top)).prepare(network)
    return module, Noise(args.get("img_size", 64))


def keep(module, source, folder, precision="no"):
    sources = {"train": (source, 10)}
    relay, kept = cached(module, sources, folder, {}, torch.device("cpu"), precision)
    return relay, kept["train"]


def replay(module, source, rows=3):
    return module(**source.finish(source.read(np.arange(rows), 0)))


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
    frozen = frozen_hashes(module)
    _, kept = keep(module, source, tmp_path)
    reads = source.reads
    losses = train(module, kept)
    assert source.reads == reads, "an epoch reads no image"
    np.testing.assert_allclose(losses, wanted, atol=1e-6, rtol=0)
    check_frozen(module, frozen)


def test_the_losses_are_the_same_in_bf16_and_channels_last(tmp_path):
    found = []
    for with_kept in (False, True):
        module, source = prepared("test_resnet")
        module.to(memory_format=torch.channels_last)
        if with_kept:
            _, source = keep(module, source, tmp_path, "bf16")
            activation = source.read(np.arange(4), 0)["boundary"]
            assert activation.dtype == torch.bfloat16
            assert activation.is_contiguous(memory_format=torch.channels_last)
        found.append(train(module, source, "bf16"))
    np.testing.assert_allclose(found[1], found[0], atol=1e-6, rtol=0)


class Vectors:
    """Fixed vectors, and token-like integers beside them."""

    lengths = None

    def __init__(self, tokens=False):
        self.rows = torch.randn(12, 4)
        self.tokens = tokens

    def __len__(self):
        return len(self.rows)

    def read(self, indices, epoch):
        return {"x": self.rows[torch.from_numpy(indices)]}

    def finish(self, raw):
        mask = {"mask": (raw["x"][:, 0] > 0).long()} if self.tokens else {}
        return raw | mask


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
    _, kept = keep(module, Vectors(), tmp_path)
    activation = kept.read(np.arange(5), 0)["boundary"]
    assert activation.shape == (5, 4, 6) and activation.stride() == (24, 1, 4)


def test_frozen_layers_are_skipped_and_all_other_calls_are_as_before(tmp_path):
    module, source = prepared()
    images = source.images[:2]
    names, wanted = list(module.state_dict()), module.eval()(images)
    relay, kept = keep(module, source, tmp_path)
    assert relay.boundary == "blocks.1"
    calls = []
    hooks = [
        block.attn.register_forward_hook(lambda part, *_: calls.append(part))
        for block in module.blocks
    ]
    replay(module, kept)
    assert calls == [module.blocks[2].attn, module.blocks[3].attn]
    for hook in hooks:
        hook.remove()
    module.eval()
    assert torch.equal(module(images), wanted)
    assert torch.equal(module.forward_head(module.forward_features(images)), wanted)
    assert list(module.state_dict()) == names
    relay.remove()
    assert torch.equal(module(images), wanted) and is_untouched(module)


def is_untouched(module):
    return not module._forward_pre_hooks and not any("relay" in vars(m) for m in module.modules())


def test_a_copy_of_the_module_stands_on_its_own(tmp_path):
    module, source = prepared()
    _, kept = keep(module, source, tmp_path)
    twin = copy.deepcopy(module)
    wanted = replay(module.eval(), kept)
    assert torch.equal(replay(twin.eval(), kept), wanted)
    with torch.no_grad():
        for parameter in module.blocks[:2].parameters():
            parameter.zero_()
    torch.testing.assert_close(twin(source.images[:3]), wanted)


def files(folder):
    return [path for path in folder.iterdir() if path.suffix != ".lock"]


def test_the_file_is_read_back_unless_it_is_torn_or_of_other_weights_or_code(tmp_path):
    module, source = prepared()
    relay, first = keep(module, source, tmp_path)
    wanted = first.stored.clone()
    relay.remove()
    computed = source.reads
    relay, second = keep(module, source, tmp_path)
    assert source.reads == computed + 3, "only the samples that find the boundary and check it"
    assert torch.equal(second.stored, wanted)
    relay.remove()
    (path,) = files(tmp_path)
    for damage in (path.read_bytes()[:-8], bytes(path.stat().st_size)):
        path.write_bytes(damage)
        relay, again = keep(module, source, tmp_path)
        assert torch.equal(again.stored, wanted)
        relay.remove()
    module.blocks[0].mlp.act = nn.ReLU()  # has no weight that would change the key
    relay, other = keep(module, source, tmp_path)
    assert not torch.equal(other.stored, wanted) and len(files(tmp_path)) == 1
    relay.remove()
    with torch.no_grad():
        module.pos_embed += 0.1
    keep(module, source, tmp_path)
    assert len(files(tmp_path)) == 2


def test_two_at_once_compute_once(tmp_path):
    found = []

    def run(module, source):
        _, kept = keep(module, source, tmp_path)
        found.append((kept, source.reads))

    threads = [threading.Thread(target=run, args=prepared()) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reads for _, reads in found) == [3, 6]
    assert torch.equal(found[0][0].stored, found[1][0].stored)


def refused(module, source, folder, reason, kind=NotKept):
    with pytest.raises(kind, match=reason):
        keep(module, source, folder)
    assert is_untouched(module)
    assert not folder.exists() or not files(folder)


def test_dropout_at_the_boundary_is_refused_and_held_still_in_frozen_blocks(tmp_path):
    refused(*prepared(pos_drop_rate=0.5), tmp_path, "dropout acts in the frozen part")
    keep(*prepared(proj_drop_rate=0.5, drop_path_rate=0.3), tmp_path)


def test_too_little_room_is_said_with_figures(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_CACHE_GB", "1e-5")
    refused(*prepared(), tmp_path, "they need 9.22e-05 GB, and 1e-05 GB are allowed", OSError)


def test_the_files_used_least_recently_make_room(tmp_path, monkeypatch):
    module, source = prepared()
    relay, _ = keep(module, source, tmp_path)
    relay.remove()
    (old,) = files(tmp_path)
    monkeypatch.setenv("FINETUNE_CACHE_GB", "1e-4")
    with torch.no_grad():
        module.pos_embed += 0.1
    keep(module, source, tmp_path)
    assert len(files(tmp_path)) == 1 and not old.exists()


def test_a_full_disk_leaves_everything_as_it_was(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    refused(*prepared(), tmp_path, "No space left on device", OSError)


@pytest.mark.parametrize("method", [Full(), LoRA(rank=2)])
def test_where_all_layers_learn_there_is_no_boundary(method, tmp_path):
    refused(*prepared(method=method), tmp_path, "no frozen boundary", NoBoundary)


def test_a_parameter_of_the_model_itself_has_no_place_in_the_order(tmp_path):
    module, source = prepared()
    module.pos_embed.requires_grad_(True)
    refused(module, source, tmp_path, "no frozen boundary", NoBoundary)


class Flipped(Noise):
    """Images that are another way round in every second epoch."""

    def read(self, indices, epoch):
        image = super().read(indices, epoch)["image"]
        return {"image": image.flip(3) if epoch % 2 else image}


def test_inputs_that_change_from_epoch_to_epoch_are_noticed(tmp_path):
    module, _ = prepared()
    refused(module, Flipped(16), tmp_path, "the inputs differ between epochs")


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


def test_a_path_around_the_boundary_is_seen_even_through_a_shut_gate(tmp_path):
    module = Around()
    for part in (module.stem, module.middle):
        part.requires_grad_(False)
    relay, _ = keep(module, Vectors(), tmp_path)
    assert relay.boundary == "stem"


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
    wanted = replay(module, source, 12)
    _, kept = keep(module, source, tmp_path)
    torch.testing.assert_close(replay(module, kept, 12), wanted)


def top_of_digits(*texts):
    return digits.override(
        *TINY_VIT, "method.train_layers=3", "method.start=linear-probe", "train.precision=no",
        "train.ema=0.9", "data.shots=30", "task.augmentation.crop=none",
        "task.augmentation.flip=0", "train.epochs=2",
    ).override(*texts)  # fmt: skip


def test_a_run_reads_frozen_layers_back_and_comes_to_the_same(tmp_path):
    recipe = top_of_digits()
    run = finetune(recipe, tmp_path / "kept")
    assert (
        "Activations of the frozen layers up to blocks.0 are kept on disk." in (run.result["notes"])
    )
    assert set(run.result["round_trip"]["largest_difference"]) == {"timm", "transformers"}
    with opened(tmp_path / "plain", recipe) as folder:
        hold = accelerator("no")
        job = build.job(recipe)
        extraction.fit_probe(job, hold.device, "no")
        Fit(job, folder, hold).run()
    assert toy.difference(toy.weights(run.path), job.module.state_dict()) < 1e-6
    for one, other in zip(toy.log(run.path), toy.log(tmp_path / "plain"), strict=True):
        for name in one.keys() - {"validation"}:
            assert one[name] == pytest.approx(other[name], abs=1e-6), name
        if "validation" in one:
            assert one["validation"] == pytest.approx(other["validation"], abs=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("task.augmentation.mixup=0.2", None),
        ("train.compile=true", None),
        ("method.train_layers=5", None),
        ("train.gradient_checkpointing=true", "gradient checkpointing computes them anew"),
        ("method=norm-bias", None),
    ],
)
def test_a_job_without_a_boundary_is_lent_as_it_is(change, said):
    job = build.job(top_of_digits(change))
    with boundary.replayed(job, torch.device("cpu"), "no") as (lent, sentence):
        assert lent is job
        assert sentence == (said and f"Frozen activations are not kept: {said}.")


def test_augmentation_is_off_only_if_nothing_is_drawn():
    off = Augmentation(crop="none", flip=0)
    assert off.is_off
    for change in ({"crop": "pad"}, {"flip": 0.5}, {"rand_augment": 1}, {"mixup": 0.1},
                   {"cutmix": 0.1}, {"erasing": 0.1}):  # fmt: skip
        assert not off.model_copy(update=change).is_off
