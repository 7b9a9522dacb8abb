from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from finetune.errors import DataError, RecipeError
from finetune.protocols import Splits
from finetune.recipe import Train
from finetune.targets import Classes, LabelSets, Numbers

PLAIN = Train()


class Column:
    """A table of anything, also of what Arrow would not take."""

    column_names = ("label",)

    def __init__(self, labels: Any) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: str) -> Any:
        assert key == "label"
        return self.labels


def splits(train: Any, rest: Any = None, classes: tuple[str, ...] | None = None) -> Splits:
    held = Column(train if rest is None else rest)
    return Splits(Column(train), held, held, classes, "")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a", "b"], ("a", "b")),
        ([10, 2, -1], ("-1", "2", "10")),
        (["n10", "n9", "m"], ("m", "n9", "n10")),
        ([True, False], ("False", "True")),
        ([1.0, 0.0], ("0", "1")),
        (list(np.array([3, 1], dtype=np.uint8)), ("1", "3")),
        (np.array([3, 1]), ("1", "3")),
        (["²", "a"], ("a", "²")),
    ],
)
def test_classes_are_named_by_whatever_stands_in_the_label(
    labels: Any, names: tuple[str, ...]
) -> None:
    target = Classes.of(splits(labels), PLAIN)
    assert target.classes == names and target.num_outputs == len(names)
    encoded = target.encode(Column(labels))
    assert encoded.dtype == np.int64
    back = [names[index] for index in encoded]
    assert back == [str(int(v)) if isinstance(v, float) else str(v) for v in list(labels)]


def test_declared_classes_keep_their_order_and_take_positions_or_names() -> None:
    from datasets import Dataset

    table = Dataset.from_dict({"label": [1, 0, 1]})
    target = Classes.of(Splits(table, table, table, ("z", "a", "spare"), ""), PLAIN)
    assert target.classes == ("z", "a", "spare")
    assert target.encode(table).tolist() == [1, 0, 1]
    assert target.encode(Column(["a", "z"])).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("train", "rest", "classes", "said"),
    [
        (["a", "a"], None, None, "In the train split: one class only, 'a'"),
        ([1, 1], None, ("x", "y"), "one class only, 'y'"),
        ([], None, None, "no rows"),
        (["a", None, "b"], None, None, "1 of 3 rows have no label: row 1,"),
        ([0.0, float("nan")], None, None, "1 of 2 rows have no label: row 1,"),
        ([0, np.float32("nan")], None, None, "1 of 2 rows have no label: row 1,"),
        ([None] * 8 + ["a"], None, None, "8 of 9 rows have no label: row 0, 1, 2, 3, 4 and 3 more"),
        (["a", "b"], ["a", None], None, "In the validation split: 1 of 2 rows have no label"),
        ([0, 1, 5], None, ("x", "y"), "row 2 has the label index 5, but there are 2 classes"),
        ([0, 1, -1], None, ("x", "y"), "allowed are 0 to 1"),
        (["cat", "dog"], ["cat", "dgo"], None, "row 1 has the label 'dgo'.*Did you mean 'dog'?"),
        ([0, 1, 0], [2, 2, 0], ("x", "y", "z"), "no sample of: 'z' .2 rows."),
        ([0.5, 1.5], None, None, "regression task"),
        ([["a"], ["b"]], None, None, "multi-label task"),
    ],
)
def test_classes_that_cannot_be_learned(train: Any, rest: Any, classes: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Classes.of(splits(train, rest, classes), PLAIN)


LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-3.0, 4.0, 1.0], [1.0, 1.0, 1.0]])
LABEL = torch.tensor([0, 2, 1, 2])


def test_a_weighted_mean_of_losses_is_that_of_torch_however_the_batch_is_cut() -> None:
    train = Train(class_weights="balanced", label_smoothing=0.1)
    target = Classes.of(splits([0, 0, 0, 1, 2, 2], None, ("a", "b", "c")), train)
    assert target.class_weights == pytest.approx((6 / 9, 2.0, 1.0))
    expected = F.cross_entropy(
        LOGITS, LABEL, torch.tensor(target.class_weights), label_smoothing=0.1
    )
    total = weight = torch.zeros(())
    for part in (slice(0, 1), slice(1, 4)):
        targets = {"label": LABEL[part]}
        total = total + target.losses(LOGITS[part], targets).sum()
        weight = weight + target.weights(targets).sum()
    assert torch.allclose(total / weight, expected, atol=1e-6)


def test_losses_are_float32_whatever_the_outputs_are() -> None:
    target = Classes(("a", "b", "c"))
    losses = target.losses(LOGITS.bfloat16(), {"label": LABEL})
    assert losses.shape == (4,) and losses.dtype == torch.float32
    assert target.predictions(LOGITS.bfloat16()).dtype == torch.float32
    assert target.weights({"label": LABEL}).tolist() == [1.0] * 4
    assert torch.allclose(target.predictions(LOGITS).sum(1), torch.ones(4))


def test_the_focal_loss_is_the_published_one() -> None:
    target = Classes(("a", "b", "c"), focal=2.0, class_weights=(1.0, 2.0, 3.0))
    p = LOGITS.softmax(1)[torch.arange(4), LABEL]
    weight = torch.tensor(target.class_weights)[LABEL]
    losses = target.losses(LOGITS, {"label": LABEL})
    assert torch.allclose(losses, -weight * (1 - p) ** 2 * p.log(), atol=1e-6)


def test_without_an_exponent_the_focal_loss_is_cross_entropy() -> None:
    for target in (
        Classes(("a", "b", "c"), True, 0.1, 0.0, (1.0, 2.0, 3.0)),
        LabelSets(("a", "b", "c"), True, False, 0.1, 0.0, (1.0, 2.0, 3.0)),
    ):
        label = LABEL if isinstance(target, Classes) else F.one_hot(LABEL, 3).float()
        almost = replace(target, focal=1e-7)
        expected = target.losses(LOGITS, {"label": label})
        assert torch.allclose(almost.losses(LOGITS, {"label": label}), expected, atol=1e-5)


@pytest.mark.parametrize("kind", [Classes, LabelSets])
def test_a_focal_loss_of_certain_predictions_has_a_finite_gradient(kind: Any) -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    label = torch.tensor([0]) if kind is Classes else torch.tensor([[1.0, 0.0]])
    kind(("a", "b"), focal=0.5).losses(logits, {"label": label}).sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 3.0)])
def test_mixed_samples_share_the_losses_and_weights_of_both(weights: Any) -> None:
    target = Classes(("a", "b", "c"), class_weights=weights)
    partner, share = LABEL.roll(1), torch.tensor([1.0, 0.75, 0.5, 0.0])
    mixed = {"label": LABEL, "partner": partner, "share": share}
    for function in (lambda t: target.losses(LOGITS, t), target.weights):
        own, other = function({"label": LABEL}), function({"label": partner})
        assert torch.allclose(function(mixed), share * own + (1 - share) * other)


@pytest.mark.parametrize(
    ("train", "classes", "names", "expected"),
    [
        ([["b", "a"], [], ["b"]], None, ("a", "b"), [[1, 1], [0, 0], [0, 1]]),
        ([[1], [0, 2]], ("x", "y", "z"), ("x", "y", "z"), [[0, 1, 0], [1, 0, 1]]),
        ([[0], [1, 0]], None, ("0", "1"), [[1, 0], [1, 1]]),
        ([[1, 0, 0], [0, 1, 1]], None, ("0", "1", "2"), [[1, 0, 0], [0, 1, 1]]),
        ([[1.0, 0.0], [1.0, 1.0]], ("x", "y"), ("x", "y"), [[1, 0], [1, 1]]),
        ([[True, False], [False, True]], None, ("0", "1"), [[1, 0], [0, 1]]),
        ([[1, 0], [0, 1]], ("x", "y"), ("x", "y"), [[1, 0], [0, 1]]),
        (np.array([[1, 0, 0], [0, 1, 1]]), None, ("0", "1", "2"), [[1, 0, 0], [0, 1, 1]]),
    ],
)
def test_label_sets_come_as_lists_or_as_vectors_of_0_and_1(
    train: Any, classes: Any, names: tuple[str, ...], expected: Any
) -> None:
    target = LabelSets.of(splits(train, None, classes), PLAIN)
    assert target.classes == names
    encoded = target.encode(Column(train))
    assert encoded.dtype == np.float32 and encoded.tolist() == expected


@pytest.mark.parametrize(
    ("train", "rest", "classes", "said"),
    [
        ([["a"], "b"], None, None, "row 1 has the label 'b': .* needs a list of labels"),
        ([["a"], 3], None, None, "row 1 has the label 3: .* needs a list of labels"),
        ([["a"], None], None, None, "1 of 2 rows have no label: row 1,"),
        ([["a"], ["b", None]], None, None, "have no label"),
        ([[], []], None, None, "no row has any label"),
        ([["a"], ["b"]], [[], []], None, "In the validation split: no row has any label"),
        ([[0], [1]], [[0, 7]], ("x", "y"), "row 0 has the label index 7"),
        ([[0], [1]], [[2], [1]], ("x", "y", "z"), "no sample of: 'z' .1 rows."),
        ([[1, 1, 0], [0, 0, 1]], [[1, 0]], None, "vectors of 0 and 1 with a place for each of 3"),
        ([[1, 1, 0], [0, 0, 1]], [[1, 0, 2]], None, "vectors of 0 and 1"),
    ],
)
def test_label_sets_that_cannot_be_learned(train: Any, rest: Any, classes: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        LabelSets.of(splits(train, rest, classes), PLAIN)


def test_the_loss_of_label_sets_is_the_mean_over_the_labels() -> None:
    train = Train(class_weights="balanced")
    target = LabelSets.of(splits([["a"], ["a", "b"], ["a"], ["c"]]), train)
    assert target.class_weights == pytest.approx((1 / 3, 3.0, 3.0))
    label = F.one_hot(LABEL, 3).float()
    expected = F.binary_cross_entropy_with_logits(
        LOGITS, label, pos_weight=torch.tensor(target.class_weights)
    )
    assert torch.allclose(target.losses(LOGITS, {"label": label}).mean(), expected)
    assert torch.equal(target.predictions(LOGITS), LOGITS.sigmoid())


def test_numbers_are_learned_in_units_of_their_spread_and_predicted_in_their_own() -> None:
    target = Numbers.of(splits(["10", 20, 30.0, np.float32(40)]), PLAIN)
    label = torch.from_numpy(target.encode(Column([25.0, 40.0])))
    assert label.shape == (2, 1) and label.dtype == torch.float32
    outputs = torch.zeros(2, 1)
    assert target.predictions(outputs).tolist() == [[25.0], [25.0]]
    losses = target.losses(outputs, {"label": label})
    assert losses.tolist() == pytest.approx([0.0, (15 / target.std) ** 2])
    assert target.weights({"label": label}).tolist() == [1.0, 1.0]
    assert target.classes is None and target.num_outputs == 1


def test_a_rescaled_head_gives_the_original_unit() -> None:
    torch.manual_seed(0)
    target = Numbers.of(splits([100.0, 2000.0, 350.0]), PLAIN)
    inputs, head, saved = torch.randn(5, 4), torch.nn.Linear(4, 1), torch.nn.Linear(4, 1)
    weight, bias = target.rescale_head(head.weight.data, head.bias.data)
    saved.weight.data, saved.bias.data = weight, bias
    predictions = target.predictions(head(inputs))
    assert torch.allclose(saved(inputs), predictions, rtol=1e-5)
    assert torch.equal(target.native.predictions(saved(inputs)), saved(inputs))
    classes = Classes(("a", "b"))
    assert classes.native is classes and classes.rescale_head(weight, bias) == (weight, bias)


def test_folders_named_by_numbers_are_numbers() -> None:
    target = Numbers.of(splits([0, 1, 1], None, ("23", "31.5")), PLAIN)
    assert target.encode(Column([1, 0])).tolist() == [[31.5], [23.0]]


@pytest.mark.parametrize(
    ("train", "rest", "classes", "said"),
    [
        ([1.0, "tall"], None, None, "In the train split: row 1 has the label 'tall', which is not"),
        ([0, 1], None, ("3", "tall"), "row 1 has the label 'tall'"),
        ([1.0, True], None, None, "row 1 has the label True"),
        ([1.0, [2, 3]], None, None, r"row 1 has the label \[2, 3\]"),
        ([1.0, None], None, None, "1 of 2 rows have no label: row 1,"),
        ([1.0, float("nan")], None, None, "1 of 2 rows have no label: row 1,"),
        ([1.0, "nan"], None, None, "row 1 has the label 'nan', which is not a finite number"),
        ([1.0, 2.0], [float("inf")], None, "In the validation split: row 0 has the label inf"),
        ([4.0, 4.0], None, None, "only the number 4"),
        ([], None, None, "no rows"),
    ],
)
def test_numbers_that_are_none(train: Any, rest: Any, classes: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Numbers.of(splits(train, rest, classes), PLAIN)


@pytest.mark.parametrize(
    "train", [Train(focal=2.0), Train(label_smoothing=0.1), Train(class_weights="balanced")]
)
def test_numbers_refuse_what_needs_classes(train: Train) -> None:
    with pytest.raises(RecipeError, match="no meaning for a regression task"):
        Numbers.of(splits([1.0, 2.0]), train)


@pytest.mark.parametrize(
    "target",
    [
        Classes(("a", "b"), class_weights=(1.0, 2.0)),
        LabelSets(("a", "b"), multi_hot=True),
        Numbers(1.5, 2.0, ("3", "4")),
    ],
)
def test_a_target_kept_as_json_reads_back_equal(target: Any) -> None:
    assert type(target)(**json.loads(json.dumps(asdict(target)))) == target
