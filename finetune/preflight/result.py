"""What all checks found together, and how that is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune import tables, wording
from finetune.preflight.finding import SEVERITIES, Example, Finding, Severity
from finetune.preflight.shortcuts import Probe
from finetune.preflight.survey import Survey
from finetune.preflight.suspects import Suspects
from finetune.protocols import SPLITS

LISTED = 1000
"""Suspicious labels that are written down."""


@dataclass(frozen=True)
class Preflight:
    """What is the matter with the data of a recipe."""

    path: Path
    survey: Survey
    findings: Sequence[Finding]
    """The most serious first."""
    probes: Sequence[Probe]
    suspects: Suspects | None
    """None if labels were not looked at."""
    seconds: float

    def of(self, severity: Severity) -> list[Finding]:
        """Return the findings of one severity."""
        return [finding for finding in self.findings if finding.severity == severity]

    def verdict(self) -> str:
        """Return how many findings of each severity there are."""
        serious, warnings, notes = (len(self.of(severity)) for severity in SEVERITIES)
        return f"{serious} serious, {warnings} to be looked at, {notes} to know"

    def told(self, example: Example) -> str:
        """Return an example in words."""
        places = [self.survey.place(row) for row in example.rows]
        names = [wording.label(f"{p['split']} {p['name'] or p['row']}", 60) for p in places]
        return "; ".join([*names, *[example.note] * bool(example.note)])

    def plain(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        survey = self.survey
        found: dict[str, Any] = {
            "rows": {split: survey.size(split) for split in SPLITS},
            "classes": {
                split: dict(zip(survey.classes, map(int, counts), strict=True))
                for split, counts in survey.counts.items()
            },
            "fingerprint": survey.splits.fingerprint,
            "notes": list(survey.splits.notes),
            "findings": [
                {
                    "severity": finding.severity,
                    "what": finding.what,
                    "count": finding.count,
                    "examples": [
                        {"rows": list(map(survey.place, shown.rows)), "note": shown.note}
                        for shown in finding.examples
                    ],
                }
                for finding in self.findings
            ],
            "shortcuts": [asdict(probe) for probe in self.probes],
            "seconds": round(self.seconds, 1),
        }
        if self.suspects is not None:
            found["suspects"] = list(map(self.doubt, range(len(self.suspects.rows[:LISTED]))))
        return found

    def doubt(self, rank: int) -> dict[str, Any]:
        """Return a suspicious label, counted from the most suspicious, as plain values."""
        assert self.suspects is not None
        found = self.suspects
        return self.survey.place(int(found.rows[rank])) | {
            "suggested": self.survey.classes[found.suggested[rank]],
            "probability": round(float(found.probability[rank]), 4),
            "probability_of_label": round(float(found.given[rank]), 4),
        }

    def show(self) -> None:
        """Print the findings, the most serious first, and where they are written."""
        sizes = ", ".join(f"{split} {self.survey.size(split):,}" for split in SPLITS)
        rows = [
            [f.severity, f.what, self.told(f.examples[0]) if f.examples else ""]
            for f in self.findings
        ]
        dim = [place for place, f in enumerate(self.findings) if f.severity == "note"]
        title = f"{len(self.survey):,} rows ({sizes}): {self.verdict()}"
        tables.show(title, ["", "finding", "for example"], rows, whole=[0], dim=dim)
        tables.say(f"\nreport  {self.path / 'report.html'}")
