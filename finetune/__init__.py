"""finetune: transfer learning as recipes. The names here are the public ones; each is imported
when it is first used, so that `import finetune` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.api import evaluate, features, finetune, predict, push
    from finetune.backbones import Timm, TorchModel, Transformers
    from finetune.data import Digits, HubData, ImageFolder, Intents, TableData, TextFiles
    from finetune.errors import (
        BackboneError,
        DataError,
        ExportError,
        FinetuneError,
        HubError,
        Interrupted,
        RecipeError,
        RunError,
        TrainingError,
    )
    from finetune.hub import Hub
    from finetune.images.augmentation import Augmentation
    from finetune.methods import FeatureExtraction, Full, LoRA, NormBias
    from finetune.preflight.check import check
    from finetune.protocols import Splits
    from finetune.recipe import Recipe, Train
    from finetune.run import Run
    from finetune.tasks import (
        ChatTuning,
        ImageClassification,
        ImageRegression,
        LanguageModeling,
        MultiLabelImageClassification,
        MultiLabelTextClassification,
        QuestionAnswering,
        TextClassification,
        TextRegression,
        TextToText,
        TokenClassification,
    )

__version__ = "0.1.0"

__all__ = [
    "Augmentation",
    "BackboneError",
    "ChatTuning",
    "DataError",
    "Digits",
    "ExportError",
    "FeatureExtraction",
    "FinetuneError",
    "Full",
    "Hub",
    "HubData",
    "HubError",
    "ImageClassification",
    "ImageFolder",
    "ImageRegression",
    "Intents",
    "Interrupted",
    "LanguageModeling",
    "LoRA",
    "MultiLabelImageClassification",
    "MultiLabelTextClassification",
    "NormBias",
    "QuestionAnswering",
    "Recipe",
    "RecipeError",
    "Run",
    "RunError",
    "Splits",
    "TableData",
    "TextClassification",
    "TextFiles",
    "TextRegression",
    "TextToText",
    "Timm",
    "TokenClassification",
    "TorchModel",
    "Train",
    "TrainingError",
    "Transformers",
    "check",
    "evaluate",
    "features",
    "finetune",
    "predict",
    "push",
]

_HOMES = {
    "api": ("evaluate", "features", "finetune", "predict", "push"),
    "backbones": ("Timm", "TorchModel", "Transformers"),
    "data": ("Digits", "HubData", "ImageFolder", "Intents", "TableData", "TextFiles"),
    "errors": (
        "BackboneError",
        "DataError",
        "ExportError",
        "FinetuneError",
        "HubError",
        "Interrupted",
        "RecipeError",
        "RunError",
        "TrainingError",
    ),
    "hub": ("Hub",),
    "images.augmentation": ("Augmentation",),
    "preflight.check": ("check",),
    "methods": ("FeatureExtraction", "Full", "LoRA", "NormBias"),
    "protocols": ("Splits",),
    "recipe": ("Recipe", "Train"),
    "run": ("Run",),
    "tasks": (
        "ChatTuning",
        "ImageClassification",
        "ImageRegression",
        "LanguageModeling",
        "MultiLabelImageClassification",
        "MultiLabelTextClassification",
        "QuestionAnswering",
        "TextClassification",
        "TextRegression",
        "TextToText",
        "TokenClassification",
    ),
}
_HOME = {name: f"finetune.{home}" for home, held in _HOMES.items() for name in held}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'finetune' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
