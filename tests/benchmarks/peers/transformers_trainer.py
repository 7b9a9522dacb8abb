"""transformers' Trainer on a timm model, as its image classification example sets it up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from torchvision.transforms import (
    CenterCrop,
    Compose,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToTensor,
)
from transformers import (
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from worker import Clock, Facts, Setup, timed

from peers.prepare import HELD

EPOCHS = 10
"""Epochs of the frozen backbone's head."""


def defaults(setup: Setup, clock: Clock) -> None:
    """Full fine-tuning with the Trainer's default settings."""
    trainer(setup, callbacks=[Ticks(clock)]).train()


def tuned(setup: Setup, clock: Clock) -> None:
    """The same in bfloat16, with loader processes that stay."""
    trainer(
        setup,
        callbacks=[Ticks(clock)],
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_num_workers=os.cpu_count(),
        dataloader_persistent_workers=True,
    ).train()


def frozen(setup: Setup, clock: Clock) -> None:
    """The head alone, from the rows to the validated model."""

    def run() -> None:
        head_only = trainer(setup, epochs=EPOCHS)
        head_only.model.requires_grad_(False)
        head_only.model.timm_model.get_classifier().requires_grad_(True)
        head_only.train()
        head_only.evaluate()

    def measure() -> Facts:
        return {"seconds": timed(run)}

    clock.each(measure)


class Ticks(TrainerCallback):
    """Tells the clock of every step."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.tick()


def trainer(
    setup: Setup, *, epochs: int = 1, callbacks: list[Any] | None = None, **settings: Any
) -> Trainer:
    """Return a Trainer over CIFAR-10's first training images, with the example's transforms."""
    config = TimmWrapperConfig(
        architecture=setup.model, num_labels=10, model_args=setup.img_size or None
    )
    normalize = Normalize(mean=[0.5] * 3, std=[0.5] * 3)
    crop = [RandomResizedCrop(setup.size), RandomHorizontalFlip()]
    whole = [Resize(setup.size), CenterCrop(setup.size)]
    data = str(Path(setup.data) / "cifar10")
    return Trainer(
        model=TimmWrapperForImageClassification(config),
        args=TrainingArguments(
            output_dir=str(Path(setup.scratch) / f"trainer-{os.getpid()}"),
            per_device_train_batch_size=setup.batch,
            num_train_epochs=epochs,
            remove_unused_columns=False,
            disable_tqdm=True,
            report_to=[],
            **settings,
        ),
        train_dataset=transformed(
            load_dataset(data, split=f"train[:{setup.images}]"),
            Compose([*crop, ToTensor(), normalize]),
        ),
        eval_dataset=transformed(
            load_dataset(data, split=f"test[:{HELD}]"), Compose([*whole, ToTensor(), normalize])
        ),
        data_collator=collate,
        callbacks=callbacks,
    )


def transformed(rows: Any, transform: Any) -> Any:
    """Return the rows with their images transformed when they are read."""

    def read(batch: dict[str, Any]) -> dict[str, Any]:
        pixels = [transform(image.convert("RGB")) for image in batch["img"]]
        return {"pixel_values": pixels, "label": batch["label"]}

    return rows.with_transform(read)


def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack the examples of a batch."""
    return {
        "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
        "labels": torch.tensor([example["label"] for example in examples]),
    }
