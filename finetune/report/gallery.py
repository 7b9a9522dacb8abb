"""Samples of the test split as they are shown: a picture or text, what was said, what is true."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from finetune import wording
from finetune.data.columns import TRUTH
from finetune.protocols import Table
from finetune.report.page import Sample
from finetune.report.pictures import thumbnail

if TYPE_CHECKING:
    from finetune.job import Job
    from finetune.mistakes import Mistake


def columns(job: Job) -> list[str]:
    """Return the columns that the model reads."""
    return [name for name in job.recipe.task.columns if name not in TRUTH]


def sample(answer: Mistake, table: Table, columns: Sequence[str]) -> Sample:
    """Return an answer with what the model saw of its row."""
    row = table[answer.row]
    cells = {name: row[name] for name in columns if name in row}
    image = cells.pop("image", None)
    picture, small = thumbnail(image) if image else ("", False)
    path = image.get("path") if image else None
    chance = "" if answer.probability is None else f"{100 * answer.probability:.0f} % sure"
    name = PurePath(path).name if path else f"test row {answer.row}"
    wrong = answer.true != answer.predicted
    return Sample(
        said=wording.label(answer.predicted, 160) if answer.predicted else "",
        true=wording.label(answer.true, 160) if answer.true and wrong else "",
        chance=", ".join(part for part in (chance, answer.note) if part),
        picture=picture,
        text="\n".join(wording.excerpt(cell) for cell in cells.values()),
        name=wording.label(name, 60),
        small=small,
        wrong=wrong,
    )
