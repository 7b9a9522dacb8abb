"""The next token of a text or a chat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from finetune.errors import DataError
from finetune.mistakes import Evidence, Mistake
from finetune.protocols import Array, Network, Split, Splits, Table
from finetune.samples import Ragged
from finetune.targets.base import Answer, Rows, VocabularyTarget, refuse_class_options

if TYPE_CHECKING:
    from finetune.recipe import Train
    from finetune.samples import Samples


@dataclass(frozen=True)
class NextToken(VocabularyTarget):
    """How likely the tokens of each row are, each after those before it.

    A prediction is the sum of -log p over the tokens of a row and how many there are, (rows, 2);
    where rows are packed into samples, a sample counts for the row that it begins with.
    """

    kind: ClassVar = "tokens"
    metric: str = "-perplexity"
    classes: None = None

    @classmethod
    def of(cls, splits: Splits, train: Train, **options: Any) -> NextToken:
        """Return the target; options of training that need classes are refused."""
        refuse_class_options(train, "texts that are continued, which are no classes")
        return cls(**options)

    def encode(self, table: Table) -> Array:
        """Return zeros, (rows,): the texts themselves are the truth, which the source holds."""
        return np.zeros(len(table))

    def labels(self, truth: Any, source: Any) -> Ragged:
        """Return the token that each output should give, -100 where nothing is predicted."""
        labels: Ragged = source.columns["label"]
        return labels

    def infer(
        self,
        network: Network,
        module: nn.Module,
        inputs: dict[str, Tensor],
        targets: dict[str, Tensor],
    ) -> Tensor:
        """Return the summed cross-entropy and the number of tokens of each sample, (batch, 2)."""
        outputs = network.outputs(module(**inputs))
        parts = outputs.losses(targets["label"].long())
        return torch.stack([part.float() for part in parts], 1)

    def decode(self, kept: Array, source: Any) -> Array:
        """Return both sums over the samples of each row, (rows, 2), float64."""
        result = np.zeros((int(np.max(source.rows)) + 1, 2))
        np.add.at(result, np.asarray(source.rows), kept)
        return result

    def compared(self, predictions: Any, targets: Any) -> tuple[Any, Any]:
        """Return sums and numbers of tokens of the rows that have any."""
        there = predictions[predictions[:, 1] > 0]
        return there[:, 0], there[:, 1]

    def _told(self, predictions: Any, rows: Rows, top_k: int) -> list[Answer]:
        return [
            {"perplexity": float(np.exp(min(loss / count, 700.0))) if count else None,
             "tokens": int(count)}
            for loss, count in predictions.tolist()
        ]  # fmt: skip

    def example(self, top_k: int) -> Answer:
        """Return the answer of a text of one token."""
        return {"perplexity": 1.0, "tokens": 1}

    def guesses(self, truth: Any, random: torch.Generator) -> Array:
        """Return random sums for ten tokens in each row."""
        sums = torch.rand(len(truth), generator=random).numpy() * 100
        return np.stack([sums, np.full(len(truth), 10.0)], axis=1)

    def baselines(self, samples: Mapping[Split, Samples], test: Table) -> dict[str, Array]:
        """Return what tokens by their frequency in training would give, each alone (unigram)."""
        seen = samples["train"].labels.flat
        held: Ragged = samples["test"].labels
        size = int(max(seen.max(initial=0), held.flat.max(initial=0))) + 1
        counts = np.bincount(seen[seen >= 0], minlength=size)
        if not counts.any():
            raise DataError("No row of the train split has a token to predict.")
        # One more of each, and one for all tokens that training never has, so that none is 0.
        known = int((counts > 0).sum())
        loss = -np.log((counts + 1) / (counts.sum() + known + 1))
        there = held.flat >= 0
        sample = np.repeat(np.arange(len(held)), held.lengths)
        kept = np.zeros((len(held), 2))
        np.add.at(kept[:, 0], sample[there], loss[held.flat[there]])
        np.add.at(kept[:, 1], sample[there], 1)
        return {"unigram": self.decode(kept, samples["test"].source)}

    def evidence(self, predictions: Any, truth: Any, most: int = 24) -> Evidence:
        """Return the rows of largest perplexity, unless rows are packed into samples."""
        if not predictions[:, 1].all():
            return Evidence()
        mean = predictions[:, 0] / predictions[:, 1]
        rows = np.argsort(-mean, kind="stable")[:most]
        told = [f"perplexity {np.exp(min(mean[row], 700.0)):.4g}" for row in rows]
        return Evidence([Mistake(int(r), "", "", note=n) for r, n in zip(rows, told, strict=True)])
