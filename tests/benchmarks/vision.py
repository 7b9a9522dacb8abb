"""Speed and memory of fine-tuning vision models, beside what users would run instead.

    python tests/benchmarks/vision.py [training] [features] [photos] [frozen]
                                      [--rounds 7] [--quick] [data=../shared/data] [results=PATH]

Without a part all four are measured, in about a quarter of an hour on 2 cores that do nothing
else. The data folder holds `cifar10` (parquet, as `uoft-cs/cifar10`) and `hymenoptera` (class
folders below `train` and `val`); by default it is `shared/data` beside the checkout. The tables go
to standard output and, part by part, into tests/benchmarks/RESULTS.md. `--quick` only shows that
everything runs: a few steps, and no file is written unless `results=` names one.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from common import Group, Peer, Ratio, once, say
from script import Part, Script
from worker import Setup

RATE, SECONDS, AGAIN = "samples_per_second", "seconds", "again"


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    rounds: int
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
        return (self.warm + self.rounds * (self.skip + self.steps) + 20) * 32


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
        epochs=scale.rounds + 3,
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


PARTS: dict[str, Part] = {
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


SCRIPT = Script(
    path=__file__,
    story=__doc__ or "",
    parts=PARTS,
    setup=Setup("", ""),
    scale=Scale,
    quick=QUICK,
)

if __name__ == "__main__":
    sys.exit(SCRIPT.main())
