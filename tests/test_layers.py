"""How the modules may depend on each other, and which one is the door to each library."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import finetune.errors

ROOT = Path(finetune.__file__).parent.parent

DOORS = {
    "timm": ("finetune.backbones",),
    "transformers": ("finetune.backbones",),
    "datasets": ("finetune.data", "finetune.metrics"),  # metrics: the types that evaluate asks for
    "peft": ("finetune.methods.lora",),
    "evaluate": ("finetune.metrics",),
    # metrics: a script of the hub at its pinned revision
    "huggingface_hub": (
        "finetune.hub",
        "finetune.front_matter",
        "finetune.data",
        "finetune.backbones",
        "finetune.metrics",
    ),
    "jinja2": ("finetune.report",),
    "matplotlib": ("finetune.report",),
    "torchvision": ("finetune.images",),
    "onnx": ("finetune.onnx_model",),
    "onnxruntime": ("finetune.onnx_model",),
    "seqeval": ("finetune.entities",),
    "sacrebleu": ("finetune.text_metrics",),
    "rouge_score": ("finetune.text_metrics",),
    "optuna": ("finetune.search",),
    "yaml": ("finetune.plain_yaml", "finetune.data.card"),
    "pickle": (),
}
"""The modules, or folders of modules, that may import a library at all."""

APART = {
    "finetune.loop": ("backbones", "data", "images", "methods", "tasks", "recipe", "metrics"),
    "finetune.backbones": ("data", "methods", "tasks", "recipe", "loop"),
    "finetune.data": ("backbones", "methods", "tasks", "recipe", "loop"),
    "finetune.images": ("backbones", "methods", "tasks", "recipe", "loop"),
    "finetune.methods": ("backbones", "data", "images", "tasks", "recipe", "loop"),
    "finetune.tasks": ("backbones", "data", "methods", "recipe", "loop"),
}
"""What knows nothing of what: N + M nouns, not N x M."""


def modules(package: str) -> dict[str, ast.Module]:
    """Return the syntax tree of every module of a package by dotted name."""
    found = {}
    for path in (ROOT / package).rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text("utf-8"))
    return found


MODULES = modules("finetune")


def for_types_only(tree: ast.Module) -> set[ast.AST]:
    """Return the nodes under `if TYPE_CHECKING:`."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }


def imports(tree: ast.Module) -> Iterator[str]:
    """Yield what a module imports when it runs, at its top or in its functions."""
    skipped = for_types_only(tree)
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else str(node.module)


def within(name: str, homes: tuple[str, ...]) -> bool:
    return any(name == home or name.startswith(f"{home}.") for home in homes)


@pytest.mark.parametrize("library", DOORS)
def test_one_door_per_library(library: str) -> None:
    through = {
        n for n, tree in MODULES.items() if library in {i.split(".")[0] for i in imports(tree)}
    }
    assert {name for name in through if not within(name, DOORS[library])} == set()


def test_no_cycles() -> None:
    # The package's own lazy names are for users. Its __init__ is no link between modules, and
    # neither is that of a folder, which lists its union: only what a module names counts.
    graph = {n: set(imports(t)) & MODULES.keys() - {"finetune"} for n, t in MODULES.items()}
    order = list(graphlib.TopologicalSorter({**graph, "finetune": set()}).static_order())
    assert order.index("finetune.protocols") < order.index("finetune.recipe")
    assert order.index("finetune.recipe") < order.index("finetune.command")


def test_no_module_goes_through_the_public_names() -> None:
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "finetune":
                used = {alias.name for alias in node.names}
                modules_of_ours = {n for n in used if f"finetune.{n}" in MODULES}
                assert used <= modules_of_ours | {"__version__"}, name


@pytest.mark.parametrize("part", APART)
def test_nouns_do_not_know_each_other(part: str) -> None:
    barred = tuple(f"finetune.{name}" for name in APART[part])
    for name, tree in MODULES.items():
        if within(name, (part,)):
            assert [used for used in imports(tree) if within(used, barred)] == [], name


def test_nothing_but_the_command_knows_the_command_line() -> None:
    for name, tree in MODULES.items():
        used = set(imports(tree))
        assert "finetune.command" not in used, name
        assert "argparse" not in used, name


@pytest.mark.parametrize(
    "name", ["finetune", "finetune.command", "finetune.recipe", "recipes.vit_cifar"]
)
def test_recipes_are_values_that_import_quickly(name: str) -> None:
    slow = (
        "torch torchvision timm datasets transformers accelerate peft evaluate sklearn scipy numpy"
    )
    code = (
        f"import sys, {name}; print(*[m for m in {slow.split()} if m in sys.modules])"
        "; assert 'finetune.api' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_recipes_use_only_public_names() -> None:
    for name, tree in modules("recipes").items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                pytest.fail(f"{name} imports {ast.unparse(node)}")
            if isinstance(node, ast.ImportFrom):
                used = {alias.name for alias in node.names}
                shipped = str(node.module).startswith("recipes.") and used == {"recipe"}
                assert shipped or (node.module == "finetune" and used <= set(finetune.__all__)), (
                    name
                )


def test_public_names_are_what_they_say() -> None:
    for name in finetune.__all__:
        value = getattr(finetune, name)
        assert value.__name__ == name
        assert value.__doc__
    assert set(finetune.__all__) <= set(dir(finetune))
    with pytest.raises(AttributeError, match="no attribute 'Loar'"):
        finetune.Loar  # noqa: B018


def test_no_module_hides_a_public_name() -> None:
    # Importing finetune.x sets the attribute `x` of the package.
    assert {name for name in finetune.__all__ if f"finetune.{name}" in MODULES} == set()


def test_no_concrete_class_inherits_from_another() -> None:
    ours = {
        node.name: {ast.unparse(base).partition("[")[0] for base in node.bases}
        for tree in MODULES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    bases = {"Value", "Noun", *vars(finetune.errors)}
    abstract = bases | {n for n, given in ours.items() if given & {"ABC", "Protocol"}}
    for name, given in ours.items():
        assert given & ours.keys() <= abstract, name


def test_modules_and_functions_stay_small() -> None:
    for path in sorted((ROOT / "finetune").rglob("*.py")):
        text = path.read_text("utf-8")
        assert len(text.splitlines()) < 420, path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 70, f"{path.name}: {node.name}"
