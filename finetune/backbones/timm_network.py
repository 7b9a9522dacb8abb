"""A timm model as the loop sees it: ordered layers, a head apart, and its native form on disk."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.backbones.timm_source import CONFIG, WEIGHTS
from finetune.errors import BackboneError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from finetune.images.inputs import ImageInputs

# Where LoRA belongs; the first pattern that any module meets is taken. Attention first (ViT,
# Swin), then the MLPs of mixers and ConvNeXt, then the convolutions above the stem (a
# block and the convolution in it may both be called conv).
LORA_TARGETS = (
    r".*\battn\w*\.(.*\.)?(qkv|kv|[qkv]|[qkv]_proj|proj)",
    r".*\bmlp\w*\.fc[12]",
    r"(?!stem\b)(?!.*\.(se|downsample)\.).*\.conv\w*(\.conv)?",
)
TRAINING_ARGS = ("drop_rate", "drop_path_rate", "attn_drop_rate", "proj_drop_rate")


@dataclass
class TimmNetwork:
    """A timm model with its layers in order, its head apart, and its own preprocessing."""

    module: nn.Module
    inputs: ImageInputs
    data_config: dict[str, Any]
    origin: dict[str, Any]
    """For the model card: "name", and "id" and "revision" on the hub."""
    head_is_pretrained: bool = False
    _fused: list[Any] = field(default_factory=list)
    """Attention layers that were fused before `tune_for`."""

    @classmethod
    def of(cls, module: nn.Module, img_size: int | None, origin: dict[str, Any]) -> TimmNetwork:
        """Read the preprocessing from the model's own configuration."""
        from timm.data import resolve_data_config

        from finetune.images.inputs import ImageInputs

        wanted = {"img_size": img_size} if img_size else {}
        config = resolve_data_config(wanted, model=module)
        keys = ("input_size", "mean", "std", "crop_pct", "interpolation", "crop_mode")
        config = {k: config[k] for k in keys}
        inputs = ImageInputs(
            size=tuple(config["input_size"][1:]),
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            interpolation=config["interpolation"],
            crop_pct=config["crop_pct"],
            crop_mode=config["crop_mode"],
        )
        return cls(module, inputs, config, origin)

    def check_size(self) -> None:
        """Raise BackboneError if the model cannot take images of the size that was asked for."""
        import torch

        side = self.inputs.size[0]
        patches = getattr(getattr(self.module, "patch_embed", None), "patch_size", None)
        patch = patches[0] if isinstance(patches, (tuple, list)) else patches or 1
        if side % patch:
            below, above = side // patch * patch, (side // patch + 1) * patch
            allowed = f"{below} or {above}" if below else f"{above}"
            raise BackboneError(
                f"backbone.img_size={side} is no multiple of the patch size {patch} of this model. "
                f"The nearest allowed: {allowed}."
            )
        trains = self.module.training
        self.module.eval()
        try:
            with torch.inference_mode():
                self.module(torch.zeros(1, 3, side, side))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise BackboneError(
                f"backbone.img_size={side} does not suit this model: {error}. Leave it out for the "
                f"pretrained size, or try a multiple of 32."
            ) from error
        finally:
            self.module.train(trains)

    @property
    def _timm(self) -> Any:
        """The module, with the methods and attributes that timm's models have."""
        return self.module

    def outputs(self, given: Tensor) -> Tensor:
        """Return what the forward gave."""
        return given

    def head(self) -> list[str]:
        """Return the names of the classifier modules."""
        names = self._timm.pretrained_cfg["classifier"]
        return [names] if isinstance(names, str) else list(names)

    def head_block(self) -> list[str]:
        """Return the names of the classifier modules."""
        return self.head()

    def layers(self) -> list[list[str]]:
        """Return the parameter names in order from the stem to the head, the head last."""
        from timm.models import group_parameters

        names = [name for name, _ in self.module.named_parameters()]
        if hasattr(self.module, "group_matcher"):
            matcher = self._timm.group_matcher(coarse=False)
            index = group_parameters(self.module, matcher, reverse=True)
        else:  # a few models do not say: the parts of the model in the order they were made
            parts = list(dict.fromkeys(name.partition(".")[0] for name in names))
            index = {name: parts.index(name.partition(".")[0]) for name in names}
        heads = tuple(f"{name}." for name in self.head())
        layers: dict[int, list[str]] = {}
        for name in names:
            if not name.startswith(heads):
                layers.setdefault(index[name], []).append(name)
        head = [name for name in names if name.startswith(heads)]
        return [*(layers[i] for i in sorted(layers)), head]

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the pooled features that the classifier sees, (batch, width)."""
        hidden = self._timm.forward_features(inputs["x"])
        pooled: Tensor = self._timm.forward_head(hidden, pre_logits=True)
        return pooled.flatten(1)

    def set_head(self, weight: Tensor, bias: Tensor) -> None:
        """Copy a linear map (outputs, width), (outputs,) into the classifier.

        Raises BackboneError where the classifier is not one linear layer with a bias.
        """
        import torch

        head = self._linear_head()
        with torch.no_grad():
            head.weight.copy_(weight.reshape(head.weight.shape))
            head.bias.copy_(bias)

    def get_head(self) -> tuple[Tensor, Tensor]:
        """Return the classifier as a linear map (outputs, width), (outputs,).

        Raises BackboneError where the classifier is not one linear layer with a bias.
        """
        head = self._linear_head()
        return head.weight.detach().flatten(1), head.bias.detach()

    def _linear_head(self) -> Any:
        names = self.head()
        head = self.module.get_submodule(names[0])
        linear = None not in (getattr(head, "weight", None), getattr(head, "bias", None))
        if len(names) != 1 or not linear:
            raise BackboneError(
                f"The head of this model ({', '.join(names)}) is not one linear layer, so a fitted "
                "linear head cannot be written into it. Take method=full or another backbone."
            )
        return head

    def checkpoint_activations(self) -> None:
        """Recompute activations in the backward pass; BackboneError where timm has no such way."""
        try:
            self._timm.set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as error:
            raise BackboneError(
                "This timm model cannot recompute its activations: leave out "
                "train.gradient_checkpointing, and lower train.micro_batch_size instead."
            ) from error

    @property
    def reloader(self) -> Path:
        """The script that loads a saved model with timm and transformers alone."""
        return Path(__file__).with_name("reload_timm.py")

    def lora_targets(self) -> str:
        """Return the pattern for this family's attention, MLP or convolution modules.

        Raises BackboneError where none of them is found.
        """
        heads = tuple(self.head())
        names = [n for n, _ in self.module.named_modules() if n and not n.startswith(heads)]
        for pattern in LORA_TARGETS:
            if any(re.fullmatch(pattern, name) for name in names):
                return pattern
        raise BackboneError(
            "No default LoRA targets are known for this model; name them with "
            f"method.targets=REGEX. Its modules begin: {', '.join(names[:5])}."
        )

    def tune_for(self, device: torch.device, precision: str) -> list[str]:
        """Choose attention and memory format by what is quick here; return what was chosen."""
        import torch

        choices = []
        if device.type == "cpu":
            # Fused attention is slower than plain attention in training on CPUs.
            self._fused = [m for m in self.module.modules() if getattr(m, "fused_attn", False)]
            for module in self._fused:
                module.fused_attn = False
            if self._fused:
                choices.append("plain attention")
        convolutions = sum(isinstance(m, torch.nn.Conv2d) for m in self.module.modules())
        if convolutions > 1 and precision != "no":
            self._timm.to(memory_format=torch.channels_last)
            choices.append("channels_last")
        return choices

    def save(
        self, folder: Path, classes: tuple[str, ...] | None, problem_type: str | None = None
    ) -> None:
        """Write config.json and model.safetensors as timm and transformers read them.

        Leaves the module as a fresh process will have it.
        """
        import torch
        from timm.models import save_for_hf

        self.module = getattr(self.module, "_orig_mod", self.module)  # out of torch.compile
        self._timm.to(memory_format=torch.contiguous_format)
        for module in self._fused:
            module.fused_attn = True
        config: dict[str, Any] = {"label_names": list(classes)} if classes else {}
        if problem_type is not None:
            # Tells pipelines whether to apply softmax, sigmoid or nothing; timm passes it by.
            config["problem_type"] = problem_type
        save_for_hf(
            self.module,
            str(folder),
            safe_serialization=True,
            model_config=config,
            data_config=dict(self.data_config),
        )
        path = folder / CONFIG
        saved = json.loads(path.read_text("utf-8"))
        args = saved.get("model_args", {})
        # transformers passes num_classes itself and fails where model_args repeats it. Dropout is
        # a matter of one training, not of the model: the next one shall not inherit it.
        for name in ("num_classes", *TRAINING_ARGS):
            args.pop(name, None)
        path.write_text(json.dumps(saved, indent=2) + "\n", "utf-8")
        # safetensors leaves a file that only its owner reads; who reads the one reads the other.
        (folder / WEIGHTS).chmod(path.stat().st_mode & 0o777)
