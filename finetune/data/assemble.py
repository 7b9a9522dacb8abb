"""From what a source has read to `Splits`; the only module that knows the whole way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from finetune.data import columns as names
from finetune.data import gaps, labels
from finetune.data.choose import choose, few_shot, share_of
from finetune.data.fingerprint import fingerprint
from finetune.data.pool import Pool
from finetune.errors import DataError
from finetune.protocols import SPLITS, Splits

if TYPE_CHECKING:
    from finetune.data.base import DataSource, Raw


def splits(raw: Raw, asked: DataSource, wanted: Sequence[str]) -> Splits:
    """Return the splits of `raw` as `asked`, with the `wanted` canonical columns.

    Raises DataError where columns, rows or labels cannot be used; see `finetune.data.base`.
    """
    if not any(len(table) for table in raw.tables.values()):
        raise DataError("The data has no rows. Check that it is the right file or folder.")
    first = raw.tables.get("train", next(iter(raw.tables.values())))
    columns = names.resolve(first.features, wanted, raw.mapping)
    pool = Pool(
        {name: names.rename(table, columns, raw.folder) for name, table in raw.tables.items()}
    )
    values, classes = None, None
    if "label" in columns:
        values, classes = labels.read(pool, columns["label"], raw.label_separator)
    chosen, notes = choose(pool, values, asked, raw.shares)
    lacking = gaps.find(pool, columns, values)
    chosen, gone, said = gaps.settle(pool, chosen, lacking, asked.on_error)
    notes += said
    if values is not None:
        used = np.concatenate(list(chosen.values()))
        values, classes = labels.encode(values, used, classes, tags="words" in columns)
        if classes is not None:
            notes += labels.unused(values, used, classes)
        pool = pool.with_column("label", values, drop=columns["label"])
    if asked.shots is not None:
        if values is None:
            raise DataError("data.shots counts rows of each class, but this task reads no label.")
        train = chosen["train"]
        chosen["train"], more = few_shot(train, [values[row] for row in train], asked)
        notes += more
    if asked.share < 1:
        train = chosen["train"]
        known = None if values is None else [values[row] for row in train]
        chosen["train"] = share_of(train, known, asked)
        notes.append(f"{len(chosen['train'])} of {len(train)} training rows are used (data.share).")
    tables = {split: pool.take(chosen[split], wanted) for split in SPLITS}
    return Splits(
        **tables,
        classes=classes,
        fingerprint=fingerprint(tables, wanted, classes),
        notes=(*raw.notes, *notes),
        source=raw.source,
        left_out=gaps.numbered(chosen, gone),
    )
