"""Run as a script in a fresh process: load a saved model with timm and transformers alone.

    python -P reload_timm.py MODEL_FOLDER ROWS.json > told.json

ROWS.json is a list such as `[{"image": "cat.jpg"}]`. Prints the logits, float32, and the labels of
both libraries, by the name of the library. Nothing of this toolkit is imported: what works here
works for anyone who has the folder.
"""

import json
import sys
from pathlib import Path

import timm
import torch
from PIL import Image, ImageOps
from transformers import pipeline


def by_timm(folder: str, files: list[str]) -> tuple[list[list[float]], list[str] | None]:
    """Return the logits, (images, outputs), as timm's own documentation has it, and the labels."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    images = [ImageOps.exif_transpose(Image.open(f)).convert("RGB") for f in files]
    with torch.inference_mode():
        logits = [model(transform(image)[None])[0].tolist() for image in images]
    return logits, model.pretrained_cfg.get("label_names")


def by_transformers(folder: str, files: list[str]) -> tuple[list[list[float]], list[str]]:
    """Return the logits, (images, outputs), that a pipeline has inside, and its labels."""
    classify = pipeline("image-classification", model=folder, device="cpu", dtype=torch.float32)
    logits = [classify.forward(classify.preprocess(f))["logits"][0].tolist() for f in files]
    labels = classify.model.config.id2label
    return logits, [labels[index] for index in sorted(labels)]


if __name__ == "__main__":
    folder, rows = sys.argv[1:]
    files = [row["image"] for row in json.loads(Path(rows).read_text("utf-8"))]
    libraries = {"timm": by_timm, "transformers": by_transformers}
    told = {}
    for name, load in libraries.items():
        logits, labels = load(folder, files)
        told[name] = {"logits": logits, "labels": labels}
    print(json.dumps(told))
