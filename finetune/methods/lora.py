"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): the door to PEFT."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from finetune.errors import RecipeError, TrainingError, nearest
from finetune.schema import Noun

if TYPE_CHECKING:
    from torch import Tensor, nn

    from finetune.protocols import Network

OWN_FIELDS = {
    "r": "method.rank",
    "lora_alpha": "method.alpha",
    "lora_dropout": "method.dropout",
    "target_modules": "method.targets",
}
"""Options of PEFT that have a field of their own here."""

TOLERANCE = 1e-4
"""Largest difference between the logits of the merged model and those of the adapter."""


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
    """Regular expression over full module names; the backbone family's own choice if not given."""
    options: dict[str, Any] = {}
    """Any further field of PEFT's LoraConfig by its own name, such as `use_dora`."""

    def prepare(self, network: Network) -> nn.Module:
        """Return the module wrapped by PEFT, whose head is trained whole and in float32.

        Raises RecipeError if no module matches, or PEFT does not take an option.
        """
        from peft import get_peft_model

        pattern = self._pattern(network)
        heads = network.head()
        config = self._config(pattern, heads)
        for name in heads:
            network.module.get_submodule(name).float()
        try:
            wrapped: nn.Module = get_peft_model(network.module, config)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise RecipeError(
                f"PEFT does not take method.targets={pattern!r} with {self.options}: {error}"
            ) from error
        return wrapped

    def lr_scales(self, network: Network) -> dict[str, float]:
        """Return no factors: all that learns does so at the full learning rate."""
        return {}

    def start_epochs(self, network: Network) -> dict[str, float]:
        """Return no later starts: all that learns does so from the first update."""
        return {}

    def finish(
        self, module: nn.Module, inputs: dict[str, Tensor], folder: Path, base: str
    ) -> nn.Module:
        """Save the adapter into `folder`, and return the plain module with it merged.

        `base` is the backbone's public name. Raises TrainingError where the logits of the merged
        module for `inputs` are not those of the adapter.
        """
        import torch

        module.eval()
        save_adapter(module, folder, base)
        with torch.inference_mode():
            before = module(**inputs).float()
        merged: nn.Module = module.merge_and_unload(safe_merge=True)  # type: ignore[operator]
        with torch.inference_mode():
            difference = float((merged(**inputs).float() - before).abs().max())
        if not difference <= TOLERANCE:
            raise TrainingError(
                f"Merging the adapter moves the logits by {difference:.1e}, and at most "
                f"{TOLERANCE:.0e} is allowed, so no merged model is saved. The adapter is whole: "
                f"{folder.name}/ loads with PEFT."
            )
        return merged

    def _pattern(self, network: Network) -> str:
        """Return the expression over module names; raise RecipeError if it matches none."""
        pattern = network.lora_targets() if self.targets is None else self.targets
        names = [
            name
            for name, module in network.module.named_modules()
            if getattr(module, "weight", None) is not None
            and module.weight.ndim > 1
            and not re.fullmatch(outside(network.head()), name)
        ]
        try:
            if any(re.fullmatch(pattern, name) for name in names):
                return pattern
        except re.error as error:
            raise RecipeError(
                f"method.targets={pattern!r} is not a regular expression: {error}."
            ) from None
        some = names if len(names) <= 8 else [*names[:4], "...", *names[-4:]]
        raise RecipeError(
            f"method.targets={pattern!r} matches no module of this backbone that LoRA can adapt."
            f"{nearest(pattern, names)} It must match full names, as in "
            f"{'.*' + re.escape(names[-1].rpartition('.')[2])!r}. Allowed: {', '.join(some)}."
        )

    def _config(self, pattern: str, heads: list[str]) -> Any:
        from peft import LoraConfig

        known = [name for name in LoraConfig.__dataclass_fields__ if name not in OWN_FIELDS]
        for name in self.options:
            if name in OWN_FIELDS:
                raise RecipeError(
                    f"method.options.{name} has a field of its own: give {OWN_FIELDS[name]}."
                )
            if name not in known:
                raise RecipeError(
                    f"method.options.{name} is not an option of PEFT's LoraConfig."
                    f"{nearest(name, known)} Allowed: {', '.join(known)}."
                )
        options = {"exclude_modules": outside(heads), **self.options}
        options["modules_to_save"] = [*heads, *(options.get("modules_to_save") or ())]
        try:
            return LoraConfig(
                r=self.rank,
                lora_alpha=self.alpha,  # type: ignore[arg-type]  # PEFT only divides it
                lora_dropout=self.dropout,
                target_modules=pattern,
                **options,
            )
        except (ValueError, TypeError) as error:
            raise RecipeError(
                f"PEFT does not take method.options={self.options}: {error}"
            ) from error


def outside(heads: list[str]) -> str:
    """Return an expression for the head's modules, which are trained whole and not adapted."""
    return "|".join(rf"{re.escape(name)}(\..*)?" for name in heads)


def save_adapter(module: nn.Module, folder: Path, base: str) -> None:
    """Write the adapter in PEFT's form, with `base` as the name of the model it belongs to."""
    config = module.peft_config["default"]  # type: ignore[index, union-attr]
    config.base_model_name_or_path = base
    module.save_pretrained(str(folder), safe_serialization=True)  # type: ignore[operator]
    # PEFT's own card is a blank form and names the local path of the base.
    (folder / "README.md").write_text(
        "---\nlibrary_name: peft\ntags:\n- lora\n---\n\n"
        f"A LoRA adapter for `{base}`, its head included. `PeftModel.from_pretrained(model, "
        "folder)` puts it on a base created with as many outputs.\n",
        "utf-8",
    )
