"""An answer that stands in a text: its first and last token, or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune import labels
from finetune.errors import DataError
from finetune.mistakes import Evidence, Mistake
from finetune.protocols import SPLITS, Array, Network, Split, Splits, Table
from finetune.targets.base import Answer, BaseTarget, Rows, objects, refuse_class_options

if TYPE_CHECKING:
    from finetune.recipe import Train
    from finetune.samples import Samples

NONE = (-1, -1)
"""Where the answer stands that there is none."""
UNUSED = -2


@dataclass(frozen=True)
class Spans(BaseTarget):
    """Where in the context the answer stands, or that it does not (Devlin et al. 2019).

    The truth of a row is a dict of its "context" and its right answers, "text" and "start". A
    prediction is the best places, (n_best, 3): first letter, letter after the last, probability;
    both are -1 for no answer.
    """

    kind: ClassVar = "spans"
    unanswerable: bool = False
    """Whether training knows questions without an answer; else one is always given."""
    max_answer_length: int = 30
    """In tokens."""
    n_best: int = 20
    """How many first and last tokens of each window are combined, and how many answers told."""
    null_threshold: float = 0.0
    """By how much, in logits, no answer must be likelier than the best to be taken."""
    metric: str = "f1"
    classes: None = None

    @classmethod
    def of(cls, splits: Splits, train: Train, **options: Any) -> Spans:
        """Read the answers; raise DataError where one is none, or not where it should be."""
        refuse_class_options(train, "answers in a text, which are no classes")
        for split in SPLITS:
            with labels.told(split):
                truth = cls().encode(splits[split])
                if split == "train":
                    _check_places(truth)
                    without = any(not cell["text"] for cell in truth)
                    if not any(cell["text"] for cell in truth):
                        raise DataError("no question has an answer. There is nothing to learn.")
        return cls(unanswerable=without, **options)

    @property
    def num_outputs(self) -> int:
        """How likely each token is the first, and how likely the last."""
        return 2

    @property
    def also(self) -> tuple[str, ...]:
        """Where questions may have no answer, what both sorts are worth."""
        both = ("answerable_exact_match", "answerable_f1", "unanswerable_accuracy")
        return both if self.unanswerable else ()

    def encode(self, table: Table) -> Array:
        """Return the context and the answers of each row, (rows,) of dicts."""
        cells, contexts = labels.column(table), table["context"][:]
        labels.check_present(cells)
        return objects(
            [_answers(*pair, row) for row, pair in enumerate(zip(cells, contexts, strict=True))]
        )

    def labels(self, truth: Any, source: Any) -> Array | None:
        """Return first and last token of the answer and the sample's length, (samples, 3), int64.

        A window that does not hold all of the answer has none: both are the first token.
        """
        if truth is None:
            return None
        starts, ends = source.columns["start"], source.columns["end"]
        result = np.zeros((len(starts), 3), np.int64)
        result[:, 2] = starts.lengths
        for sample, row in enumerate(source.rows):
            place = _place(truth[row])
            if place is not None:
                result[sample, :2] = _tokens(starts.row(sample), ends.row(sample), *place)
        return result

    def losses(self, outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Return the mean cross-entropy of both ends, logits (batch, tokens, 2), (batch,)."""
        label = targets["label"]
        logits = outputs.float()
        beyond = torch.arange(logits.shape[1], device=label.device) >= label[:, 2:]
        logits = logits.masked_fill(beyond[..., None], torch.finfo(logits.dtype).min)
        ends = (F.cross_entropy(logits[..., i], label[:, i], reduction="none") for i in (0, 1))
        return torch.stack(list(ends)).mean(0)

    def infer(
        self,
        network: Network,
        module: nn.Module,
        inputs: dict[str, Tensor],
        targets: dict[str, Tensor],
    ) -> Tensor:
        """Return the likeliest first and last tokens with their logits, (batch, 1 + n_best, 4).

        The first line is that of the first token, which stands for no answer.
        """
        logits = network.outputs(module(**inputs)).float()
        ranked = logits
        mask = inputs.get("attention_mask")
        if mask is not None and mask.ndim == 2:
            ranked = logits.masked_fill(~mask.bool()[..., None], -torch.inf)
        best = min(self.n_best, logits.shape[1])
        score, token = ranked.topk(best, dim=1)
        none = torch.stack([torch.zeros_like(logits[:, 0]), logits[:, 0]], -1)
        lines = torch.cat([none[:, None], torch.stack([token.float(), score], -1)], 1)
        # Padding may be among the best of a short sample.
        lines = torch.where(lines.isneginf().any(-1, keepdim=True), -1.0, lines)
        return lines.flatten(2)

    def decode(self, kept: Array, source: Any) -> Array:
        """Return the best places in the context, (rows, n_best, 3), float64, the answer first."""
        starts, ends = source.columns["start"], source.columns["end"]
        count = int(np.max(source.rows)) + 1
        found: list[dict[tuple[int, int], float]] = [{} for _ in range(count)]
        none = np.full(count, np.inf)
        broken = np.zeros(count, bool)
        for sample, row in enumerate(source.rows):
            lines = kept[sample]
            if not np.isfinite(lines).all():
                broken[row] = True
                continue
            none[row] = min(none[row], lines[0, 1] + lines[0, 3])
            places = self._places(lines[1:], starts.row(sample), ends.row(sample))
            for place, score in places:
                found[row][place] = max(score, found[row].get(place, -np.inf))
        none[broken] = 0.0
        result = np.stack([self._ranked(*pair) for pair in zip(found, none, strict=True)])
        result[broken] = np.nan
        return result

    def _places(
        self, lines: Array, starts: Array, ends: Array
    ) -> list[tuple[tuple[int, int], float]]:
        """Return the places in one window that can be an answer, with the sum of their logits."""
        first, last = (lines[lines[:, i] >= 0, i].astype(np.int64) for i in (0, 2))
        scores = lines[lines[:, 0] >= 0, 1][:, None] + lines[lines[:, 2] >= 0, 3]
        tokens = last - first[:, None] + 1
        inside = (starts[first] >= 0)[:, None] & (starts[last] >= 0)
        able = inside & (tokens > 0) & (tokens <= self.max_answer_length)
        return [
            ((int(starts[first[i]]), int(ends[last[j]])), float(scores[i, j]))
            for i, j in np.argwhere(able)
        ]

    def _ranked(self, found: dict[tuple[int, int], float], none: float) -> Array:
        """Return the best places of a row with probabilities, the chosen one first."""
        every = found | ({NONE: none} if self.unanswerable or not found else {})
        ranked = sorted(every, key=lambda place: (-every[place], place))
        best = max(found, key=lambda place: found[place], default=NONE)
        if self.unanswerable and found and none - found[best] > self.null_threshold:
            best = NONE
        ranked = [best, *(place for place in ranked if place != best)][: self.n_best]
        scores = np.array([every[place] for place in ranked])
        odds = np.exp(scores - scores.max())
        result = np.full((self.n_best, 3), float(UNUSED))
        result[:, 2] = 0
        result[: len(ranked)] = np.column_stack([np.array(ranked), odds / odds.sum()])
        return result

    def compared(self, predictions: Any, targets: Any) -> tuple[Any, Any]:
        """Return the texts of the answers given, and those that are right, of each row."""
        given = [_text(cell["context"], p[0]) for p, cell in zip(predictions, targets, strict=True)]
        return given, [list(cell["text"]) for cell in targets]

    def _told(self, predictions: Any, rows: Rows, top_k: int) -> list[Answer]:
        told = []
        for places, row in zip(predictions, rows, strict=True):
            every = [_answer(row["context"], place) for place in places if place[0] != UNUSED]
            told.append({**every[0], "top": every[:top_k]} if every else {})
        return told

    def example(self, top_k: int) -> Answer:
        """Return an answer of one letter."""
        places = np.array([[[0.0, 1.0, 1.0]]])
        return self.answers(places, [{"context": "a"}], top_k)[0]

    def guesses(self, truth: Any, random: torch.Generator) -> Array:
        """Return the first word of each context."""
        ends = [len(cell["context"].split(" ")[0]) for cell in truth]
        return np.array([[[0.0, end, 1.0]] for end in ends])

    def baselines(self, samples: Mapping[Split, Samples], test: Table) -> dict[str, Array]:
        """Return no answer where training knows that, and the beginning of each context."""
        lengths = [
            len(text) for cell in samples["train"].truth for text in cell["text"][:1] if text
        ]
        size = float(np.median(lengths)) if lengths else 1.0
        truth = samples["test"].truth
        first = [[[0.0, min(size, len(cell["context"])), 1.0]] for cell in truth]
        given = {"beginning": np.array(first)}
        if self.unanswerable:
            given = {"no answer": np.tile([[[-1.0, -1.0, 1.0]]], (len(truth), 1, 1))} | given
        return given

    def describe(self, truth: Any) -> dict[str, str]:
        """Return how many questions have an answer, and how long it is."""
        there = [cell["text"][0] for cell in truth if cell["text"]]
        letters = f"{np.mean([len(text) for text in there]):.0f}" if there else "0"
        return {"with an answer": f"{len(there):,}", "letters of an answer, mean": letters}

    def evidence(self, predictions: Any, truth: Any, most: int = 24) -> Evidence:
        """Return how sure the answers are, and those that share no word with a right one."""
        from finetune.text_metrics import matches

        given, golds = self.compared(predictions, truth)
        scores = np.array([matches(*pair) for pair in zip(given, golds, strict=True)])
        chance = predictions[:, 0, 2].astype(float)
        wrong = np.flatnonzero(scores[:, 1] == 0)
        rows = wrong[np.argsort(-chance[wrong], kind="stable")][:most]
        worst = [
            Mistake(int(row), (golds[row] or ["no answer"])[0], given[row] or "no answer",
                    float(chance[row]))
            for row in rows
        ]  # fmt: skip
        return Evidence(worst, certainty=(chance, scores[:, 0] > 0))


def _answers(cell: Any, context: Any, row: int) -> dict[str, Any]:
    """Return the context and its answers as `{"context", "text", "start"}`."""
    if not isinstance(cell, Mapping) or not {"text", "answer_start"} <= set(cell):
        raise DataError(
            f"row {row} has the label {cell!r}: an answer in a text is a dict such as "
            '{"text": ["Paris"], "answer_start": [25]}, with empty lists where there is none.'
        )
    texts, starts = list(cell["text"]), [int(start) for start in cell["answer_start"]]
    if len(texts) != len(starts):
        raise DataError(f"row {row} has {len(texts)} answers, but {len(starts)} places of them.")
    return {"context": str(context), "text": texts, "start": starts}


def _place(cell: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return where the first answer begins and ends; None if it does not stand in the context.

    Where it does not stand at its place, the nearest one at which it does is meant.
    """
    if not cell["text"]:
        return None
    context, text, start = cell["context"], cell["text"][0], cell["start"][0]
    if not text:
        return None
    if not context.startswith(text, start) or start < 0:
        before, after = context.rfind(text, 0, max(start, 0)), context.find(text, max(start, 0))
        there = [place for place in (before, after) if place >= 0]
        if not there:
            return None
        start = min(there, key=lambda place: abs(place - start))
    return start, start + len(text)


def _check_places(truth: Any) -> None:
    lost = [row for row, cell in enumerate(truth) if cell["text"] and _place(cell) is None]
    if lost:
        cell = truth[lost[0]]
        raise DataError(
            f"{len(lost)} answers do not stand in their context, the first is "
            f"{cell['text'][0]!r} of row {lost[0]}. An answer is a part of its context, letter by "
            "letter: correct these rows or remove them."
        )


def _tokens(starts: Array, ends: Array, first: int, after: int) -> tuple[int, int]:
    """Return the first and last token of the letters from `first` to `after`, or (0, 0)."""
    held = np.flatnonzero(starts >= 0)
    if not len(held) or starts[held[0]] > first or ends[held[-1]] < after:
        return 0, 0
    touched = held[(starts[held] < after) & (ends[held] > first)]
    return (int(touched[0]), int(touched[-1])) if len(touched) else (0, 0)


def _text(context: str, place: Array) -> str:
    return context[slice(*_trimmed(context, place))] if place[0] >= 0 else ""


def _trimmed(context: str, place: Array) -> tuple[int, int]:
    """Return where the answer begins and ends without the space that some tokens begin with."""
    start, end = int(place[0]), int(place[1])
    text = context[start:end]
    start += len(text) - len(text.lstrip())
    return start, start + len(text.strip())


def _answer(context: str, place: Array) -> Answer:
    """Return one place in words; without start and end where it is no answer."""
    there = place[0] >= 0
    start, end = _trimmed(context, place) if there else (None, None)
    score = float(str(np.float32(place[2])))
    return {"text": _text(context, place), "start": start, "end": end, "score": score}
