"""Texts to be predicted on, as rows: from files, from a pipe, from memory; no model is needed."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset

from finetune import TableData, predictions
from finetune.data import files
from finetune.data.rows import Stream
from finetune.errors import DataError, RecipeError

TEXTS = ["great film", "", "ein schöner Film, sehr gut", 'say "x"']


@dataclass
class Task:
    """What a run is asked of its task."""

    columns: tuple[str, ...] = ("text", "label")


def run_of(*columns: str, data: Any = None) -> Any:
    return SimpleNamespace(recipe=SimpleNamespace(task=Task(columns), data=data))


REVIEWS = run_of("text", "label")
PAIRS = run_of("text", "text_pair", "label")
TAGS = run_of("words", "label")
ANSWERS = run_of("question", "context", "label")
TRANSLATION = run_of("source", "target")
CHAT = run_of("messages")


def cells(stream: Stream, column: str = "text") -> list[Any]:
    return [row.cells[column] for row in stream.read()]


def rows(run: Any, inputs: Any, **columns: str) -> Stream:
    return predictions.rows_of(run, inputs, columns)


def test_a_text_file_gives_a_row_for_each_line(tmp_path: Path) -> None:
    path = tmp_path / "new.txt"
    path.write_bytes(("\ufeff" + "\r\n".join(TEXTS)).encode())
    stream = rows(REVIEWS, path)
    assert stream.count == 4 and not stream.files
    assert cells(stream) == cells(stream) == TEXTS
    assert [row.name for row in stream.read()] == [TEXTS[0], "row 1", *TEXTS[2:]]
    assert cells(rows(REVIEWS, str(path))) == TEXTS
    assert cells(rows(TAGS, path), "words") == [text.split() for text in TEXTS]
    assert cells(rows(TRANSLATION, path), "source") == TEXTS
    assert cells(rows(CHAT, path), "messages")[0] == [{"role": "user", "content": "great film"}]


def table(path: Path, columns: dict[str, list[Any]]) -> Path:
    if path.suffix == ".parquet":
        Dataset.from_dict(columns).to_parquet(str(path))
        return path
    records = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(record) for record in records), "utf-8")
        return path
    import csv

    with path.open("w", encoding="utf-16", newline="") as file:
        writer = csv.writer(file, delimiter={".csv": ";", ".tsv": "\t"}[path.suffix])
        writer.writerows([list(columns), *(record.values() for record in records)])
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table_gives_a_row_for_each_of_its_own(tmp_path: Path, suffix: str) -> None:
    held = {"id": [1, 2, 3, 4], "Review": TEXTS, "other": list("abcd")}
    path = table(tmp_path / f"new{suffix}", held)
    assert rows(REVIEWS, path).count == 4
    assert cells(rows(REVIEWS, path)) == TEXTS
    assert cells(rows(REVIEWS, path, text="other")) == list("abcd")
    named = run_of("text", "label", data=TableData("rows.csv", text="other"))
    assert cells(rows(named, path)) == list("abcd")  # as it was called in training
    elsewhere = run_of("text", "label", data=TableData("rows.csv", text="utterance"))
    assert cells(rows(elsewhere, path)) == TEXTS


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_rows_of_two_texts(tmp_path: Path, suffix: str) -> None:
    held = {"premise": TEXTS, "hypothesis": TEXTS[::-1]}
    stream = rows(PAIRS, table(tmp_path / f"pairs{suffix}", held))
    assert [tuple(row.cells.values()) for row in stream.read()] == list(
        zip(TEXTS, TEXTS[::-1], strict=True)
    )
    asked = table(tmp_path / f"asked{suffix}", {"context": ["A dog."], "question": ["What?"]})
    [row] = rows(ANSWERS, asked).read()
    assert row.name == "What?"
    assert row.cells == {"question": "What?", "context": "A dog."}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_lists_and_dicts_in_tables(tmp_path: Path, suffix: str) -> None:
    words = table(tmp_path / f"words{suffix}", {"tokens": [["a", "b"], []]})
    assert cells(rows(TAGS, words), "words") == [["a", "b"], []]
    pair = table(tmp_path / f"two{suffix}", {"translation": [{"de": "Hund", "en": "dog"}] * 2})
    assert cells(rows(TRANSLATION, pair, source="de"), "source") == ["Hund"] * 2
    assert cells(rows(TRANSLATION, pair, source="translation.en"), "source") == ["dog"] * 2
    chat = [{"from": "human", "value": "Hi"}]
    chats = table(tmp_path / f"chats{suffix}", {"conversations": [chat]})
    assert cells(rows(CHAT, chats), "messages") == [[{"role": "user", "content": "Hi"}]]


def pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))


def test_a_pipe_is_read_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, ("\ufeff" + "\r\n".join(TEXTS) + "\n").encode())
    stream = rows(REVIEWS, "-")
    assert stream.count is None
    assert cells(stream) == TEXTS
    pipe(monkeypatch, b"good\ncaf\xe9\n")
    read = rows(REVIEWS, "-").read()
    assert next(read).cells == {"text": "good"}
    with pytest.raises(DataError, match=r"Standard input is not utf-8 \(line 2\)"):
        next(read)


def test_nothing_is_read_before_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"text\n"

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=endless()))
    read = rows(REVIEWS, "-").read()
    assert [next(read).name for _ in range(10)] == ["text"] * 10
    assert taken == 10
    path = tmp_path / "many.txt"
    path.write_text("text\n" * 100)
    given = files.lines

    def counted(path: Path, encoding: str | None = None) -> Iterator[str]:
        nonlocal taken
        for line in given(path, encoding):
            taken += 1
            yield line

    monkeypatch.setattr(files, "lines", counted)
    stream = rows(REVIEWS, path)
    assert taken == 110  # the first pass, which counts
    next(stream.read())
    assert taken == 111


def test_texts_in_memory() -> None:
    assert cells(rows(REVIEWS, ["a", "", {"text": "b", "id": 3}, None])) == ["a", "", "b", None]
    assert cells(rows(REVIEWS, "great film")) == ["great film"]
    assert cells(rows(REVIEWS, "is it a/b? *.txt\nof two lines.csv")) != []
    assert cells(rows(REVIEWS, "x" * 5000)) == ["x" * 5000]
    pairs = [("a", "b"), {"text": "c", "text_pair": "d"}]
    assert cells(rows(PAIRS, pairs), "text_pair") == ["b", "d"]
    assert cells(rows(TAGS, ["a b", ["c", "d"]]), "words") == [["a", "b"], ["c", "d"]]
    chat = [{"role": "user", "content": "Hi"}]
    stream = rows(CHAT, [chat, {"messages": chat}, "Hi"])
    assert cells(stream, "messages") == [chat] * 3
    assert {row.name for row in stream.read()} == {"Hi"}
    assert cells(rows(REVIEWS, [])) == []


@pytest.mark.parametrize(
    ("run", "value", "message"),
    [
        (REVIEWS, 3, "input 0: the text is a int, not text"),
        (REVIEWS, ["a"], "input 0: the text is a list, not text"),
        (REVIEWS, {"txt": "a"}, "input 0 is a dict with 'txt': give a dict with text"),
        (PAIRS, "a", "input 0 is a str: give a dict with text and text_pair"),
        (ANSWERS, {"question": "a"}, "dict with 'question': give a dict with question and context"),
        (TAGS, [1], "input 0: the words are a list, not a list of words"),
        (CHAT, 1, "input 0: the messages are a int, not a list of messages"),
    ],
)
def test_things_that_are_no_texts(run: Any, value: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        list(rows(run, [value]).read())


@pytest.mark.parametrize(
    ("run", "inputs", "message"),
    [
        (REVIEWS, "nwe.txt", r"There is no such path .*nwe.txt; did you mean .*new.txt\?"),
        (REVIEWS, "none.csv", "There is no such path"),
        (REVIEWS, "", r"is a folder: give a \.txt file with a text on each line, or a table"),
        (REVIEWS, "film.doc", r"is a file, but neither a \.txt file .* nor a table"),
        (REVIEWS, "empty.txt", "empty.txt is empty: give one text on each line"),
        (REVIEWS, "plain.csv", r"Which column of plain.csv holds the texts\? .*'x', 'y'.*text=COL"),
        (PAIRS, "plain.csv", r"holds the texts and the text_pairs\?.*text=COLUMN text_pair=COLUMN"),
        (PAIRS, "new.txt", "A line is one text, but this run reads text and text_pair: give a tab"),
        (PAIRS, "-", "A line is one text"),
        (
            REVIEWS,
            "odd.jsonl",
            r"odd.jsonl, row 1 \(counted from 0\): the text is a list, not text",
        ),
        (REVIEWS, "numbers.parquet", "numbers.parquet: the text column holds int64"),
    ],
)
def test_inputs_that_lead_to_nothing(tmp_path: Path, run: Any, inputs: str, message: str) -> None:
    (tmp_path / "new.txt").write_text("a\n")
    (tmp_path / "film.doc").write_text("a\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "plain.csv").write_text("x,y\n1,2\n")
    (tmp_path / "odd.jsonl").write_text('{"text": "a"}\n{"text": ["b"]}\n')
    Dataset.from_dict({"text": [1, 2]}).to_parquet(str(tmp_path / "numbers.parquet"))
    with pytest.raises(DataError, match=message):
        rows(run, inputs if inputs == "-" else str(tmp_path / inputs))


def test_a_column_that_is_not_there_or_not_read(tmp_path: Path) -> None:
    path = table(tmp_path / "new.csv", {"review": ["a"]})
    with pytest.raises(DataError, match=r"text=reviwe: new.csv has no column .*mean 'review'\?"):
        rows(REVIEWS, path, text="reviwe")
    with pytest.raises(RecipeError, match=r"txt=review is not allowed here: .* reads text\."):
        rows(REVIEWS, path, txt="review")
