"""No test reaches the network or the user's own caches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from finetune import Run

# Before any library that reads them is imported, here and in child processes.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
# A GPU is left to the tests that are marked so: elsewhere results are compared bit by bit.
os.environ["ACCELERATE_USE_CPU"] = "true"
# The many small runs go without; tests of the baselines ask for them.
os.environ["FINETUNE_EVIDENCE"] = "false"


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder where this session caches; child processes inherit it."""
    folder = tmp_path_factory.mktemp("caches")
    os.environ.update(FINETUNE_CACHE=str(folder / "finetune"), HF_HOME=str(folder / "huggingface"))
    return folder


TINY_VIT = (
    "backbone=vit_tiny_patch16_224",
    "backbone.weights=none",
    "backbone.img_size=16",
    'backbone.args={"patch_size":4,"depth":2,"embed_dim":48,"class_token":false,'
    '"global_pool":"avg"}',
)
"""Overrides of a recipe: a ViT of 60,000 random weights."""


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a finished run on digits; tests that change its folder copy it first."""
    from finetune import finetune
    from recipes.vit_digits import recipe

    tiny = recipe.override(*TINY_VIT, "train.epochs=2", "data.shots=40", "train.eval_batch_size=32")
    return finetune(tiny, output=tmp_path_factory.mktemp("runs") / "digits")
