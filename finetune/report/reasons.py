"""What some answers rest on: pictures and texts, shaded where the model's output comes from."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune import attribution
from finetune.report import gallery
from finetune.report.page import Gallery, Sample, Section
from finetune.report.pictures import overlay
from finetune.texts import words

if TYPE_CHECKING:
    from finetune.job import Job
    from finetune.mistakes import Evidence, Mistake
    from finetune.protocols import Network

WRONG, RIGHT = 8, 4
"""Mistakes and right answers explained."""
SECONDS, SHARE = 5.0, 0.01
"""How long that may take, at least, and as a share of the run: then it ends with what is there."""
LETTERS = 1500
"""Of a text that are shown."""


def section(job: Job, network: Network | None, shown: Evidence, seconds: float) -> Section:
    """Return explained answers of `network`, whose run took so many seconds; none without it.

    Nothing is explained of a model through which no gradient comes back.
    """
    title = "What answers rest on"
    # Some of both, however far the time goes.
    order = zip_longest(shown.worst[:WRONG], shown.right[:RIGHT])
    chosen = [answer for pair in order for answer in pair if answer and answer.output is not None]
    ends, samples = time.monotonic() + max(SECONDS, SHARE * seconds), list[Sample]()
    for answer in chosen if network is not None else ():
        try:
            sample = _explained(job, network, answer)
        except RuntimeError:  # of what torch does in a model of any kind
            break
        samples += [sample] if sample else []
        if time.monotonic() > ends:
            break
    samples.sort(key=lambda sample: not sample.wrong)
    told = (
        "Some of the worst mistakes and of the surest right answers. Orange adds to the model's "
        "output for what it says, or says is not there; blue takes from it (integrated gradients "
        "of the saved model). It shows what the model goes by, not what would be right."
    )
    return Section(title, [Gallery(samples)] if samples else [], told)


def _explained(job: Job, network: Any, answer: Mistake) -> Sample | None:
    """Return the sample as it is shown elsewhere, shaded; None where there is no way to show it."""
    samples = job.samples["test"]
    device = next(network.module.parameters()).device
    raw = samples.read(np.array([answer.row]), 0)
    seen = raw.inputs.get("image")
    inputs = samples.finish(raw, device).inputs
    figures = attribution.attribute(network, inputs, answer.output or 0).numpy()
    sample = gallery.sample(answer, job.splits.test, gallery.columns(job))
    if figures.ndim == 2 and seen is not None:
        return replace(sample, seen=overlay(seen[0].permute(1, 2, 0).numpy(), figures))
    if figures.ndim == 1:
        row: Mapping[str, Any] = job.splits.test[answer.row]
        texts = [row[name] for name in network.inputs.columns]
        shaded = words.of_tokens(network.inputs.tokenizer, texts, figures.tolist())
        return replace(sample, words=_shaded(shaded)) if shaded else None
    return None


def _shaded(texts: Sequence[Sequence[words.Word]]) -> list[tuple[str, float]]:
    """Return the words with their share of the largest figure, a line apart for each text."""
    largest = max((abs(figure) for text in texts for _, figure in text), default=0.0) or 1.0
    lines = [[(word, figure / largest) for word, figure in text] for text in texts]
    pieces, letters = list[tuple[str, float]](), 0
    for word, share in [piece for line in lines for piece in [*line, ("\n", 0.0)]][:-1]:
        letters += len(word)
        if letters > LETTERS:
            return [*pieces, (word[: max(0, LETTERS - letters + len(word))] + "…", share)]
        pieces.append((word, share))
    return pieces
