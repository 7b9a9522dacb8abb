"""Optimizers by name, what decays and what does not, and the learning rate at every update."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from finetune import Train, optim
from finetune.errors import RecipeError


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.body = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)

    def no_weight_decay(self) -> set[str]:
        return {"token"}


def groups(train: Train, scales: dict[str, float] | None = None) -> dict[str, dict[str, Any]]:
    """Return the options of each parameter that the optimizer holds."""
    module = Small()
    module.body.bias.requires_grad_(False)
    optimizer = optim.build(module, train, scales or {})
    name = {id(parameter): name for name, parameter in module.named_parameters()}
    return {name[id(p)]: group for group in optimizer.param_groups for p in group["params"]}


def test_norms_biases_and_what_the_model_names_do_not_decay() -> None:
    found = {name: group["weight_decay"] for name, group in groups(Train(weight_decay=0.3)).items()}
    assert found == {
        "token": 0.0,
        "body.weight": 0.3,
        "norm.weight": 0.0,
        "norm.bias": 0.0,
        "head.weight": 0.3,
        "head.bias": 0.0,
    }


def test_a_layer_learns_at_its_share_of_the_rate() -> None:
    module = Small()
    optimizer = optim.build(module, Train(lr=0.1), {"body.weight": 0.5})
    optim.set_lr(optimizer, 0.2)
    found = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert found[module.body.weight] == 0.1
    assert found[module.head.weight] == 0.2


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("adamw", torch.optim.AdamW),
        ("SGD", torch.optim.SGD),
        ("rmsprop", "RMSprop"),
        ("NAdam", "NAdam"),
        ("lamb", "Lamb"),
        ("lion", "Lion"),
        ("muon", "Muon"),
        ("adafactor", "Adafactor"),
        ("rprop", torch.optim.Rprop),
    ],
)
def test_optimizers_of_torch_and_timm_by_name(name: str, cls: Any) -> None:
    optimizer = optim.build(Small(), Train(optimizer=name, weight_decay=0.0), {})
    if isinstance(cls, str):
        assert cls.lower() in type(optimizer).__name__.lower()
    else:
        assert type(optimizer) is cls
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def test_sgd_has_momentum_unless_told_otherwise() -> None:
    assert groups(Train(optimizer="sgd"))["token"]["momentum"] == 0.9
    without = Train(optimizer="sgd", optimizer_args={"momentum": 0.0})
    assert groups(without)["token"]["momentum"] == 0.0


@pytest.mark.parametrize(("given", "meant"), [("adamww", "adamw"), ("muonn", "muon")])
def test_an_unknown_name_offers_the_nearest(given: str, meant: str) -> None:
    with pytest.raises(RecipeError, match=f"'{given}' is unknown. Did you mean '{meant}'"):
        optim.optimizer_class(given)


@pytest.mark.parametrize("name", ["lbfgs", "sparseadam", "optimizer"])
def test_what_cannot_work_here_is_not_offered(name: str) -> None:
    with pytest.raises(RecipeError, match="unknown"):
        optim.optimizer_class(name)


@pytest.mark.parametrize("args", [{"beta": 1}, {"betas": [2.0, 0.9]}])
def test_wrong_arguments_are_told_with_the_right_ones(args: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"does not take train\.optimizer_args.*betas, eps"):
        optim.build(Small(), Train(optimizer_args=args), {})


def rates(updates: int = 12, **train: Any) -> list[float]:
    return [optim.rate(Train(**train), update, updates) for update in range(updates)]


def test_warm_up_rises_evenly_to_the_peak() -> None:
    found = rates(schedule="constant", warmup=0.25)
    assert found == pytest.approx([1 / 4, 2 / 4, 3 / 4] + [1.0] * 9)


@pytest.mark.parametrize(
    ("schedule", "at"),
    [
        ("cosine", {0: 1.0, 3: 0.8535534, 6: 0.5, 9: 0.1464466}),
        ("linear", {0: 1.0, 3: 0.75, 6: 0.5, 11: 1 / 12}),
        ("step", {0: 1.0, 5: 1.0, 6: 0.1, 8: 0.1, 9: 0.01, 11: 0.01}),
        ("constant", {0: 1.0, 11: 1.0}),
    ],
)
def test_schedules_after_the_warm_up(schedule: str, at: dict[int, float]) -> None:
    found = rates(schedule=schedule, warmup=0.0)
    assert {update: found[update] for update in at} == pytest.approx(at)
    # With a warm-up, the same curve over what is left.
    assert rates(16, schedule=schedule, warmup=0.25)[4:] == pytest.approx(found)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "step", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("updates", [1, 2, 7])
def test_no_update_is_lost_and_none_exceeds_the_peak(
    schedule: str, warmup: float, updates: int
) -> None:
    found = rates(updates, schedule=schedule, warmup=warmup)
    assert all(0 < rate <= 1 for rate in found)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_update_is_fused_unless_another_way_is_asked_for(name: str) -> None:
    assert optim.build(Small(), Train(optimizer=name), {}).defaults["fused"]
    asked = Train(optimizer=name, optimizer_args={"foreach": True})
    assert not optim.build(Small(), asked, {}).defaults["fused"]
