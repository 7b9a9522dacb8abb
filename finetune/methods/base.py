"""What the methods have in common."""

from __future__ import annotations

from abc import ABC
from collections.abc import Container
from typing import TYPE_CHECKING

from finetune.errors import RecipeError
from finetune.schema import Noun

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from finetune.protocols import Network

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Inverse strengths of the penalty on a linear head, from strong to weak."""


class MethodNoun(Noun, ABC):
    """A method that learns by gradient descent, everything alike, in the network's own module."""

    @property
    def probe(self) -> tuple[float, ...]:
        """No linear head is fitted first."""
        return ()

    @property
    def descends(self) -> bool:
        """Whether anything is learned by gradient descent."""
        return True

    def lr_scales(self, network: Network) -> dict[str, float]:
        """Return no factors: all that learns does so at the full learning rate."""
        return {}

    def start_epochs(self, network: Network) -> dict[str, float]:
        """Return no later starts: all that learns does so from the first update."""
        return {}

    def finish(
        self, module: nn.Module, inputs: dict[str, Tensor], folder: Path, base: str
    ) -> nn.Module:
        """Return the module: it is plain already, and nothing is kept beside it."""
        return module


def learn(module: nn.Module, names: Container[str]) -> None:
    """Let the parameters of these names learn, and freeze all others.

    Raises RecipeError for weights held in 4 bits, which have no gradients.
    """
    for name, parameter in module.named_parameters():
        if name in names and not parameter.is_floating_point():
            raise RecipeError(
                f"The weights {name} are quantized and cannot learn themselves: take method=lora, "
                "or leave out backbone.quantization."
            )
        parameter.requires_grad_(name in names)
