"""How much memory training will need, counted on tensors that have shapes and no content."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from finetune import optim
from finetune.environment import autocast
from finetune.freezing import set_train_mode

if TYPE_CHECKING:
    from finetune.protocols import Network
    from finetune.recipe import Train


def memory(
    module: nn.Module,
    network: Network,
    train: Train,
    scales: dict[str, float],
    *,
    device: torch.device,
    precision: str,
    batch_size: int,
    descends: bool,
) -> dict[str, int | None]:
    """Return the bytes that a run holds at its peak, by what they are for; None where unknown.

    `module` is on the meta device and prepared by its method; it is of no use afterwards. Counted
    are the tensors that the backward pass keeps for `batch_size` samples, or for a run that only
    extracts features the largest input and output of one step; not what libraries take themselves.
    """
    learning = [p for p in module.parameters() if p.requires_grad]
    parts: dict[str, int | None] = {"weights": _bytes([*module.parameters(), *module.buffers()])}
    if descends:
        parts["gradients"] = _bytes(learning)
        parts["optimizer"] = _optimizer_state(module, train, scales)
        if train.ema:
            parts["average"] = parts["weights"]
    try:
        parts["activations"] = _activations(
            module, network, device, precision, batch_size, descends
        )
    except Exception:  # a model whose forward looks at values cannot run without them
        parts["activations"] = None
    return parts


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _optimizer_state(module: nn.Module, train: Train, scales: dict[str, float]) -> int | None:
    """Return what the optimizer keeps after its first step."""
    optimizer = optim.build(module, train, scales)
    for group in optimizer.param_groups:
        group["fused"] = False  # which needs real memory, and keeps the same
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    try:
        optimizer.step()
    except Exception:  # an optimizer that looks at values cannot step without them
        return None
    finally:
        optimizer.zero_grad()
    return _bytes(
        value
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )


def _activations(
    module: nn.Module,
    network: Network,
    device: torch.device,
    precision: str,
    batch_size: int,
    descends: bool,
) -> int:
    kept: dict[int, Tensor] = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        module.to_empty(device=device)
        weights = {_storage(p) for p in module.parameters()}
        with torch.device(device):
            inputs = network.inputs.blank(batch_size)
        if not descends:
            with autocast(device, precision), torch.no_grad():
                return _largest_step(module.eval(), inputs)

        def keep(tensor: Tensor) -> Tensor:
            # Many saved tensors are views of one; held, so that no storage takes another's place.
            if _storage(tensor) not in weights:
                kept[_storage(tensor)] = tensor
            return tensor

        set_train_mode(module)
        with autocast(device, precision), saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs = module(**inputs)
        total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        del outputs
    return total + _bytes(inputs.values())


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _largest_step(module: nn.Module, inputs: dict[str, Tensor]) -> int:
    """Return the most bytes that any innermost module takes in and gives out."""
    largest = 0

    def note(_: nn.Module, given: Any, result: Any) -> None:
        nonlocal largest
        tensors = [t for t in (*given, result) if isinstance(t, Tensor)]
        largest = max(largest, _bytes(tensors))

    hooks = [
        part.register_forward_hook(note)
        for part in module.modules()
        if next(part.children(), None) is None
    ]
    try:
        module(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return largest + _bytes(inputs.values())
