"""How a saved model is loaded without this toolkit, in words and code for its card."""

from __future__ import annotations

import json
import re
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


_TEXT_PIPELINE = """\
from transformers import pipeline

model = pipeline("{task}", model="FOLDER")
print(model({given}{options}))
"""

_PIPELINES = {
    "text-classification": ("text-classification", '"A text.", truncation=True', ""),
    "multi-label-text-classification": (
        "text-classification",
        '"A text.", truncation=True',
        ', top_k=None, function_to_apply="sigmoid"',
    ),
    "text-regression": (
        "text-classification",
        '"A text.", truncation=True',
        ', function_to_apply="none"',
    ),
    "token-classification": (
        "token-classification",
        '"Anna Berg lives in Rome."',
        ', aggregation_strategy="first"',
    ),
    "language-modeling": ("text-generation", '"Once"', ", max_new_tokens=20"),
    "chat": ("text-generation", '[{"role": "user", "content": "Hello!"}]', ", max_new_tokens=20"),
}
"""For a task over texts: the pipeline of transformers, what it takes, and its options."""

_SPAN = """\
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

model = AutoModelForQuestionAnswering.from_pretrained("FOLDER").eval()
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
inputs = tokenizer("Where is it?", "It is in Rome.", return_tensors="pt")
with torch.inference_mode():
    outputs = model(**inputs)
start, end = outputs.start_logits[0].argmax(), outputs.end_logits[0].argmax()
print(tokenizer.decode(inputs["input_ids"][0, start : end + 1]))
"""

_GENERATE = """\
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

model = AutoModelForSeq2SeqLM.from_pretrained("FOLDER").eval()
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
ids = model.generate(**tokenizer("A text.", return_tensors="pt"), num_beams=4, max_new_tokens=64)
print(tokenizer.decode(ids[0], skip_special_tokens=True))
"""

_TEXT_PEFT = """\
from peft import AutoPeftModel{auto}

model = AutoPeftModel{auto}.from_pretrained("FOLDER/adapter"{outputs}).eval()
"""

_AUTO = {
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
    "text-to-text": "ForSeq2SeqLM",
    "language-modeling": "ForCausalLM",
    "chat": "ForCausalLM",
}


def text(result: Mapping[str, Any], backbone: Mapping[str, Any]) -> str:
    """Return Markdown with an example for each library; empty if none is known to load it."""
    if backbone.get("library") == "transformers":
        return _language(result, backbone)
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


def published(text: str, repo: str, revision: str | None, *, adapter_only: bool) -> str:
    """Return the examples of a card for a repository on the hub, where there is no FOLDER."""
    if adapter_only:
        examples = [
            part for part in re.findall(r"```python\n.*?\n```", text, re.DOTALL) if "peft" in part
        ]
        text = "\n\n".join(
            ["With PEFT:", *examples]
            if examples
            else [f"`PeftModel.from_pretrained(model, '{repo}')` puts it on its backbone."]
        ).replace("FOLDER/adapter", "FOLDER")
    at = f', revision="{revision}"' if revision else ""
    changes = {
        r"`FOLDER` is the folder[^\n]*?(?=With )": "",
        '"local-dir:FOLDER"': f'"hf-hub:{repo}{f"@{revision}" if revision else ""}"',
        '"FOLDER/adapter"': f'"{repo}", subfolder="adapter"{at}',
        '"FOLDER"': f'"{repo}"{at}',
    }
    for found, instead in changes.items():
        text = re.sub(found, lambda _, instead=instead: instead, text)  # type: ignore[misc]
    return text


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


def _language(result: Mapping[str, Any], backbone: Mapping[str, Any]) -> str:
    task = result["task"]
    code = {"question-answering": _SPAN, "text-to-text": _GENERATE}.get(task)
    if code is None:
        name, given, options = _PIPELINES.get(task, _PIPELINES["text-classification"])
        code = _TEXT_PIPELINE.format(task=name, given=given, options=options)
    parts = [
        f"`{FOLDER}` is the folder that holds `model.safetensors`; from the hub, write "
        "`USER/NAME`. With transformers:",
        _block(code),
    ]
    if result["method"] == "lora":
        merged = "The adapter is merged into `model.safetensors`"
        if backbone.get("id"):
            auto = _AUTO.get(task, "ForSequenceClassification")
            classes = len(result["data"]["classes"] or [0])
            outputs = f", num_labels={classes}" if auto.endswith("Classification") else ""
            peft = _TEXT_PEFT.format(auto=auto, outputs=outputs)
            parts += [f"{merged}; alone, with PEFT:", _block(peft)]
        else:
            parts.append(
                f"{merged}, and `adapter/` holds it alone, for the backbone that it began with."
            )
    return "\n\n".join(parts)


def _block(code: str) -> str:
    return f"```python\n{code.rstrip()}\n```"
