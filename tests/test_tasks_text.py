"""Tasks over texts as values, and their runs' pages, with a model that is made up."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import staging
import tiny_texts
from test_report import HOSTILE, Elements

import finetune
from finetune import Full, Recipe, TableData, Train, card, predictions, report
from finetune.backbones import Transformers
from finetune.data import writing
from finetune.errors import FinetuneError
from finetune.tasks import (
    ChatTuning,
    ImageClassification,
    LanguageModeling,
    MultiLabelTextClassification,
    QuestionAnswering,
    TextClassification,
    TextRegression,
    TextToText,
    TokenClassification,
)

TASKS: list[Any] = [
    TextClassification(pair=True),
    MultiLabelTextClassification(),
    TextRegression(),
    TokenClassification(stride=16),
    QuestionAnswering(max_answer_length=12, null_threshold=0.5),
    TextToText(prefix="translate: ", num_beams=2),
    LanguageModeling(packed=False),
    ChatTuning(template="chatml"),
]


def recipe(task: Any, path: str = "rows.jsonl") -> Recipe:
    return Recipe(
        name="text", backbone=Transformers(name="minilm"), data=TableData(path), task=task
    )


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_a_task_is_a_value_that_says_how_rows_are_read(task: Any) -> None:
    made = recipe(task)
    assert Recipe.model_validate(json.loads(made.model_dump_json())) == made
    assert made.override(f"task={task.kind}").task.kind == task.kind
    reading = task.form.reading
    assert hash(reading) == hash(type(task)(**task.model_dump()).form.reading)
    assert set(reading.columns) <= set(task.columns) and task.augmentation is None


def test_what_a_task_says_reaches_its_reading_and_its_target() -> None:
    assert TokenClassification(stride=16).form.reading.stride == 16
    assert TextToText(prefix="x: ", max_target_length=5).form.reading.max_target_length == 5
    assert TextClassification(pair=True).columns == ("text", "text_pair", "label")
    assert QuestionAnswering(n_best=3).options["n_best"] == 3
    saved = {"unanswerable": True, "n_best": 3, "classes": None}
    assert QuestionAnswering().recall(saved).n_best == 3  # type: ignore[attr-defined]
    assert ImageClassification().form.reading is None


def test_a_key_that_a_task_does_not_have_is_told() -> None:
    with pytest.raises(FinetuneError, match="task.strid.*Did you mean.*stride"):
        recipe(TokenClassification()).override("task.strid=3")


# What people see of a run


def pages(folder: Path, task: Any, target: Any, columns: dict[str, Any], guess: Any) -> Any:
    """Return the report's elements and the card of a run over these test rows."""
    table = staging.Rows(columns)
    truth = target.encode(table)
    made = staging.job(target, dict.fromkeys(("train", "validation", "test"), truth), recipe(task))
    for split in ("train", "validation", "test"):
        object.__setattr__(made.splits, split, table)
    result = staging.result(made, guess)
    path = staging.folder(folder / "run", made)
    report.write(path, made, result, guess)
    told = card.text(made.recipe, made, result, staging.ENVIRONMENT)
    return Elements((path / "report.html").read_text("utf-8")), told


def safe(elements: Any, told: str) -> None:
    """Check that what rows hold is text in both pages, and nothing but text."""
    assert not {name for name, _ in elements.found} & {"script", "iframe", "object"}
    assert elements.count("img") == 0
    assert not [a for _, attributes in elements.found for a in attributes if a.startswith("on")]
    assert "<script" not in told and "<img" not in told


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_texts_classes_and_tags_do_nothing_in_pages(text: str, tmp_path: Path) -> None:
    from finetune.targets import Classes, Tags

    columns = {"text": [text, "plain"] * 4, "label": [0, 1] * 4}
    chances = np.tile(np.array([[0.2, 0.8]], np.float32), (8, 1))
    target = Classes((text[:60] or "x", "other"))
    elements, told = pages(tmp_path / "a", TextClassification(), target, columns, chances)
    safe(elements, told)
    assert "80 % sure" in elements.text
    words = {"words": [[text, "b"]] * 4, "label": [[1, 0]] * 4}
    name = text.replace("\n", " ")[:40] or "x"
    tags = Tags(("O", f"B-{name}"))
    guess = tags.guesses(tags.encode(staging.Rows(words)), torch_generator())
    safe(*pages(tmp_path / "b", TokenClassification(), tags, words, guess))


def torch_generator() -> Any:
    import torch

    return torch.Generator().manual_seed(1)


def test_pages_of_tags_show_types_confusion_and_the_word_in_doubt(tmp_path: Path) -> None:
    from finetune.targets import Tags
    from finetune.targets.base import objects

    columns = {"words": [["Ann", "sat", "in", "Bonn"]] * 6, "label": [[1, 0, 0, 2]] * 6}
    target = Tags(("O", "B-PER", "B-LOC"))
    row = np.array([[1, 0.9], [0, 0.8], [0, 0.9], [1, 0.7]])
    right = np.array([[1, 0.9], [0, 0.8], [0, 0.9], [2, 0.7]])
    guess = objects([row, right] * 3)
    elements, told = pages(tmp_path, TokenClassification(), target, columns, guess)
    for words in ("Entity types", "PER", "B-LOC → B-PER", "Worst mistakes", "Ann sat in Bonn"):
        assert words in elements.text
    assert "70 % sure, word 4" in elements.text and "baseline: majority" in elements.text
    assert "### By entity type" in told and "one of 3 tags" in told
    assert "B-LOC | B-PER | 3 of 6" in told


def test_pages_of_answers_texts_and_next_tokens(tmp_path: Path) -> None:
    from finetune.targets import Generated, Spans

    columns: dict[str, Any] = {
        "question": ["who?"] * 4,
        "context": ["Ann sat in Bonn."] * 4,
        "label": [{"text": ["Ann"], "answer_start": [0]}] * 4,
    }
    guess = np.array([[[0.0, 3.0, 0.9]], [[11.0, 15.0, 0.8]]] * 2)
    elements, told = pages(tmp_path / "a", QuestionAnswering(), Spans(), columns, guess)
    assert "Bonn" in elements.text and "true: Ann" in elements.text and "who?" in elements.text
    assert "80 % sure" in elements.text and "Calibration" in elements.text
    assert "answers a question" in told and "Exact match" in told
    pairs = {"source": ["a b"] * 4, "target": ["x y"] * 4}
    texts = np.array(["x y", "x", "", "x y z"], dtype=object)
    elements, told = pages(tmp_path / "b", TextToText(), Generated(), pairs, texts)
    assert "Largest errors" in elements.text and "chrF 0.0" in elements.text
    assert "ROUGE-L" in told and "baseline: copy" in told and "Confusion" not in elements.text


# From a table to predictions, with a tiny model


SAID = tiny_texts.SENTENCES


def rows(kind: str) -> list[dict[str, Any]]:
    if kind == "token-classification":
        return [
            {"words": s.split(), "label": ["B-X" if w[0].isupper() else "O" for w in s.split()]}
            for s in SAID * 3
        ]
    answer = [{"text": [s.split()[2]], "answer_start": [s.index(s.split()[2])]} for s in SAID]
    return [
        {"question": "which word?", "context": s, "answers": a}
        for s, a in zip(SAID * 3, answer * 3, strict=True)
    ]


def rounded(answers: Any) -> Any:
    return json.loads(json.dumps(answers), parse_float=lambda text: round(float(text), 4))


@pytest.mark.parametrize(
    ("task", "family", "given", "keys"),
    [
        (TokenClassification(stride=4), "bert", ["Ann  sat in Bonn"], {"entities"}),
        (
            QuestionAnswering(stride=4),
            "roberta",
            [{"question": "who?", "context": "Ann sat."}],
            {"text", "start", "end", "score", "top"},
        ),
    ],
    ids=["tags", "spans"],
)
def test_a_run_of_windows_is_told_row_by_row(
    task: Any, family: str, given: Any, keys: set[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    table = tmp_path / "rows.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows(task.kind)), "utf-8")
    made = Recipe(
        name="tiny",
        backbone=Transformers(
            name=str(tiny_texts.folder(tmp_path / "models", family)), max_length=32
        ),
        data=TableData(str(table)),
        task=task,
        method=Full(train_layers=2),
        train=Train(epochs=1, batch_size=8, precision="no"),
    )
    run = finetune.finetune(made, tmp_path / "run")
    assert any("are kept on disk" in note for note in run.result["notes"])
    assert all(0 < share < 1 for share in run.result["data"]["padding"].values())
    assert run.result["test"]["f1"]["n"] == run.result["data"]["rows"]["test"]
    assert json.loads(json.dumps(run.evaluate())) == run.result["test"]
    [told] = run.predict(given)
    assert told["error"] is None and set(told) == keys | {"input", "error"}
    assert set(predictions.columns(run, 5)) == set(told)
    for entity in told.get("entities", ()):
        assert given[0][entity["start_char"] : entity["end_char"]] == entity["text"]
    # Rows of like length share a batch, and each has its own answer.
    small = dataclasses.replace(run, recipe=run.recipe.override("train.eval_batch_size=2"))
    many = rows(task.kind)[:9]
    alone = [answer for row in many for answer in run.predict([row])]
    assert rounded(small.predict(many)) == rounded(alone)
    for suffix in writing.SUFFIXES:
        finetune.predict(run, given, tmp_path / f"told{suffix}")
        assert (tmp_path / f"told{suffix}").is_file()
