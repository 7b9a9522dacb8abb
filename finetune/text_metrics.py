"""The metrics of texts: each is a function of means over rows of what is counted in every row.

    kind    predictions                             references
    tags    lists of tags, as seqeval reads them    lists of tags
    spans   texts, "" for no answer                 lists of the texts that are right; empty: none
    texts   texts                                   texts
    tokens  sums of -log p over the tokens of rows  numbers of tokens

`COUNTED` turns predictions and references of a kind into these rows, (n, columns).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from finetune import entities
from finetune.errors import DataError
from finetune.intervals import Combine
from finetune.metric_entry import Entry, Kind, f1_of, mean_of
from finetune.protocols import Array

_WORDS = slice(0, 2)
"""Of tags: the words that are right, and all words; then come the counts of `tag_counts`."""


def tag_counts(given: Array, _: Array) -> Array:
    """Return for each row and type the entities that are hit, guessed and there, (n, 3 types)."""
    return given[:, 2:]


def _tags(predictions: Any, references: Any, types: Sequence[str] = ()) -> Array:
    rows = [(list(guess), list(true)) for guess, true in zip(predictions, references, strict=True)]
    for row, (guess, true) in enumerate(rows):
        if len(guess) != len(true):
            raise DataError(f"Row {row} has {len(guess)} tags predicted, but {len(true)} true.")
    spans = [[set(entities.found(tags)) for tags in row] for row in rows]
    every = {entity.type for row in spans for side in row for entity in side}
    place = {name: i for i, name in enumerate(dict.fromkeys([*types, *sorted(every)]))}
    counts = np.zeros((len(rows), 3, len(place)))
    for row, (guessed, there) in enumerate(spans):
        for column, held in enumerate((guessed & there, guessed, there)):
            for entity in held:
                counts[row, column, place[entity.type]] += 1
    right = [sum(map(str.__eq__, guess, true)) for guess, true in rows]
    words = [[hits, len(true)] for hits, (_, true) in zip(right, rows, strict=True)]
    return np.hstack([np.array(words, float), counts.reshape(len(rows), -1)])


def _ratio(means: Array) -> Any:
    return means[0] / means[1]


def _summed(means: Array) -> tuple[Array, Array, Array]:
    """Return hits, guesses and what is there over all types."""
    hits, guessed, there = (part.sum(0) for part in np.split(means, 3))
    return hits, guessed, there


def _micro_f1(means: Array) -> Any:
    hits, guessed, there = _summed(means)
    return 2 * hits / (guessed + there)


def _precision(means: Array) -> Any:
    hits, guessed, _ = _summed(means)
    return hits / guessed


def _recall(means: Array) -> Any:
    hits, _, there = _summed(means)
    return hits / there


def plain_words(text: str) -> list[str]:
    """Return the words of an answer as SQuAD compares them: lower case, no marks, no articles.

    Rajpurkar et al. 2016, arXiv:1606.05250.
    """
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def matches(guess: str, golds: Sequence[str]) -> tuple[float, float]:
    """Return exact match and F1 with the best of the right answers, each of 0 to 1.

    Without any that has words left, no answer is the right one (Rajpurkar et al. 2018,
    arXiv:1806.03822).
    """
    mine = plain_words(guess)
    wanted = [words for words in map(plain_words, golds) if words] or [[]]
    return float(mine in wanted), max(_overlap(mine, words) for words in wanted)


def _overlap(mine: list[str], words: list[str]) -> float:
    if not mine or not words:
        return float(mine == words)
    same = (Counter(mine) & Counter(words)).total()
    return 2 * same / (len(mine) + len(words))


def _spans(predictions: Any, references: Any, _: Sequence[str] = ()) -> Array:
    rows = []
    for guess, golds in zip(predictions, references, strict=True):
        exact, f1 = matches(guess, golds)
        there = float(any(map(plain_words, golds)))
        rows.append([exact, f1, there, exact * there, f1 * there, exact * (1 - there), 1 - there])
    return np.array(rows, float)


def _texts(predictions: Any, references: Any, _: Sequence[str] = ()) -> Array:
    """Return the counts of BLEU and of chrF, and the F-measures of ROUGE, of each row.

    Means over the rows are to be sums, on which BLEU's smoothing depends, so the rows are as many
    times as large.
    """
    given, true = list(map(str, predictions)), list(map(str, references))
    parts = [np.array(m._extract_corpus_statistics(given, [true]), float) for m in _sacrebleu()]
    parts = [part * len(given) for part in parts]
    scorer, names = _rouge(), ("rouge1", "rouge2", "rougeL")
    scores = [scorer.score(t, g) for g, t in zip(given, true, strict=True)]
    rouge = [[score[name].fmeasure for name in names] for score in scores]
    return np.hstack([*parts, np.array(rouge, float)])


_BLEU, _CHRF, _ROUGE = slice(0, 10), slice(10, 28), 28


@lru_cache(maxsize=1)
def _sacrebleu() -> tuple[Any, Any]:
    """Return corpus BLEU and chrF with the library's defaults (Post 2018, Popović 2015)."""
    from sacrebleu.metrics import BLEU, CHRF

    return BLEU(force=True), CHRF()


@lru_cache(maxsize=1)
def _rouge() -> Any:
    """Return ROUGE with the library's defaults (Lin 2004), without stemming."""
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"])


def _corpus(which: int) -> Combine:
    def combine(sums: Array) -> Array:
        metric = _sacrebleu()[which]
        whole = np.rint(sums).astype(int).T.tolist()
        return np.array([metric._compute_score_from_stats(counts).score for counts in whole])

    return combine


def similarity(guess: str, true: str) -> float:
    """Return the chrF of one text, 0 to 100."""
    return float(_sacrebleu()[1].sentence_score(guess, [true]).score)


def _tokens(predictions: Any, references: Any, _: Sequence[str] = ()) -> Array:
    rows = np.stack([np.asarray(predictions, float), np.asarray(references, float)], axis=1)
    if not rows[:, 1].any():
        raise DataError("No row has a token to predict: there is nothing to measure.")
    return rows


def _of(columns: Any, combine: Combine = lambda means: means[0], **options: Any) -> Entry:
    """Return a metric of the means of some columns."""
    return mean_of(lambda given, _: given[:, columns], combine, **options)


_NONE_THERE = "no entity is there, and none was predicted"
_ALL_ANSWERED = "every row has an answer here"

TABLE: dict[Kind, dict[str, Entry]] = {
    "tags": {
        "f1": mean_of(tag_counts, _micro_f1, share=True, reason=_NONE_THERE),
        "precision": mean_of(tag_counts, _precision, share=True, reason="no entity was predicted"),
        "recall": mean_of(tag_counts, _recall, share=True, reason="no entity is there"),
        "macro_f1": mean_of(
            tag_counts,
            lambda means: np.nanmean(f1_of(means), axis=0),
            share=True,
            reason=_NONE_THERE,
        ),
        "accuracy": _of(_WORDS, _ratio, reason="there are no words"),
    },
    "spans": {
        "exact_match": _of([0], share=True),
        "f1": _of([1], share=True),
        "answerable_exact_match": _of([3, 2], _ratio, asked=True, reason="no row has an answer"),
        "answerable_f1": _of([4, 2], _ratio, asked=True, reason="no row has an answer"),
        "unanswerable_accuracy": _of([5, 6], _ratio, asked=True, reason=_ALL_ANSWERED),
    },
    "texts": {
        "bleu": _of(_BLEU, _corpus(0)),
        "chrf": _of(_CHRF, _corpus(1)),
        "rouge1": _of([_ROUGE]),
        "rouge2": _of([_ROUGE + 1]),
        "rougeL": _of([_ROUGE + 2]),
    },
    "tokens": {
        "perplexity": _of([0, 1], lambda means: np.exp(_ratio(means))),
        "bits_per_token": _of([0, 1], lambda means: _ratio(means) / np.log(2)),
        "log_loss": _of([0, 1], _ratio),
    },
}

COUNTED: dict[Kind, Callable[[Any, Any, Sequence[str]], Array]] = {
    "tags": _tags, "spans": _spans, "texts": _texts, "tokens": _tokens,
}  # fmt: skip
