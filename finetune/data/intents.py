"""Support messages by what they ask for: always there, no network."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

from finetune.data.base import DataSource, Raw

FOLDER = Path(__file__).with_name("intents")
"""The tables and their card, README.md."""


class Intents(DataSource):
    """648 made-up messages to an online shop in 12 intents, with splits of their own."""

    kind: Literal["intents"] = "intents"

    def read(self) -> Raw:
        """Return the three tables with their columns "text" and "label"."""
        from datasets import ClassLabel, Dataset, Features, Value

        rows = {}
        for split in ("train", "validation", "test"):
            with (FOLDER / f"{split}.csv").open(encoding="utf-8", newline="") as table:
                rows[split] = list(csv.DictReader(table))
        names = sorted({row["label"] for row in rows["train"]})
        features = Features(text=Value("string"), label=ClassLabel(names=names))
        tables = {split: Dataset.from_list(part, features=features) for split, part in rows.items()}
        return Raw(tables, {"name": "support intents", "license": "apache-2.0"})
