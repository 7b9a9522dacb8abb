"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): the door to PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from finetune.schema import Noun

if TYPE_CHECKING:
    from torch import nn

    from finetune.protocols import Network


class LoRA(Noun):
    """Low-rank updates of frozen weights learn, and the head."""

    kind: Literal["lora"] = "lora"
    rank: PositiveInt = 8
    """Rank of each update."""
    alpha: PositiveFloat = 16.0
    """Scale: an update is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the input of each update."""
    targets: str | None = None
    """Regular expression over module names; the backbone family's own choice if not given."""
    options: dict[str, Any] = {}
    """Any further field of PEFT's LoraConfig by its own name, such as `use_dora`."""

    def prepare(self, network: Network) -> nn.Module:
        """Return the module wrapped by PEFT; raise RecipeError if no module matches."""
        raise NotImplementedError

    def lr_scales(self, network: Network) -> dict[str, float]:
        """Return no factors: all that learns does so at the full learning rate."""
        return {}

    def start_epochs(self, network: Network) -> dict[str, float]:
        """Return no later starts: all that learns does so from the first update."""
        return {}
