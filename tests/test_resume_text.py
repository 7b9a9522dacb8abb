"""Killed while it learns from texts, in batches by length or packed: the same bits at the end."""

from __future__ import annotations

import json
from pathlib import Path

import children
import pytest
import tiny_texts
import toy
from test_resume import kill_after, kill_in_a_write, lines

from finetune import finetune
from finetune.recipe import load

CASES = {
    "text-classification": ("bert", "TextClassification()", "lr=1e-3"),
    "language-modeling": ("gpt2", "LanguageModeling()", "lr=1e-3, ema=0.9"),
}


def recipe_file(folder: Path, case: str) -> Path:
    family, task, train = CASES[case]
    model = tiny_texts.folder(folder / "models", family)
    sentences = [" ".join(tiny_texts.SENTENCES[i % 16].split()[: 3 + i % 9]) for i in range(96)]
    rows = [{"text": text, "label": ["a", "b"][i % 2]} for i, text in enumerate(sentences)]
    table = folder / "rows.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    path = folder / "recipe.py"
    path.write_text(
        "from finetune import *\n"
        "recipe = Recipe(\n"
        f"    name='killed', task={task}, data=TableData({str(table)!r}),\n"
        f"    backbone=Transformers(name={str(model)!r}, max_length=24),\n"
        f"    train=Train(epochs=4, batch_size=8, save_seconds=0, {train}),\n"
        ")\n"
    )
    return path


@pytest.mark.parametrize("case", CASES)
def test_killed_anywhere_it_ends_with_the_same_bits(tmp_path: Path, case: str) -> None:
    recipe, run = recipe_file(tmp_path, case), tmp_path / "run"
    kill_after(recipe, run, 5)
    kill_in_a_write(recipe, run, 12)
    assert lines(run) >= 5 and not (run / "result.json").exists()
    last = children.finetune(recipe, run)
    assert last.code() == 0, last.said()
    assert "Resuming after" in last.said()
    finetune(load(recipe), tmp_path / "unbroken")
    assert toy.outcome(run) == toy.outcome(tmp_path / "unbroken")
