"""What a target tells people of its predictions and its truth; half of `protocols.Target`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    import torch

    from finetune.mistakes import Evidence
    from finetune.protocols import Array, Split, Table
    from finetune.samples import Samples


class Telling(Protocol):
    """Predictions in words, beside what, and with which evidence."""

    def answers(
        self, predictions: Any, rows: Sequence[Mapping[str, Any]], top_k: int
    ) -> list[dict[str, Any]]:
        """Return what is told of each row, in its natural form: plain values by name.

        It is only an "error" where the model's output is not finite.
        """
        ...

    def example(self, top_k: int) -> dict[str, Any]:
        """Return an answer that has every key, none of it empty."""
        ...

    def guesses(self, truth: Any, random: torch.Generator) -> Any:
        """Return predictions that mean nothing, to try a metric on."""
        ...

    def baselines(self, samples: Mapping[Split, Samples], test: Table) -> dict[str, Any]:
        """Return predictions on the test split that need no model, by the name of the baseline."""
        ...

    def calibrated(self, predictions: Any, truth: Any) -> Self:
        """Return the target whose `answers` have probabilities fitted on these rows."""
        ...

    def evidence(self, predictions: Any, truth: Any, most: int = 24) -> Evidence:
        """Return what predictions show beside their scores: mistakes, confusion, certainty."""
        ...

    @property
    def each(self) -> tuple[str, str]:
        """What has precision, recall and F1 of its own, one and many: "class", "classes"."""
        ...

    def tally(self, truth: Any) -> Array | None:
        """Return how often each class is there, (classes,); None where there are no classes."""
        ...

    def describe(self, truth: Any) -> dict[str, str]:
        """Return facts on the truth of a split, under the same names for each split."""
        ...
