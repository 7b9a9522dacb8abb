"""Texts in every form that tables hold them, and what is said of a messy one."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, List, Translation, Value

from finetune.data import HubData, TableData, TextFiles
from finetune.data.assemble import splits
from finetune.data.base import Raw
from finetune.data.paths import claimant
from finetune.errors import DataError
from finetune.protocols import Splits

FILMS = [f"film {i} is {('good', 'bad')[i % 2]}" for i in range(20)]
LABELS = [("good", "bad")[i % 2] for i in range(20)]
ROWS = [{"sentence": text, "label": label} for text, label in zip(FILMS, LABELS, strict=True)]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def delimited(rows: list[dict[str, Any]], separator: str = ",", end: str = "\n") -> str:
    lines = [list(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]
    return end.join(separator.join(line) for line in lines) + end


def json_lines(rows: list[dict[str, Any]]) -> str:
    return "\n".join(map(json.dumps, rows)) + "\n"


def load(path: Path, wanted: tuple[str, ...] = ("text", "label"), **fields: Any) -> Splits:
    return TableData(str(path), **fields).load(wanted)


def every(loaded: Splits, column: str = "text") -> list[Any]:
    return [row[column] for name in ("train", "validation", "test") for row in loaded[name]]


def memory(
    rows: list[dict[str, Any]],
    wanted: tuple[str, ...],
    features: Features | None = None,
    mapping: dict[str, str] | None = None,
    **fields: Any,
) -> Splits:
    table = Dataset.from_list(rows, features=features)
    source = TableData("rows.jsonl", **fields)
    return splits(Raw({"train": table}, {}, mapping=mapping or {}), source, wanted)


# Formats


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl", "rows.parquet", "hub"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "hub":
        (path / "data").mkdir(parents=True)
        Dataset.from_list(ROWS).to_parquet(str(path / "data" / "train.parquet"))
        loaded = HubData(str(path)).load(("text", "label"))
    else:
        if name.endswith("parquet"):
            Dataset.from_list(ROWS).to_parquet(str(path))
        elif name.endswith("jsonl"):
            write(path, json_lines(ROWS))
        else:
            write(path, delimited(ROWS, "\t" if name.endswith("tsv") else ","))
        loaded = load(path)
    assert sorted(every(loaded)) == sorted(FILMS)
    assert loaded.classes == ("bad", "good")
    assert loaded.left_out == {}
    assert any("stratified by label" in note for note in loaded.notes)
    assert Counter(loaded.test["label"]) == {0: 2, 1: 2}


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_other_separators_and_line_ends(tmp_path: Path, separator: str, end: str) -> None:
    rows = [{**row, "sentence": f"{row['sentence']}, they say"} for row in ROWS]
    loaded = load(write(tmp_path / "rows.csv", delimited(rows, separator, end)))
    assert sorted(every(loaded)) == sorted(f"{text}, they say" for text in FILMS)
    assert loaded.classes == ("bad", "good")


def test_quoted_newlines_marks_and_long_cells(tmp_path: Path) -> None:
    odd = ['two\nlines, "quoted"', "x" * 300_000, " spaced ", "Grüße\u2028😀"]
    texts = [*odd, *FILMS]
    with (tmp_path / "rows.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *([t, "ab"[len(t) % 2]] for t in texts)])
    assert sorted(every(load(tmp_path / "rows.csv"))) == sorted(texts)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"])
def test_an_encoding_is_detected(tmp_path: Path, encoding: str) -> None:
    rows = [{**row, "label": row["label"] + "ü"} for row in ROWS]
    path = write(tmp_path / "rows.csv", delimited(rows).encode(encoding))
    assert load(path).classes == ("badü", "goodü")


def test_or_named_or_refused(tmp_path: Path) -> None:
    rows = [{**row, "label": row["label"] + "ü"} for row in ROWS]
    path = write(tmp_path / "rows.csv", delimited(rows).encode("cp1252"))
    with pytest.raises(DataError, match=r"not utf-8 \(line 2\).*data.encoding=cp1252"):
        load(path)
    assert load(path, encoding="cp1252").classes == ("badü", "goodü")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", "text,label\na\0b,x\n", r"null character \(line 2\).*Save it again as UTF-8"),
        ("rows.csv", "text,text,label\na,b,c\n", "columns of the same name: 'text'"),
        ("rows.csv", "text,label\na,b,x\n", "line 2, has 3 cells, but there are 2 columns. Quote"),
        (
            "rows.csv",
            'text,label\n"a" b,x\n',
            "line 2, cannot be read.*inside it are doubled",
        ),
        ("rows.tsv", 'text\tlabel\n"a\tx\n', "cannot be read.*inside it are doubled"),
        ("rows.jsonl", '{"text": "a", "id": 1}\n{"text": "b", "id": "x"}\n', r"column \('id'\)"),
        ("rows.csv", "text,label\n", "rows.csv has no rows"),
    ],
)
def test_a_broken_table_says_where(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(write(tmp_path / name, content))


def test_extra_columns_stay_and_short_rows_lack_the_rest(tmp_path: Path) -> None:
    content = "id,text,label,note\n" + "".join(f"{i},{FILMS[i]},{LABELS[i]}\n" for i in range(20))
    loaded = load(write(tmp_path / "rows.csv", content))
    assert set(loaded.train.column_names) == {"id", "text", "label", "note"}
    assert set(loaded.train["note"]) == {None}


# Columns


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (("text",), ("Review",)),
        (("text", "text_pair"), ("premise", "hypothesis")),
        (("text", "text_pair"), ("question1", "question2")),
        (("question", "context"), ("question", "passage")),
        (("source", "target"), ("article", "highlights")),
        (("source", "target"), ("text", "summary")),
    ],
)
def test_columns_are_found_by_what_they_are_called(
    wanted: tuple[str, ...], names: tuple[str, ...]
) -> None:
    rows = [{name: f"{name} {i}" for name in names} | {"other": "x"} for i in range(10)]
    loaded = memory(rows, wanted)
    for canonical, name in zip(wanted, names, strict=True):
        assert sorted(every(loaded, canonical)) == [f"{name} {i}" for i in range(10)]


def test_columns_are_named_and_may_change_places() -> None:
    rows = [{"source": f"de {i}", "target": f"en {i}"} for i in range(10)]
    mapping = TableData("rows.csv", source="target", target="source").mapping()
    loaded = memory(rows, ("source", "target"), mapping=mapping)  # type: ignore[arg-type]
    assert sorted(every(loaded, "source")) == [f"en {i}" for i in range(10)]
    assert sorted(every(loaded, "target")) == [f"de {i}" for i in range(10)]
    pairs = [{"question": f"q {i}", "sentence": f"s {i}"} for i in range(10)]
    loaded = memory(pairs, ("text", "text_pair"), mapping={"text_pair": "sentence"})
    assert every(loaded, "text")[0].startswith("q ")


def test_columns_that_are_not_there_or_named_twice() -> None:
    with pytest.raises(DataError, match=r"data.text=sentense: .*'sentence', 'label'.* 'sentence'"):
        memory(ROWS, ("text", "label"), mapping={"text": "sentense"})
    with pytest.raises(DataError, match=r"No column looks like the context; .*data.context=COLUMN"):
        memory(ROWS, ("question", "context"), mapping={"question": "sentence"})
    with pytest.raises(DataError, match=r"data.text and data.text_pair both name .*'sentence'"):
        both = {"text": "sentence", "text_pair": "sentence"}
        memory(ROWS, ("text", "text_pair"), mapping=both)


@pytest.mark.parametrize("typed", [True, False])
def test_translations_are_keys_of_a_column(typed: bool) -> None:
    rows = [{"translation": {"en": f"a dog {i}", "de": f"ein Hündchen {i}"}} for i in range(10)]
    features = Features(translation=Translation(languages=["en", "de"])) if typed else None
    mapping = {"source": "de", "target": "translation.en"}
    loaded = memory(rows, ("source", "target"), features, mapping)
    assert sorted(every(loaded, "source")) == [f"ein Hündchen {i}" for i in range(10)]
    assert sorted(every(loaded, "target")) == [f"a dog {i}" for i in range(10)]
    with pytest.raises(DataError, match=r"looks like the source; .*'translation.en'.*data.source="):
        memory(rows, ("source", "target"), features)


@pytest.mark.parametrize(
    ("name", "cell", "message"),
    [
        ("text", 7, "'text' holds int64, not text: name a column that does with data.text=COLUMN"),
        ("text", ["a", "b"], "'text' holds lists of string, not text"),
        ("text", {"a": "b"}, "'text' holds dicts with 'a', not text"),
        ("words", "a b", "'words' holds string, not lists of words.*JSON lines and parquet"),
        ("words", [1, 2], "'words' holds lists of int64, not lists of words"),
        ("messages", "Hello", 'holds string, not chats.*"role": "user"'),
        ("messages", [{"a": "b"}], "holds lists of dicts with 'a', not chats"),
    ],
)
def test_a_column_of_another_kind_is_refused(name: str, cell: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        memory([{name: cell}] * 10, (name,))


def test_a_text_column_of_numbers_in_csv(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", "text,label\n1,a\n2,b\n")
    with pytest.raises(DataError, match="'text' holds int64, not text"):
        load(path)


def test_chats_of_two_kinds() -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    other = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    one = memory([{"messages": chat}] * 10, ("messages",))
    two = memory([{"conversations": other}] * 10, ("messages",))
    assert every(one, "messages") == every(two, "messages") == [chat] * 10
    assert "label" not in one.train.column_names and one.classes is None
    assert any("at random" in note for note in one.notes)


# Labels


def test_label_sets_beside_texts() -> None:
    lists = memory([{"text": f"t {i}", "label": ["x", "y"][: i % 3]} for i in range(20)], TEXT)
    assert lists.classes == ("x", "y")
    columns = [{"text": f"t {i}", "red": i % 2, "big": i % 3 == 0} for i in range(20)]
    several = memory(columns, TEXT, mapping={"label": ("red", "big")})  # type: ignore[dict-item]
    assert several.classes == ("red", "big")


TEXT = ("text", "label")
TAGGED = ("words", "label")


def test_tags_of_words_have_no_entity_first() -> None:
    tags = ["B-per", "O", "I-per", "B-loc"]
    rows = [{"tokens": list("abcd"), "ner_tags": tags} for _ in range(20)]
    loaded = memory(rows, TAGGED)
    assert loaded.classes == ("O", "B-loc", "B-per", "I-per")
    assert loaded.train[0]["label"] == [2, 0, 3, 1]
    assert loaded.train[0]["words"] == list("abcd")
    features = Features(
        tokens=List(Value("string")), ner_tags=List(ClassLabel(names=["O", "B-x", "I-x"]))
    )
    named = memory([{"tokens": ["a", "b"], "ner_tags": [1, 0]}] * 20, TAGGED, features)
    assert named.classes == ("O", "B-x", "I-x")
    assert named.train[0]["label"] == [1, 0]


def test_each_word_has_a_tag() -> None:
    rows = [{"words": ["a", "b"], "label": ["O", "X"]} for _ in range(20)]
    rows[3]["label"], rows[5]["words"] = ["O"], []
    with pytest.raises(DataError, match=r"(?s)no words in column 'words': 'train' row 5 .*'label'"):
        memory(rows, TAGGED, train="train[:10]", validation="train[10:15]", test="train[15:]")
    loaded = memory(rows, TAGGED, on_error="skip")
    assert sum(map(len, loaded.left_out.values())) == 2
    assert len(every(loaded, "words")) == 18
    with pytest.raises(DataError, match=r"lists as long as those of the words.*data.label=COLUMN"):
        memory([{"words": ["a"], "label": "x"}] * 20, TAGGED)


def test_answers_pass_through() -> None:
    asked = ("question", "context", "label")
    answer = {"text": ["dog"], "answer_start": [2]}
    none = {"text": [], "answer_start": []}
    base = {"question": "What?", "context": "A dog."}
    loaded = memory([{**base, "answers": (answer, none)[i % 2]} for i in range(20)], asked)
    assert loaded.classes is None
    assert {json.dumps(cell) for cell in every(loaded, "label")} == set(
        map(json.dumps, (answer, none))
    )
    flat = {"text": "dog", "answer_start": 2}
    for form in (flat, [flat]):
        assert every(memory([{**base, "answers": form}] * 20, asked), "label") == [answer] * 20


# Rows that lack something


def messy(path: Path) -> Path:
    rows = [dict(row) for row in ROWS]
    rows[2]["sentence"], rows[9]["sentence"], rows[11]["label"] = "", "  ", ""
    return write(path, delimited(rows))


PARTS = {"train": "train[:10]", "validation": "train[10:15]", "test": "train[15:]"}


def test_rows_without_text_or_label_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(messy(tmp_path / "rows.csv"), **PARTS)
    assert str(caught.value).splitlines() == [
        "2 of 10 train rows have no text in column 'sentence': 'train' rows 2, 9 (counted from 0).",
        "1 of 5 validation rows have no label in column 'label': 'train' row 11 (counted from 0).",
        "Fill them in, or leave them out and have them counted: data.on_error=skip",
    ]


def test_or_left_out_and_counted(tmp_path: Path) -> None:
    loaded = load(messy(tmp_path / "rows.csv"), **PARTS, on_error="skip")
    assert loaded.left_out == {"train": (2, 9), "validation": (1,)}
    assert list(loaded.train["text"]) == [FILMS[i] for i in range(10) if i not in (2, 9)]
    assert "2 of 10 train rows have no text in column 'sentence'" in loaded.notes[0]
    few = load(messy(tmp_path / "rows.csv"), **PARTS, on_error="skip", shots=2)
    assert Counter(few.train["label"]) == {0: 2, 1: 2}
    assert len(few.left_out["train"]) == 2
    assert max(few.left_out["train"]) <= 5


def test_gaps_in_other_columns() -> None:
    rows: list[dict[str, Any]] = [{"source": f"s {i}", "target": f"t {i}"} for i in range(20)]
    rows[4]["target"] = None
    with pytest.raises(DataError, match=r"have no target in column 'target': 'train' row 4 "):
        memory(rows, ("source", "target"), train="train[:10]", validation=0.2, test="train[10:]")
    chats: list[dict[str, Any]] = [{"messages": [{"role": "user", "content": "x"}]}] * 20
    chats[7] = {"messages": []}
    loaded = memory(chats, ("messages",), on_error="skip")
    assert sum(map(len, loaded.left_out.values())) == 1


def test_nothing_may_be_left() -> None:
    rows = [{"text": "" if i < 15 else "x", "label": "a"} for i in range(20)]
    with pytest.raises(DataError, match="(?s)8 of 8 train rows have no text.*Nothing is left of"):
        memory(rows, TEXT, on_error="skip", train="train[:10]", validation=0.2, test="train[10:]")
    with pytest.raises(DataError, match=r"have no text in column 'text'"):
        memory([{"text": None, "label": "a"}] * 20, TEXT)


def test_the_fingerprint_follows_texts() -> None:
    first = memory(ROWS, TEXT)
    assert first.fingerprint == memory(ROWS, TEXT).fingerprint
    changed = [{**row, "sentence": row["sentence"].upper()} for row in ROWS]
    assert first.fingerprint != memory(changed, TEXT).fingerprint


# Plain text


def test_a_text_file_by_lines_paragraphs_or_whole(tmp_path: Path) -> None:
    blocks = [f"line {i}\r\nmore {i}" for i in range(10)]
    path = write(tmp_path / "play.txt", "\ufeff" + "\r\n\r\n\r\n".join(blocks) + "\r\n")
    lines = TextFiles(str(path)).load(("text",))
    assert len(every(lines)) == 20 and "line 3" in every(lines)
    assert lines.notes[0].startswith("Each line of play.txt is a row")
    blocked = TextFiles(str(path), sample_by="paragraph").load(("text",))
    assert sorted(every(blocked)) == [f"line {i}\nmore {i}" for i in range(10)]
    with pytest.raises(DataError, match="too few to draw"):
        TextFiles(str(path), sample_by="document").load(("text",))


def test_a_folder_of_text_files(tmp_path: Path) -> None:
    for number in range(12):
        write(tmp_path / "docs" / f"{number}.txt", f"one {number}\n\ntwo")
    write(tmp_path / "docs" / "notes.md", "x")
    loaded = TextFiles(str(tmp_path / "docs")).load(("text",))
    assert sorted(every(loaded)) == sorted(f"one {n}\n\ntwo" for n in range(12))
    assert "'notes.md'" in loaded.notes[0] and "Each file of docs" in loaded.notes[1]
    write(tmp_path / "docs" / "0.txt", " \n")
    with pytest.raises(DataError, match=r"have no text in column 'text': 'train' row 0 "):
        TextFiles(str(tmp_path / "docs")).load(("text",))


def test_folders_are_splits_and_classes(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        for name in ("pos", "neg"):
            for number in range(count):
                write(tmp_path / split / name / f"{number}.txt", f"{split} {name} {number}")
    loaded = TextFiles(str(tmp_path)).load(("text", "label"))
    assert loaded.classes == ("neg", "pos")
    assert [len(loaded[name]) for name in ("train", "validation", "test")] == [12, 4, 4]
    assert all(row["text"].split()[1] == loaded.classes[row["label"]] for row in loaded.train)


def test_files_are_splits(tmp_path: Path) -> None:
    for name, count in (("train", 9), ("valid", 4), ("test", 3)):
        write(tmp_path / f"{name}.txt", "".join(f"{name} {i}\n" for i in range(count)))
    for data in (
        TextFiles(str(tmp_path)),
        TextFiles(str(tmp_path / "train.txt"), validation="valid.txt", test="test.txt"),
    ):
        loaded = data.load(("text",))
        assert [len(loaded[name]) for name in ("train", "validation", "test")] == [9, 4, 3]


def test_text_files_that_are_not_there_or_not_text(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "caf\u00e9\n".encode("cp1252") * 20)
    with pytest.raises(DataError, match=r"a.txt is not utf-8 \(line 1\).*data.encoding=cp1252"):
        TextFiles(str(tmp_path / "a.txt")).load(("text",))
    assert set(every(TextFiles(str(tmp_path / "a.txt"), encoding="cp1252").load(("text",)))) == {
        "café"
    }
    write(tmp_path / "b.txt", b"GIF\0\0\0")
    with pytest.raises(DataError, match=r"b.txt has a null character"):
        TextFiles(str(tmp_path / "b.txt")).load(("text",))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.txt files"):
        TextFiles(str(tmp_path / "empty")).load(("text",))


def test_what_stands_for_text_files(tmp_path: Path) -> None:
    write(tmp_path / "docs" / "deep" / "1.txt", "x")
    write(tmp_path / "mixed" / "1.txt", "x")
    write(tmp_path / "mixed" / "cat" / "1.png", b"x")
    write(tmp_path / "list" / "rows.csv", "text\n")
    write(tmp_path / "list" / "1.txt", "x")
    expected = {"docs": "text-files", "mixed": "image-folder", "list": "image-folder"}
    for name, kind in expected.items():
        assert claimant(str(tmp_path / name)) == kind
    assert claimant("nowhere.txt") == "text-files"
    assert TextFiles.from_text("corpus.txt") == {"path": "corpus.txt"}
