"""A text made from a text, as a translation or a summary is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from finetune.mistakes import Evidence, Mistake
from finetune.protocols import Array, Split, Splits, Table
from finetune.targets.base import Answer, Rows, VocabularyTarget, objects, refuse_class_options

if TYPE_CHECKING:
    from finetune.recipe import Train
    from finetune.samples import Samples

CANDIDATES = 50
"""Training texts tried as the one that is always given."""
TRIED_ON = 200
"""Validation rows on which they are tried."""


@dataclass(frozen=True)
class Generated(VocabularyTarget):
    """A text for each row, found by beam search; truth and predictions are strings, (rows,)."""

    kind: ClassVar = "texts"
    num_beams: int = 4
    max_new_tokens: int = 128
    metric: str = "bleu"
    classes: None = None

    @classmethod
    def of(cls, splits: Splits, train: Train, **options: Any) -> Generated:
        """Return the target; options of training that need classes are refused."""
        refuse_class_options(train, "texts that are written, which are no classes")
        return cls(**options)

    def encode(self, table: Table) -> Array:
        """Return the wanted text of each row, (rows,)."""
        return objects([str(text) for text in table["target"][:]])

    def labels(self, truth: Any, source: Any) -> Any:
        """Return the tokens of the wanted texts, -100 where nothing is to be predicted."""
        return None if truth is None else source.columns["label"]

    def infer(
        self,
        network: Any,
        module: nn.Module,
        inputs: dict[str, Tensor],
        targets: dict[str, Tensor],
    ) -> Tensor:
        """Return the tokens that are written for each sample, (batch, new), int64."""
        ids: Tensor = network.generate(
            inputs, max_new_tokens=self.max_new_tokens, num_beams=self.num_beams, module=module
        )
        return ids.long()

    def decode(self, kept: Array, source: Any) -> Array:
        """Return what these tokens read as, (rows,) of strings."""
        return objects([text.strip() for text in source.text(kept)])

    def finite(self, predictions: Any) -> Array:
        """Return that every row has a text, (rows,)."""
        return np.ones(len(predictions), bool)

    def _told(self, predictions: Any, rows: Rows, top_k: int) -> list[Answer]:
        return [{"text": str(text)} for text in predictions]

    def example(self, top_k: int) -> Answer:
        """Return an answer of one letter."""
        return {"text": "a"}

    def guesses(self, truth: Any, random: torch.Generator) -> Array:
        """Return the wanted texts in another order."""
        order: Array = torch.randperm(len(truth), generator=random).numpy()
        return objects([str(truth[row]) for row in order])

    def baselines(self, samples: Mapping[Split, Samples], test: Table) -> dict[str, Array]:
        """Return always the same text, and the source as it is.

        The text is the one of some training texts that is worth most on validation.
        """
        from finetune.scoring import score

        name = self.metric.lstrip("-")
        texts = list(dict.fromkeys(samples["train"].truth))
        some = np.linspace(0, len(texts) - 1, min(CANDIDATES, len(texts))).astype(int)
        tried = samples["validation"].truth[:TRIED_ON]

        def worth(text: str) -> float:
            scores = score(self.kind, [text] * len(tried), tried, only=[name], intervals=False)
            return float(scores[name]["value"] or 0.0)

        best = max((texts[i] for i in some), key=worth)
        return {
            "constant": objects([best] * len(samples["test"].truth)),
            "copy": objects([str(text) for text in test["source"][:]]),
        }

    def describe(self, truth: Any) -> dict[str, str]:
        """Return how long the wanted texts are."""
        return {"words of a text, mean": f"{np.mean([len(text.split()) for text in truth]):.1f}"}

    def evidence(self, predictions: Any, truth: Any, most: int = 24) -> Evidence:
        """Return the texts that are least like the wanted ones, by chrF."""
        from finetune.text_metrics import similarity

        alike = np.array([similarity(*pair) for pair in zip(predictions, truth, strict=True)])
        rows = [int(row) for row in np.argsort(alike, kind="stable")[:most] if alike[row] < 100]
        return Evidence(
            [Mistake(r, truth[r], predictions[r], note=f"chrF {alike[r]:.1f}") for r in rows]
        )
