"""Run as a script in a fresh process: load a saved model with timm and transformers alone.

    python -I reload_timm.py MODEL_FOLDER IMAGE... > logits.json

Prints the logits of both libraries for the image files, float32, and the labels they know. Nothing
of this toolkit is imported: what works here works for anyone who has the folder.
"""

import json
import sys

import timm
import torch
from PIL import Image, ImageOps
from transformers import pipeline


def by_timm(folder: str, files: list[str]) -> list[list[float]]:
    """Return the logits, (images, outputs), as timm's own documentation has it."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    images = [ImageOps.exif_transpose(Image.open(f)).convert("RGB") for f in files]
    with torch.inference_mode():
        return [model(transform(image)[None])[0].tolist() for image in images]


def by_transformers(folder: str, files: list[str]) -> tuple[list[list[float]], list[str], list]:
    """Return the logits, (images, outputs), the labels in order, and what the pipeline says."""
    classify = pipeline("image-classification", model=folder, device="cpu", dtype=torch.float32)
    logits = []
    with torch.inference_mode():
        for file in files:
            logits.append(classify.forward(classify.preprocess(file))["logits"][0].tolist())
    labels = classify.model.config.id2label
    answers = [classify(file, top_k=1)[0] for file in files]
    return logits, [labels[index] for index in sorted(labels)], answers


if __name__ == "__main__":
    folder, *files = sys.argv[1:]
    logits, labels, answers = by_transformers(folder, files)
    told = {"timm": by_timm(folder, files), "transformers": logits, "labels": labels}
    print(json.dumps(told | {"answers": answers}))
