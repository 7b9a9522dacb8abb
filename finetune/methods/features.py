"""Feature extraction: the backbone stays as it is, and a linear head is fitted in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveFloat, field_validator

from finetune.methods.base import STRENGTHS, MethodNoun, learn

if TYPE_CHECKING:
    from torch import nn

    from finetune.protocols import Network


class FeatureExtraction(MethodNoun):
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
        """Freeze everything but the linear head."""
        heads = tuple(f"{name}." for name in network.head())
        learn(
            network.module, {n for n, _ in network.module.named_parameters() if n.startswith(heads)}
        )
        return network.module
