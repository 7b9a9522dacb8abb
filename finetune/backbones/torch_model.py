"""Any torch module as a backbone, in a script: the door for models that no library holds."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import BackboneError
from finetune.protocols import ROW, Form

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from finetune.images.inputs import ImageInputs

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class TorchModel:
    """A model for images (batch, 3, height, width), made by a function of the number of outputs.

    It can be trained, saved as safetensors and read back by the same script; only its script can
    make it again, so a recipe that holds it cannot be written as YAML.
    """

    make: Callable[[int], nn.Module]
    """Returns the module with so many outputs, its weights as training should find them."""
    head: str
    """Name of its last, linear submodule."""
    size: tuple[int, int] = (224, 224)
    """Height and width of its input in pixels."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    weights: Path | None = field(default=None)
    """The folder of a saved model to read the weights from."""

    kind = "torch"

    def build(
        self, num_outputs: int, classes: tuple[str, ...] | None = None, form: Form = ROW
    ) -> TorchNetwork:
        """Return the model; raise BackboneError if `head` is not a linear layer of it."""
        from torch import nn

        from finetune.images.inputs import ImageInputs

        module = self.make(num_outputs)
        found = dict(module.named_modules()).get(self.head)
        if not isinstance(found, nn.Linear) or found.out_features != num_outputs:
            linear = [n for n, m in module.named_modules() if isinstance(m, nn.Linear)]
            raise BackboneError(
                f"TorchModel(head={self.head!r}) must name a linear layer with {num_outputs} "
                f"outputs. Linear layers of this model: {', '.join(linear) or 'none'}."
            )
        if self.weights is not None:
            _load(module, self.weights / WEIGHTS)
        argument = next(iter(inspect.signature(module.forward).parameters))
        inputs = ImageInputs(
            self.size, self.mean, self.std, "bicubic", 1.0, "center", forward_argument=argument
        )
        return TorchNetwork(module, inputs, self.head)

    def saved(self, folder: Path) -> TorchModel:
        """Return the same model with the weights saved in `folder`."""
        return replace(self, weights=folder)


@dataclass
class TorchNetwork:
    """A torch module whose layers are its children in the order they were made, the head last."""

    module: nn.Module
    inputs: ImageInputs
    name: str
    reloader: Path | None = None
    head_is_pretrained: bool = False

    def outputs(self, given: Tensor) -> Tensor:
        """Return what the forward gave."""
        return given

    def head(self) -> list[str]:
        """Return the name of the head."""
        return [self.name]

    def head_block(self) -> list[str]:
        """Return the name of the head."""
        return self.head()

    def layers(self) -> list[list[str]]:
        """Return the parameter names of each child, then those of the head."""
        last = f"{self.name}."
        layers: dict[str, list[str]] = {}
        for name, _ in self.module.named_parameters():
            if not name.startswith(last):
                layers.setdefault(name.partition(".")[0], []).append(name)
        head = [name for name, _ in self.module.named_parameters() if name.startswith(last)]
        return [*layers.values(), head]

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return what goes into the head, (batch, width)."""
        seen: list[Tensor] = []
        head = self.module.get_submodule(self.name)
        hook = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            self.module(**inputs)
        finally:
            hook.remove()
        return seen[0].flatten(1)

    def get_head(self) -> tuple[Tensor, Tensor]:
        """Return weight (outputs, width) and bias (outputs,)."""
        head: Any = self.module.get_submodule(self.name)
        return head.weight.detach(), head.bias.detach()

    def set_head(self, weight: Tensor, bias: Tensor) -> None:
        """Copy weight (outputs, width) and bias (outputs,) into the head."""
        import torch

        with torch.no_grad():
            for own, new in zip(self.get_head(), (weight, bias), strict=True):
                own.copy_(new)

    def lora_targets(self) -> str:
        """Return a pattern for every linear layer and convolution but the head."""
        return r".+"

    def checkpoint_activations(self) -> None:
        """Raise BackboneError: a module of its own kind has no general way to do this."""
        raise BackboneError(
            "A TorchModel cannot recompute its activations: leave out "
            "train.gradient_checkpointing, and lower train.micro_batch_size instead."
        )

    def tune_for(self, device: torch.device, precision: str) -> list[str]:
        """Choose nothing."""
        return []

    @property
    def origin(self) -> dict[str, str]:
        """The name of the module's class."""
        return {"name": type(self.module).__name__}

    def save(
        self, folder: Path, classes: tuple[str, ...] | None, problem_type: str | None = None
    ) -> None:
        """Write the weights as safetensors; only the script that made the module knows the rest."""
        from safetensors.torch import save_model

        folder.mkdir(parents=True, exist_ok=True)
        self.module = getattr(self.module, "_orig_mod", self.module)  # out of torch.compile
        save_model(self.module, str(folder / WEIGHTS))


def _load(module: nn.Module, path: Path) -> None:
    """Read weights that `TorchNetwork.save` wrote; raise BackboneError if they do not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        load_model(module, path)
    except (OSError, SafetensorError) as error:
        raise BackboneError(f"{path} cannot be read: {error}.") from error
    except RuntimeError as error:
        reason = " ".join(str(error).split()[:60])
        raise BackboneError(f"The weights in {path} do not fit the model: {reason}") from error
