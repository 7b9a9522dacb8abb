"""No test reaches the network or the user's own caches."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before any library that reads them is imported, here and in child processes.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder where this session caches; child processes inherit it."""
    folder = tmp_path_factory.mktemp("caches")
    os.environ.update(FINETUNE_CACHE=str(folder / "finetune"), HF_HOME=str(folder / "huggingface"))
    return folder
