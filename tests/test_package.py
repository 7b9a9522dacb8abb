"""The wheel: what it holds, and that it works outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

import finetune

ROOT = Path(finetune.__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def run(*arguments: str | Path, **options: object) -> str:
    """Run a program and return what it prints; its errors fail the test."""
    done = subprocess.run(
        [str(a) for a in arguments], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of what belongs to the project."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("finetune", "recipes", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            run("cp", "-r", ROOT / name, source / name)
    # The environment's own setuptools, so that building needs no network.
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, source)
    [built] = folder.glob("*.whl")
    return built


def test_the_wheel_holds_all_of_the_package_and_no_more(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    info = f"finetune-{finetune.__version__}.dist-info"
    files = {
        str(path.relative_to(ROOT))
        for package in ("finetune", "recipes")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {n for n in names if not n.startswith(info)} == files
    weights = {"config.json", "model.safetensors", "README.md"}
    assert {f"finetune/weights/tiny_vit/{name}" for name in weights} <= names
    assert {"finetune/py.typed", f"{info}/METADATA", f"{info}/licenses/LICENSE"} <= names


def test_the_installed_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    options = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "install", *options, "--target", target, wheel)
    environment = os.environ | {"PYTHONPATH": str(target), "COLUMNS": "80"}
    program = target / "bin" / "finetune"
    told = run(program, "recipes", env=environment, cwd=tmp_path)
    assert "vit-digits" in told
    code = (
        "import finetune, pathlib; from finetune.recipe import load;"
        "from finetune.backbones.timm import SHIPPED;"
        "print(pathlib.Path(finetune.__file__).parent.parent, load('vit-cifar-lora').name,"
        "(SHIPPED['tiny-vit'] / 'model.safetensors').is_file())"
    )
    told = run(sys.executable, "-c", code, env=environment, cwd=tmp_path)
    assert told.split() == [str(target), "vit-cifar-lora", "True"]


def test_the_console_command_is_installed() -> None:
    program = Path(sysconfig.get_path("scripts")) / "finetune"
    if not program.exists():
        pytest.fail("install the package first: pip install -e '.[test]'")
    assert run(program, "--version") == f"finetune {finetune.__version__}\n"


def test_dependencies_have_lower_bounds_only() -> None:
    assert len({d.partition(">")[0] for d in PROJECT["dependencies"]}) == len(
        PROJECT["dependencies"]
    )
    extras = PROJECT["optional-dependencies"].values()
    for requirement in [*PROJECT["dependencies"], *(named for extra in extras for named in extra)]:
        if requirement.startswith("finetune["):
            continue
        name, _, bound = requirement.partition(">=")
        assert name.replace("-", "").replace("_", "").isalnum(), requirement
        assert bound.replace(".", "").isdigit(), requirement


def test_the_licence_is_apache() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert (
        "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()
    )
