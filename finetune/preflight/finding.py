"""What a check found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["serious", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("serious", "warning", "note")
"""From what makes results wrong to what is only good to know."""

EXAMPLES = 12
"""Examples that a finding keeps."""


@dataclass(frozen=True)
class Example:
    """Rows that show a finding together, such as a row and its copy."""

    rows: tuple[int, ...] = ()
    """As the survey counts them."""
    note: str = ""


@dataclass(frozen=True)
class Finding:
    """One thing that is so in the data."""

    severity: Severity
    what: str
    """A sentence."""
    count: int
    """Of rows, or of classes where it is about these."""
    examples: tuple[Example, ...] = ()


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings, the most serious first."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def rows(count: int, of: int, noun: str) -> str:
    """Return `1 of 359 test rows is` or `3 of 359 test rows are`."""
    return f"{count:,} of {of:,} {noun} {'is' if count == 1 else 'are'}"
