"""What an output rests on is found where it was planted, in models of every family."""

from __future__ import annotations

import base64
import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import staging
import tiny_texts
import torch
import toy
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from finetune import Timm, finetune
from finetune.attribution import attribute
from finetune.backbones import TorchModel, Transformers
from finetune.images.sources import EvaluationSource
from finetune.images.store import InMemory
from finetune.protocols import Form
from finetune.report import reasons
from finetune.report.pictures import overlay
from finetune.samples import Samples
from finetune.texts import words
from finetune.texts.reading import Texts

SIDE, SQUARE = 32, 8
SMALL: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {
        "patch_size": 4,
        "depth": 2,
        "embed_dim": 48,
        "num_heads": 2,
        "class_token": False,
        "global_pool": "avg",
    },
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48)},
    "resnet10t": {},
}


def squares(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return noise with a bright square each, in one of three colours, and its corner."""
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randn(count, 3, SIDE, SIDE, generator=random) * 0.5
    label = torch.randint(0, 3, (count,), generator=random)
    corner = torch.randint(0, SIDE - SQUARE + 1, (count, 2), generator=random)
    for image, colour, (top, left) in zip(pixels, label, corner.tolist(), strict=True):
        image[colour, top : top + SQUARE, left : left + SQUARE] += 3
    return pixels, label, corner


def learn(network: Any, batches: list[tuple[dict[str, Tensor], Tensor]], lr: float) -> None:
    optimizer = torch.optim.AdamW(network.module.parameters(), lr)
    network.module.train()
    for inputs, label in batches:
        loss = nn.functional.cross_entropy(network.outputs(network.module(**inputs)), label)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", SMALL)
def test_pixels_are_found_in_every_family_of_images(name: str) -> None:
    torch.manual_seed(0)
    size = {"img_size": SIDE} if "vit" in name else {}
    network = Timm(name=name, weights="none", args=SMALL[name], **size).build(3)
    batches = [squares(32, seed) for seed in range(20 if "res" in name else 60)]
    learn(network, [({"x": pixels}, label) for pixels, label, _ in batches], 2e-3)
    found, shares = [], []
    for pixels, label, (top, left) in zip(*squares(12, 1000), strict=True):
        figures = attribute(network, {"x": pixels[None]}, int(label)).numpy()
        assert figures.shape == (SIDE, SIDE)
        smooth = gaussian_filter(figures, 1)
        y, x = np.unravel_index(smooth.argmax(), smooth.shape)
        found.append(-1 <= y - int(top) <= SQUARE and -1 <= x - int(left) <= SQUARE)
        inside = figures[top : top + SQUARE, left : left + SQUARE]
        shares.append(inside.clip(0).sum() / figures.clip(0).sum())
    assert sum(found) >= 11
    assert np.median(shares) > 2 * SQUARE**2 / SIDE**2


@pytest.mark.parametrize("family", ["distilbert", "gpt2", "t5"])
def test_words_are_found_in_every_family_of_texts(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = tiny_texts.folder(tmp_path, family)
    network: Any = Transformers(name=str(folder)).build(4, tuple("abcd"), Form("row", Texts()))
    planted = ("dull", "great", "moving", "tired")

    def texts(count: int, seed: int) -> tuple[list[str], Tensor]:
        random = np.random.default_rng(seed)
        pool = ["the", "film", "has", "a", "story", "and", "two", "men", "in", "front"]
        label = random.integers(0, 4, count)
        lists = [list(random.choice(pool, 7)) for _ in range(count)]
        for row, kind in zip(lists, label, strict=True):
            row[random.integers(1, 7)] = planted[kind]
        return [" ".join(row) for row in lists], torch.from_numpy(label)

    def encoded(rows: list[str]) -> dict[str, Tensor]:
        given = [{"text": row} for row in rows]
        source, _ = network.inputs.read(given)
        return source.finish(source.read(np.arange(len(rows)), 0))

    batches = [texts(32, seed) for seed in range(200)]
    learn(network, [(encoded(rows), label) for rows, label in batches], 5e-3)
    found = []
    for row, label in zip(*texts(20, 1000), strict=True):
        figures = attribute(network, encoded([row]), int(label))
        told = words.of_tokens(network.tokenizer, [row], figures.tolist())[0]
        assert "".join(word for word, _ in told) == row
        found.append(max(told, key=lambda piece: piece[1])[0].strip() == planted[int(label)])
    assert sum(found) >= 17


class Straight(nn.Module):
    """A linear map of pixels; `closed` lets no gradient back."""

    def __init__(self, outputs: int, closed: bool = False) -> None:
        super().__init__()
        self.closed, self.head = closed, nn.Linear(48, outputs)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return self.head(flat.detach() if self.closed else flat)


def test_all_places_add_up_to_what_the_output_has_more() -> None:
    torch.manual_seed(0)
    network = TorchModel(Straight, "head", size=(4, 4)).build(3)
    pixels = torch.randn(1, 3, 4, 4)
    with torch.inference_mode():
        given = network.module(pixels)
        empty = network.module(pixels.mean((2, 3), keepdim=True).expand_as(pixels))
    for output in range(3):
        figures = attribute(network, {"x": pixels}, output)
        assert float(figures.sum()) == pytest.approx(float((given - empty)[0, output]), abs=1e-5)
        assert torch.equal(figures, attribute(network, {"x": pixels}, output))


def test_words_are_told_as_they_were_written() -> None:
    tokenizer = tiny_texts.tokenizer("bert")
    texts = ("It was GREAT, unbelievably so.", "Und nun?")
    ids = tokenizer(*texts)["input_ids"]
    figures = [float(n) for n in range(len(ids))]
    told = words.of_tokens(tokenizer, texts, figures)
    assert ["".join(word for word, _ in text) for text in told] == list(texts)
    assert "GREAT" in [word for word, _ in told[0]] and "Und" in [word for word, _ in told[1]]
    special = [n for n, i in enumerate(ids) if i in tokenizer.all_special_ids]
    assert sum(f for text in told for _, f in text) == sum(figures) - sum(special)
    short = words.of_tokens(tokenizer, texts[:1], figures[:6])[0]
    assert short[-1][1] == 0 and "".join(word for word, _ in short) == texts[0]
    assert words.of_tokens(tokenizer, ["so"], figures) == []


def test_a_picture_is_coloured_where_figures_are() -> None:
    figures = np.zeros((32, 32), np.float32)
    figures[4:12, 4:12], figures[20:28, 20:28] = 1, -1
    address = overlay(np.full((32, 32, 3), 128, np.uint8), figures)
    content = base64.b64decode(address.removeprefix("data:image/jpeg;base64,"))
    shown = np.asarray(Image.open(io.BytesIO(content))).astype(int)
    red, blue = shown[..., 0], shown[..., 2]
    assert shown.shape == (224, 224, 3)
    assert (red - blue)[56, 56] > 100 and (blue - red)[168, 168] > 100
    assert abs(red - blue)[20, 200] < 10


def test_a_report_explains_some_answers_unless_evidence_is_off(tmp_path: Path) -> None:
    for evidence in (True, False):
        run = finetune(toy.stripes(epochs=1), tmp_path / str(evidence), evidence=evidence)
        text = (run.path / "report.html").read_text("utf-8")
        assert ("What answers rest on" in text) == evidence
        shown = text.count("where the answer comes from")
        assert bool(shown) == evidence and shown <= reasons.WRONG + reasons.RIGHT


def test_no_time_and_no_gradient_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    job, predictions = staging.classes()
    shown = job.target.evidence(predictions, job.samples["test"].truth)
    network: Any = TorchModel(partial(Straight, closed=True), "head", size=(4, 4)).build(3)
    pixels = np.zeros((60, 4, 4, 3), np.uint8)
    job.samples["test"] = Samples(
        EvaluationSource(InMemory(list(pixels)), network.inputs), np.zeros(60), np.zeros(60)
    )
    assert reasons.section(job, network, shown, 0).blocks == []
    assert reasons.section(job, None, shown, 0).blocks == []
    network = TorchModel(Straight, "head", size=(4, 4)).build(3)
    told = reasons.section(job, network, shown, 60_000).blocks[0].samples
    wrong = min(reasons.WRONG, len(shown.worst))
    # And one right answer of each class.
    assert [sample.wrong for sample in told] == [True] * wrong + [False] * 3
    monkeypatch.setattr(reasons, "SECONDS", 0.0)
    assert len(reasons.section(job, network, shown, 0).blocks[0].samples) == 1
