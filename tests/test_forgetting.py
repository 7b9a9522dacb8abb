"""What fine-tuning cost on other data."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from test_evaluate import photos

from finetune import Run, finetune, forgetting
from finetune.backbones import Timm
from finetune.command import main
from finetune.errors import RecipeError

WEIGHTS = "model.safetensors"


def figure(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 40}


@pytest.mark.parametrize(
    ("gap", "said"), [((-0.2, -0.1), "has cost"), ((0.1, 0.2), "better"), ((-0.1, 0.2), "chance")]
)
def test_it_says_whether_it_may_be_chance(gap: tuple[float, float], said: str) -> None:
    difference = {"value": sum(gap) / 2, "low": gap[0], "high": gap[1], "n": 40}
    found = {"pretrained": figure(0.9), "finetuned": figure(0.8), "difference": difference}
    told = forgetting.sentence({"metric": "accuracy", **found})
    assert said in told and "90.0 %" in told and "80.0 %" in told
    # Of a loss, less is better.
    signs = {"has cost": "better", "better": "has cost", "chance": "chance"}
    assert signs[said] in forgetting.sentence({"metric": "-log_loss", **found})


def test_a_backbone_that_was_wiped_has_forgotten(
    digits_run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RecipeError, match="nothing to forget"):
        forgetting.measure(digits_run, tmp_path)
    data = photos(tmp_path / "photos", classes="0123", count=60)
    few = digits_run.recipe.override(
        "train.epochs=0", "train.batch_size=8", backbone=Timm(name=str(digits_run.model)),
        data={"kind": "image-folder", "path": str(data)},
    )  # fmt: skip
    run = finetune(few, tmp_path / "run")
    same = forgetting.measure(run, str(data))
    assert same["difference"]["value"] == 0 and same["pretrained"] == same["finetuned"]
    other = forgetting.measure(run, str(photos(tmp_path / "other", classes="56", count=60)))
    assert other["difference"]["value"] == 0 and other["pretrained"]["n"] > 0
    shutil.copytree(run.path, tmp_path / "wiped")
    path = tmp_path / "wiped" / "model" / WEIGHTS
    weights = load_file(path)
    save_file({name: tensor * 0 for name, tensor in weights.items()}, path, {"format": "pt"})
    wiped = Run.load(tmp_path / "wiped")
    found = forgetting.measure(wiped, str(data))
    assert found["difference"]["high"] < 0
    assert main(["evaluate", f"run={run.path}", f"forgetting={data}"]) == 0
    assert "no forgetting is shown" in " ".join(capfd.readouterr().out.split())
