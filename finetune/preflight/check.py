"""All checks of a recipe's data in a row."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from finetune import build, feature_table
from finetune.data.columns import TRUTH, ColumnNotFound
from finetune.errors import DataError, RecipeError
from finetune.folder import write, write_json
from finetune.preflight import balance, duplicates, images, shortcuts, suspects, texts
from finetune.preflight.finding import EXAMPLES, Example, Finding, ranked, rows
from finetune.preflight.result import Preflight
from finetune.preflight.shortcuts import Probe
from finetune.preflight.survey import Survey
from finetune.protocols import SPLITS, Array, Splits
from finetune.recipe import Recipe
from finetune.report import preflight as page

Found = tuple[Survey, list[Finding], list[Probe], Array]
"""Also a digest of what each row holds, (rows,)."""


def check(
    recipe: Recipe,
    *,
    strict: bool = False,
    labels: bool = False,
    output: str | Path | None = None,
) -> Preflight:
    """Run all checks on the data of a recipe, write check.json and report.html, and print both.

    `labels` also ranks suspicious labels by a linear probe on the backbone's features. Raises
    DataError, after all is written, if `strict` and a finding is serious; RecipeError if `labels`
    are asked for where a row has not exactly one class; and what loading the data raises.
    """
    began = time.monotonic()
    path = Path(output) if output else Path("runs") / f"check-{recipe.name}-{recipe.digest}"
    splits, unlabelled = _loaded(recipe)
    gaps = [*unlabelled, *_gaps(recipe, splits)]
    look = _at_images if "image" in recipe.task.columns else _at_texts
    survey, findings, probes, digests = look(recipe, splits)
    findings += [*gaps, *balance.check(survey), *shortcuts.check(probes)]
    doubtful = None
    if labels:
        doubtful = _doubtful(recipe, survey, digests)
        findings += suspects.check(survey, doubtful)
    seconds = time.monotonic() - began
    found = Preflight(path, survey, ranked(findings), probes, doubtful, seconds)
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "check.json", {"recipe": recipe.name} | found.plain())
    write(path / "report.html", page.render(recipe, found))
    found.show()
    if strict and (serious := found.of("serious")):
        lines = "\n".join(f"  {finding.what}" for finding in serious)
        raise DataError(
            f"{len(serious)} serious finding{'s' * (len(serious) > 1)} in the data:\n{lines}\n"
            f"Mend the data; {path / 'report.html'} shows the rows. strict=false only tells."
        )
    return found


def brief(splits: Splits, task: Any) -> list[str]:
    """Return a sentence for each serious finding of the checks that cost next to nothing."""
    survey = Survey.of(splits, task)
    if "image" in survey.columns:
        every = (number for split in SPLITS for number in images.digests(splits[split]))
        noun, digests = "images", np.fromiter(every, np.uint64, len(survey))
    else:
        noun, digests = "texts", texts.digests(texts.folded(texts.read(survey)))
    findings = [*duplicates.exact(survey, digests, noun), *balance.check(survey)]
    return [finding.what for finding in findings if finding.severity == "serious"]


def _loaded(recipe: Recipe) -> tuple[Splits, list[Finding]]:
    """Return the splits without rows that cannot be used, and without labels if there are none.

    That would stop the training, so it is a finding.
    """
    columns = recipe.task.columns
    if hasattr(recipe.data, "on_error"):
        recipe = recipe.override("data.on_error=skip")
    try:
        return recipe.data.load(columns), []
    except ColumnNotFound as error:
        if error.name not in TRUTH:
            raise
        splits = recipe.data.load([name for name in columns if name not in TRUTH])
        found = Finding("serious", f"nothing is told of labels, as they were not found: {error}", 1)
        return splits, [found]


def _gaps(recipe: Recipe, splits: Splits) -> list[Finding]:
    """Return the rows that were left out for want of a text or a label."""
    return [
        _unusable(
            recipe,
            f"{rows(len(gone), len(splits[split]) + len(gone), f'{split} rows')} without text or "
            "label",
            len(gone),
            (Example(note=f"{split} {row}") for row in gone),
        )
        for split, gone in splits.left_out.items()
    ]


def _unusable(recipe: Recipe, what: str, count: int, examples: Iterable[Example]) -> Finding:
    """Return a finding that would stop the training, unless it is told to skip such rows."""
    skipped = getattr(recipe.data, "on_error", "raise") == "skip"
    return Finding("warning" if skipped else "serious", what, count, tuple(examples)[:EXAMPLES])


def _at_images(recipe: Recipe, splits: Splits) -> Found:
    """Return the survey of the images that can be read, and what is found in them."""
    every: list[images.Look] = []
    findings = []
    for split in SPLITS:
        looks, broken = images.look(splits[split])
        if not looks:
            raise DataError(f"No image of the {split} split can be read: {broken[0].reason}.")
        every += looks
        if broken:
            what = f"{rows(len(broken), len(splits[split]), f'{split} images')} unreadable"
            named = (Example(note=f"{failure.name}: {failure.reason}") for failure in broken)
            findings.append(_unusable(recipe, what, len(broken), named))
            splits = build.without(splits, split, {failure.row for failure in broken})
    survey, seen = Survey.of(splits, recipe.task), images.Looks.of(every)
    findings += [
        *duplicates.exact(survey, seen.digest, "images"),
        *duplicates.near(survey, seen.digest, seen.vectors, seen.alike, "images"),
        *images.check(survey, seen),
    ]
    paths = seen.path if any(seen.path) else None
    probes = shortcuts.probes(survey, seen.beside_content(), paths)
    return survey, findings, probes, seen.digest


def _at_texts(recipe: Recipe, splits: Splits) -> Found:
    """Return the survey of the texts, and what is found in them."""
    survey = Survey.of(splits, recipe.task)
    read = texts.read(survey)
    folded, lengths = texts.folded(read), texts.lengths(read)
    digests = texts.digests(folded)
    findings = [
        *duplicates.exact(survey, digests, "texts"),
        *duplicates.near(survey, digests, texts.vectors(folded), texts.ALIKE, "texts"),
        *texts.check(survey, lengths),
        *texts.truncation(recipe, survey),
    ]
    return survey, findings, shortcuts.probes(survey, {"text length": lengths}), digests


def _doubtful(recipe: Recipe, survey: Survey, digests: Array) -> suspects.Suspects:
    from finetune.targets import Classes

    if survey.codes is None:
        raise RecipeError(
            f"labels=true needs exactly one class in each row, which task={recipe.task.kind} has "
            "not. Leave it out, or give another task."
        )
    # Not what the task binds, which refuses the very data that is to be told of.
    features, _ = feature_table.computed(recipe, survey.splits, Classes(survey.classes))
    together = np.concatenate([features[split] for split in SPLITS])
    chances = suspects.out_of_fold(together, survey.codes, len(survey.classes), digests)
    return suspects.ranked(chances, survey.codes)
