"""The rules by which rows become train, validation and test."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from pydantic import ValidationError

from finetune.data.base import DataSource, Raw
from finetune.data.digits import Digits
from finetune.errors import DataError
from finetune.protocols import Splits

NAMES = ["cat", "dog", "eel"]


class Rows(DataSource):
    """Rows from memory."""

    tables: dict[str, Any]

    def read(self) -> Raw:
        return Raw(self.tables, {"name": "rows"})


def table(labels: list[Any], start: int = 0, hidden: bool = False) -> Dataset:
    cells = {"text": [f"row {start + i}" for i in range(len(labels))], "label": labels}
    kind = ClassLabel(names=NAMES) if not hidden else Value("int64")
    return Dataset.from_dict(cells, features=Features(text=Value("string"), label=kind))


def load(tables: dict[str, Dataset], **fields: Any) -> Splits:
    return Rows(tables=tables, **fields).load(("text", "label"))


def texts(splits: Splits) -> dict[str, list[str]]:
    return {name: list(splits[name]["text"]) for name in ("train", "validation", "test")}


BIG = table([0, 1, 2] * 40 + [0] * 80)


def test_nothing_given_draws_both_stratified() -> None:
    splits = load({"train": BIG})
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [140, 20, 40]
    assert Counter(splits.test["label"]) == {0: 24, 1: 8, 2: 8}
    assert Counter(splits.validation["label"]) == {0: 12, 1: 4, 2: 4}
    every = [text for split in texts(splits).values() for text in split]
    assert sorted(every) == sorted(BIG["text"])
    assert any(
        "test split is 40 rows (20%) drawn from train, stratified" in n for n in splits.notes
    )


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    assert texts(load({"train": BIG})) == texts(load({"train": BIG}))
    assert texts(load({"train": BIG})) != texts(load({"train": BIG}, split_seed=1))


def test_named_splits_are_taken_as_they_are() -> None:
    parts = {"train": BIG, "dev": table([0, 1, 2], 900), "test": table([2, 1, 0], 950)}
    splits = load(parts)
    assert texts(splits)["validation"] == ["row 900", "row 901", "row 902"]
    assert texts(splits)["test"] == ["row 950", "row 951", "row 952"]
    assert splits.notes == ()


def test_validation_without_test_becomes_the_test() -> None:
    splits = load({"train": BIG, "validation": table([0, 1, 2], 900)})
    assert texts(splits)["test"] == ["row 900", "row 901", "row 902"]
    assert len(splits.validation) == 20
    assert "validation split but no test split: its 3 rows are the test" in splits.notes[0]


def test_a_share_for_validation_leaves_the_named_split_to_the_test() -> None:
    splits = load({"train": BIG, "validation": table([0, 1, 2], 900)}, validation=0.5)
    assert len(splits.validation) == 100
    assert len(splits.test) == 3


@pytest.mark.parametrize(
    "hidden", [table([-1, -1, -1], 900, hidden=True), table([None] * 3, 900, hidden=True)]
)
def test_hidden_test_labels_count_as_no_test(hidden: Dataset) -> None:
    splits = load({"train": BIG, "validation": table([0, 1, 2], 800), "test": hidden})
    assert texts(splits)["test"] == ["row 800", "row 801", "row 802"]
    assert "labels of the split 'test' are hidden" in splits.notes[0]


def test_a_test_without_the_label_column_counts_as_none() -> None:
    hidden = table([0, 1]).remove_columns("label")
    splits = load({"train": BIG, "test": hidden})
    assert len(splits.test) == 40
    assert "hidden" in splits.notes[0]


def test_slices_by_name() -> None:
    splits = load(
        {"train": BIG}, train="train[:150]", validation="train[150:175]", test="train[175:]"
    )
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [150, 25, 25]
    assert texts(splits)["test"][0] == "row 175"
    parts = {"train": BIG, "extra": table([0, 1, 2], 900)}
    assert len(load(parts, train="train[:50%]+extra", test=0.1, validation=0.1).train) == 103 - 20


def test_rows_held_out_by_name_are_not_trained_on() -> None:
    splits = load({"train": BIG}, validation="train[150:]", test=0.1)
    assert not set(texts(splits)["train"]) & set(texts(splits)["validation"])
    assert "50 rows of 'train' belong to the validation split" in splits.notes[0]


def test_rows_in_both_validation_and_test_are_refused() -> None:
    with pytest.raises(DataError, match="validation and test splits have 20 rows in common"):
        load({"train": BIG}, validation="train[150:]", test="train[130:170]")


def test_an_unknown_split_names_those_there_are() -> None:
    with pytest.raises(DataError, match=r"no split 'trian'.*'train' \(200 rows\).*mean 'train'"):
        load({"train": BIG}, train="trian")


def test_an_unreadable_slice_shows_the_form() -> None:
    with pytest.raises(DataError, match=r"'train\[:x\]' does not name rows.*'train\[:80%\]'"):
        load({"train": BIG}, train="train[:x]")


def test_a_slice_without_rows_is_refused() -> None:
    with pytest.raises(DataError, match="names no rows"):
        load({"train": BIG}, train="train[:0]")


def test_too_few_rows_to_draw_from() -> None:
    with pytest.raises(DataError, match="too few to draw"):
        load({"train": table([0, 1])}, validation=0.5)


def test_rare_classes_are_never_used_up() -> None:
    splits = load({"train": table([0] * 97 + [1, 2, 2])}, validation=0.3, test=0.3)
    assert set(splits.train["label"]) == {0, 1, 2}


@pytest.mark.parametrize("share", ["1.5", 0, 1, -0.1, "nan"])
def test_a_share_lies_between_0_and_1(share: Any) -> None:
    with pytest.raises(ValidationError, match="is no share: give a number between 0 and 1"):
        Digits(validation=share)


def test_a_share_may_come_as_text() -> None:
    assert Digits(validation="0.25").validation == 0.25
    assert Digits(test="train[1000:]").test == "train[1000:]"


def test_shots_draws_so_many_of_each_class() -> None:
    whole = load({"train": BIG})
    few = load({"train": BIG}, shots=5)
    other = load({"train": BIG}, shots=5, split_seed=1)
    assert Counter(few.train["label"]) == {0: 5, 1: 5, 2: 5}
    assert texts(few)["validation"] == texts(whole)["validation"]
    assert texts(few)["test"] == texts(whole)["test"]
    assert texts(few)["train"] != texts(other)["train"]
    assert "Few-shot: 15 of 140 training rows, 5 of each class." in few.notes


def test_shots_says_where_a_class_has_fewer() -> None:
    splits = load({"train": BIG}, shots=50)
    assert "2 of 3 classes have fewer than 50 training rows." in splits.notes


def test_shots_needs_classes() -> None:
    ages = Dataset.from_dict({"text": ["a"] * 50, "label": [i + 0.5 for i in range(50)]})
    with pytest.raises(DataError, match=r"data.shots=2 needs labels that are classes"):
        load({"train": ages}, shots=2)
    with pytest.raises(DataError, match="this task reads no label"):
        Rows(tables={"train": BIG}, shots=2).load(("text",))


def test_no_rows_at_all() -> None:
    with pytest.raises(DataError, match="The data has no rows"):
        load({"train": table([])})


def test_rows_without_a_label_are_named_by_their_place() -> None:
    labels = [0, 1, 2] * 20
    labels[7] = labels[30] = -1
    with pytest.raises(DataError, match=r"2 of 60 train rows .*'label': 'train' rows 7, 30"):
        load({"train": table(labels), "dev": table([0, 1, 2]), "test": table([0, 1, 2])})


def test_declared_classes_without_rows_are_noted() -> None:
    splits = load({"train": table([0, 1] * 20)})
    assert splits.classes == ("cat", "dog", "eel")
    assert "1 of 3 classes have no rows: 'eel'." in splits.notes


def test_the_fingerprint_follows_content_order_and_split() -> None:
    parts = {"train": BIG, "dev": table([0, 1, 2], 900), "test": table([2, 1, 0], 950)}
    first = load(parts).fingerprint
    assert first == load(dict(reversed(parts.items()))).fingerprint
    assert first != load({**parts, "test": table([2, 0, 1], 950)}).fingerprint
    assert first != load({**parts, "test": table([2, 1, 0], 951)}).fingerprint
    assert first != load({**parts, "test": parts["dev"], "dev": parts["test"]}).fingerprint
    assert first != load(parts, shots=3).fingerprint


def test_digits() -> None:
    splits = Digits().load(("image", "label"))
    assert splits.classes == tuple("0123456789")
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [1079, 359, 359]
    cell = splits.train[0]["image"]
    assert cell["path"] is None and cell["bytes"].startswith(b"\x89PNG")
    assert splits.source["name"] == "scikit-learn digits"
    assert Counter(Digits(shots=10).load(("image", "label")).train["label"]) == {
        i: 10 for i in range(10)
    }


def test_a_share_is_stratified_and_leaves_the_rest_alone() -> None:
    whole, half = load({"train": BIG}), load({"train": BIG}, share=0.5)
    assert Counter(half.train["label"]) == {
        n: c // 2 for n, c in Counter(whole.train["label"]).items()
    }
    assert texts(half)["train"] != texts(whole)["train"][:70]
    for split in ("validation", "test"):
        assert texts(half)[split] == texts(whole)[split]
    assert "70 of 140 training rows are used (data.share)." in half.notes
    assert half.fingerprint != whole.fingerprint
    other = load({"train": BIG}, share=0.5, share_seed=1)
    assert texts(other)["train"] != texts(half)["train"]
    assert texts(other)["validation"] == texts(half)["validation"]
    assert texts(load({"train": BIG}, share=0.5)) == texts(half)
    few = load({"train": BIG}, share=0.5, shots=4)
    assert Counter(few.train["label"]) == {0: 2, 1: 2, 2: 2}
    with pytest.raises(ValidationError):
        Rows(tables={}, share=0)


def test_smaller_shares_are_within_larger_ones_and_lose_no_class() -> None:
    several = [[0, 1] if i % 2 else [0] for i in range(139)]
    for labels in ([0] * 90 + [1] * 45 + [2] * 5, [*several, [2]]):
        cells = {"text": [f"row {i}" for i in range(140)], "label": labels}
        tables = {"train": Dataset.from_dict(cells), "test": Dataset.from_dict(cells)}
        shares = [load(tables, share=share, validation=0.1) for share in (1 / 16, 1 / 8, 1 / 2)]
        drawn = [set(splits.train["text"]) for splits in shares]
        assert drawn[0] < drawn[1] < drawn[2]
        for splits in shares:
            flat = [np.ravel(label).tolist() for label in splits.train["label"]]
            assert {0, 1, 2} == {name for label in flat for name in label}


def test_a_share_without_classes_is_drawn_at_random() -> None:
    numbers = Dataset.from_dict(
        {"text": [str(i) for i in range(100)], "label": [i / 7 for i in range(100)]}
    )
    assert len(load({"train": numbers}, share=0.25).train) == round(0.25 * 70)
