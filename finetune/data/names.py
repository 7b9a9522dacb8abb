"""What splits are called in the wild."""

from __future__ import annotations

ALIASES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


def split_name(text: str) -> str | None:
    """Return the name to keep a split under (`Training` is `train`, `VAL` is `val`), or None."""
    name = text.strip().lower()
    if name in ALIASES["train"]:
        return "train"
    return name if any(name in aliases for aliases in ALIASES.values()) else None
