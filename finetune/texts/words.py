"""Figures of tokens as figures of the words that a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Word = tuple[str, float]


def of_tokens(tokenizer: Any, texts: Sequence[str], figures: Sequence[float]) -> list[list[Word]]:
    """Return each text cut into words and what lies between, each with the sum of its tokens.

    `texts` are what the tokenizer reads as one sample, of which each token has a figure. What lies
    between words and what was cut off have 0. Empty where the tokenizer cannot tell which letters
    a token stands for.
    """
    if not tokenizer.is_fast:
        return []
    how = {"truncation": True, "max_length": len(figures), "return_offsets_mapping": True}
    given = tokenizer(*texts, **how)
    if len(given["input_ids"]) != len(figures):
        return []
    words: list[list[tuple[int, int, float]]] = [[] for _ in texts]
    last: Any = None
    for place, (start, end) in enumerate(given["offset_mapping"]):
        which = given.sequence_ids(0)[place]
        if which is None or start == end:
            continue
        found, word = words[which], (which, given.word_ids(0)[place])
        # Some tokenizers know no words: there a space begins one.
        if found and word == last and start <= found[-1][1] and not texts[which][start].isspace():
            begin, stop, figure = found.pop()
            found.append((begin, max(stop, end), figure + figures[place]))
        else:
            found.append((start, end, figures[place]))
        last = word
    return [_filled(text, spans) for text, spans in zip(texts, words, strict=True)]


def _filled(text: str, spans: Sequence[tuple[int, int, float]]) -> list[Word]:
    """Return the spans of a text, and between them what they leave out."""
    pieces, reached = list[Word](), 0
    for start, end, figure in spans:
        while start < end and text[start].isspace():
            start += 1
        if start > reached:
            pieces.append((text[reached:start], 0.0))
        pieces.append((text[max(start, reached) : end], figure))
        reached = max(reached, end)
    return [piece for piece in [*pieces, (text[reached:], 0.0)] if piece[0]]
