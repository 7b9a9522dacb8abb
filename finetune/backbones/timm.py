"""The door to timm: any of its classification models as a backbone."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from finetune.errors import BackboneError, nearest
from finetune.schema import Noun

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from finetune.images.inputs import ImageInputs

SHIPPED = {"tiny-vit": Path(__file__).parent.parent / "weights" / "tiny_vit"}
"""Backbones that come with the package, by name: folders in timm's own form."""

Rate = Annotated[float, Field(ge=0, lt=1)]


class Timm(Noun):
    """A timm model by name, by hub id (`hf-hub:user/name`), from a folder, or shipped."""

    kind: Literal["timm"] = "timm"
    name: str
    """`vit_small_patch16_224.augreg_in21k`, `hf-hub:user/name`, a folder, or `tiny-vit`."""
    weights: str = "pretrained"
    """`pretrained`, `none` (random), or a folder or .safetensors file in timm's form."""
    img_size: int | None = None
    """Side of the square input in pixels, where it differs from the pretrained one."""
    drop_path: Rate = 0.0
    """Stochastic depth rate (Huang et al. 2016, arXiv:1603.09382)."""
    dropout: Rate = 0.0
    """Dropout before the head."""
    args: dict[str, Any] = {}
    """Further arguments of `timm.create_model` by their own names."""

    @classmethod
    def from_text(cls, text: str) -> dict[str, Any] | None:
        """Claim timm-style names, hub ids with timm's prefix, and folders in timm's form."""
        config = Path(text) / "config.json"
        ours = (
            text in SHIPPED
            or text.startswith(("hf-hub:", "timm/"))
            or re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)?", text) is not None
            or (config.is_file() and "architecture" in json.loads(config.read_text("utf-8")))
        )
        return {"name": text} if ours else None

    def build(self, num_outputs: int, classes: tuple[str, ...] | None = None) -> TimmNetwork:
        """Return the model with `num_outputs` outputs; the head is fresh unless it already
        predicts exactly `classes`. Raises BackboneError if it cannot be had.
        """
        source = self._source()
        args = {**self.args, "num_classes": num_outputs}
        if self.drop_path:
            args["drop_path_rate"] = self.drop_path
        if self.dropout:
            args["drop_rate"] = self.dropout
        if self.weights not in ("pretrained", "none"):
            args.update(self._local_weights())
        try:
            module = self._create(source, args)
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            raise self._unavailable(error) from error
        if not (self._is_folder() and module.pretrained_cfg.get("label_names") == list(classes or ())):
            module.reset_classifier(num_outputs)
        return TimmNetwork.of(module, self)

    def _create(self, source: str, args: dict[str, Any]) -> Any:
        import timm

        pretrained = self.weights != "none"
        if self.img_size is not None:
            try:
                return timm.create_model(source, pretrained, img_size=self.img_size, **args)
            except TypeError as error:
                # Convolutional models take images of any size, but not this argument.
                if "'img_size'" not in str(error):
                    raise
        return timm.create_model(source, pretrained, **args)

    def saved(self, folder: Path) -> Timm:
        """Return the backbone that `TimmNetwork.save` wrote into `folder`."""
        return Timm(name=str(folder))

    @property
    def public_name(self) -> str:
        """The name without any local path in it."""
        return Path(self.name).name if self._is_folder() else self.name

    def _is_folder(self) -> bool:
        return Path(self.name).is_dir()

    def _source(self) -> str:
        """Return what timm calls this model; raise BackboneError if it has no such name."""
        import timm

        if self.name in SHIPPED:
            return f"local-dir:{SHIPPED[self.name]}"
        if self._is_folder():
            return f"local-dir:{self.name}"
        if self.name.startswith("hf-hub:"):
            return self.name
        if self.name.startswith("timm/"):
            return f"hf-hub:{self.name}"
        if not timm.is_model(self.name.partition(".")[0]):
            names = [*SHIPPED, *timm.list_models(), *timm.list_pretrained()]
            raise BackboneError(
                f"backbone.name={self.name!r} is neither a timm model nor a folder."
                f"{nearest(self.name, names)} `timm.list_models()` lists all names."
            )
        architecture, _, tag = self.name.partition(".")
        if tag and self.weights == "pretrained":
            known = [n for n in timm.list_pretrained(f"{architecture}.*")]
            if self.name not in known:
                raise BackboneError(
                    f"timm has no pretrained weights {self.name!r}."
                    f"{nearest(self.name, known)} Known: {', '.join(known) or 'none'}."
                )
        return self.name

    def _local_weights(self) -> dict[str, Any]:
        """Return timm's arguments that read `weights` from a path; raise BackboneError if it
        is not there, is a pickle, or holds another architecture.
        """
        path = Path(self.weights)
        if path.is_dir():
            config = path / "config.json"
            if config.is_file():
                held = json.loads(config.read_text("utf-8")).get("architecture")
                if held and held != self.name.partition(".")[0]:
                    raise BackboneError(
                        f"backbone.weights={self.weights} holds {held!r}, but backbone.name is "
                        f"{self.name!r}. Give the folder as the backbone: backbone={self.weights}"
                    )
            path = path / "model.safetensors"
        if not path.is_file():
            raise BackboneError(
                f"backbone.weights={self.weights!r}: there is no {path.name} there. Allowed: "
                "'pretrained', 'none', a folder with model.safetensors, or a .safetensors file."
            )
        if path.suffix != ".safetensors":
            raise BackboneError(
                f"backbone.weights={self.weights!r} is no .safetensors file; pickled weights are "
                "not read, because loading them can run code. Convert it with safetensors."
            )
        return {"pretrained_cfg_overlay": {"file": str(path), "hf_hub_id": None, "url": None}}

    def _unavailable(self, error: Exception) -> BackboneError:
        offline = isinstance(error, OSError)
        if not offline:
            return BackboneError(f"timm cannot build {self.name!r}: {error}")
        return BackboneError(
            f"The weights of {self.name!r} are not on this machine and could not be fetched "
            f"({type(error).__name__}). Three ways lead on:\n"
            "  1. connect to the network once; the weights are then kept;\n"
            "  2. backbone.weights=PATH, a folder or .safetensors file that you have;\n"
            "  3. recipe=vit-digits, whose weights come with the package."
        )


# Where LoRA belongs, in order; the first pattern that any module meets is taken. Attention
# first (ViT, Swin), then the MLPs of ConvNeXt, then the convolutions inside residual blocks.
LORA_TARGETS = (
    r"(.*\.)?blocks\.\d+\.attn\.(qkv|q_proj|k_proj|v_proj|proj)",
    r"(.*\.)?blocks\.\d+\.mlp\.fc[12]",
    r"layer\d+\.\d+\.conv\d+",
    r"(.*\.)?(blocks|stages)\.\d+(\.\w+)*\.(conv\w*)",
)


@dataclass
class TimmNetwork:
    """A timm model with its layers in order, its head apart, and its own preprocessing."""

    module: nn.Module
    inputs: ImageInputs
    data_config: dict[str, Any]

    @classmethod
    def of(cls, module: nn.Module, value: Timm) -> TimmNetwork:
        """Read the preprocessing from the model's own configuration."""
        from timm.data import resolve_data_config

        from finetune.images.inputs import ImageInputs

        wanted = {"img_size": value.img_size} if value.img_size else {}
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
        return cls(module, inputs, config)

    def head(self) -> list[str]:
        """Return the names of the classifier modules."""
        names = self.module.default_cfg["classifier"]  # type: ignore[index, union-attr]
        return [names] if isinstance(names, str) else list(names)

    def layers(self) -> list[list[str]]:
        """Return the parameter names in order from the stem to the head, the head last."""
        from timm.models import group_parameters

        heads = tuple(f"{name}." for name in self.head())
        matcher = self.module.group_matcher(coarse=False)  # type: ignore[operator]
        index = group_parameters(self.module, matcher, reverse=True)
        layers: dict[int, list[str]] = {}
        last: list[str] = []
        for name, _ in self.module.named_parameters():
            if name.startswith(heads):
                last.append(name)
            else:
                layers.setdefault(index[name], []).append(name)
        return [*(layers[i] for i in sorted(layers)), last]

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the pooled features that the classifier sees, (batch, width)."""
        hidden = self.module.forward_features(inputs["x"])  # type: ignore[operator]
        pooled: Tensor = self.module.forward_head(hidden, pre_logits=True)  # type: ignore[operator]
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
        """Return the classifier as a linear map (outputs, width), (outputs,)."""
        head = self._linear_head()
        return head.weight.detach().flatten(1), head.bias.detach()

    def _linear_head(self) -> Any:
        names = self.head()
        head = self.module.get_submodule(names[0])
        linear = getattr(head, "weight", None) is not None and getattr(head, "bias", None) is not None
        if len(names) != 1 or not linear:
            raise BackboneError(
                f"The head of this model ({', '.join(names)}) is not one linear layer, so a fitted "
                "linear head cannot be written into it. Take method=full or another backbone."
            )
        return head

    def checkpoint_activations(self) -> None:
        """Recompute activations in the backward pass; BackboneError where timm has no such way."""
        try:
            self.module.set_grad_checkpointing(True)  # type: ignore[operator]
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
        """Return the pattern for this family's attention, MLP or convolution modules."""
        names = [name for name, _ in self.module.named_modules()]
        for pattern in LORA_TARGETS:
            if any(re.fullmatch(pattern, name) for name in names):
                return pattern
        raise BackboneError(
            "No default LoRA targets are known for this model; name them with "
            f"method.targets=REGEX. Its modules begin: {', '.join(names[1:6])}."
        )

    def tune_for(self, device: torch.device, precision: str) -> list[str]:
        """Choose attention and memory format by what is quick here; return what was chosen."""
        import torch

        choices = []
        if device.type == "cpu":
            # Fused attention is slower than plain attention in training on CPUs.
            plain = [m for m in self.module.modules() if hasattr(m, "fused_attn")]
            for module in plain:
                module.fused_attn = False
            if plain:
                choices.append("plain attention")
        convolutions = sum(isinstance(m, torch.nn.Conv2d) for m in self.module.modules())
        if convolutions > 1 and precision != "no":
            self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            choices.append("channels_last")
        return choices

    def save(self, folder: Path, classes: tuple[str, ...] | None) -> None:
        """Write config.json and model.safetensors as timm and transformers read them."""
        import torch
        from timm.layers import use_fused_attn
        from timm.models import save_for_hf

        # Back from what `tune_for` chose to what a fresh process will use.
        self.module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        for module in self.module.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = use_fused_attn()
        config = {"label_names": list(classes)} if classes else {}
        save_for_hf(
            self.module,
            str(folder),
            safe_serialization=True,
            model_config=config,
            data_config=dict(self.data_config),
        )
        path = folder / "config.json"
        saved = json.loads(path.read_text("utf-8"))
        # transformers passes num_classes itself and fails where model_args repeats it.
        saved.get("model_args", {}).pop("num_classes", None)
        path.write_text(json.dumps(saved, indent=2) + "\n", "utf-8")


def optimizer_class(name: str) -> Any:
    """Return timm's optimizer of this name, or None."""
    from timm.optim import get_optimizer_class, list_optimizers

    return get_optimizer_class(name, bind_defaults=True) if name in list_optimizers() else None


def optimizer_names() -> list[str]:
    """Return the names of timm's optimizers."""
    from timm.optim import list_optimizers

    return list(list_optimizers())
