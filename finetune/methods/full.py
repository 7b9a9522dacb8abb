"""Full fine-tuning, of all layers or the top ones, and tuning of norms and biases alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from finetune.errors import RecipeError
from finetune.methods.base import STRENGTHS, MethodNoun, learn

if TYPE_CHECKING:
    from torch import nn

    from finetune.protocols import Network


class Full(MethodNoun):
    """All weights learn, or those of the top layers; lower layers may learn more slowly."""

    kind: Literal["full"] = "full"
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the learning rate from each layer to the one below it."""
    train_layers: PositiveInt | None = None
    """How many of the top layers learn, the head counted; all if not given."""
    unfreeze_epochs: NonNegativeFloat = 0.0
    """Epochs after which one more layer, from the head down, starts to learn; 0 is all at once."""
    freeze_norm: bool = False
    """Hold BatchNorm at its pretrained statistics, scale and shift."""
    start: Literal["random", "linear-probe"] = "random"
    """The first head; `linear-probe` fits it on frozen features (Kumar et al. 2022,
    arXiv:2202.10054)."""

    wise: bool = False
    """Keep the best weights between pretrained and fine-tuned ones by validation (WiSE-FT, Wortsman
    et al. 2022, arXiv:2109.01903); training then starts from the linear probe."""

    @property
    def probe(self) -> tuple[float, ...]:
        """Strengths of the linear head to start from, for LP-FT; empty for a random head."""
        return STRENGTHS if self.wise or self.start == "linear-probe" else ()

    def prepare(self, network: Network) -> nn.Module:
        """Let the top layers learn and freeze the rest; raise RecipeError if there are too few."""
        from finetune.freezing import freeze_batch_norm

        learn(network.module, self._depths(network))
        if self.freeze_norm:
            freeze_batch_norm(network.module)
        return network.module

    def lr_scales(self, network: Network) -> dict[str, float]:
        """Return the factor on the learning rate by parameter name; 1.0 for the head."""
        return {name: self.layer_decay**depth for name, depth in self._depths(network).items()}

    def start_epochs(self, network: Network) -> dict[str, float]:
        """Return the epoch, as a fraction where need be, at which each parameter starts to learn.

        Gradual unfreezing: Howard and Ruder 2018, arXiv:1801.06146.
        """
        return {name: self.unfreeze_epochs * depth for name, depth in self._depths(network).items()}

    def _depths(self, network: Network) -> dict[str, int]:
        """Return how many layers above a parameter learn, for all that learn."""
        layers = network.layers()
        if self.train_layers is not None:
            if self.train_layers > len(layers):
                raise RecipeError(
                    f"method.train_layers={self.train_layers}, but the backbone has {len(layers)} "
                    f"layers, the head counted: give 1 to {len(layers)}, or leave it out to train "
                    "all."
                )
            layers = layers[-self.train_layers :]
        return {name: depth for depth, layer in enumerate(reversed(layers)) for name in layer}


class NormBias(MethodNoun):
    """Only norm layers, biases and the head learn (BitFit, Zaken et al. 2021, arXiv:2106.10199)."""

    kind: Literal["norm-bias"] = "norm-bias"

    def prepare(self, network: Network) -> nn.Module:
        """Let norms, biases and the head learn, and freeze the rest."""
        from finetune.freezing import norm_parameters

        biases = {n for n, _ in network.module.named_parameters() if n.split(".")[-1] == "bias"}
        head = network.layers()[-1] if network.head() else []
        learn(network.module, norm_parameters(network.module) | biases | {*head})
        return network.module
