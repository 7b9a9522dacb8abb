"""What every data source shares: the fields, and the way from named splits to three tables.

A source only reads its rows (`read`). From there on all are alike:

    read -> columns under their canonical names -> rows chosen for each split -> labels encoded
         -> checks -> few-shot draw -> share -> fingerprint

**What the column "label" can hold**, in all three tables alike:

====================  ==========================  ==============================================
`Splits.classes`      "label" of one row          where it comes from
====================  ==========================  ==============================================
names, label order    int, index into `classes`   ClassLabel, strings, true/false, class folders
names, label order    list of such ints, may be   lists of ClassLabel or of strings; several 0/1
                      empty (multi-label)         columns (classes: the column names); strings cut
                                                  at `label_separator`
None                  int or float                a numeric column without names: classes or
                                                  regression, the task decides
None                  list of ints or floats      a column of such lists, or several numeric columns
names, label order    list of ints, one for       the column "words" is read too: tags, as lists of
                      each word                   ClassLabel or of strings ("O" first)
None                  dict of lists "text" and    SQuAD's answers, also as a list of dicts
                      "answer_start"
None                  str                         strings most of which, not all, are decimal
                                                  numbers: a regression column with a fault in it
====================  ==========================  ==============================================

Where `classes` is set, numbers in "label" are positions in it and nothing to regress on.
No label is None, NaN or a hidden -1, and no text is empty: such rows are a DataError, or left out
with `on_error` "skip"; see `finetune.data.gaps`. Class names are unique and in the
order of the ClassLabel, else of the columns, else sorted naturally ("2" before "10").
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt

from finetune.data.columns import ALIASES
from finetune.protocols import Splits
from finetune.schema import Noun

if TYPE_CHECKING:
    from datasets import Dataset


def _share(value: Any) -> Any:
    """Read `0.1` as a share even where it comes as text; leave split names alone."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and not 0 < value < 1:
        raise ValueError(
            f"{value} is no share: give a number between 0 and 1, or rows by name "
            "such as 'validation' or 'train[40000:]'"
        )
    return value


Held = Annotated[float | str | None, BeforeValidator(_share)]
"""A share of the training rows to hold out, rows by name, or None for the rules below."""


@dataclass(frozen=True)
class Raw:
    """What a source has read: its own splits under their own names."""

    tables: Mapping[str, Dataset]
    source: Mapping[str, Any]
    """For the model card: "id" or "name", and "revision", "license", "title" where known."""
    notes: tuple[str, ...] = ()
    mapping: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    """Canonical column -> the source's column or columns, where known or asked for."""
    label_separator: str | None = None
    """Cuts one label string into several."""
    folder: Path | None = None
    """What image files are named relative to."""
    shares: tuple[float, float] = (0.1, 0.2)
    """Validation and test, as shares of the training rows, where neither is given."""


class DataSource(Noun, ABC):
    """A place that rows come from; each kind is a variant of `AnyData`."""

    train: str = "train"
    """The training rows by name: a split, a slice `train[:40000]` or `train[:80%]`, or a sum."""
    validation: Held = None
    """A share of the training rows, rows by name, or by default the split of that name."""
    test: Held = None
    """A share of the training rows, rows by name, or by default the split of that name."""
    split_seed: NonNegativeInt = 0
    """Seed of every draw of rows: held-out shares and shots."""
    shots: PositiveInt | None = None
    """So many training rows of each class; validation and test stay whole."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """So large a share of the training rows, stratified; validation and test stay whole."""
    share_seed: NonNegativeInt = 0
    """Seed of that draw alone; `split_seed` leaves it as it is."""
    on_error: Literal["raise", "skip"] = "raise"
    """What a row without text or label, or an unreadable image, does: stop before training, or be
    left out and counted."""

    def __init__(self, path: str | None = None, /, **fields: Any) -> None:
        """Take the place itself without its name: `HubData("uoft-cs/cifar10", shots=8)`."""
        super().__init__(**(fields if path is None else {"path": path, **fields}))

    @abstractmethod
    def read(self) -> Raw:
        """Return the source's splits; raise DataError if they cannot be had."""

    def load(self, columns: Sequence[str]) -> Splits:
        """Return the splits with these canonical columns; raise DataError otherwise."""
        from finetune.data import assemble

        return assemble.splits(self.read(), self, columns)


class ColumnSource(DataSource, ABC):
    """A source whose columns have names of their own: a key `de` of a column of dicts is one too.

    What is not named is found by its type or name.
    """

    image: str | None = None
    """The column with the images."""
    text: str | None = None
    """The column with the texts."""
    text_pair: str | None = None
    """The column with the second text of each pair."""
    words: str | None = None
    """The column with lists of words, each of which has a tag."""
    question: str | None = None
    """The column with the questions."""
    context: str | None = None
    """The column with the texts that hold the answers."""
    source: str | None = None
    """The column with the texts to be rewritten, as for translation or a summary."""
    target: str | None = None
    """The column with what they become."""
    messages: str | None = None
    """The column with chats, lists of `{"role": ..., "content": ...}`."""
    label: str | tuple[str, ...] | None = None
    """The column with the labels, the tags or the answers, or several columns (multi-label)."""
    label_separator: str | None = None
    """Cuts one string such as `cat|dog` into several labels (multi-label)."""

    def mapping(self) -> dict[str, str | tuple[str, ...]]:
        """Return the columns that were asked for, by canonical name."""
        asked = {name: getattr(self, name) for name in ALIASES}
        return {name: column for name, column in asked.items() if column is not None}
