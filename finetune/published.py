"""What a repository on the hub holds of a run, and a run read back from one.

The model's files lie at its root, where timm, transformers and PEFT look for them, beside the card
and what `Run.load` needs. Only kinds of files that are known go either way, and no pickle is one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from finetune import card, console
from finetune.backbones import hub as reading
from finetune.errors import SECRET, HubError, RunError

if TYPE_CHECKING:
    from finetune.hub import Hub
    from finetune.recipe import Recipe
    from finetune.run import Run

KINDS = (".safetensors", ".json", ".txt", ".model", ".spm", ".bpe", ".jinja", ".md", ".png")
"""Weights, configurations, vocabularies, chat templates, cards and their pictures."""
RECIPE, RESULT, CARD, CURVES = "recipe.yaml", "result.json", "README.md", "curves.png"
ADAPTER = "adapter_config.json"
WEIGHTS = re.compile(
    r"(adapter/)?((adapter_)?model[^/]*\.safetensors(\.index\.json)?|adapter_config\.json)"
)
"""Files that change what is loaded by only being there."""
ELSEWHERE = (
    "run=DIR, the run folder that was pushed",
    "run=FOLDER, a download of the repository",
)


def allowed(name: str) -> bool:
    """Return whether a file of this name, relative to the model's folder, may be pushed or read."""
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix in KINDS and not hidden


def of_model(name: str) -> bool:
    """Return whether a file of a model's folder is of the model itself, not of its run."""
    return allowed(name) and name not in (RESULT, CARD, CURVES)


def check(hub: Hub, recipe: Recipe) -> None:
    """Raise HubError if a run of this recipe has not what is to be pushed."""
    if not hub.adapter_only:
        return
    if recipe.method.kind != "lora":
        raise HubError(
            f"adapter_only=true needs a run of method=lora; this one is of {recipe.method.kind}. "
            "Leave it out to push the model."
        )
    if recipe.task.kind.endswith("regression"):
        raise HubError(
            "The adapter of a regression answers in standard deviations of its training data, and "
            "only the merged model in their unit. Leave out adapter_only=true."
        )
    name, weights = (getattr(recipe.backbone, key, None) for key in ("name", "weights"))
    if name is None or Path(name).expanduser().exists() or weights != "pretrained":
        raise HubError(
            "The adapter belongs to weights that only this machine has. Leave out "
            "adapter_only=true to push the merged model, which needs no other."
        )


@contextmanager
def laid_out(run: Run, hub: Hub) -> Iterator[Path]:
    """Yield a folder that is laid out as the repository will be: links to files, and texts.

    Raises HubError where the run has no safetensors, or a text holds what looks like a token.
    """
    source = run.model / "adapter" if hub.adapter_only else run.model
    left = []
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for path in sorted(source.rglob("*")):
            name = path.relative_to(source).as_posix()
            if path.is_file() and allowed(name):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).symlink_to(path.resolve())
            elif path.is_file() and name != RECIPE:
                left.append(name)
        picture = run.path / CURVES
        if picture.is_file() and not (folder / CURVES).exists():
            (folder / CURVES).symlink_to(picture.resolve())
        if not any(folder.glob("*.safetensors")):
            raise HubError(f"{source} holds no safetensors, and nothing else is pushed.")
        if left:
            console.say(f"Not pushed, being no part of a model: {', '.join(left)}")
        for name, text in _texts(run, hub).items():
            if SECRET.search(text):
                raise HubError(
                    f"{name} of the run holds what looks like an access token or a password, so "
                    "nothing was pushed. Take it out."
                )
            (folder / name).unlink(missing_ok=True)  # it may be a link into the run folder
            (folder / name).write_text(text, "utf-8")
        yield folder


def _texts(run: Run, hub: Hub) -> dict[str, str]:
    """Return what is not pushed as it lies in the run folder: no path of this machine is in it."""
    result = {key: value for key, value in run.result.items() if key != "notes"}
    texts = {
        RECIPE: card.public_recipe(run.recipe, run.result)
        or (run.path / RECIPE).read_text("utf-8"),
        RESULT: json.dumps(result, indent=2, ensure_ascii=False) + "\n",
    }
    written = run.path / CARD
    if written.is_file():
        texts[CARD] = card.published(
            written.read_text("utf-8"), str(hub.push), hub.revision, adapter_only=hub.adapter_only
        )
    return texts


def stale(folder: Path, there: Iterable[str]) -> list[str]:
    """Return which of the files of a repository, of another push, would be loaded with these."""
    return [name for name in there if WEIGHTS.fullmatch(name) and not (folder / name).exists()]


def fetch(name: str) -> Path:
    """Return the folder that holds the run pushed as `user/name` or `user/name@revision`.

    Raises RunError if it is no pushed run, BackboneError if the hub does not have it or does not
    answer and it is not in the cache.
    """

    def chosen(names: Sequence[str]) -> list[str]:
        if missing := {RECIPE, RESULT} - set(names):
            raise RunError(
                f"{name} is no run that was pushed: it has no {min(missing)}. As a backbone it "
                f"may do: backbone={name}, or backbone=hf-hub:{name} for a model of timm."
            )
        # The folder is that of the first file.
        return [RECIPE, *(n for n in names if allowed(n))]

    return reading.fetch_some(name, chosen, RECIPE, ELSEWHERE)


def without_trust(recipe: Recipe) -> Recipe:
    """Return the recipe of a run that others pushed: it may not say that their code is run."""
    backbone: Any = recipe.backbone
    if getattr(backbone, "trust_remote_code", False):
        backbone = backbone.model_copy(update={"trust_remote_code": False})
    return recipe.model_copy(update={"backbone": backbone, "trust_remote_code": False})
