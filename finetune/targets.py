"""What a run predicts, bound to its data: the encoding, the loss, the predictions, the scores.

Nothing here knows whether the inputs are images or texts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from finetune.errors import DataError, nearest
from finetune.protocols import SPLITS, Array, Splits, Table

if TYPE_CHECKING:
    from finetune.recipe import Train


@dataclass(frozen=True)
class Classes:
    """Exactly one class for each sample."""

    classes: tuple[str, ...]
    indexed: bool = True
    """Whether integer labels are positions in `classes`; else they are names like any other."""
    label_smoothing: float = 0.0
    focal: float = 0.0
    class_weights: tuple[float, ...] | None = None
    metric: str = "accuracy"

    @classmethod
    def of(cls, splits: Splits, train: Train) -> Classes:
        """Read the classes; raise DataError if they cannot be learned or one is not in train."""
        for split in SPLITS:
            check_present(split, column(splits[split]))
        indexed = splits.classes is not None
        classes = splits.classes or natural(map(name_of, column(splits.train)))
        target = cls(classes, indexed, train.label_smoothing, train.focal)
        counts = Counter(target.encode(splits.train).tolist())
        if len(counts) < 2:
            only = f"one class only, {classes[next(iter(counts))]!r}" if counts else "no rows"
            raise DataError(
                f"The training split has {only}: a classifier needs at least two classes."
            )
        for split in SPLITS[1:]:
            check_learned(split, Counter(target.encode(splits[split]).tolist()), counts, classes)
        if train.class_weights == "none":
            return target
        weights = balanced([counts[index] for index in range(len(classes))])
        return cls(classes, indexed, train.label_smoothing, train.focal, weights)

    @property
    def num_outputs(self) -> int:
        """One logit for each class."""
        return len(self.classes)

    def encode(self, table: Table) -> Array:
        """Return class indices, int64 (rows,); raise DataError for an unknown label."""
        index = {name: position for position, name in enumerate(self.classes)}
        rows = [
            index_of(value, index, self.indexed, row) for row, value in enumerate(column(table))
        ]
        return np.asarray(rows, dtype=np.int64)

    def losses(self, outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Return the cross-entropy of logits (batch, classes), (batch,), float32.

        Class weights multiply it as in torch's `cross_entropy`, whose weighted mean is the sum of
        these over the sum of `weights`.
        """
        return mixed(lambda label: self._losses(outputs.float(), label), targets)

    def _losses(self, logits: Tensor, label: Tensor) -> Tensor:
        weight = None if self.class_weights is None else vector(self.class_weights, logits.device)
        if not self.focal:
            return F.cross_entropy(
                logits, label, weight, reduction="none", label_smoothing=self.label_smoothing
            )
        # Lin et al. 2017, arXiv:1708.02002, summed over the (smoothed) target distribution.
        wanted = F.one_hot(label, self.num_outputs).to(logits)
        wanted = torch.lerp(
            wanted, torch.full_like(wanted, 1 / self.num_outputs), self.label_smoothing
        )
        log = logits.log_softmax(1)
        terms = -wanted * (-log.expm1()).pow(self.focal) * log
        return (terms if weight is None else terms * weight).sum(1)

    def weights(self, targets: dict[str, Tensor]) -> Tensor:
        """Return what each sample counts in a weighted mean of the losses, (batch,), float32."""
        if self.class_weights is None:
            return torch.ones(len(targets["label"]), device=targets["label"].device)
        weight = vector(self.class_weights, targets["label"].device)
        return mixed(lambda label: weight[label], targets)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return probabilities, (batch, classes), float32."""
        return outputs.float().softmax(1)

    def scores(self, predictions: Array, targets: Array) -> dict[str, Any]:
        """Return the accuracy with its 95 % Wilson interval."""
        from scipy.stats import binomtest

        hits, n = int((predictions.argmax(1) == targets).sum()), len(targets)
        low, high = binomtest(hits, n).proportion_ci(0.95, "wilson")
        return {"accuracy": {"value": hits / n, "low": float(low), "high": float(high), "n": n}}


def mixed(losses: Any, targets: dict[str, Tensor]) -> Tensor:
    """Return `losses` of the own label, shared with the partner's where samples were mixed."""
    own: Tensor = losses(targets["label"])
    if "partner" not in targets:
        return own
    return torch.lerp(losses(targets["partner"]), own, targets["share"].to(own))


@lru_cache(maxsize=16)
def vector(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return `values` on `device`, moved there once."""
    return torch.tensor(values, device=device)


def balanced(counts: Sequence[int]) -> tuple[float, ...]:
    """Return weights by inverse frequency with mean 1 over the samples; 1 for an empty class."""
    seen = sum(count > 0 for count in counts)
    return tuple(sum(counts) / (seen * count) if count else 1.0 for count in counts)


def column(table: Table) -> list[Any]:
    """Return the labels as a list of Python values."""
    labels = table["label"]
    return labels.tolist() if isinstance(labels, np.ndarray) else list(labels)


def missing(value: Any) -> bool:
    """Return whether a label is None or not a number."""
    return value is None or (isinstance(value, float) and value != value)


def check_present(split: str, labels: Sequence[Any]) -> None:
    """Raise DataError naming the rows that have no label."""
    rows = [row for row, value in enumerate(labels) if missing(value)]
    if rows:
        shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
        raise DataError(
            f"{len(rows)} of {len(labels)} rows of the {split} split have no label (rows {shown}, "
            "counted from 0). Label them or remove them."
        )


def check_learned(
    split: str, counts: Counter[int], trained: Counter[int], classes: Sequence[str]
) -> None:
    """Raise DataError if a class of `split` has no sample in the training split."""
    unseen = sorted(set(counts) - set(trained))
    if unseen:
        names = ", ".join(f"{classes[index]!r} ({counts[index]} rows)" for index in unseen[:5])
        more = f" and {len(unseen) - 5} more" if len(unseen) > 5 else ""
        raise DataError(
            f"The {split} split has classes that the training split has no sample of: {names}"
            f"{more}. Add samples of them to train, or remove these rows."
        )


def name_of(value: Any) -> str:
    """Return the class name that a label stands for: itself as text, 1.0 as '1'."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, (str, bool, int)):
        return str(value)
    raise DataError(
        f"The label {value!r} is no class: give a name or an integer. For numbers to be predicted "
        "as such choose a regression task, for lists of labels a multi-label task."
    )


def natural(names: Any) -> tuple[str, ...]:
    """Return the distinct names in natural order: '2' before '10', '-1' before '0'."""

    def key(name: str) -> tuple[Any, ...]:
        if re.fullmatch(r"-?\d+", name):
            return (0, int(name), name)
        parts = re.split(r"(\d+)", name)
        return (1, [(int(p), "") if p.isdecimal() else (-1, p) for p in parts if p], name)

    return tuple(sorted(set(names), key=key))


def index_of(value: Any, index: dict[str, int], indexed: bool, row: int) -> int:
    """Return the position of a label; raise DataError if it is no class or out of range."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if indexed and isinstance(value, int):
        if not 0 <= value < len(index):
            raise DataError(
                f"Row {row} has the label index {value}, but there are {len(index)} classes: "
                f"allowed are 0 to {len(index) - 1}."
            )
        return int(value)
    name = name_of(value)
    if name not in index:
        raise DataError(
            f"Row {row} has the label {name!r}, which is none of the {len(index)} classes."
            f"{nearest(name, index)}"
        )
    return index[name]
