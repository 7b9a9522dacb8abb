"""CSV, TSV, JSON lines and parquet tables with images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from finetune.data.table import TableData
from finetune.errors import DataError
from finetune.protocols import Splits

ROWS = [{"file": f"images/{i}.png", "kind": ("cat", "dog")[i % 2], "age": i} for i in range(20)]


def delimited(rows: list[dict[str, Any]], separator: str = ",") -> str:
    lines = [list(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]
    return "\n".join(separator.join(line) for line in lines) + "\n"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def load(path: Path, **fields: Any) -> Splits:
    given = {"image": "file", "label": "kind", **fields}
    return TableData(str(path), **given).load(("image", "label"))


def kinds(splits: Splits) -> set[tuple[str, str]]:
    """Return (file name, class name) of all rows."""
    assert splits.classes is not None
    return {
        (Path(row["image"]["path"]).name, splits.classes[row["label"]])
        for name in ("train", "validation", "test")
        for row in splits[name]
    }


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    Dataset.from_list(rows).to_parquet(str(path))
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        parquet(path, ROWS)
    elif suffix == "jsonl":
        write(path, "\n".join(map(json.dumps, ROWS)) + "\n\n")
    else:
        write(path, delimited(ROWS, "\t" if suffix == "tsv" else ","))
    splits = load(path)
    assert splits.classes == ("cat", "dog")
    assert kinds(splits) == {(Path(row["file"]).name, row["kind"]) for row in ROWS}
    assert splits.train[0]["image"] == {
        "path": str(tmp_path / "images" / Path(splits.train[0]["image"]["path"]).name),
        "bytes": None,
    }
    assert isinstance(splits.train[0]["age"], int)
    assert splits.source == {"name": path.name}


def test_columns_are_found(tmp_path: Path) -> None:
    rows = [{"file_name": row["file"], "Label": row["kind"]} for row in ROWS]
    path = write(tmp_path / "rows.csv", delimited(rows))
    assert TableData(str(path)).load(("image", "label")).classes == ("cat", "dog")


def test_a_missing_image_column_lists_those_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", delimited([{"a": 1, "kind": "x"}] * 9))
    with pytest.raises(DataError, match=r"No column looks like the image; .*'a', 'kind'"):
        load(path, image=None)


def test_image_bytes_in_parquet(tmp_path: Path) -> None:
    rows = [{"file": f"png {i}".encode(), "kind": i / 3} for i in range(20)]
    splits = load(parquet(tmp_path / "rows.parquet", rows))
    assert splits.train[0]["image"]["bytes"].startswith(b"png")
    assert splits.classes is None and isinstance(splits.train[0]["label"], float)


def test_lists_of_labels_in_json_lines(tmp_path: Path) -> None:
    rows = [{"file": "a.png", "kind": [["x"], ["x", "y"], []][i % 3]} for i in range(21)]
    splits = load(write(tmp_path / "rows.jsonl", "\n".join(map(json.dumps, rows))))
    assert splits.classes == ("x", "y")


def test_a_split_column_divides_the_table(tmp_path: Path) -> None:
    parts = ["Train"] * 12 + ["val"] * 4 + ["test"] * 4
    rows = [{**row, "split": part} for row, part in zip(ROWS, parts, strict=True)]
    splits = load(write(tmp_path / "rows.csv", delimited(rows)))
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [12, 4, 4]
    assert splits.notes == ("Splits are those of the column 'split': train 12, val 4, test 4.",)
    other = [{**row, "split": "maybe"} for row in ROWS]
    assert len(load(write(tmp_path / "other.csv", delimited(other))).train) == 14
    with pytest.raises(DataError, match=r"no column 'splt'.*Did you mean 'split'"):
        load(tmp_path / "rows.csv", split="splt")


def test_a_table_for_each_split(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", delimited(ROWS))
    write(tmp_path / "val.csv", delimited(ROWS[:4]))
    write(tmp_path / "test.jsonl", "\n".join(map(json.dumps, ROWS[:6])))
    splits = load(path, validation="val.csv", test="test.jsonl")
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [20, 4, 6]


def test_cells_keep_their_meaning(tmp_path: Path) -> None:
    rows = [["1.png", name] for name in ("NA", "None", "007", "a\nb", 'say "x"')] * 4
    quoted = "\n".join(",".join('"' + c.replace('"', '""') + '"' for c in row) for row in rows)
    splits = load(write(tmp_path / "rows.csv", "file,kind\n" + quoted))
    assert splits.classes == ("007", "NA", "None", "a\nb", 'say "x"')


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "-20"], int),
        (["1.5", "2", "-.5", "3e-4", "1."], float),
        (["1_0", "2"], str),
        (["nan", "1"], str),
        ([".", "1"], str),
        (["e5", "1"], str),
        (["9" * 30, "1"], float),
    ],
)
def test_numbers_are_numbers(tmp_path: Path, cells: list[str], kind: type) -> None:
    rows = [{"file": "1.png", "kind": "x", "n": cell} for cell in cells * 10]
    splits = load(write(tmp_path / "rows.csv", delimited(rows)))
    assert {type(value) for value in splits.train["n"]} == {kind}


def test_a_missing_label_names_its_row(tmp_path: Path) -> None:
    rows = [dict(row) for row in ROWS]
    rows[3]["kind"] = ""
    path = write(tmp_path / "rows.csv", delimited(rows))
    with pytest.raises(DataError, match=r"no label in column 'kind': 'train' row 3 \(counted"):
        load(path, train="train[:10]", validation="train[10:15]", test="train[15:]")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, encoding: str) -> None:
    text = delimited([{**row, "kind": row["kind"] + "ü"} for row in ROWS])
    assert load(write(tmp_path / "rows.csv", text.encode(encoding))).classes == ("catü", "dogü")


def test_other_encodings_are_named(tmp_path: Path) -> None:
    text = delimited([{**row, "kind": row["kind"] + "ü"} for row in ROWS])
    path = write(tmp_path / "rows.csv", text.encode("cp1252"))
    with pytest.raises(DataError, match=r"not utf-8 \(line 2\): save .*data.encoding=cp1252"):
        load(path)
    assert load(path, encoding="cp1252").classes == ("catü", "dogü")
    with pytest.raises(DataError, match=r"data.encoding=cp9 is not known"):
        load(path, encoding="cp9")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", "", "rows.csv has no rows"),
        ("rows.csv", "file,kind\n", "rows.csv has no rows"),
        ("rows.csv", "file,kind,kind\n1,2,3\n", "columns of the same name: 'kind'"),
        ("rows.csv", "file,kind\n1,2,3\n", r"line 2, has 3 cells, but there are 2 columns"),
        ("rows.csv", 'file,kind\n1,"2\n', r"rows.csv, line 2, cannot be read"),
        ("rows.jsonl", '{"file": 1}\n{oops\n', r"rows.jsonl, line 2, is not JSON"),
        ("rows.jsonl", "[1]\n", r"rows.jsonl, line 1, is no JSON object"),
        ("rows.jsonl", '{"file": 1}\n{"file": [2]}\n', "mixes kinds of values"),
        ("rows.parquet", "no parquet", "rows.parquet cannot be read as parquet"),
    ],
)
def test_a_broken_table_says_where(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(write(tmp_path / name, content))


def test_a_folder_or_another_suffix_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").mkdir()
    with pytest.raises(DataError, match="is a folder, not a table"):
        load(tmp_path / "rows.csv")
    with pytest.raises(DataError, match=r"no table: the suffixes are \.csv"):
        load(write(tmp_path / "rows.xlsx", "x"))
