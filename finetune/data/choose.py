"""Which rows train, validate and test: the rules, and a sentence for everything they did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.data.pool import Pool, Rows
from finetune.errors import DataError
from finetune.protocols import Split

if TYPE_CHECKING:
    from finetune.data.base import DataSource

# One stream of random numbers for each draw, so that none shifts another.
_STREAMS = {"validation": 0, "test": 1, "shots": 2, "share": 3}


def choose(
    pool: Pool, labels: Sequence[Any] | None, asked: DataSource, shares: tuple[float, float]
) -> tuple[dict[Split, Rows], list[str]]:
    """Return the rows of each split, and notes; raise DataError if they overlap or run out.

    `labels` holds one label for each row of the pool, None where there is none; `shares` are the
    shares of validation and test where neither the user nor the data gives them.
    """
    train = pool.rows(asked.train)
    held, notes = _named(pool, labels, asked)
    for split, rows in held.items():
        left = np.setdiff1d(train, rows)
        if len(left) < len(train):
            notes.append(
                f"{len(train) - len(left)} rows of {asked.train!r} belong to the {split} split and "
                "are not trained on."
            )
        train = left
    given = len(train)
    for split, default in (("test", shares[1]), ("validation", shares[0])):
        if split in held:
            continue
        asked_share = getattr(asked, split)
        share = default if asked_share is None else asked_share
        codes = None if labels is None else strata([labels[row] for row in train])
        held[split] = drawn = _draw(train, codes, round(share * given), _random(asked, split))
        train = np.setdiff1d(train, drawn)
        if not len(train):
            raise DataError(
                f"{given} training rows are too few to draw {split} from: "
                f"give more rows, or name the rows with data.{split}=SPLIT."
            )
        how = "at random" if codes is None else "stratified by label"
        notes.append(
            f"The {split} split is {len(drawn)} rows ({share:.0%}) drawn from train, {how}, "
            f"with split_seed={asked.split_seed}."
        )
    if not len(train):
        raise DataError(f"data.train={asked.train} leaves no rows beside validation and test.")
    return {"train": train, "validation": held["validation"], "test": held["test"]}, notes


def _named(
    pool: Pool, labels: Sequence[Any] | None, asked: DataSource
) -> tuple[dict[str, Rows], list[str]]:
    """Return the held-out rows that the user or the source names."""
    held: dict[str, Rows] = {}
    own: dict[str, Rows] = {}
    notes = []
    for split in ("validation", "test"):
        wish = getattr(asked, split)
        name = pool.named(split)
        if isinstance(wish, str):
            held[split] = pool.rows(wish)
        elif name is not None and name != asked.train and len(pool.tables[name]):
            rows = pool.rows(name)
            if labels is not None and all(_hidden(labels[row]) for row in rows):
                notes.append(
                    f"The labels of the split {name!r} are hidden: it counts as no {split} split."
                )
            else:
                own[split] = rows
    if (
        asked.test is None
        and "test" not in own
        and "validation" in own
        and "validation" not in held
    ):
        # A figure from rows that also made choices would be too good.
        own["test"] = own.pop("validation")
        notes.append(
            f"The data has a validation split but no test split: its {len(own['test'])} rows are "
            "the test split, and validation is drawn from train."
        )
    for split in ("validation", "test"):
        if getattr(asked, split) is None and split in own:
            held[split] = own[split]
    if len(held) == 2 and len(both := np.intersect1d(held["validation"], held["test"])):
        raise DataError(
            f"The validation and test splits have {len(both)} rows in common: give each its own "
            "with data.validation and data.test."
        )
    return held, notes


def _hidden(label: Any) -> bool:
    return label is None or label == -1 or label == []


def strata(labels: Sequence[Any]) -> Rows | None:
    """Return a code for each label if each occurs twice on average, as classes do, else None.

    Lists of labels have none.
    """
    known = [label for label in labels if label is not None]
    if not all(isinstance(label, (str, bool, int, float)) for label in known):
        return None
    distinct = set(known)
    if not known or 2 * len(distinct) > len(known):
        return None
    codes = {label: code for code, label in enumerate(sorted(distinct))}
    return np.array([codes.get(label, -1) for label in labels], dtype=np.int64)


def _random(asked: DataSource, draw: str) -> np.random.Generator:
    seed = asked.share_seed if draw == "share" else asked.split_seed
    return np.random.default_rng([seed, _STREAMS[draw]])


def _draw(rows: Rows, codes: Rows | None, count: int, random: np.random.Generator) -> Rows:
    """Return `count` of the rows (at least one), sorted; each class in proportion, none used up."""
    count = max(count, 1)
    order = random.permutation(len(rows))
    if codes is None:
        return np.sort(rows[order[:count]])
    classes, sizes = np.unique(codes, return_counts=True)
    exact = sizes * count / len(rows)
    take = np.minimum(np.floor(exact).astype(np.int64), sizes - 1)
    # Whole rows first, then the largest remainders; ties go to the class drawn first.
    for index in np.argsort(-(exact - take), kind="stable"):
        if take.sum() < count and take[index] < sizes[index] - 1:
            take[index] += 1
    chosen = [order[codes[order] == name][:many] for name, many in zip(classes, take, strict=True)]
    return np.sort(rows[np.concatenate(chosen)])


def share_of(rows: Rows, labels: Sequence[Any] | None, asked: DataSource) -> Rows:
    """Return `asked.share` of the rows, drawn with `share_seed`, each class in proportion.

    A class too rare for it keeps one row: without any, other splits could not be measured.
    """
    codes = None if labels is None else strata(labels)
    drawn = _draw(rows, codes, round(asked.share * len(rows)), _random(asked, "share"))
    if not labels or (codes is None and not isinstance(labels[0], list)):
        return drawn
    names = [set(label) if isinstance(label, list) else {label} for label in labels]
    kept = np.isin(rows, drawn)
    seen = set[Any]().union(*(names[place] for place in np.flatnonzero(kept)))
    # In the order of the draw, so that a larger share has these rows too.
    for place in _random(asked, "share").permutation(len(rows)):
        if not names[place] <= seen:
            kept[place] = True
            seen |= names[place]
    return np.sort(rows[kept])


def few_shot(rows: Rows, labels: Sequence[Any], asked: DataSource) -> tuple[Rows, list[str]]:
    """Return `asked.shots` rows of each class, drawn with `split_seed`, and notes.

    `labels` are those of `rows`; of label lists, so many rows that hold each class. Raises
    DataError where labels are no classes.
    """
    shots = asked.shots
    assert shots is not None
    codes = strata(labels)
    listed = bool(labels) and isinstance(labels[0], list)
    if codes is None and not listed:
        raise DataError(
            f"data.shots={shots} needs labels that are classes, but these hardly repeat. "
            " Leave data.shots out, and cut with data.train='train[:100]' instead."
        )
    order = _random(asked, "shots").permutation(len(rows))
    members: dict[Any, list[int]] = {}
    for index in order:
        for name in dict.fromkeys(labels[index]) if listed else (labels[index],):
            members.setdefault(name, []).append(int(index))
    chosen = sorted({index for group in members.values() for index in group[:shots]})
    notes = [f"Few-shot: {len(chosen)} of {len(rows)} training rows, {shots} of each class."]
    short = sum(len(group) < shots for group in members.values())
    if short:
        notes.append(f"{short} of {len(members)} classes have fewer than {shots} training rows.")
    return rows[np.array(chosen, dtype=np.int64)], notes
