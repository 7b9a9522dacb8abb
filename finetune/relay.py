"""Where the frozen part of a model ends, and the relay that puts kept activations there."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import suppress
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from finetune.freezing import set_train_mode

ARGUMENT = "boundary"
"""The name under which a batch carries its activations among the inputs."""
TRIES = 4
"""How many parts, from the last frozen one down, are tried as the boundary."""
LEAST_SHARE = 0.2
"""Share of the layers that must lie below the boundary for the cache to be worth its disk."""

Inputs = dict[str, Tensor]


class NotKept(Exception):
    """Why activations cannot be kept, as the second half of a sentence."""


class NoBoundary(Exception):
    """There is nothing to keep, as under LoRA in every layer: nobody need be told."""


class Relay:
    """Hands the activations of the batch under way to the part that would compute them.

    `parts` are the names of the frozen parts in the order in which they run, each with its output
    for any batch; the last of them is the boundary.
    """

    def __init__(self, module: nn.Module, parts: list[tuple[str, Tensor]]) -> None:
        self.activation: Tensor | None = None
        self.filler = 0.0
        self.boundary = parts[-1][0]
        self.parts = [module.get_submodule(name) for name, _ in parts]
        last = parts[-1][1].shape
        for part, (name, output) in zip(self.parts, parts, strict=True):
            # What looks like the activation does so for texts of any length.
            shape = None if output.shape == last else output.shape[1:]
            dummy = None if name == self.boundary else (shape, output.dtype)
            # A bound method, not a closure: a deep copy of the module then has its own relay.
            vars(part).update(relay=self, dummy=dummy, forward=MethodType(_relayed, part))
        self.hooks = [
            module.register_forward_pre_hook(self.take, with_kwargs=True),
            module.register_forward_hook(self.clear, always_call=True),
        ]

    def take(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """Take the activations out of the arguments of a forward pass that begins."""
        self.activation = kwargs.pop(ARGUMENT, None)
        return args, kwargs

    def clear(self, *_: Any) -> None:
        """Forget them as it ends: whatever calls a part next wants it computed."""
        self.activation = None

    def remove(self) -> None:
        """Give the module back as it was."""
        for hook in self.hooks:
            hook.remove()
        for part in self.parts:
            for name in ("relay", "dummy", "forward"):
                del vars(part)[name]


def _relayed(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Stand in for the forward of a frozen part: compute only where no activation is kept."""
    activation = self.relay.activation
    if activation is None:
        return type(self).forward(self, *args, **kwargs)
    if self.dummy is None:
        return activation
    shape, dtype = self.dummy
    shape = activation.shape[1:] if shape is None else shape
    return filled(activation, shape, dtype, self.relay.filler)


def filled(like: Tensor, shape: torch.Size, dtype: torch.dtype, value: float = 0.0) -> Tensor:
    """Return (batch, *shape) of one value, 0 in integers, that takes the memory of one number."""
    one = like.new_full((), value if dtype.is_floating_point else 0, dtype=dtype)
    return one.expand(len(like), *shape)


def is_dense(inputs: Inputs) -> bool:
    """Return whether all inputs are numbers that the stem alone reads, and no tokens or masks."""
    return all(tensor.is_floating_point() for tensor in inputs.values())


def install(module: nn.Module, inputs: Inputs) -> Relay:
    """Put a relay at the boundary.

    Raises NoBoundary where there is none, NotKept where it cannot serve; the module is as it was.
    All that runs before the boundary gives NaN here, so that a path around it (a skip connection,
    say) shows in the outputs even where a weight of 0 hides it; then an earlier part is tried.
    """
    module.eval()
    wanted, blank = module(**inputs), inputs
    if is_dense(inputs):
        blank = {name: torch.full_like(tensor, math.nan) for name, tensor in inputs.items()}
    parts = _frozen_parts(module, inputs)
    for count in range(len(parts), max(0, len(parts) - TRIES), -1):
        if parts[count - 1][2] < LEAST_SHARE:
            break
        relay = Relay(module, [(name, output) for name, output, _ in parts[:count]])
        activation = capture(module, relay, inputs)
        relay.filler = math.nan
        if _equal(module(**blank, **{ARGUMENT: activation}), wanted):
            relay.filler = 0.0
            set_train_mode(module)
            if torch.equal(capture(module, relay, inputs), activation):
                return relay
            relay.remove()
            raise NotKept("dropout acts in the frozen part")
        relay.remove()
    raise NoBoundary("the model has no frozen boundary")


def _equal(one: Any, other: Any) -> bool:
    """Return whether two outputs hold the same tensors, as whatever the library gives them."""
    tensors = [[t for t in tree_leaves(x) if isinstance(t, Tensor)] for x in (one, other)]
    return all(map(torch.equal, *tensors))


def _frozen_parts(module: nn.Module, inputs: Inputs) -> list[tuple[str, Tensor, float]]:
    """Return the largest parts that end before anything learns, in the order in which they run.

    With each comes its output, and the share of all layers that have run when it ends. Parts that
    run more than once, or return anything but one tensor over the batch, are not among them.
    """
    if any(p.requires_grad for p in module.parameters(recurse=False)):
        return []  # what the model itself holds may be used anywhere
    size = len(next(iter(inputs.values())))
    events = _events(module, inputs)
    calls = Counter(name for name, output in events if output is None)
    own = {name: list(part.parameters(recurse=False)) for name, part in module.named_modules()}
    total = max(1, sum(bool(own[name]) for name in calls.elements()))
    found: list[tuple[str, Tensor, float]] = []
    done = 0
    for name, output in events:
        if output is None:
            if any(p.requires_grad for p in own[name]):
                break
            done += bool(own[name])
            continue
        part = module.get_submodule(name)
        whole = isinstance(output, Tensor) and output.ndim > 0 and len(output) == size
        learns = any(p.requires_grad for p in part.parameters())
        if whole and not learns and calls[name] == 1 and "forward" not in vars(part):
            while found and found[-1][0].startswith(f"{name}."):  # its own parts
                found.pop()
            found.append((name, output, done / total))
    return found


def _events(module: nn.Module, inputs: Inputs) -> list[tuple[str, Any]]:
    """Return what a forward pass calls: (name, None) at its start, (name, output) at its end."""
    events: list[tuple[str, Any]] = []
    names = {part: name for name, part in module.named_modules() if name}
    hooks = []
    for part in names:
        hooks += [
            part.register_forward_pre_hook(lambda part, _: events.append((names[part], None))),
            part.register_forward_hook(lambda part, _, out: events.append((names[part], out))),
        ]
    module(**inputs)
    for hook in hooks:
        hook.remove()
    return events


class _Reached(Exception):
    """Ends a forward pass at the boundary: nothing above it is needed."""


def capture(module: nn.Module, relay: Relay, inputs: Inputs) -> Tensor:
    """Return the activation at the boundary, as it is in training."""
    found: list[Tensor] = []

    def stop(_: nn.Module, __: Any, output: Tensor) -> None:
        found.append(output)
        raise _Reached

    with relay.parts[-1].register_forward_hook(stop), suppress(_Reached):
        module(**inputs)
    return found[0]
