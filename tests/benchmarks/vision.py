"""Speed and memory of fine-tuning vision models, beside what users would run instead.

    python tests/benchmarks/vision.py [training] [features] [photos] [frozen]
                                      [--pairs 7] [--quick] [data=../shared/data] [results=PATH]

Without a part all four are measured, in about a quarter of an hour on 2 cores that do nothing
else. The data folder holds `cifar10` (parquet, as `uoft-cs/cifar10`) and `hymenoptera` (class
folders below `train` and `val`); by default it is `shared/data` beside the checkout. The tables go
to standard output and, part by part, into tests/benchmarks/RESULTS.md. `--quick` only shows that
everything runs: a few steps, and no file is written unless `results=` names one.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import itertools
import json
import shlex
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from common import (
    Group,
    Measured,
    Peer,
    Ratio,
    arguments,
    machine,
    measure,
    once,
    say,
    section,
    update,
)
from worker import Setup

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / "shared" / "data"
RESULTS = HERE / "RESULTS.md"
RATE, SECONDS, AGAIN = "samples_per_second", "seconds", "again"

HEAD = """
# Results

Written by `vision.py` and `text.py` in this folder; see [README.md](README.md) for what is compared
and how. Figures are medians over the rounds, with the lowest and the highest; a ratio is taken
within each round, because then both of its figures met the same machine. In the parts on images,
weights are random.
"""


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    pairs: int
    warm: int = 12
    skip: int = 10
    steps: int = 30
    feature_images: int = 2000
    top_images: int = 1600
    large_photos: int = 40
    models: tuple[str, ...] = ("resnet18", "vit_tiny_patch16_224")
    top_layers: tuple[int, ...] = (2, 3)

    @property
    def training_images(self) -> int:
        """So many images at batch 32 that no block reaches the end of the epoch."""
        return (self.warm + self.pairs * (self.skip + self.steps) + 20) * 32


QUICK = Scale(1, 2, 1, 2, 64, 64, 3, ("vit_tiny_patch16_224",), (2,))


def training(base: Setup, scale: Scale) -> list[Group]:
    """Full fine-tuning in steady state."""
    setup = replace(
        base,
        images=scale.training_images,
        warm=scale.warm,
        skip=scale.skip,
        steps=scale.steps,
    )
    once("prepare:cifar", setup)
    peers = [
        Peer("finetune", "ours:training"),
        Peer("transformers Trainer, defaults", "transformers_trainer:defaults"),
        Peer("transformers Trainer, tuned", "transformers_trainer:tuned"),
        Peer("timm loop, defaults", "timm_loop:defaults"),
        Peer("timm loop, tuned", "timm_loop:tuned"),
        Peer("bare PyTorch, tuned", "bare:training"),
    ]
    if importlib.util.find_spec("fastai"):
        peers.insert(-1, Peer("fastai Learner, defaults", "fastai_learner:defaults"))
    else:
        say("fastai is not installed: it is left out.")
    groups = []
    for model in scale.models:
        least = {
            "transformers_trainer:defaults": 1.8 if model == "resnet18" else 2.5,
            "timm_loop:tuned": 1.3,
            "bare:training": 0.93,
        }
        ratios = [
            Ratio(
                f"finetune / {peer.name}",
                ("ours:training", RATE),
                (peer.function, RATE),
                least.get(peer.function),
            )
            for peer in peers[1:]
        ]
        groups.append(Group(model, replace(setup, model=model), peers, ratios))
    return groups


def features(base: Setup, scale: Scale) -> list[Group]:
    """A linear head on frozen features."""
    setup = replace(base, images=scale.feature_images)
    once("prepare:cifar", setup)
    ours, pass_over = "ours:features", "ours:extraction"
    trainer = "transformers_trainer:frozen"
    peers = [
        Peer("finetune, rows to fitted head", ours),
        Peer("finetune, whole run with reload check, test and report", "ours:whole_run", rounds=1),
        Peer("transformers Trainer, frozen backbone, 10 epochs", trainer),
        Peer("finetune, extraction alone", pass_over),
        Peer("bare PyTorch inference, tuned", "bare:inference"),
    ]
    ratios = [
        Ratio("Trainer, 10 epochs / finetune", (trainer, SECONDS), (ours, SECONDS), 7.0),
        Ratio("Trainer, 10 epochs / finetune, second run", (trainer, SECONDS), (ours, AGAIN)),
        Ratio(
            "Trainer, 10 epochs / finetune, whole run",
            (trainer, SECONDS),
            ("ours:whole_run", SECONDS),
        ),
        Ratio("extraction / bare inference", (pass_over, RATE), ("bare:inference", RATE), 0.9),
        Ratio("extraction / reading it back", (pass_over, SECONDS), (pass_over, AGAIN), 20.0),
    ]
    model = scale.models[0]
    return [Group(model, replace(setup, model=model), peers, ratios)]


def photos(base: Setup, scale: Scale) -> list[Group]:
    """Photos from files to augmented batches."""
    setup = replace(base, size=224)
    large = replace(setup, images=scale.large_photos)
    once("prepare:large_photos", large)
    loading = Group(
        "hymenoptera, epochs after the first",
        setup,
        [
            Peer("finetune, pixel store", "ours:photos"),
            Peer("PIL + torchvision v2, DataLoader, 0 workers", "photo_loader:torchvision_v2"),
        ],
        [
            Ratio(
                "finetune / torchvision v2",
                ("ours:photos", RATE),
                ("photo_loader:torchvision_v2", RATE),
                3.0,
            )
        ],
    )
    drafts = Group(
        "photos of 2,000 pixels, decoded for 224 on one core",
        large,
        [
            Peer("finetune, with Image.draft", "ours:decode_with_draft"),
            Peer("finetune, decoded in full", "ours:decode_in_full"),
        ],
        [
            Ratio(
                "with draft / in full",
                ("ours:decode_with_draft", RATE),
                ("ours:decode_in_full", RATE),
            )
        ],
    )
    return [loading, drafts]


def frozen(base: Setup, scale: Scale) -> list[Group]:
    """Epochs after the first where only the top layers learn."""
    updates = scale.top_images // base.batch
    setup = replace(
        base,
        images=scale.top_images,
        epochs=scale.pairs + 3,
        # The clock ticks before an update: from one epoch's first update to the next one's.
        warm=updates + 1,
        skip=0,
        steps=updates,
    )
    once("prepare:cifar", setup)
    kept, anew = "ours:top_layers", "ours:top_layers_anew"
    groups = []
    for model, layers in itertools.product(scale.models, scale.top_layers):
        own = replace(setup, model=model, top_layers=layers)
        groups.append(
            Group(
                f"{model}, blocks that learn beside the head: {layers - 1}",
                own,
                [
                    Peer("finetune, frozen activations kept", kept),
                    Peer("finetune, frozen activations computed anew", anew),
                ],
                [Ratio("kept / computed anew", (kept, RATE), (anew, RATE), 1.8)],
                check=lambda own=own: same_losses(own),
            )
        )
    return groups


def same_losses(setup: Setup) -> str:
    """Compare what the two runs of `frozen` logged."""
    runs = Path(setup.scratch) / "runs"
    losses = []
    for name in ("top_layers", "top_layers_anew"):
        log = runs / f"{setup.model}-{setup.top_layers}-{name}" / "metrics.jsonl"
        logged = map(json.loads, log.read_text().splitlines())
        losses.append({line["update"]: line["loss"] for line in logged if "loss" in line})
    common = losses[0].keys() & losses[1].keys()
    largest = max((abs(losses[0][key] - losses[1][key]) for key in common), default=float("nan"))
    return f"Losses: {len(common)} logged by both, largest difference {largest:.2g}."


PARTS: dict[str, tuple[Callable[[Setup, Scale], list[Group]], str]] = {
    "training": (
        training,
        "Full fine-tuning on CIFAR-10 images at 64 pixels, batch 32, random resized crop and flip, "
        "AdamW (fastai: its Adam): images per second over {steps} steady steps in each round.",
    ),
    "features": (
        features,
        "A linear head on the frozen features of {feature_images:,} CIFAR-10 images at 64 pixels. "
        "Seconds run from the rows of the data set to the validated head, imports left out; every "
        "round of finetune starts without a cache, and its second run finds the first one's.",
    ),
    "photos": (
        photos,
        "Augmented batches of 224 pixels from photos, read but not trained on.",
    ),
    "frozen": (
        frozen,
        "Full fine-tuning of the top layers on {top_images:,} CIFAR-10 images at 64 pixels without "
        "augmentation: whole epochs after the first, validation of 64 images included.",
    ),
}


def main() -> int:
    """Measure the parts that were asked for; return 1 if one misses its target."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", help="parts, data=PATH, results=PATH")
    parser.add_argument("--pairs", type=int, default=7, help="rounds over all peers")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that all runs")
    asked = parser.parse_intermixed_args()
    names, paths = arguments(asked.what)
    if unknown := {*names} - {*PARTS} | {*paths} - {"data", "results"}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}. Parts: {', '.join(PARTS)}")
    data = Path(paths.get("data", DATA)).resolve()
    if not data.is_dir():
        parser.error(f"there is no folder {data}: give data=PATH")
    results = None if asked.quick and "results" not in paths else paths.get("results", RESULTS)
    scale = QUICK if asked.quick else Scale(asked.pairs)
    passed = True
    for name in names or PARTS:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
            groups = run(name, Setup(str(data), scratch), scale, results)
        passed &= all(group.passes() for group in groups)
    return 0 if passed or asked.quick else 1


def run(name: str, setup: Setup, scale: Scale, results: Path | str | None) -> list[Measured]:
    """Measure one part, print its section, and put it into the results."""
    say(f"{name}: preparing")
    groups, story = PARTS[name]
    facts = once("prepare:machine", setup)
    began = datetime.datetime.now(datetime.UTC)
    measured = [measure(group, scale.pairs) for group in groups(setup, scale)]
    minutes = (datetime.datetime.now(datetime.UTC) - began).total_seconds() / 60
    asked = [word for word in sys.argv[1:] if not word.startswith(("data=", "results="))]
    command = shlex.join(["python", "tests/benchmarks/vision.py", *asked])
    told = {
        "date": f"{began:%Y-%m-%d %H:%M} UTC, {minutes:.0f} minutes",
        "command": f"`{command}`",
        **machine(facts),
    }
    text = section(name, story.format(**vars(scale)), told, measured)
    print(text, flush=True)
    if results is not None:
        update(Path(results), HEAD, name, text, list(PARTS))
    return measured


if __name__ == "__main__":
    sys.exit(main())
