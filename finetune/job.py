"""A recipe made real: what the loop and the feature-extraction path work on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from finetune.protocols import Method, Network, Split, Splits, Target

if TYPE_CHECKING:
    from torch import nn

    from finetune.recipe import Recipe, Train
    from finetune.samples import Samples


@dataclass
class Job:
    """Data, target, model and method of one run, joined."""

    recipe: Recipe
    splits: Splits
    target: Target
    network: Network
    module: nn.Module
    """What is trained: the network's module, or its wrapper."""
    samples: dict[Split, Samples]
    skipped: dict[str, int] = field(default_factory=dict)
    """Rows left out of each split because their inputs cannot be read."""
    metrics: list[Any] = field(default_factory=list)
    """Further metrics, found and tried before training."""
    notes: list[str] = field(default_factory=list)
    """Plain sentences on what was chosen or found, kept in the result."""

    @property
    def train(self) -> Train:
        """How the weights are learned."""
        return self.recipe.train

    @property
    def method(self) -> Method:
        """Which weights are learned."""
        return self.recipe.method
