"""What texts are like: how long, how alike, and how much of them a model would not see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from finetune import wording
from finetune.errors import BackboneError, FinetuneError
from finetune.preflight.finding import Finding, rows
from finetune.preflight.images import digest
from finetune.preflight.survey import Survey
from finetune.protocols import SPLITS, Array

if TYPE_CHECKING:
    from finetune.recipe import Recipe

WIDTH = 256
"""Numbers that stand for a text where texts are compared."""
ALIKE = 0.85
"""From which share of common runs of letters two texts are nearly the same."""
CUT = 0.01
"""The share of rows cut off from which that is worth a warning."""


def read(survey: Survey) -> list[str]:
    """Return what a model would read of each row, its columns one below the other."""
    texts = []
    for split in SPLITS:
        table = survey.splits[split]
        columns = [table[name][:] for name in survey.columns]
        texts += ["\n".join(map(plain, cells)) for cells in zip(*columns, strict=True)]
    return texts


def plain(cell: Any) -> str:
    """Return the text in a cell: a string, a list of words, a chat."""
    if isinstance(cell, dict):
        return plain(list(cell.values()))
    return " ".join(map(plain, cell)) if isinstance(cell, (list, tuple)) else str(cell)


def folded(texts: list[str]) -> list[str]:
    """Return the texts as they are compared: case and white space make no difference."""
    return [" ".join(text.casefold().split()) for text in texts]


def digests(folded: list[str]) -> Array:
    """Return a digest of each text, (rows,)."""
    return np.array([digest(text.encode(errors="replace")) for text in folded], np.uint64)


def vectors(folded: list[str]) -> Array:
    """Return unit vectors (rows, WIDTH) whose products say how many runs of 5 letters are shared.

    Hashing keeps the products, to about 0.01 where they are near 1 (Weinberger et al. 2009,
    arXiv:0902.2206).
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    runs = HashingVectorizer(analyzer="char", ngram_range=(5, 5)).build_analyzer()
    hashed = HashingVectorizer(
        analyzer=lambda text: set(runs(text)), n_features=WIDTH, dtype=np.float32
    )
    found: Array = hashed.transform(folded).toarray()
    return found


def lengths(texts: list[str]) -> Array:
    """Return how many words and characters each text has, (rows, 2)."""
    return np.array([(len(text.split()), len(text)) for text in texts])


def check(survey: Survey, lengths: Array) -> list[Finding]:
    """Return how long the texts are, from their `lengths`."""
    words = lengths[:, 0]
    low, middle, high = np.percentile(words, [5, 50, 95]).round().astype(int)
    what = f"Words in a text: median {middle}, 5 to 95 % {low} to {high}, most {words.max():,}"
    return [Finding("note", what, len(survey))]


def truncation(recipe: Recipe, survey: Survey) -> list[Finding]:
    """Return how many texts are longer than the backbone takes; why that is not known, if so."""
    from finetune import build

    try:
        network = recipe.backbone.build(
            max(1, len(survey.classes)), survey.classes or None, recipe.task.form
        )
        sources, _ = build.open_splits(recipe, network, survey.splits)
    except BackboneError as error:
        why = wording.label(str(error).partition("\n")[0], 90)
        return [Finding("note", f"How many texts are cut off is not known: {why}", 0)]
    except FinetuneError as error:
        return [Finding("serious", f"The texts cannot be read by the model: {error}", len(survey))]
    cut = sum(getattr(source, "cut_rows", 0) for source in sources.values())
    longest = getattr(network.inputs, "max_length", 0)
    if not cut:
        return [Finding("note", f"No text is cut off: the model takes {longest:,} tokens", 0)]
    tokens = sum(getattr(source, "cut_tokens", 0) for source in sources.values())
    what = f"{rows(cut, len(survey), 'texts')} cut off at {longest:,} tokens, {tokens:,} in all"
    return [Finding("warning" if cut >= CUT * len(survey) else "note", what, cut)]
