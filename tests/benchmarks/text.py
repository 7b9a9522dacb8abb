"""Speed, memory and accuracy of fine-tuning a text encoder, beside what users would run instead.

    python tests/benchmarks/text.py [full] [lora] [embeddings] [top-layer] [packing] [accuracy]
                                    [--rounds 5] [--quick] [data=../shared/data] [results=PATH]

all-MiniLM-L6-v2 (the extra `minilm`) on SST-2, batch 32. Without a part all are measured, in about
an hour on 2 cores that do nothing else; `accuracy` alone takes half of it. The data folder holds
`sst2` and `tinyshakespeare` (parquet); the tables go to standard output and, part by part, into
RESULTS.md.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

from common import Group, Peer, Ratio, once, say
from script import Part, Script
from vision import RATE, SECONDS, same_losses
from worker import Setup

ACCURACY = "accuracy"


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    rounds: int
    warm: int = 4
    skip: int = 1
    steps: int = 16
    seeds: int = 3
    epochs: tuple[int, ...] = (1, 3)
    updates: int = 217
    """Updates of one epoch on SST-2."""


QUICK = Scale(1, 1, 0, 1, 1, (1,), 2)


def training(method: str) -> Callable[[Setup, Scale], list[Group]]:
    """Return what measures a method in steady state."""

    def groups(base: Setup, scale: Scale) -> list[Group]:
        setup = replace(base, warm=scale.warm, skip=scale.skip, steps=scale.steps)
        ours, trainer = f"text_ours:{method}", f"text_trainer:{method}"
        peers = [
            Peer("finetune", ours),
            Peer("transformers Trainer, padded to 128 as run_glue", f"{trainer}_padded"),
            Peer("transformers Trainer, padded to the batch", f"{trainer}_dynamic"),
            Peer("transformers Trainer, grouped by length, bf16", f"{trainer}_tuned"),
        ]
        needed = (10.0, 3.5, 1.2)
        ratios = [
            Ratio(f"finetune / {peer.name}", (ours, RATE), (peer.function, RATE), least)
            for peer, least in zip(peers[1:], needed, strict=True)
        ]
        return [Group(f"all-MiniLM-L6-v2, {method}", setup, peers, ratios)]

    return groups


def embeddings(base: Setup, scale: Scale) -> list[Group]:
    """A linear head on frozen features."""
    ours, trainer, encode = "text_ours:features", "text_trainer:frozen", "text_encode:encode"
    peers = [
        Peer("finetune, rows to fitted head", ours),
        Peer("transformers Trainer, frozen encoder, 10 epochs", trainer, rounds=1),
    ]
    ratios = [Ratio("Trainer, 10 epochs / finetune", (trainer, SECONDS), (ours, SECONDS), 40.0)]
    if importlib.util.find_spec("sentence_transformers"):
        peers.insert(1, Peer("sentence-transformers encode, scikit-learn", encode))
        ratios.append(Ratio("encode / finetune", (encode, SECONDS), (ours, SECONDS), 2.0))
    else:
        say("sentence-transformers is not installed: it is left out.")
    return [Group("all-MiniLM-L6-v2, frozen", base, peers, ratios)]


def top_layer(base: Setup, scale: Scale) -> list[Group]:
    """Epochs after the first where the top layer and the head learn alone."""
    # The clock ticks before an update: from one epoch's first update to the next one's.
    ticks = {"warm": scale.updates + 1, "skip": 0, "steps": scale.updates}
    setup = replace(base, epochs=scale.rounds + 3, **ticks)
    kept, anew = "text_ours:top_layer", "text_ours:top_layer_anew"
    peers = [
        Peer("finetune, hidden states kept", kept),
        Peer("finetune, hidden states computed anew", anew),
    ]
    ratio = Ratio("kept / computed anew", (kept, RATE), (anew, RATE), 1.8)
    title, check = "all-MiniLM-L6-v2, one layer and the head", lambda: same_losses(setup)
    return [Group(title, setup, peers, [ratio], check)]


def packing(base: Setup, scale: Scale) -> list[Group]:
    """Speeches packed to the full length, and each a sample of its own."""
    once("prepare:language_model", base)
    packed, unpacked = "text_ours:packed", "text_ours:unpacked"
    peers = [Peer("packed", packed), Peer("padded to the batch, by length", unpacked)]
    ratio = Ratio("packed / padded", (packed, RATE), (unpacked, RATE))
    return [Group("GPT-2 of 2.2 M parameters, 256 tokens", base, peers, [ratio])]


def accuracy(base: Setup, scale: Scale) -> list[Group]:
    """Test accuracy of whole runs, a seed each."""
    groups = []
    for epochs in scale.epochs:
        for method, needed in (("full", {1: 0.86, 3: 0.88}), ("lora", {1: 0.85})):
            if epochs not in needed:
                continue
            ours, trainer = f"text_ours:{method}_quality", f"text_trainer:{method}_quality"
            peers = [
                Peer("finetune", ours),
                Peer("transformers Trainer, grouped by length, bf16", trainer),
            ]
            ratio = Ratio("accuracy, finetune / Trainer", (ours, ACCURACY), (trainer, ACCURACY))
            title = f"{method}, epochs: {epochs}, aim {needed[epochs]}"
            groups.append(
                Group(title, replace(base, epochs=epochs), peers, [ratio], rounds=scale.seeds)
            )
    return groups


STEADY = (
    "on SST-2 (6,920 sentences), all-MiniLM-L6-v2, batch 32, AdamW, dropout as the model has it: "
    "samples per second over {steps} steady steps in each round."
)
PARTS: dict[str, Part] = {
    "full": (training("full"), f"Full fine-tuning {STEADY}"),
    "lora": (training("lora"), f"LoRA, rank 8 on queries and values, {STEADY}"),
    "embeddings": (
        embeddings,
        "A linear head on the frozen features of SST-2: seconds from the rows to the validated "
        "head, imports left out.",
    ),
    "top-layer": (
        top_layer,
        "Only the top layer and the head learn from SST-2: samples per second over whole epochs "
        "after the first, validation included.",
    ),
    "packing": (
        packing,
        "Shakespeare's speeches (6,500): speeches per second in training, whole runs of one epoch.",
    ),
    "accuracy": (
        accuracy,
        "Accuracy on SST-2's test split (n = 1,821) after whole runs, {seeds} seeds: mean over "
        "seeds is what counts; full with a learning rate of 1e-4, LoRA with 2e-3. Seconds are of "
        "the whole run (finetune: with reload check, test and report).",
    ),
}


SCRIPT = Script(
    path=__file__,
    story=__doc__ or "",
    parts=PARTS,
    setup=Setup("", "", model="minilm", epochs=3),
    scale=Scale,
    quick=QUICK,
    rounds=5,
    prefix="text-",
)

if __name__ == "__main__":
    sys.exit(SCRIPT.main())
