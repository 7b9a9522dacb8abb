"""The dry run: what is counted is what a run has, and nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_VIT
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from toy import Convolutions, Net, stripes

from finetune import BackboneError, Recipe, RecipeError, api, build, estimate, optim, show
from finetune.command import main
from recipes.vit_cifar import recipe as vit_cifar
from recipes.vit_digits import recipe as vit_digits

TINY = vit_digits.override(*TINY_VIT, "train.precision=no")


def shown(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["show", *arguments]) == 0
    out = capfd.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    return out


def line(out: str, key: str) -> str:
    """Return the line that begins with `key`, blanks made single."""
    [found] = [row for row in out.splitlines() if row.startswith(f"{key} ")]
    return " ".join(found.split())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


def test_everything_that_a_run_would_do(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    overrides = [*TINY_VIT, "train.epochs=3", "train.micro_batch_size=8"]
    out = shown(capfd, "recipe=vit-digits", *overrides)
    assert line(out, "train.epochs") == "train.epochs 3 command line"
    assert line(out, "train.lr") == "train.lr 0.001 recipe"
    assert line(out, "train.seed") == "train.seed 0"
    assert line(out, "rows") == "rows train 1,079, validation 359, test 359"
    assert line(out, "classes") == "classes 10: 0, 1, 2, 3, 4, 5, 6, 7 and 2 more"
    assert line(out, "updates") == "updates 34 an epoch, 102 in all, 10 of them warm-up"
    assert line(out, "input") == "input x 8 × 3 × 16 × 16"
    assert line(out, "features") == "features 8 × 48"
    assert line(out, "outputs") == "outputs 8 × 10"
    assert line(out, "batch") == "batch 32 samples an update, in 4 passes of 8"
    count = sum(p.numel() for p in build.job(TINY).module.parameters())
    assert line(out, "parameters") == f"parameters {count:,} learn of {count:,} (100 %)"
    assert "by estimate (weights " in line(out, "peak memory")
    assert line(out, "head") == "head 490 490 0.001"
    assert line(out, "blocks.1").endswith("0.000722")
    recipe = vit_digits.override(*overrides)
    assert line(out, "run folder") == f"run folder runs/vit-digits-{recipe.digest}"


def test_a_hub_recipe_is_shown_offline(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = shown(capfd, "recipe=vit-cifar", "method=lora", "method.rank=4")
    assert "not to be had here" in line(out, "data")
    assert "uoft-cs/cifar10 is not in the cache" in " ".join(out.split())
    assert line(out, "input") == "input x 512 × 3 × 224 × 224"
    assert line(out, "outputs") == "outputs 512 × 2, until the data tells"
    assert line(out, "method.rank") == "method.rank 4 command line"
    assert line(out, "blocks.0") == "blocks.0 1,774,464 – –"
    # qkv and proj of 12 blocks, and the head.
    learned = 12 * 4 * (384 + 3 * 384 + 384 + 384) + 2 * 384 + 2
    assert f"{learned:,} learn of" in out
    assert line(out, "added by lora").startswith(f"added by lora {learned:,} {learned:,}")


def test_a_folder_that_is_not_there_is_said(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = shown(capfd, "recipe=convnext-imagefolder", *TINY_VIT[:3], "data=./[red]photos")
    assert "There is no such path ./[red]photos" in " ".join(out.split())
    assert line(out, "data.path") == "data.path ./[red]photos command line"
    assert "parameters" in out


def test_feature_extraction_fits_its_head(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = shown(capfd, "recipe=vit-digits", *TINY_VIT, "method=features")
    head = [row for row in out.splitlines() if row.startswith("head ")]
    assert " ".join(head[0].split()) == "head fitted on frozen features, 7 strengths tried"
    assert " ".join(head[1].split()) == "head 490 490 fitted"
    assert "gradients" not in out
    assert "updates" not in out


def test_mistakes_are_those_of_a_run(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BackboneError, match="Did you mean 'vit_small_patch16_224"):
        api.show(vit_cifar.override("backbone.name=vit_smal_patch16_224"))
    with pytest.raises(BackboneError, match="there is no file"):
        api.show(TINY.override("backbone.weights=./none.safetensors"))
    with pytest.raises(RecipeError, match=r"train\.batch_size=2000 is more than the 1079 rows"):
        api.show(TINY.override("train.batch_size=2000"))
    with pytest.raises(RecipeError, match="matches no module of this backbone"):
        api.show(TINY.override("method=lora", "method.targets=nothing"))
    assert main(["show", "recipe=vit-digits", "train.batch_size=2000"]) == 2
    assert "Allowed: 1 to 1079." in capfd.readouterr().err


def test_a_finished_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("runs") / f"vit-digits-{TINY.digest}"
    folder.mkdir(parents=True)
    api.show(TINY)
    assert "begun already" in line(capfd.readouterr().out, "run folder")
    (folder / "result.json").write_text("{}")
    api.show(TINY)
    assert "finished already" in line(capfd.readouterr().out, "run folder")


@pytest.mark.parametrize("make", [Net, Convolutions])
def test_a_model_of_a_script_is_shown(
    make: type[nn.Module], here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    api.show(stripes(make))
    out = capfd.readouterr().out
    assert line(out, "classes") == "classes 3: across, down, plain"
    assert "activations" in " ".join(out.split())


def kept(module: nn.Module, inputs: dict[str, torch.Tensor], precision: str) -> int:
    """Return the bytes that autograd really keeps for the backward pass, inputs counted."""
    weights = {p.data_ptr() for p in module.parameters()}
    held: dict[int, int] = {}
    tensors = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            tensors.append(tensor)
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    module.train()
    cast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with cast, saved_tensors_hooks(keep, lambda tensor: tensor):
        output = module(**inputs)
    assert output.requires_grad
    return sum(held.values())


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize(
    "recipe",
    [
        TINY,
        TINY.override("method=full", "method.train_layers=2"),
        TINY.override("method=lora"),
        TINY.override("train.optimizer=sgd"),
    ],
    ids=["full", "top", "lora", "sgd"],
)
def test_memory_is_what_tensors_really_take(recipe: Recipe, precision: str) -> None:
    parts = counted(recipe, precision)
    job = build.job(recipe)
    learned = sum(p.numel() for p in job.module.parameters() if p.requires_grad)
    assert parts["weights"] == 4 * sum(p.numel() for p in job.module.parameters())
    assert parts["gradients"] == 4 * learned
    inputs = job.network.inputs.blank(4)
    optimizer = optim.build(job.module, recipe.train, {})
    real = kept(job.module, inputs, precision)
    job.module(**inputs).sum().backward()
    optimizer.step()
    state = [t for s in optimizer.state.values() for t in s.values() if isinstance(t, torch.Tensor)]
    assert parts["optimizer"] == sum(t.numel() * t.element_size() for t in state)
    assert parts["activations"] == pytest.approx(real, rel=0.03, abs=4 * 3 * 16 * 16 * 4 + 1000)


def counted(recipe: Recipe, precision: str) -> dict[str, Any]:
    outlined = show.outline(recipe)
    network = outlined.network
    assert network is not None
    cpu = torch.device("cpu")
    network.tune_for(cpu, precision)
    with torch.device("meta"):
        module = recipe.method.prepare(network)
    return estimate.memory(
        module, network, recipe.train, {},
        device=cpu, precision=precision, batch_size=4, descends=True,
    )  # fmt: skip


def test_what_cannot_be_counted_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    class Looks(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * float(x.max())

    api.show(stripes(Looks))
    out = " ".join(capfd.readouterr().out.split())
    assert "features not known: the forward pass of this model looks at values" in out
    assert "not counted: activations" in out
