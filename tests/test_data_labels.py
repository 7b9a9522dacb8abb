"""Columns found and labels encoded, in every form that tables hold them."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value

from finetune.data.assemble import splits
from finetune.data.base import Raw
from finetune.data.digits import Digits
from finetune.errors import DataError
from finetune.protocols import Splits

PIXELS = {"path": None, "bytes": b"png"}


def load(
    columns: dict[str, Any],
    features: Features | None = None,
    wanted: tuple[str, ...] = ("text", "label"),
    **raw: Any,
) -> Splits:
    table = Dataset.from_dict(columns, features=features)
    return splits(Raw({"train": table}, {}, **raw), Digits(test=0.25, validation=0.25), wanted)


def labelled(labels: list[Any], feature: Any = None, **raw: Any) -> Splits:
    columns = {"text": [f"row {i}" for i in range(len(labels))], "label": labels}
    features = Features(text=Value("string"), label=feature) if feature else None
    return load(columns, features, **raw)


def back(loaded: Splits) -> dict[str, Any]:
    """Return the label of each row by its text."""
    rows = [row for name in ("train", "validation", "test") for row in loaded[name]]
    return {row["text"]: row["label"] for row in rows}


def test_strings_become_indices_in_natural_order() -> None:
    loaded = labelled(["10", "2", "a10", "a9"] * 5)
    assert loaded.classes == ("2", "10", "a9", "a10")
    assert [back(loaded)[f"row {i}"] for i in range(4)] == [1, 0, 3, 2]


def test_class_labels_keep_their_order() -> None:
    loaded = labelled([1, 0] * 10, ClassLabel(names=["zebra", "ape"]))
    assert loaded.classes == ("zebra", "ape")
    assert [back(loaded)[f"row {i}"] for i in range(2)] == [1, 0]


def test_booleans_are_two_classes() -> None:
    loaded = labelled([True, False] * 10)
    assert loaded.classes == ("false", "true")
    assert [back(loaded)[f"row {i}"] for i in range(2)] == [1, 0]


@pytest.mark.parametrize("labels", [[3, 5] * 10, [i / 7 for i in range(20)]])
def test_numbers_stay_as_they_are(labels: list[float]) -> None:
    loaded = labelled(labels)
    assert loaded.classes is None
    assert [back(loaded)[f"row {i}"] for i in range(20)] == labels


def test_a_faulty_number_column_is_left_to_the_task() -> None:
    loaded = labelled([f"{i / 7:.2f}" for i in range(19)] + ["abc"])
    assert loaded.classes is None
    assert back(loaded)["row 19"] == "abc"


def test_lists_of_names_are_label_sets() -> None:
    loaded = labelled([["b", "a10"], ["a9"], [], ["b"]] * 5)
    assert loaded.classes == ("a9", "a10", "b")
    assert [back(loaded)[f"row {i}"] for i in range(4)] == [[2, 1], [0], [], [2]]


def test_lists_of_class_labels_and_of_numbers() -> None:
    named = labelled([[1, 0], [1]] * 5, List(ClassLabel(names=["x", "y"])))
    assert named.classes == ("x", "y") and back(named)["row 0"] == [1, 0]
    bare = labelled([[1, 0, 1], [1, 1, 0]] * 5)
    assert bare.classes is None and back(bare)["row 0"] == [1, 0, 1]


def test_a_separator_cuts_strings_into_label_sets() -> None:
    loaded = labelled(["cat|dog", "dog", None, "eel"] * 5, Value("string"), label_separator="|")
    assert loaded.classes == ("cat", "dog", "eel")
    assert [back(loaded)[f"row {i}"] for i in range(4)] == [[0, 1], [1], [], [2]]


def test_several_columns_of_0_and_1_are_label_sets() -> None:
    columns = {"text": [f"row {i}" for i in range(20)], "red": [1, 0] * 10, "big": [1, 1] * 10}
    loaded = load(columns, mapping={"label": ("red", "big")})
    assert loaded.classes == ("red", "big")
    assert back(loaded)["row 0"] == [0, 1] and back(loaded)["row 1"] == [1]
    assert loaded.train.column_names == ["text", "label"]


def test_several_number_columns_are_vectors() -> None:
    columns = {"text": [f"row {i}" for i in range(20)], "x": [0.5] * 20, "y": list(range(20))}
    loaded = load(columns, mapping={"label": ("x", "y")})
    assert loaded.classes is None and back(loaded)["row 3"] == [0.5, 3.0]


def test_several_columns_with_text_are_refused() -> None:
    columns = {"text": ["a"] * 20, "x": [0] * 20, "y": ["no"] * 20}
    with pytest.raises(DataError, match="column 'y' holds 'no'"):
        load(columns, mapping={"label": ("x", "y")})


@pytest.mark.parametrize("none", [None, float("nan"), " "])
def test_missing_labels_are_named(none: Any) -> None:
    good: Any = 1.5 if isinstance(none, float) else "cat"
    with pytest.raises(DataError, match=r"of 10 train rows have no label.*'train' rows \d+"):
        labelled([good, none] * 10)


def test_labels_of_another_kind_are_refused() -> None:
    with pytest.raises(DataError, match=r"is a dict.*data.label=COLUMN"):
        labelled([{"x": 1}] * 20)


def test_hostile_labels_are_only_data() -> None:
    hostile = ["../../etc", "a\nb", "<script>alert(1)</script>", "[/red]"]
    loaded = labelled(hostile * 5)
    assert loaded.classes is not None and set(loaded.classes) == set(hostile)
    assert [loaded.classes[back(loaded)[f"row {i}"]] for i in range(4)] == hostile


IMAGES = {"pixels": [PIXELS] * 20, "kind": [0, 1] * 10, "note": ["n"] * 20}
TYPED = Features(pixels=Image(), kind=ClassLabel(names=["a", "b"]), note=Value("string"))


def test_columns_are_found_by_type() -> None:
    loaded = load(IMAGES, TYPED, wanted=("image", "label"))
    assert loaded.train[0] == {"image": PIXELS, "note": "n", "label": loaded.train[0]["label"]}
    assert loaded.classes == ("a", "b")


def test_columns_are_found_by_name_whatever_the_case() -> None:
    columns = {"File_Name": ["1.png"] * 20, "Category": ["a", "b"] * 10}
    loaded = load(columns, wanted=("image", "label"))
    assert loaded.train[0]["image"] == {"path": "1.png", "bytes": None}


def test_a_column_under_a_canonical_name_gives_way() -> None:
    columns = {"label": ["x", "y"] * 10, "species": ["cat", "dog"] * 10, "text": ["t"] * 20}
    loaded = load(columns, mapping={"label": "species"})
    assert loaded.classes == ("cat", "dog")
    assert set(loaded.train.column_names) == {"text", "label", "label_original"}


def test_a_missing_column_names_those_there_are() -> None:
    with pytest.raises(DataError, match=r"no column 'imge'; .*'image', 'label'.* mean 'image'"):
        columns = {"image": ["1.png"] * 20, "label": [0, 1] * 10}
        load(columns, mapping={"image": "imge"}, wanted=("image", "label"))
    with pytest.raises(DataError, match=r"No column looks like the image; .*'a', 'label'"):
        load({"a": ["x"] * 20, "label": [0, 1] * 10}, wanted=("image", "label"))


def test_two_columns_that_could_be_meant_are_asked_about() -> None:
    names = ClassLabel(names=["a", "b"])
    columns = {"image": [PIXELS] * 20, "fine": [0, 1] * 10, "coarse": [0, 1] * 10}
    features = Features(image=Image(), fine=names, coarse=names)
    with pytest.raises(DataError, match=r"could be the label: 'fine', 'coarse'.*data.label=fine"):
        load(columns, features, wanted=("image", "label"))


def test_an_image_column_without_images_is_refused() -> None:
    with pytest.raises(DataError, match="column 'image' holds int64, not images"):
        load({"image": [1] * 20, "label": [0, 1] * 10}, wanted=("image", "label"))


def test_image_bytes_are_taken() -> None:
    loaded = load({"image": [b"png"] * 20, "label": [0, 1] * 10}, wanted=("image", "label"))
    assert loaded.train[0]["image"] == PIXELS
