"""Feature extraction: the backbone stays as it is, and a linear head is fitted in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveFloat, field_validator

from finetune.schema import Noun

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from finetune.protocols import Network


STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Inverse strengths of the penalty on a linear head, from strong to weak."""


class FeatureExtraction(Noun):
    """A linear head on frozen features; its regularisation is chosen on validation."""

    kind: Literal["features"] = "features"
    c: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = STRENGTHS
    """Inverse strengths of the L2 penalty to try, as scikit-learn's C, on standardised features."""

    @field_validator("c", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        # method.c=0.1,1,10 on the command line, or a single number.
        if isinstance(value, str):
            return [part.strip() for part in value.split(",")]
        return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else value

    @property
    def probe(self) -> tuple[float, ...]:
        """The strengths to try."""
        return self.c

    @property
    def descends(self) -> bool:
        """Whether anything is learned by gradient descent."""
        return False

    def prepare(self, network: Network) -> nn.Module:
        """Freeze everything but the head."""
        head = set(network.layers()[-1])
        for name, parameter in network.module.named_parameters():
            parameter.requires_grad_(name in head)
        return network.module

    def lr_scales(self, network: Network) -> dict[str, float]:
        """Return no factors: nothing learns by gradient descent."""
        return {}

    def start_epochs(self, network: Network) -> dict[str, float]:
        """Return no later starts: nothing learns by gradient descent."""
        return {}

    def finish(
        self, module: nn.Module, inputs: dict[str, Tensor], folder: Path, base: str
    ) -> nn.Module:
        """Return the module: it is plain already, and nothing is kept beside it."""
        return module
