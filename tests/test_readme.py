"""The README's Python runs as it stands, and its commands are ones that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from finetune import command, override, recipe, search_space

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)
SCRIPTS = [block for block in BLOCKS if "finetune(" in block]
COMMANDS = re.findall(r"^\$ python cli\.py (.*?)(?:\s+#.*)?$", README, re.M)


@pytest.mark.parametrize("script", SCRIPTS, ids=["override", "protocols"])
def test_scripts_run(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(script, "README.md", "exec"), names)
    tested = names["run"].result["test"]  # type: ignore[attr-defined]
    assert tested["accuracy"]["n"] > 0
    wrong = tested.get("error_rate", {"value": 1 - tested["accuracy"]["value"]})
    assert wrong["value"] == pytest.approx(1 - tested["accuracy"]["value"])


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_exist(line: str) -> None:
    name, *arguments = line.split()
    own, rest = command.split(name, arguments)
    if "recipe" in own:
        # Paths of the reader's own, such as ./photos, are only looked at when data is loaded.
        read = search_space.read if name == "search" else override.apply
        read(recipe.load(own["recipe"]), rest)


def test_quick_start_is_two_lines_that_set_themselves_up() -> None:
    lines = re.findall(r"^\$ (python3 -m venv .*)$", README, re.M)
    assert len(lines) == 2
    assert lines[0].endswith("pip install -e . && python cli.py finetune recipe=vit-digits")
    assert lines[1].endswith("pip install -e '.[test]' && python -m pytest")
