"""A tag for each word of a row: entities, or what else words are, such as parts of speech."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from finetune import entities, labels, losses
from finetune.errors import DataError
from finetune.mistakes import Evidence, Mistake, crossed
from finetune.protocols import SPLITS, Array, Network, Split, Splits, Table
from finetune.samples import Ragged
from finetune.targets.base import Answer, BaseTarget, Rows, objects
from finetune.texts.encoded import IGNORED

if TYPE_CHECKING:
    from finetune.recipe import Train
    from finetune.samples import Samples


@dataclass(frozen=True)
class Tags(BaseTarget):
    """One tag for each word; the first sub-token of a word speaks for it.

    The truth of a row is positions in `classes`, (words,), and a prediction the position and its
    probability, (words, 2).
    """

    kind: ClassVar = "tags"
    classes: tuple[str, ...]
    indexed: bool = True
    """Whether whole numbers are positions in `classes`; else they are names like any other."""
    label_smoothing: float = 0.0
    focal: float = 0.0
    class_weights: tuple[float, ...] | None = None
    metric: str = "f1"

    @classmethod
    def of(cls, splits: Splits, train: Train) -> Tags:
        """Read the tags; raise DataError for fewer than two, or a split that has no entity."""
        with labels.told("train"):
            cells = labels.column(splits.train)
            _check_lists(cells)
            found = {labels.name_of(tag) for cell in cells for tag in cell}
            # The tag for no entity comes first, as data sources have it.
            names = splits.classes or tuple(
                sorted(labels.natural(found), key=lambda name: name != entities.OUTSIDE)
            )
            target = cls(names, splits.classes is not None, train.label_smoothing, train.focal)
            counts = target.tally(target.encode(splits.train))
            if (counts > 0).sum() < 2:
                there = [names[i] for i in np.flatnonzero(counts)]
                only = f"one tag only, {there[0]!r}" if there else "no words"
                raise DataError(f"{only}. A tagger needs words of at least two tags.")
        if not target.has_entities:
            target = replace(target, metric="accuracy")
        for split in SPLITS:
            with labels.told(split):
                here = target.tally(target.encode(splits[split]))
                if not sum(n for n, name in zip(here, names, strict=True) if name != "O"):
                    raise DataError("no word has any tag but O. There is nothing to measure.")
        if train.class_weights == "none":
            return target
        share = counts.sum() / (counts > 0).sum()
        return replace(target, class_weights=tuple(share / n if n else 1.0 for n in counts))

    @property
    def has_entities(self) -> bool:
        """Whether words can form entities; else each word's tag stands for itself."""
        return any(not form.startswith("S-") for form in self._forms)

    @property
    def _forms(self) -> tuple[str, ...]:
        return entities.forms(self.classes)

    @property
    def each(self) -> tuple[str, str]:  # type: ignore[override]
        """What has figures of its own: types of entities, or tags."""
        return ("entity type", "entity types") if self.has_entities else ("tag", "tags")

    @property
    def rated(self) -> tuple[str, ...]:
        """The types of entities."""
        return entities.types(self._forms)

    def encode(self, table: Table) -> Array:
        """Return the tags of each row, (rows,) of int64 (words,); DataError for an unknown one."""
        cells = labels.column(table)
        _check_lists(cells)
        index = labels.Index(self.classes, self.indexed)
        rows = [np.array([index(tag, r) for tag in cell], np.int64) for r, cell in enumerate(cells)]
        return objects(rows)

    def labels(self, truth: Any, source: Any) -> Ragged | None:
        """Return the tag of each token that begins a word, and -100 for others, as `Ragged`.

        Raises DataError for a row that has fewer tags than words.
        """
        if truth is None:
            return None
        word: Ragged = source.columns["word"]
        tags, rows = np.array([len(row) for row in truth]), np.repeat(source.rows, word.lengths)
        if len(short := rows[word.flat >= tags[rows]]):
            raise DataError(f"row {short[0]} has {tags[short[0]]} tags, and more words than that.")
        begins = np.cumsum([0, *tags])[source.rows]
        flat = np.concatenate([*truth, np.zeros(0, np.int64)])
        first = word.flat >= 0
        result = np.full(len(word.flat), IGNORED, np.int64)
        result[first] = flat[np.repeat(begins, word.lengths)[first] + word.flat[first]]
        return Ragged(result, word.ends, IGNORED)

    def losses(self, outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Return the summed cross-entropy of logits (batch, tokens, classes), (batch,), float32."""
        label = targets["label"]
        sample, token = torch.nonzero(label != IGNORED, as_tuple=True)
        weight = losses.vector(self.class_weights, outputs.device)
        how = (weight, self.label_smoothing, self.focal)
        each = losses.cross_entropy(outputs[sample, token].float(), label[sample, token], *how)
        return each.new_zeros(len(label)).index_add(0, sample, each)

    def weights(self, targets: dict[str, Tensor]) -> Tensor:
        """Return how many words each sample has, by their class weights, (batch,), float32."""
        label = targets["label"]
        weight = losses.vector(self.class_weights, label.device)
        known = label != IGNORED
        counts = known.float() if weight is None else weight[label.clamp_min(0)] * known
        return counts.sum(1)

    def infer(
        self,
        network: Network,
        module: nn.Module,
        inputs: dict[str, Tensor],
        targets: dict[str, Tensor],
    ) -> Tensor:
        """Return the likeliest tag of each token and its probability, (batch, tokens, 2)."""
        probabilities = network.outputs(module(**inputs)).float().softmax(-1)
        chance, tag = probabilities.max(-1)
        return torch.stack([tag.float(), chance], -1)

    def decode(self, kept: Array, source: Any) -> Array:
        """Return tag and probability of each word, (rows,) of (words, 2).

        A word that the tokenizer leaves nothing of has the first class, with probability 0.
        """
        word: Ragged = source.columns["word"]
        first = np.flatnonzero(word.flat >= 0)
        sample = np.repeat(np.arange(len(word)), word.lengths)[first]
        token = first - (word.ends - word.lengths)[sample]
        row, place = np.asarray(source.rows)[sample], word.flat[first]
        sizes = np.zeros(int(np.max(source.rows)) + 1, np.int64)
        np.maximum.at(sizes, row, place + 1)
        begins = np.cumsum(sizes) - sizes
        flat = np.zeros((sizes.sum(), 2), np.float32)
        flat[begins[row] + place] = kept[sample, token]
        return objects(np.split(flat, begins[1:]))

    def compared(self, predictions: Any, targets: Any) -> tuple[Any, Any]:
        """Return the tags of each row by name, as seqeval reads them."""
        forms = self._forms
        true = [[forms[tag] for tag in row] for row in targets]
        given = [
            [forms[int(tag)] for tag in _tags(row, len(wanted))]
            for row, wanted in zip(predictions, true, strict=True)
        ]
        return given, true

    def _told(self, predictions: Any, rows: Rows, top_k: int) -> list[Answer]:
        if self.has_entities:
            return [self._found(*pair) for pair in zip(predictions, rows, strict=True)]
        return [
            {
                "tags": [
                    {"word": word, "tag": self.classes[int(tag)], "probability": _short(chance)}
                    for word, (tag, chance) in zip(row["words"], cells, strict=False)
                ]
            }
            for cells, row in zip(predictions, rows, strict=True)
        ]

    def _found(self, cells: Array, row: Mapping[str, Any]) -> Answer:
        """Return the entities of one row, by words and by letters of its text.

        Where the words alone were given, that is the words with a space between.
        """
        words, forms = list(row["words"]), self._forms
        text = row.get("text") or " ".join(words)
        tags = [forms[int(tag)] for tag in _tags(cells, len(words))]
        places, told = _places(words, text), []
        for entity in entities.found(tags):
            first, last = places[entity.start][0], places[entity.end - 1][1]
            told.append(
                {
                    "type": entity.type,
                    "text": text[first:last],
                    "start": entity.start,
                    "end": entity.end,
                    "start_char": first,
                    "end_char": last,
                    "score": _short(cells[slice(*entity[1:]), 1].mean()),
                }
            )
        return {"entities": told}

    def example(self, top_k: int) -> Answer:
        """Return an answer with one entity, or one tag."""
        tag = next(i for i, name in enumerate(self.classes) if name != entities.OUTSIDE)
        return self.answers(objects([np.array([[tag, 1.0]])]), [{"words": ["word"]}], top_k)[0]

    def guesses(self, truth: Any, random: torch.Generator) -> Array:
        """Return random tags."""
        size = len(self.classes)
        drawn = [torch.randint(size, (len(row),), generator=random).numpy() for row in truth]
        return objects([np.stack([row, np.full(len(row), 1 / size)], axis=1) for row in drawn])

    def baselines(self, samples: Mapping[Split, Samples], test: Table) -> dict[str, Array]:
        """Return the most frequent tag of training for every word."""
        counts = self.tally(samples["train"].truth)
        answer = np.array([counts.argmax(), counts.max() / counts.sum()])
        return {"majority": objects([np.tile(answer, (len(r), 1)) for r in samples["test"].truth])}

    def tally(self, truth: Any) -> Array:
        """Return how many words have each tag, (classes,)."""
        flat = np.concatenate([*truth, np.zeros(0, np.int64)])
        return np.bincount(flat, minlength=len(self.classes))

    def evidence(self, predictions: Any, truth: Any, most: int = 24) -> Evidence:
        """Return the confusion of tags, their certainty, and the surest wrong tag of each row."""
        size = len(self.classes)
        cells = np.concatenate(
            [_filled(p, len(t)) for p, t in zip(predictions, truth, strict=True)]
        )
        guess, true = cells[:, 0].astype(np.int64), np.concatenate(list(truth))
        worst = []
        for row, wanted in enumerate(truth):
            mine = _filled(predictions[row], len(wanted))
            wrong = np.flatnonzero(mine[:, 0] != wanted)
            if len(wrong):
                word = wrong[mine[wrong, 1].argmax()]
                names = self.classes[wanted[word]], self.classes[int(mine[word, 0])]
                worst.append(Mistake(row, *names, float(mine[word, 1]), f"word {word + 1}"))
        worst.sort(key=lambda mistake: -(mistake.probability or 0))
        return Evidence(
            worst=worst[:most],
            confusion=crossed(guess, true, size),
            certainty=(cells[:, 1], guess == true),
            certain_of="the tags",
        )


def _check_lists(cells: Sequence[Any]) -> None:
    labels.check_present(cells)
    for row, cell in enumerate(cells):
        if isinstance(cell, (str, bytes)) or not isinstance(cell, (Sequence, np.ndarray)):
            raise DataError(
                f"row {row} has the label {cell!r}: tagging needs a list of tags in each row, one "
                f"for each word, such as [{cell!r}, 'O']."
            )


def _filled(cells: Array, words: int) -> Array:
    """Return predictions of as many words: those that no token stands for come last, and as zeros.

    A row of the table may end in words that the tokenizer leaves nothing of.
    """
    result = np.zeros((words, 2))
    result[: len(cells)] = cells[:words]
    return result


def _tags(cells: Array, words: int) -> Array:
    return _filled(cells, words)[:, 0]


def _places(words: Sequence[str], text: str) -> list[tuple[int, int]]:
    """Return where each word stands in the text, searched from the end of the one before."""
    places, at = [], 0
    for word in words:
        start = text.find(word, at)
        start = at if start < 0 else start
        at = start + len(word)
        places.append((start, at))
    return places


def _short(number: Any) -> float:
    return float(str(np.float32(number)))
