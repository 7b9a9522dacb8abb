"""Lists of names in messages: short, and harmless whatever the names hold."""

from __future__ import annotations

from collections.abc import Iterable

SHOWN = 8


def listed(names: Iterable[str]) -> str:
    """Return `'a', 'b' and 3 more`; quoted, so that line breaks and blanks show."""
    every = list(names)
    more = len(every) - SHOWN
    return ", ".join(map(repr, every[:SHOWN])) + (f" and {more} more" if more > 0 else "")
