"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): the door to PEFT."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field, PositiveFloat, PositiveInt

from finetune.errors import RecipeError, RunError, TrainingError, nearest
from finetune.methods.base import MethodNoun

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor, nn

    from finetune.protocols import Network

OWN_FIELDS = {
    "r": "method.rank",
    "lora_alpha": "method.alpha",
    "lora_dropout": "method.dropout",
    "target_modules": "method.targets",
    "exclude_modules": "method.targets",
}
"""Options of PEFT that have a field of their own here."""

TOLERANCE = 1e-4
"""Largest difference between the logits of the merged model and those of the adapter."""

QUANTIZED = 0.05
"""The same for a base held in 4 bits, which computes in bfloat16, as a share of the largest."""

TASKS = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "MTModel": "SEQ_2_SEQ_LM",
}
"""PEFT's own names of tasks, by how classes of transformers end: its auto classes go by them."""


class LoRA(MethodNoun):
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
        from peft import LoraConfig, get_peft_model

        options = self._options()
        whole = [*network.head_block(), *(options.pop("modules_to_save", None) or ())]
        targets, outside = self._pattern(network)
        for name in whole:
            network.module.get_submodule(name).float()
        try:
            config = LoraConfig(
                r=self.rank,
                lora_alpha=self.alpha,
                lora_dropout=self.dropout,
                target_modules=targets,
                exclude_modules=outside,
                modules_to_save=whole or None,
                **options,
            )
            with _hushed():
                return cast("nn.Module", get_peft_model(network.module, config))
        except (ValueError, TypeError, NotImplementedError) as error:
            raise RecipeError(
                f"PEFT does not take method.targets={targets!r} with method.options={options}: "
                f"{error}"
            ) from error

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
            before = _first(module(**inputs)).float()
        tolerance = TOLERANCE
        if getattr(module, "is_quantized", False):
            tolerance = QUANTIZED * max(1.0, float(before.abs().max()))
            module = _dequantized(module, folder)
        merged: nn.Module = cast("PeftModel", module).merge_and_unload(safe_merge=True)
        with torch.inference_mode():
            difference = float((_first(merged(**inputs)).float() - before).abs().max())
        if not difference <= tolerance:
            raise TrainingError(
                f"Merging the adapter moves the logits by {difference:.1e}, and at most "
                f"{tolerance:.0e} is allowed, so no merged model is saved. The adapter is whole: "
                f"{folder.name}/ loads with PEFT."
            )
        return merged

    def _pattern(self, network: Network) -> tuple[str, str | None]:
        """Return expressions over module names: which to adapt, and which of these not to, if any.

        Raises RecipeError if none is left.
        """
        pattern = network.lora_targets() if self.targets is None else self.targets
        heads = [rf"{re.escape(name)}(\..*)?" for name in network.head_block()]
        modules = [
            (name, module)
            for name, module in network.module.named_modules()
            if not any(re.fullmatch(head, name) for head in heads)
        ]
        allowed = [name for name, module in modules if adaptable(module)]
        try:
            matched = [name for name, _ in modules if re.fullmatch(pattern, name)]
        except re.error as error:
            raise RecipeError(
                f"method.targets={pattern!r} is not a regular expression: {error}."
            ) from None
        if set(matched) & set(allowed):
            unfit = [re.escape(name) for name in matched if name not in allowed]
            return pattern, "|".join([*heads, *unfit]) or None
        some = allowed if len(allowed) <= 8 else [*allowed[:4], "...", *allowed[-4:]]
        raise RecipeError(
            f"method.targets={pattern!r} matches no module of this backbone that LoRA can adapt."
            f"{nearest(pattern, allowed)} It must match full names, as '.*qkv' does. "
            f"Allowed: {', '.join(some)}."
        )

    def _options(self) -> dict[str, Any]:
        """Return the further options; raise RecipeError for one that PEFT has not."""
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
        return dict(self.options)


def adaptable(module: nn.Module) -> bool:
    """Return whether an update of this module can be learned and merged.

    That takes a plain linear map: layers that transform their weights or pad in a way of their own
    cannot be merged, and PEFT merges no grouped convolutions.
    """
    from torch import nn

    plain = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    own = any(type(module).forward is known.forward for known in plain)
    # The linear layer of GPT-2 in transformers, and that of bitsandbytes.
    known_by_name = type(module).__name__ in ("Conv1D", "Linear4bit")
    return (own or known_by_name) and getattr(module, "groups", 1) == 1


def _first(given: Any) -> Tensor:
    """Return the first tensor of what a forward gave: logits, or hidden states."""
    from torch import Tensor

    return given if isinstance(given, Tensor) else cast("Tensor", given[0])


def merged(module: nn.Module, folder: Path) -> nn.Module:
    """Return a base with the adapter in `folder` merged into it.

    Raises RunError if the adapter is none for this base.
    """
    try:
        adapted: Any = attached(module, folder)
        return cast("nn.Module", adapted.merge_and_unload(safe_merge=True).eval())
    except (ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split()[:60])
        raise RunError(f"The adapter does not fit the backbone it names: {reason}") from error


def _dequantized(module: nn.Module, folder: Path) -> nn.Module:
    """Return the adapter saved in `folder` on the same base, whose weights are no longer 4-bit.

    A merge into 4-bit weights would round what was learned away.
    """
    return attached(cast("Any", cast("PeftModel", module).unload()), folder)


def attached(base: nn.Module, folder: Path) -> nn.Module:
    """Return the adapter saved in `folder` on its base; weights held in 4 bits become plain."""
    from peft import PeftModel

    plain: Any = base
    if getattr(base, "is_quantized", False):
        plain = plain.dequantize().float()
    with _hushed():
        return cast("nn.Module", PeftModel.from_pretrained(plain, str(folder)).eval())


@contextmanager
def _hushed() -> Iterator[None]:
    """Hold back the warning that PEFT asks transformers for what it will drop."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def save_adapter(module: nn.Module, folder: Path, base: str) -> None:
    """Write the adapter in PEFT's form, with `base` as the name of the model it belongs to."""
    model = cast("PeftModel", module)
    config = model.peft_config["default"]
    config.base_model_name_or_path = base
    kind = type(model.get_base_model()).__name__
    config.task_type = next((task for end, task in TASKS.items() if kind.endswith(end)), None)
    # Left to itself, PEFT asks the hub for the base's vocabulary.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    # PEFT's own card is a blank form and names the local path of the base.
    (folder / "README.md").write_text(
        "---\nlibrary_name: peft\ntags:\n- lora\n---\n\n"
        f"A LoRA adapter for `{base}`, its head included. `PeftModel.from_pretrained(model, "
        "folder)` puts it on a base created with as many outputs.\n",
        "utf-8",
    )
