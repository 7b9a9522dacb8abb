"""The README of an exported folder: the run's model card, with how this form of it is used."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finetune import card, loading, plain_yaml

if TYPE_CHECKING:
    from finetune.run import Run

ABOUT = "preprocessing.json"
"""Preprocessing and labels of an exported ONNX model."""

_IMAGE = """\
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

about = json.load(open("{about}", encoding="utf-8"))
height, width = about["size"]
image = ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB")
{resize}
image = image.resize(size, Image.Resampling[about["interpolation"].upper()])
canvas = Image.new("RGB", (width, height), tuple(about["fill"]))
free = width - image.width, height - image.height
canvas.paste(image, tuple(f // 2 if f > 0 else -round(-f / 2) for f in free))
pixels = (np.asarray(canvas) / 255 - about["mean"]) / about["std"]
session = onnxruntime.InferenceSession("model.onnx")
given = pixels.transpose(2, 0, 1)[None].astype(np.float32)
logits = session.run(None, {{about["inputs"][0]: given}})[0][0]
"""

_RATIO = """\
ratio = {choose}(image.height / about["resized"][0], image.width / about["resized"][1])
size = round(image.width / ratio), round(image.height / ratio)"""

_RESIZES = {
    "square": 'size = [about["resized"][0] * side // min(image.size) for side in image.size]',
    "center": _RATIO.format(choose="min"),
    "border": _RATIO.format(choose="max"),
    "squash": 'size = about["resized"][::-1]',
}
"""How an image gets its size before the centre is cut out; see `finetune.images.geometry`."""

_TEXT = """\
import json

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

about = json.load(open("{about}", encoding="utf-8"))
tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.no_padding()
tokenizer.enable_truncation(about["max_length"]{strategy})
{given}
given = {{{inputs}}}
session = onnxruntime.InferenceSession("model.onnx")
logits = session.run(None, {{name: np.array([ids]) for name, ids in given.items()}})[0][0]
"""

_ENCODED = {
    "input_ids": "encoded.ids",
    "attention_mask": "encoded.attention_mask",
    "token_type_ids": "encoded.type_ids",
}
"""What the tokenizers library calls the inputs of a language model."""

_TEXTS = {
    ("text",): 'encoded = tokenizer.encode("A text.")',
    ("text", "text_pair"): 'encoded = tokenizer.encode("A text.", "Another.")',
    ("words",): """\
words = "Anna Berg lives in Rome .".split()
encoded = tokenizer.encode(words, is_pretokenized=True)""",
    ("question", "context"): """\
question, context = "Where is it?", "It is in Rome."
encoded = tokenizer.encode(question, context)""",
}
"""How an example of the columns that are read becomes tokens."""

_ONE = """\
odds = np.exp((logits - logits.max()) / about["temperature"])
print(about["labels"][odds.argmax()], odds.max() / odds.sum())
"""
_SEVERAL = """\
odds = (1 / (1 + np.exp(-logits / about["temperature"]))).tolist()
limits = about.get("thresholds") or [0.5] * len(odds)
print([pair for *pair, limit in zip(about["labels"], odds, limits) if pair[1] >= limit])
"""
_TAGS = """\
odds = np.exp(logits - logits.max(-1, keepdims=True))
odds /= odds.sum(-1, keepdims=True)
for place, word in enumerate(words):
    if place in encoded.word_ids:  # the first token of a word speaks for it
        row = odds[encoded.word_ids.index(place)]
        print(word, about["labels"][row.argmax()], row.max())
"""
_SPAN = """\
inside = np.array([part == 1 for part in encoded.sequence_ids])
able = np.triu(np.outer(inside, inside))
scores = np.where(able, logits[:, :1] + logits[:, 1], -np.inf)
first, last = np.unravel_index(scores.argmax(), scores.shape)
print(context[encoded.offsets[first][0] : encoded.offsets[last][1]])
"""

_ANSWERS = {
    "multi-label": _SEVERAL,
    "token-classification": _TAGS,
    "question-answering": _SPAN,
    "regression": "print(logits[0])\n",
    "classification": _ONE,
}
"""By what is in the name of a task, the first that is."""


def snippet(task: str, columns: Sequence[str], about: Mapping[str, Any]) -> str:
    """Return Python that answers for one input in an exported folder, without this toolkit."""
    if "size" in about:
        mode = about["crop_mode"]
        square = mode == "center" and about["resized"][0] == about["resized"][1]
        code = _IMAGE.format(about=ABOUT, resize=_RESIZES["square" if square else mode])
    else:
        strategy = ', strategy="only_second"' if columns[0] == "question" else ""
        inputs = [f'"{name}": {_ENCODED[name]}' for name in about["inputs"]]
        parts = {"given": _TEXTS[tuple(columns)], "inputs": _listed(inputs)}
        code = _TEXT.format(about=ABOUT, strategy=strategy, **parts)
    told = (answer for name, answer in _ANSWERS.items() if name in task)
    return code + next(told, "print(logits)\n")


def _listed(items: Sequence[str]) -> str:
    """Return what stands between brackets, over several lines where there is no room on one."""
    line = ", ".join(items)
    return line if len(line) < 80 else "\n" + "".join(f"    {item},\n" for item in items)


def of_onnx(run: Run, code: str, figures: str) -> str:
    """Return the card of an ONNX export with a snippet and what was measured, Markdown both."""
    packages = "onnxruntime numpy " + ("pillow" if "PIL" in code else "tokenizers")
    section = (
        "The model as ONNX: `model.onnx` in float32, with any number of rows in a batch"
        + (" and of tokens in a row" if "PIL" not in code else "")
        + f"; `{ABOUT}` holds preprocessing and labels. In this folder, after "
        f"`pip install {packages}`:\n\n{card.fenced(code, 'python')}\n\n{figures}"
    )
    return _card(run, section, "onnx")


def of_merged(run: Run, figures: str) -> str:
    """Return the card of a merged model: `figures` says how near it is to its adapter."""
    backbone = {"library": getattr(run.recipe.backbone, "kind", None)}
    how = loading.text({**run.result, "method": "merged"}, backbone)
    return _card(run, f"{how}\n\n{figures}")


def _card(run: Run, section: str, library: str | None = None) -> str:
    """Return the run's card with `section` as the way to load it, for another library if given."""
    path = run.path / "README.md"
    text = path.read_text("utf-8") if path.is_file() else f"# {card.inert(run.result['name'])}\n"
    text = text.replace(f"{card.CURVES}\n\n", "")  # the picture stays with the run
    parted = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.S)
    front, body = parted.groups() if parted else ("tags: []", text)
    if library is not None:
        facts = plain_yaml.read(front)
        facts |= {"library_name": library, "tags": [*facts.get("tags", ()), library]}
        front = plain_yaml.write(facts).strip()
    whole = f"{card.LOADING}\n\n{section}\n\n"
    old = re.compile(rf"^{re.escape(card.LOADING)}\n.*?(?=^## |\Z)", re.S | re.M)
    body = old.sub(lambda _: whole, body) if old.search(body) else f"{body.rstrip()}\n\n{whole}"
    return f"---\n{front}\n---\n{body.rstrip()}\n"
