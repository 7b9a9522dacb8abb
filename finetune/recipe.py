"""A recipe: one frozen value that says everything about a run."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
)

from finetune import explain, override, protocols
from finetune.backbones import AnyBackbone
from finetune.data import AnyData
from finetune.errors import RecipeError, nearest
from finetune.hub import Hub
from finetune.methods import AnyMethod, Full
from finetune.schema import Value, accepts
from finetune.tasks import AnyTask

Fraction = Annotated[float, Field(ge=0, le=1)]


class Train(Value):
    """How the weights are learned; the defaults suit fine-tuning a pretrained model."""

    epochs: NonNegativeInt = 5
    """Passes over the training split."""
    batch_size: PositiveInt = 32
    """Samples per update, over all processes and micro-batches."""
    micro_batch_size: PositiveInt | None = None
    """Samples per forward pass of one process; the whole share of the batch if not given."""
    eval_batch_size: PositiveInt = 64
    """Samples per forward pass in evaluation."""
    optimizer: str = "adamw"
    """`adamw`, `sgd`, or any other name of timm's or torch's optimizers."""
    optimizer_args: dict[str, Any] = {}
    """Further arguments of the optimizer by their own names."""
    lr: PositiveFloat = 5e-4
    """Peak learning rate of the head; lower layers follow the method's `layer_decay`."""
    schedule: Literal["cosine", "linear", "step", "constant"] = "cosine"
    """How the learning rate falls after the warm-up; `step` divides it by 10 at 1/2 and 3/4."""
    warmup: Fraction = 0.1
    """Share of all updates over which the learning rate rises from 0."""
    weight_decay: NonNegativeFloat = 0.05
    """Not applied to norms and biases."""
    clip_norm: NonNegativeFloat = 1.0
    """Largest gradient norm; 0 does not clip."""
    label_smoothing: Fraction = 0.0
    """Share of each target spread evenly over the classes."""
    focal: NonNegativeFloat = 0.0
    """Exponent of the focal loss (Lin et al. 2017, arXiv:1708.02002); 0 is cross-entropy."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weighs each class's loss by the inverse of its frequency."""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """`balanced` draws every class equally often, with replacement."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per update of an exponential moving average of the weights; 0 keeps none."""
    patience: NonNegativeInt = 0
    """Stop after so many epochs without a better validation metric; 0 never stops early."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """`auto` takes bf16 where the hardware has it, else fp32."""
    compile: bool = False
    """Compile the model with torch.compile."""
    seed: NonNegativeInt = 0
    """Seed of the head, the order, the augmentation and dropout."""
    save_seconds: NonNegativeFloat = 60.0
    """Least time between two checkpoints, in seconds; 0 saves after every update."""


class Recipe(Value):
    """What to learn, from what, and how: a value that prints, compares, saves and reads back."""

    name: str
    """Names the default run folder."""
    backbone: Annotated[AnyBackbone, accepts(protocols.Backbone)]
    data: Annotated[AnyData, accepts(protocols.Data)]
    task: Annotated[AnyTask, accepts(protocols.Task)]
    method: Annotated[AnyMethod, accepts(protocols.Method)] = Full()
    train: Train = Train()
    metrics: tuple[Any, ...] = ()
    """Further metrics: names, `evaluate.Metric` objects (in a script), or `user/name@revision`."""
    slices: tuple[str, ...] = ()
    """Columns of the data by whose values the test figures are told apart, with the worst slice."""
    trust_remote_code: bool = False
    """Allow metrics by hub name to run their authors' code; their revision must be pinned."""
    hub: Hub = Hub()
    """Where the finished model is pushed to; the run folder does not depend on it."""

    @field_validator("slices", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        # slices=camera,place on the command line.
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value

    def override(self, *texts: str, **values: Any) -> Self:
        """Return another recipe: `recipe.override("train.epochs=1", method=LoRA(rank=16))`.

        Raises RecipeError, with every problem listed, for a key or value that is not allowed.
        """
        return override.apply(self, texts, values)[0]

    def to_yaml(self) -> str:
        """Return the recipe as YAML; raise RecipeError if it holds an object YAML cannot."""
        from finetune import plain_yaml

        for key, value in explain.leaves(self).items():
            if not _is_plain(value):
                raise RecipeError(
                    f"This recipe cannot be saved as YAML: {key} is an object of the class "
                    f"{type(value).__name__}, which only Python can make. Keep it in a .py file "
                    "with `recipe = Recipe(...)` and give that as recipe=FILE.py."
                )
        content = self.model_dump(mode="json", exclude={"hub"} if self.hub == Hub() else None)
        return plain_yaml.write(_kind_first(content))

    @classmethod
    def from_yaml(cls, text: str) -> Self:
        """Return the recipe that `to_yaml` wrote; raise RecipeError if it is not one."""
        from finetune import plain_yaml

        return override.build(cls, plain_yaml.read(text))

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits of the SHA-256 over every value that decides what is learned."""
        trained = {k: v for k, v in explain.leaves(self).items() if not k.startswith("hub.")}
        plain = {k: v if _is_plain(v) else _words(v) for k, v in trained.items()}
        text = json.dumps(plain, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def _kind_first(content: dict[str, Any]) -> dict[str, Any]:
    """Return the mapping with its tag, where it has one, before all else."""
    ordered = {"kind": content["kind"]} if "kind" in content else {}
    for key, value in content.items():
        ordered[key] = _kind_first(value) if isinstance(value, dict) else value
    return ordered


def _is_plain(value: Any) -> bool:
    """Return whether YAML and JSON can hold a value."""
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    return value is None or isinstance(value, (str, int, float, bool, Path))


def _words(value: Any) -> str:
    """Return what an object is, the same in every process."""
    return f"{type(value).__qualname__} {re.sub(r' at 0x[0-9a-f]+', '', repr(value))}"


def difference(before: Recipe, after: Recipe) -> list[str]:
    """Return a line such as `train.epochs: 1 -> 3` for every key that differs."""
    old, new = explain.leaves(before), explain.leaves(after)
    unsaid = explain.defaults(before) | explain.defaults(after)
    lines = []
    for key in old | new:
        if key not in old or key not in new:
            # Of a variant that came or went, what is at its default says nothing.
            changed = (old | new)[key] != unsaid.get(key, old)
        else:
            changed = old[key] != new[key]
        words = [explain.shown(t[key]) if key in t else "unset" for t in (old, new)]
        lines += [f"{key}: {words[0]} -> {words[1]}"] * changed
    return lines


def _shipped() -> Path:
    """Return the folder of the recipes that come with the package."""
    found = importlib.util.find_spec("recipes")
    if found is None or not found.submodule_search_locations:
        raise RecipeError("The package `recipes` is missing: install finetune again.")
    return Path(next(iter(found.submodule_search_locations)))


def names() -> list[str]:
    """Return the names of the shipped recipes."""
    modules = (p.stem for p in _shipped().glob("*.py"))
    return sorted(m.replace("_", "-") for m in modules if not m.startswith("_"))


def story(name: str) -> str:
    """Return the first line of a shipped recipe's docstring, without running the recipe."""
    return docstring(name).partition("\n")[0]


def docstring(spec: str) -> str:
    """Return what a shipped recipe or a `.py` file says of itself, without running it."""
    path = Path(spec).expanduser()
    if spec.replace("_", "-") in names():
        path = _shipped() / f"{spec.replace('-', '_')}.py"
    return ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""


def load(spec: str | Path) -> Recipe:
    """Return a recipe by shipped name, from a `.py` or `.yaml` file, or from a run folder.

    Raises RecipeError if there is none, with the nearest name.
    """
    text, path = str(spec), Path(spec).expanduser()
    module = text.replace("-", "_")
    if module.isidentifier() and module.replace("_", "-") in names():
        return _checked(importlib.import_module(f"recipes.{module}"), text)
    if path.is_dir():
        path = path / "recipe.yaml"
        if not path.is_file():
            raise RecipeError(f"The folder {text!r} is no run: it has no recipe.yaml.")
    if path.is_file() and path.suffix == ".py":
        return _checked(_run(path), text)
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        try:
            return Recipe.from_yaml(path.read_text("utf-8"))
        except (RecipeError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path}: {error}") from error
    what = (
        "is not a .py or .yaml file" if path.exists() else "is neither a recipe's name nor a file"
    )
    raise RecipeError(
        f"recipe={text!r} {what}.{nearest(text, names())} `finetune recipes` lists the shipped "
        "ones; a .py file, a .yaml file and a run folder are taken too."
    )


def _run(path: Path) -> Any:
    """Run a recipe file, and say in plain words where it fails."""
    found = importlib.util.spec_from_file_location(f"_recipe_{path.stem}", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except ValidationError as error:
        cls = next((c for c in explain.reachable(Recipe) if c.__name__ == error.title), Recipe)
        reason = override.joined(explain.problems(error, cls, {}))
        raise RecipeError(f"{path}, {error.title}: {reason}") from error
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error
    except Exception as error:
        raise RecipeError(f"{path} does not run: {type(error).__name__}: {error}") from error
    return module


def _checked(module: Any, spec: str) -> Recipe:
    recipe = getattr(module, "recipe", None)
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"{spec} has no variable `recipe` that is a Recipe.")
    return recipe
