"""Where a timm model comes from: its registry, the hub, a folder in its form, or this package."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.backbones import hub
from finetune.errors import BackboneError, nearest

if TYPE_CHECKING:
    from torch import nn

SHIPPED = {"tiny-vit": Path(__file__).parent.parent / "weights" / "tiny_vit"}
"""Backbones that come with the package, by name: folders in timm's own form."""

CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True)
class Source:
    """What timm builds a model from."""

    name: str
    """As `timm.create_model` takes it."""
    config: dict[str, Any]
    """timm's `pretrained_cfg`: input size, preprocessing, classifier."""
    weights: Path | None
    """The .safetensors file, or None for random weights."""
    labels: tuple[str, ...] | None = None
    """What the head of the weights predicts, where it says so."""
    origin: dict[str, Any] = field(default_factory=dict)
    """For the model card: "name", and "id" and "revision" on the hub."""

    def check(self, module: nn.Module, heads: Iterable[str]) -> None:
        """Raise BackboneError if the file of weights lacks a tensor of the module's body."""
        from safetensors import safe_open

        if self.weights is None:
            return
        with safe_open(self.weights, "pt") as file:
            held = {name.removeprefix("timm_model.") for name in file.keys()}  # noqa: SIM118
        skipped = tuple(f"{head}." for head in heads)
        needed = [name for name in module.state_dict() if not name.startswith(skipped)]
        if missing := [name for name in needed if name not in held]:
            raise BackboneError(
                f"{self.weights} has no {missing[0]!r}, and lacks {len(missing)} of the "
                f"{len(needed)} tensors of {self.origin['name']!r} in all: its weights are of "
                "another model, or not in timm's form. Check backbone.name and backbone.weights."
            )


def resolve(name: str, weights: str) -> Source:
    """Return the source of the model `name` with `weights`: "pretrained", "none" or a path.

    Raises BackboneError if one of them cannot be had.
    """
    import timm

    if name in SHIPPED:
        return _in_folder(SHIPPED[name], weights, {"name": name})
    if name.startswith(("hf-hub:", "timm/")):
        repository = name.removeprefix("hf-hub:")
        files = [CONFIG] + [WEIGHTS] * (weights == "pretrained")
        folder = hub.fetch(repository, files)
        repo = repository.partition("@")[0]
        origin = {"name": repo, "id": repo, "revision": folder.name}
        return _in_folder(folder, weights, origin)
    if timm.is_model(name.partition(".")[0]):
        return _registered(name, weights)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise BackboneError(_unknown(name, folder))
    return _in_folder(folder, weights, {"name": public(folder)})


def public(folder: Path) -> str:
    """Return the name of a folder without where it lies: of `runs/photos/model`, `photos`."""
    path = folder.resolve()
    return path.parent.name if path.name == "model" else path.name


def _unknown(name: str, path: Path) -> str:

    if "/" in name or name.startswith(("~", ".")):
        kind = "is a file" if path.is_file() else "does not exist"
        beside = [str(p) for p in path.parent.glob("*/") if p.is_dir()]
        return (
            f"backbone={name!r} {kind}.{nearest(str(path), beside)} Give a folder in timm's form, "
            "such as runs/NAME/model, the name of a timm model, or hf-hub:user/name."
        )
    return (
        f"backbone={name!r} is neither a timm model nor a folder.{alike(name)} "
        "`timm.list_models()` lists all names."
    )


def alike(name: str) -> str:
    """Return `" Did you mean 'x'?"` for the nearest name of a model, or an empty string."""
    import timm

    return nearest(name, [*SHIPPED, *timm.list_models(), *timm.list_pretrained()])


def _registered(name: str, weights: str) -> Source:
    """Return a model of timm's registry, its weights from the hub if they are asked for."""
    import timm

    architecture, _, tag = name.partition(".")
    known = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in known:
        raise BackboneError(
            f"timm has no pretrained weights {name!r}.{nearest(name, known)} "
            f"Known: {', '.join(known) or 'none'}."
        )
    config = timm.get_pretrained_cfg(name)
    settings = config.to_dict() if config else {}
    origin: dict[str, Any] = {"name": name}
    if weights != "pretrained":
        return Source(name, settings, given(weights, architecture), origin=origin)
    if not settings.get("hf_hub_id"):
        what = "only as a pickle, which is not read" if settings.get("url") else "not at all"
        raise BackboneError(
            f"timm has pretrained weights of {name!r} {what}. Give backbone.weights=PATH, a folder "
            "or .safetensors file, or backbone.weights=none for random weights."
        )
    repo = settings["hf_hub_id"]
    folder = hub.fetch(repo, [WEIGHTS])
    origin |= {"id": repo, "revision": folder.name}
    return Source(name, settings, folder / WEIGHTS, origin=origin)


def _in_folder(folder: Path, weights: str, origin: dict[str, Any]) -> Source:
    """Return a model whose folder has its configuration and, unless others are given, weights."""
    config = read_config(folder)
    if "architecture" not in config:
        inside = folder / "model"
        hint = f" Did you mean {inside}?" if (inside / CONFIG).is_file() else ""
        raise BackboneError(
            f"The folder {folder} is not in timm's form: it has no {CONFIG} with an "
            f'"architecture".{hint} A run keeps its model in runs/NAME/model.'
        )
    settings = config.get("pretrained_cfg", config)
    labels = config.get("label_names") or settings.get("label_names")
    if weights == "pretrained":
        file: Path | None = folder / WEIGHTS
        if not (folder / WEIGHTS).is_file():
            raise BackboneError(
                f"The folder {folder} has no {WEIGHTS}. Weights in other forms are not read, "
                "because loading pickles can run code: convert them to safetensors, or give "
                "backbone.weights=PATH."
            )
    else:
        file, labels = given(weights, config["architecture"]), None
    classes = config.get("num_classes", settings.get("num_classes"))
    return Source(
        f"local-dir:{folder}",
        settings | {"num_classes": classes},
        file,
        tuple(labels) if isinstance(labels, list) else None,
        origin,
    )


def given(weights: str, architecture: str) -> Path | None:
    """Return the file that `backbone.weights` names, None for "none".

    Raises BackboneError if it is not there, is a pickle, or says that it is another architecture.
    """
    if weights == "none":
        return None
    path = Path(weights).expanduser()
    if path.is_dir():
        held = read_config(path).get("architecture", architecture)
        if held != architecture:
            raise BackboneError(
                f"backbone.weights={weights} holds {held!r}, but the backbone is {architecture!r}. "
                f"Give the folder as the backbone: backbone={weights}"
            )
        path = path / WEIGHTS
    return safetensors_file(weights, path)


def safetensors_file(weights: str, path: Path) -> Path:
    """Return the file that `backbone.weights` names; BackboneError if it is none that is read."""
    if path.is_file() and path.suffix != ".safetensors":
        raise BackboneError(
            f"backbone.weights={weights} is no .safetensors file; pickled weights are not read, "
            "because loading them can run code. Convert it with the safetensors package."
        )
    if not path.is_file():
        beside = [str(p) for p in path.parent.glob("*.safetensors")]
        raise BackboneError(
            f"backbone.weights={weights}: there is no file {path}."
            f"{nearest(weights, [*beside, 'pretrained', 'none'])} Allowed: pretrained, none, a "
            f"folder with {WEIGHTS}, or a .safetensors file."
        )
    return path


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json of a folder, empty if there is none; raise BackboneError if damaged."""
    path = folder / CONFIG
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneError(f"{path} cannot be read: {error}.") from error
    return config if isinstance(config, dict) else {}
