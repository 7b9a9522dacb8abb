"""The door to timm: any of its classification models as a backbone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt

from finetune.backbones.timm_source import SHIPPED, Source, public, read_config, resolve
from finetune.backbones.transformers_source import BARE
from finetune.backbones.transformers_source import SHIPPED as PACKAGES
from finetune.errors import BackboneError
from finetune.protocols import ROW, Form
from finetune.schema import Noun

if TYPE_CHECKING:
    from torch import nn

    from finetune.backbones.timm_network import TimmNetwork

Rate = Annotated[float, Field(ge=0, lt=1)]
FIELDS = {"drop_path_rate": "drop_path", "drop_rate": "dropout", "img_size": "img_size"}
"""Arguments of timm that are fields here."""


class Timm(Noun):
    """A timm model by name, by hub id (`hf-hub:user/name`), from a folder, or shipped."""

    kind: Literal["timm"] = "timm"
    name: str
    """`vit_small_patch16_224.augreg_in21k`, `hf-hub:user/name`, a folder, or `tiny-vit`."""
    weights: str = "pretrained"
    """`pretrained`, `none` (random), or a folder or .safetensors file in timm's form."""
    head: Literal["auto", "fresh", "keep"] = "auto"
    """`auto` keeps the head of a folder or hub id that predicts exactly the data's classes."""
    img_size: PositiveInt | None = None
    """Side of the square input in pixels, where it differs from the pretrained one."""
    drop_path: Rate = 0.0
    """Stochastic depth rate (Huang et al. 2016, arXiv:1603.09382)."""
    dropout: Rate = 0.0
    """Dropout before the head."""
    args: dict[str, Any] = {}
    """Further arguments of `timm.create_model` by their own names."""

    @classmethod
    def from_text(cls, text: str) -> dict[str, Any] | None:
        """Claim timm-style names, hub ids with timm's prefix, folders in timm's form, and paths
        that do not exist.
        """
        path = Path(text).expanduser()
        taken = text in (*BARE, *PACKAGES)
        ours = (
            text in SHIPPED
            or text.startswith(("hf-hub:", "timm/"))
            or (re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)?", text) is not None and not taken)
            or (path.is_dir() and "architecture" in read_config(path))
            or (text.startswith(("/", "./", "../", "~")) and not (path / "config.json").is_file())
        )
        return {"name": text} if ours else None

    def build(
        self, num_outputs: int, classes: tuple[str, ...] | None = None, form: Form = ROW
    ) -> TimmNetwork:
        """Return the model with `num_outputs` outputs; its head is fresh unless `head` keeps it.

        Raises BackboneError if the model or its weights cannot be had, or the task is not one over
        whole images.
        """
        from finetune.backbones.timm_network import TimmNetwork

        if form != ROW:
            raise BackboneError(
                f"{self.public_name!r} is a timm model: it reads images and gives one output for "
                "each. For a task over texts give a transformers model, such as "
                "backbone=bert-base-uncased or a folder in transformers' form."
            )
        source = resolve(self.name, self.weights)
        keep = self._keeps_head(source, num_outputs, classes)
        module = self._create(source, num_outputs, keep)
        network = TimmNetwork.of(module, self.img_size, source.origin)
        network.head_is_pretrained = keep and source.weights is not None
        if source.name.startswith("local-dir:") or self.weights != "pretrained":
            source.check(module, network.head())
        if self.img_size is not None:
            network.check_size()
        return network

    def without_weights(self) -> Timm:
        """Return the same model with random weights, for what needs its shape alone.

        Raises BackboneError if `weights` names a file that cannot be used.
        """
        if self.weights not in ("pretrained", "none"):
            resolve(self.name, self.weights)
        return self.model_copy(update={"weights": "none", "head": "fresh"})

    def saved(self, folder: Path) -> Timm:
        """Return the backbone that `TimmNetwork.save` wrote into `folder`, its head included."""
        return Timm(name=str(folder.resolve()), head="keep")

    @property
    def public_name(self) -> str:
        """The name without any local path in it."""
        path = Path(self.name).expanduser()
        return public(path) if path.is_dir() else self.name.removeprefix("hf-hub:")

    def _keeps_head(
        self, source: Source, num_outputs: int, classes: tuple[str, ...] | None
    ) -> bool:
        if self.head == "auto":
            # A shipped backbone is one for everybody: its own classes are no head start.
            same = classes is not None and source.labels == classes
            return same and self.name not in SHIPPED
        held = source.config.get("num_classes")
        if self.head == "keep" and held != num_outputs:
            raise BackboneError(
                f"backbone.head=keep: the head of {self.public_name!r} has {held} outputs, and the "
                f"data needs {num_outputs}. Leave it out to get a fresh head."
            )
        return self.head == "keep"

    def _create(self, source: Source, num_outputs: int, keep: bool) -> nn.Module:
        """Return timm's module; raise BackboneError with its reason where timm refuses."""
        import timm
        from safetensors import SafetensorError

        fields = {"drop_path_rate": self.drop_path, "drop_rate": self.dropout}
        if source.config.get("fixed_input_size"):  # the others take images of any size
            fields["img_size"] = self.img_size or 0
        args = {name: value for name, value in fields.items() if value} | self.args
        # timm drops the head of weights whose number of classes is another one: 0 always is.
        overlay: dict[str, Any] = {} if keep else {"num_classes": 0}
        overlay |= args.pop("pretrained_cfg_overlay", {})
        if source.weights is not None:
            overlay |= {"file": str(source.weights), "source": "", "custom_load": False}
        known = RuntimeError, ValueError, AssertionError, KeyError, AttributeError, SafetensorError
        try:
            module: Any = timm.create_model(
                source.name,
                pretrained=source.weights is not None,
                pretrained_cfg_overlay=overlay,
                num_classes=num_outputs,
                **args,
            )
        except TypeError as error:
            named = re.search(r"(?:keyword argument|values for argument) '(\w+)'", str(error))
            name = named.group(1) if named else ""
            key = FIELDS.get(name, f"args.{name}") if name not in self.args else f"args.{name}"
            what = f"backbone.{key} cannot be set for this model" if named else str(error)
            raise BackboneError(
                f"timm cannot build {self.public_name!r}: {what}. Leave it out."
            ) from error
        except known as error:
            reason = " ".join(str(error).split()[:60])  # tensors that do not fit make long lists
            raise BackboneError(f"timm cannot build {self.public_name!r}: {reason}") from error
        if (
            module.pretrained_cfg.get("input_size", (3,))[0] != 3
            or self.args.get("in_chans", 3) != 3
        ):
            raise BackboneError(
                f"{self.public_name!r} does not take RGB images. Leave out backbone.args.in_chans, "
                "or choose another model."
            )
        built: nn.Module = module
        return built


def optimizer_class(name: str) -> Any:
    """Return timm's optimizer of this name, or None."""
    from timm.optim import get_optimizer_class, list_optimizers

    return get_optimizer_class(name, bind_defaults=True) if name in list_optimizers() else None


def optimizer_names() -> list[str]:
    """Return the names of timm's optimizers."""
    from timm.optim import list_optimizers

    return list(list_optimizers())
