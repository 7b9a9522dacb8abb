"""What a data set's card says about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def facts(folder: Path) -> dict[str, Any]:
    """Return `license` and `title` from the front matter of README.md, as far as they are there."""
    from huggingface_hub import metadata_load
    from yaml import YAMLError

    readme = folder / "README.md"
    try:
        front = metadata_load(readme) if readme.is_file() else None
    except (OSError, ValueError, YAMLError):
        return {}  # a card that cannot be read says nothing
    return chosen(front or {})


def chosen(front: Any) -> dict[str, Any]:
    """Return what the model card takes over from front matter, a dict or `DatasetCardData`."""
    kept = {"license": front.get("license"), "title": front.get("pretty_name")}
    return {key: value for key, value in kept.items() if value}
