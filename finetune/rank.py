"""Which backbone suits this data: frozen features of a growing part of it, and nothing trained.

Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943): all backbones see a small part
of the rows; the better half, and whoever is not clearly behind, see twice as many, and so on.
Features are kept on disk, so a second ranking computes none of them again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune import console, override, tables, wording
from finetune.backbones.timm_source import public
from finetune.candidate import Candidate
from finetune.errors import RecipeError
from finetune.folder import write, write_json
from finetune.intervals import together
from finetune.logme import logme
from finetune.probes import Neighbours
from finetune.protocols import Array, Split
from finetune.recipe import Recipe
from finetune.report import ranking
from finetune.scoring import score
from finetune.targets.base import RowTarget

FIRST = 500
"""Training rows of the smallest part, and as many of validation."""
LEAST = 20
"""Training rows with which anything can be said."""
PARTS: tuple[Split, Split] = ("train", "validation")


@dataclass(frozen=True)
class Place:
    """What one backbone reached on the rows that it saw."""

    name: str
    rows: int
    """Of training."""
    linear_probe: dict[str, Any]
    """The metric that chooses, on validation: `{"value", "low", "high", "n"}`."""
    kNN: dict[str, Any]
    logme: float
    """Log evidence for each row; comes from the training rows alone."""
    parameters: int
    features_per_second: float
    training_memory_bytes: int | None
    """At the peak of training as the recipe says, by estimate."""
    lead: dict[str, Any]
    """By how much the leader's linear probe exceeds its own on the same rows.

    The interval holds for all pairs of backbones, however many rows they saw, at once: who leads
    was picked from them.
    """
    behind: bool
    """Whether that is beyond chance."""


@dataclass(frozen=True)
class Ranking:
    """What `rank` found; the best linear probe on validation comes first."""

    path: Path
    metric: str
    """Starts with '-' where less is better."""
    places: tuple[Place, ...]
    available: Mapping[Split, int]
    """Rows that there are of training and validation."""

    @property
    def name(self) -> str:
        """The metric without its sign."""
        return self.metric.lstrip("-")

    @property
    def dropped(self) -> list[Place]:
        """Those that did not see all rows: they were clearly behind before."""
        return [place for place in self.places if place.rows < self.places[0].rows]

    @property
    def rivals(self) -> list[Place]:
        """Those from which chance may have set the leader apart."""
        return [p for p in self.places[1:] if not p.behind and p.rows == self.places[0].rows]

    def verdict(self) -> list[str]:
        """Return what to take, in plain sentences."""
        best, rivals = self.places[0], self.rivals
        n = best.linear_probe["n"]
        sentences = []
        if not rivals:
            sentences.append(f"Take {best.name}: it is clearly ahead of all others.")
        else:
            gaps = ", ".join(f"{p.name} by {wording.difference(self.name, p.lead)}" for p in rivals)
            quick = max([best, *rivals], key=lambda place: place.features_per_second)
            sentences.append(
                f"{best.name} leads, but within what {n:,} validation rows leave to chance: ahead "
                f"of {gaps}. The quickest of these is {quick.name}."
            )
            if best.rows < self.available["train"] and n < self.available["validation"]:
                sentences.append(f"More rows may tell them apart: samples={2 * best.rows}.")
        for rows in dict.fromkeys(place.rows for place in self.dropped):
            names = ", ".join(place.name for place in self.dropped if place.rows == rows)
            sentences.append(f"Clearly behind on {rows:,} rows, and seen no further: {names}.")
        return sentences

    def plain(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        places = [asdict(place) for place in self.places]
        return {"metric": self.metric, "places": places, "verdict": self.verdict()}

    def show(self) -> None:
        """Print the table and the verdict."""
        n = self.places[0].linear_probe["n"]
        title = (
            f"{wording.metric(self.name)} of frozen features on {n:,} validation rows, with 95 % "
            "intervals; memory is that of training on samples of full size, by estimate"
        )
        rows = [
            [
                place.name,
                wording.figure(self.name, place.linear_probe),
                wording.value(self.name, place.kNN["value"]),
                f"{place.logme:.3f}",
                wording.count(place.parameters),
                f"{place.features_per_second:,.0f}",
                memory(place),
                f"{place.rows:,}",
            ]
            for place in self.places
        ]
        tables.show(title, HEAD, rows, right=range(2, len(HEAD)), whole=range(1, len(HEAD)))
        for sentence in self.verdict():
            tables.say(f"\n{sentence}")
        tables.say(f"\nreport  {self.path / 'report.html'}")


HEAD = ["backbone", "linear probe", "kNN", "LogME", "size", "rows/s", "memory", "rows"]


def memory(place: Place) -> str:
    """Return the memory of training in words."""
    size = place.training_memory_bytes
    return wording.UNKNOWN if size is None else wording.size(size)


def plan(
    backbones: str, overrides: Sequence[str] = (), recipe: Recipe | None = None
) -> dict[str, Recipe]:
    """Return a recipe for each of the backbones that are named with commas between them, by name.

    Without a `recipe` they are classifiers of images or texts, as the first backbone reads, of the
    data that `overrides` name. Raises RecipeError for fewer than two, or what is not allowed.
    """
    names = [name.strip() for name in backbones.split(",") if name.strip()]
    if len(names) < 2:
        raise RecipeError(
            f"backbones={backbones!r} names {len(names)} of them, and a ranking needs two or more, "
            "with commas between them: backbones=minilm,distilroberta-base"
        )
    if twice := [name for name in names if names.count(name) > 1]:
        raise RecipeError(f"backbones= names {twice[0]!r} twice: keep one of them.")
    if recipe is None:
        if not any(text.partition("=")[0].strip() == "data" for text in overrides):
            raise RecipeError(
                "finetune rank needs data=, a folder, table or hub id, or a recipe= that has data."
            )
        recipe = _classifier(names[0])
    given = {name: override.apply(recipe, [*overrides, f"backbone={name}"])[0] for name in names}
    # A folder goes by its own name where no other has the same.
    short = [public(Path(n).expanduser()) if Path(n).expanduser().is_dir() else n for n in names]
    shown = [s if short.count(s) == 1 else n for s, n in zip(short, names, strict=True)]
    return dict(zip(shown, given.values(), strict=True))


def _classifier(backbone: str) -> Recipe:
    """Return a recipe, all defaults, for what this backbone reads; its data is to be replaced."""
    from finetune.backbones import Timm, Transformers
    from finetune.data import Digits, Intents
    from finetune.tasks import ImageClassification, TextClassification

    images = Recipe(
        name="images",
        backbone=Timm(name="tiny-vit"),
        data=Digits(),
        task=ImageClassification(),
    )
    if not isinstance(images.override(f"backbone={backbone}").backbone, Transformers):
        return images
    texts = {"name": "texts", "data": Intents(), "task": TextClassification()}
    return images.model_copy(update=texts)


def samples_of(given: int | str) -> int:
    """Return a number of rows; raise RecipeError for what is none, or too few."""
    if not str(given).isdecimal() or int(given) < LEAST:
        raise RecipeError(
            f"samples={given!r} is not allowed; give a whole number of {LEAST} or more."
        )
    return int(given)


def rank(
    plans: Mapping[str, Recipe], samples: int = 2000, output: str | Path | None = None
) -> Ranking:
    """Rank the backbones of recipes that are the same but for these, by validation alone.

    At most `samples` training rows are read, and as many of validation. Writes rank.json and a
    report into `output`. Raises RecipeError for a task whose rows have no single answer, and what
    reading the data and building the backbones raise.
    """
    recipe = next(iter(plans.values()))
    splits = recipe.data.load(recipe.task.columns)
    target = recipe.task.bind(splits, recipe.train)
    if not isinstance(target, RowTarget):
        raise RecipeError(
            f"task={recipe.task.kind} has no single answer for each row: backbones are ranked for "
            "classification and regression, by features of whole rows."
        )
    for note in splits.notes:
        console.say(note)
    candidates = [Candidate(name, one, splits, target) for name, one in plans.items()]
    rows = {split: _in_proportion(target.encode(splits[split])) for split in PARTS}
    available = {split: len(own) for split, own in rows.items()}
    places = _halved(candidates, rows, min(samples, available["train"]))
    path = Path(output) if output else Path("runs") / f"rank-{recipe.name}-{_digest(plans)}"
    found = Ranking(path, target.metric, tuple(places), available)
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "rank.json", found.plain())
    write(path / "report.html", ranking.render(recipe, found))
    return found


def _digest(plans: Mapping[str, Recipe]) -> str:
    together = " ".join(sorted(one.digest for one in plans.values()))
    return hashlib.sha256(together.encode()).hexdigest()[:8]


def _in_proportion(truth: Array) -> Array:
    """Return all rows, shuffled so that every beginning of them has the classes in proportion."""
    shuffled = np.random.default_rng(0).permutation(len(truth))
    if truth.ndim > 1:
        return shuffled
    share = np.empty(len(truth))
    for one in np.unique(truth):
        own = np.flatnonzero(truth[shuffled] == one)
        share[own] = (np.arange(len(own)) + 0.5) / len(own)
    return shuffled[np.argsort(share, kind="stable")]


def _halved(
    candidates: Sequence[Candidate], rows: Mapping[Split, Array], samples: int
) -> list[Place]:
    """Return the places of all, the best first; those that saw fewer rows come last."""
    sizes = [FIRST]
    while sizes[-1] < samples:
        sizes.append(2 * sizes[-1])
    sizes[-1] = samples
    comparisons = math.comb(len(candidates), 2) * len(sizes)

    def lead(other: Candidate) -> dict[str, Any]:
        return together(_lead(left[0], other), comparisons)

    left, gone, seen = list(candidates), list[Place](), 0
    for size in sizes:
        noun = "backbone" if len(left) == 1 else "backbones"
        console.say(f"{len(left)} {noun} on {size:,} training rows.")
        for candidate in left:
            candidate.read({split: rows[split][seen:size] for split in PARTS})
        left.sort(key=lambda candidate: -candidate.worth)
        seen = size
        if size == samples:
            break
        worse = [(one, lead(one)) for one in left[math.ceil(len(left) / 2) :]]
        out = {one: gap for one, gap in worse if _is_behind(one, gap)}
        gone = [_place(*pair) for pair in out.items()] + gone
        left = [candidate for candidate in left if candidate not in out]
    return [_place(one, lead(one)) for one in left] + gone


def _lead(leader: Candidate, other: Candidate) -> dict[str, Any]:
    truth = other.known["validation"].truth
    return other.target.difference(leader.answers, other.answers, truth)


def _is_behind(candidate: Candidate, lead: Mapping[str, Any]) -> bool:
    return wording.clearly_better(candidate.target.metric, {}, {"difference": lead})


def _place(candidate: Candidate, lead: dict[str, Any]) -> Place:
    target, (train, validation) = candidate.target, (candidate.known[s] for s in PARTS)
    name = target.metric.lstrip("-")

    def figure(answers: Array) -> dict[str, Any]:
        found: dict[str, Any] = score(target.kind, answers, validation.truth, only=[name])[name]
        return found

    nearest = Neighbours.fit(target, train, validation)
    return Place(
        name=candidate.name,
        rows=len(train.truth),
        linear_probe=figure(candidate.answers),
        kNN=figure(nearest.predict(validation.features)),
        logme=logme(train.features, target.vectors(train.truth)),
        **candidate.facts,
        lead=lead,
        behind=_is_behind(candidate, lead),
    )
