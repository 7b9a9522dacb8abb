"""What an output rests on: how much each pixel or token of an input adds to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from finetune.protocols import Network

Way: TypeAlias = list[tuple[Tensor, Tensor]]
"""How far an input is from the empty one, and what was put between, of each pass."""

STEPS = 16
"""Inputs between the empty one and the given one at which gradients are taken."""
NOISE = 0.2
"""Standard deviation of what is added to each of them, as a share of the range of the input."""
TOGETHER = 4
"""Of these in one pass."""


def attribute(network: Network, inputs: Mapping[str, Tensor], output: int) -> Tensor:
    """Return how much each place of one sample adds to an output, (height, width) or (tokens,).

    Gradients times input, summed over channels: integrated gradients (Sundararajan et al. 2017,
    arXiv:1703.01365) from an input of the sample's mean colour, or of no embeddings, taken in noise
    (SmoothGrad, Smilkov et al. 2017, arXiv:1706.03825), without which norms in the first layers
    hide what matters. All places together are about what the output has more than there. `inputs`
    are what the module takes of the one sample, and outputs a row of numbers. Leaves the module in
    evaluation mode. Raises RuntimeError where no gradient comes back to the input.
    """
    network.module.eval()
    pixels = next((name for name, tensor in inputs.items() if tensor.is_floating_point()), None)
    device = next(iter(inputs.values())).device
    shares = (torch.arange(STEPS, device=device) + 0.5) / STEPS
    random = torch.Generator().manual_seed(0)
    parts = []
    for part in torch.split(shares, TOGETHER):
        copies = {name: t.expand(len(part), *t.shape[1:]) for name, t in inputs.items()}
        way: Way = []
        with torch.enable_grad():
            if pixels is not None:
                base = copies[pixels].mean((-2, -1), keepdim=True)
                copies[pixels] = _inserted(copies[pixels] - base, part, random, way) + base
                given = network.module(**copies)
            else:
                with _embedded(network.module, copies["input_ids"], part, random, way):
                    given = network.module(**copies)
            chosen = network.outputs(given)[:, output].float().sum()
            difference, inside = way[0]
            gradient = torch.autograd.grad(chosen, inside)[0]
        parts.append((gradient * difference).float().sum(0))
    total = torch.stack(parts).sum(0) / STEPS
    return total.sum(0 if pixels is not None else -1).cpu()


def _inserted(difference: Tensor, shares: Tensor, random: torch.Generator, way: Way) -> Tensor:
    """Return these shares of a difference, in noise, to which gradients are to come back.

    All are (shares, ...).
    """
    difference = difference.detach()
    noise = torch.randn(difference.shape, generator=random).to(difference)
    noise *= NOISE * (difference.max() - difference.min())
    share = shares.to(difference.dtype).view(-1, *[1] * (difference.ndim - 1))
    inside = (difference * share + noise).requires_grad_()
    way.append((difference, inside))
    return inside


@contextmanager
def _embedded(
    module: nn.Module, ids: Tensor, shares: Tensor, random: torch.Generator, way: Way
) -> Iterator[None]:
    """Put shares of the tokens' embeddings in their place, whichever layer looks them up."""

    def replaced(_: nn.Module, given: tuple[Any, ...], found: Tensor) -> Tensor | None:
        # Positions and types have embeddings, too, and a decoder may use the same ones again.
        looked_up = given and given[0].shape == ids.shape and torch.equal(given[0], ids)
        if not looked_up or way:
            return None
        base = found.mean(1, keepdim=True)
        return _inserted(found - base, shares, random, way) + base

    layers = [part for part in module.modules() if isinstance(part, nn.Embedding)]
    hooks = [layer.register_forward_hook(replaced) for layer in layers]
    try:
        yield
        if not way:
            raise RuntimeError("No embedding layer of this model looks up the tokens.")
    finally:
        for hook in hooks:
            hook.remove()
