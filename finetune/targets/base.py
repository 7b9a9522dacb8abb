"""What targets have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from finetune import losses
from finetune.errors import RecipeError
from finetune.mistakes import Evidence
from finetune.protocols import Array, Network, Source, Split, Table
from finetune.texts.encoded import IGNORED

if TYPE_CHECKING:
    from finetune.metric_entry import Kind
    from finetune.recipe import Train
    from finetune.samples import Samples

Answer = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]


class BaseTarget(ABC):
    """What all targets have in common."""

    kind: ClassVar[Kind]
    """The kind of predictions and references, as the table of metrics names it."""
    each: ClassVar[tuple[str, str]] = ("class", "classes")
    """What `rated` holds, one and many of them."""
    problem_type: ClassVar[str | None] = None
    classes: tuple[str, ...] | None
    metric: str

    def __post_init__(self) -> None:
        """Take lists for tuples: a target that was kept as JSON reads back equal."""
        for name, value in vars(self).items():
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))

    @property
    def num_outputs(self) -> int:
        """One output for each class, or one number."""
        return 1 if self.classes is None else len(self.classes)

    @property
    def native(self) -> Self:
        """The target of the saved module: the same."""
        return self

    def rescale_head(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the head as it is: logits have no unit."""
        return weight, bias

    @property
    def rated(self) -> tuple[str, ...]:
        """What has precision, recall and F1 of its own, by name."""
        return self.classes or ()

    @property
    def also(self) -> tuple[str, ...]:
        """Metrics computed beside the usual ones of the kind."""
        return ()

    def labels(self, truth: Any, source: Source) -> Any:
        """Return the truth: each row is one sample."""
        return truth

    def weights(self, targets: dict[str, Tensor]) -> Tensor:
        """Return ones, (batch,), float32: every sample counts the same."""
        return losses.ones(targets)

    def decode(self, kept: Array, source: Source) -> Any:
        """Return what was kept: each row is one sample."""
        return kept

    def finite(self, predictions: Any) -> Array:
        """Return which rows have predictions that are finite numbers, (rows,)."""
        return np.array([bool(np.isfinite(row).all()) for row in predictions], dtype=bool)

    def compared(self, predictions: Any, targets: Any) -> tuple[Any, Any]:
        """Return both as the metrics of this kind take them."""
        return predictions, targets

    def scores(
        self,
        predictions: Any,
        targets: Any,
        *,
        intervals: bool = True,
        metrics: Sequence[Any] = (),
    ) -> dict[str, Any]:
        """Return all metrics of what `decode` and `encode` give; see `Target.scores`."""
        from finetune.scoring import check_finite, score

        check_finite(self.finite(predictions))
        names = [self.metric.lstrip("-"), *self.also, *(m for m in metrics if isinstance(m, str))]
        given = (self.kind, *self.compared(predictions, targets))
        result = score(*given, self.rated, names, intervals=intervals)
        if others := [metric for metric in metrics if not isinstance(metric, str)]:
            from finetune.metrics import score_others

            result |= score_others(*given, others, result, intervals=intervals)
        return result

    def difference(self, predictions: Any, other: Any, targets: Any) -> dict[str, Any]:
        """Return by how much `predictions` exceed `other` in `metric`: `{"value", "low", ...}`."""
        from finetune.scoring import difference

        ours, truth = self.compared(predictions, targets)
        theirs, _ = self.compared(other, targets)
        return difference(self.kind, self.metric.lstrip("-"), ours, theirs, truth)

    def answers(self, predictions: Any, rows: Rows, top_k: int) -> list[Answer]:
        """Return what is told of each row as plain values; an "error" where it is not finite."""
        told = self._told(predictions, rows, top_k)
        for place in np.flatnonzero(~self.finite(predictions)):
            told[place] = {"error": "the model's output is not finite"}
        return told

    @abstractmethod
    def _told(self, predictions: Any, rows: Rows, top_k: int) -> list[Answer]:
        """Return what is told of each row as plain values."""

    @abstractmethod
    def example(self, top_k: int) -> Answer:
        """Return an answer that has every key, none of it empty."""

    @abstractmethod
    def guesses(self, truth: Any, random: torch.Generator) -> Any:
        """Return predictions of these rows that mean nothing, to try a metric on."""

    @abstractmethod
    def baselines(self, samples: Mapping[Split, Samples], test: Table) -> dict[str, Any]:
        """Return predictions on the test split, of which `test` is the table, by what makes them.

        They know the training split, and no more of a test row than its length or its own text.
        """

    def calibrated(self, predictions: Any, truth: Any) -> Self:
        """Return the target itself: what it tells has no probabilities to be fitted."""
        return self

    def evidence(self, predictions: Any, truth: Any, most: int = 24) -> Evidence:
        """Return what these predictions show beside their scores; nothing, if that is all."""
        return Evidence()

    def tally(self, truth: Any) -> Array | None:
        """Return how often each class is there, (classes,), or None."""
        return None

    def describe(self, truth: Any) -> dict[str, str]:
        """Return facts on the truth of a split, the same names for each."""
        return {}


class RowTarget(BaseTarget, ABC):
    """A target with as many outputs for each row, whose predictions are a matrix."""

    def infer(
        self,
        network: Network,
        module: nn.Module,
        inputs: dict[str, Tensor],
        targets: dict[str, Tensor],
    ) -> Tensor:
        """Return the predictions of a batch, (batch, outputs), float32."""
        return self.predictions(network.outputs(module(**inputs)))

    @abstractmethod
    def encode(self, table: Table) -> Array:
        """Return the truth of all rows, (rows,) or (rows, outputs)."""

    @abstractmethod
    def losses(self, outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Return the weighted loss of each row, (batch,), float32."""

    @abstractmethod
    def predictions(self, outputs: Tensor) -> Tensor:
        """Return probabilities or numbers, (batch, outputs), float32."""

    def finite(self, predictions: Array) -> Array:
        """Return which rows are all finite, (rows,)."""
        return np.asarray(np.isfinite(predictions).all(1))

    def example(self, top_k: int) -> Answer:
        """Return an answer that has every key, none of it empty."""
        every = np.ones((1, self.num_outputs), np.float32)
        return self.answers(every, [{}], top_k)[0]

    def guesses(self, truth: Array, random: torch.Generator) -> Array:
        """Return the predictions of random outputs."""
        outputs = torch.randn(len(truth), self.num_outputs, generator=random)
        guessed: Array = self.predictions(outputs).numpy()
        return guessed

    def baselines(self, samples: Mapping[Split, Samples], test: Table) -> dict[str, Array]:
        """Return the same for every test row: the classes by their frequency, or the mean.

        The most frequent class is then the answer, and the probabilities are honest.
        """
        answer = self.average(samples["train"].truth).astype(np.float32)
        rows = len(samples["test"].truth)
        return {self.constant: np.broadcast_to(answer, (rows, len(answer)))}

    constant: ClassVar[str] = "majority"
    """What the baseline is called."""

    def average(self, truth: Array) -> Array:
        """Return the mean of the truth over the rows, (outputs,)."""
        mean: Array = truth.astype(np.float64).mean(0)
        return mean

    def vectors(self, truth: Array) -> Array:
        """Return the predictions that would be all right, (rows, outputs), float32."""
        return truth.astype(np.float32)


def objects(cells: Sequence[Any]) -> Array:
    """Return cells of any kind as an array, (rows,), so that rows can be chosen from it."""
    result = np.empty(len(cells), dtype=object)
    for row, cell in enumerate(cells):
        result[row] = cell
    return result


def refuse_class_options(train: Train, why: str) -> None:
    """Raise RecipeError for options of training that need classes: `why` ends the sentence."""
    plain = {"label_smoothing": 0.0, "focal": 0.0, "class_weights": "none"}
    for key, value in plain.items():
        if getattr(train, key) != value:
            raise RecipeError(
                f"train.{key}={getattr(train, key)} has no meaning for {why}: leave it at {value}."
            )


class VocabularyTarget(BaseTarget, ABC):
    """A target over the words of a model, whose outputs give the losses of tokens themselves."""

    @property
    def num_outputs(self) -> int:
        """None of its own: the head is the vocabulary."""
        return 0

    def losses(self, outputs: Any, targets: dict[str, Tensor]) -> Tensor:
        """Return the summed cross-entropy over the tokens of each sample, (batch,), float32."""
        summed: Tensor = outputs.losses(targets["label"].long())[0]
        return summed.float()

    def weights(self, targets: dict[str, Tensor]) -> Tensor:
        """Return how many tokens are predicted in each sample, (batch,), float32."""
        return (targets["label"] != IGNORED).sum(1).float()
