"""Between pretrained and fine-tuned weights, where validation is best."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import toy

from finetune import Full, api, finetune, wise
from recipes.vit_digits import recipe as digits


def test_digits_keep_the_best_weights_on_the_way(tmp_path: Path) -> None:
    few = ("data.shots=15", "data.validation=0.1", "train.epochs=1", "train.lr=2e-3")
    recipe = digits.override("method.wise=true", *few)
    run = finetune(recipe, tmp_path / "run")
    found = run.result["training"]["wise"]
    values = {point["alpha"]: point["value"] for point in found["curve"]}
    assert tuple(values) == wise.ALPHAS and values[found["alpha"]] == max(values.values())
    assert run.result["validation"]["accuracy"]["value"] == values[found["alpha"]]
    assert wise.sentence(found) in run.result["notes"]
    assert "WiSE-FT" in (run.path / "README.md").read_text("utf-8")
    assert "WiSE-FT" in (run.path / "report.html").read_text("utf-8")


def test_both_ends_and_what_is_frozen_are_exact() -> None:
    random = torch.Generator().manual_seed(0)
    start = {name: torch.randn(50, generator=random) for name in "ab"}
    end = {"a": torch.randn(50, generator=random), "b": start["b"].clone()}
    for alpha, expected in ((0.0, start), (1.0, end)):
        found = wise.between(start, end, alpha)
        assert all(torch.equal(found[name], expected[name]) for name in "ab")
    for alpha in wise.ALPHAS:
        assert torch.equal(wise.between(start, end, alpha)["b"], start["b"])


def test_a_run_at_either_end_has_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune(toy.stripes(method=Full(start="linear-probe")), tmp_path / "plain")
    recipe = toy.stripes(method=Full(wise=True))
    seen = []
    taken = wise.weights
    monkeypatch.setattr(wise, "weights", lambda module: seen.append(taken(module)) or seen[-1])
    for alpha, expected in ((0.0, lambda: seen[0]), (1.0, lambda: toy.weights(tmp_path / "plain"))):
        seen.clear()
        monkeypatch.setattr(wise, "ALPHAS", (alpha,))
        monkeypatch.setattr(wise, "sentence", lambda found: "")
        finetune(recipe, tmp_path / f"{alpha}")
        assert toy.difference(toy.weights(tmp_path / f"{alpha}"), dict(expected())) == 0


def test_broken_off_it_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = toy.stripes(method=Full(wise=True), save_seconds=0.0)
    finetune(recipe, tmp_path / "whole")
    whole = toy.outcome(tmp_path / "whole")
    # Once after the training, and once more in the middle of it.
    with monkeypatch.context() as broken:
        broken.setattr(wise, "interpolate", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            api.finetune(recipe, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "earlier")
    finetune(recipe, tmp_path / "run")
    assert toy.outcome(tmp_path / "run") == whole
    last = max((tmp_path / "earlier" / "state").glob("step-*"))
    shutil.rmtree(last)
    finetune(recipe, tmp_path / "earlier")
    assert toy.outcome(tmp_path / "earlier") == whole
