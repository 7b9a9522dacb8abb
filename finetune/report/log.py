"""What metrics.jsonl holds, as lines to draw."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Line = tuple[list[float], list[float]]


@dataclass
class Log:
    """The course of a training, by update."""

    loss: Line = field(default_factory=lambda: ([], []))
    lr: Line = field(default_factory=lambda: ([], []))
    validation: dict[str, Line] = field(default_factory=dict)
    epochs: dict[int, float] = field(default_factory=dict)
    """The update at which each epoch ended."""

    @classmethod
    def read(cls, path: Path) -> Log:
        """Read the file; it is empty for a run that does not descend, and then may be missing."""
        log = cls()
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
        update = 0.0
        for facts in map(json.loads, lines):
            update = float(facts.get("update", update))
            if "loss" in facts:
                log._add(log.loss, update, facts["loss"])
                log._add(log.lr, update, facts.get("lr"))
            if "validation" in facts:
                log.epochs[facts["epoch"]] = update
                for name, value in facts["validation"].items():
                    log._add(log.validation.setdefault(name, ([], [])), update, value)
        return log

    @staticmethod
    def _add(line: Line, update: float, value: Any) -> None:
        if isinstance(value, (int, float)):
            line[0].append(update)
            line[1].append(float(value))
