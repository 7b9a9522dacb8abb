"""How a saved model is loaded without this toolkit, in words and code for its card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

FOLDER = "FOLDER"
"""Stands for the folder of the saved model in the examples."""

_TIMM = """\
import timm
import torch
from PIL import Image

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**config, is_training=False)
image = Image.open("image.jpg").convert("RGB")
with torch.inference_mode():
    outputs = model(transform(image)[None])[0]
"""

_ANSWERS = {
    "image-classification": (
        'labels = model.pretrained_cfg["label_names"]\n'
        "print(labels[outputs.argmax()], outputs.softmax(0).max().item())\n"
    ),
    "multi-label-image-classification": (
        'labels = model.pretrained_cfg["label_names"]\n'
        "print([(n, p) for n, p in zip(labels, outputs.sigmoid().tolist()) if p >= 0.5])\n"
    ),
    "image-regression": "print(outputs.item())\n",
}

_PIPELINE = """\
from transformers import pipeline

model = pipeline("image-classification", model="FOLDER")
print(model("image.jpg"{options}))
"""

_OPTIONS = {
    "multi-label-image-classification": ', function_to_apply="sigmoid"',
    "image-regression": ', function_to_apply="none"',
}

_PEFT = """\
import timm
from peft import PeftModel

base = timm.create_model({base}, pretrained=True, num_classes={outputs}{arguments})
model = PeftModel.from_pretrained(base, "FOLDER/adapter").eval()
"""


def text(result: Mapping[str, Any], backbone: Mapping[str, Any]) -> str:
    """Return Markdown with an example for each library; empty if none is known to load it."""
    if backbone.get("library") != "timm":
        return "The saved model is what `save` of the backbone in its script wrote."
    task = result["task"]
    parts = [
        f"`{FOLDER}` is the folder that holds `model.safetensors`. From the hub, write "
        "`hf-hub:USER/NAME` for `local-dir:FOLDER`, and `USER/NAME` for `FOLDER`. With timm:",
        _block(_TIMM + _ANSWERS.get(task, "print(outputs)\n")),
        "With transformers:",
        _block(_PIPELINE.format(options=_OPTIONS.get(task, ""))),
    ]
    if result["method"] == "lora":
        parts += _adapter(result, backbone)
    return "\n\n".join(parts)


def _adapter(result: Mapping[str, Any], backbone: Mapping[str, Any]) -> list[str]:
    merged = "The adapter is merged into `model.safetensors`"
    if not backbone.get("id"):
        return [f"{merged}, and `adapter/` holds it alone, for the backbone that it began with."]
    arguments = "".join(f", {k}={v!r}" for k, v in backbone.get("arguments", {}).items())
    code = _PEFT.format(
        base=json.dumps(f"hf-hub:{backbone['id']}"),
        outputs=len(result["data"]["classes"] or [0]),
        arguments=arguments,
    )
    return [f"{merged}; alone, with PEFT:", _block(code)]


def _block(code: str) -> str:
    return f"```python\n{code.rstrip()}\n```"
