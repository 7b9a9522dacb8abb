"""fastai's Learner on a timm model, with its loaders for class folders."""

from __future__ import annotations

import timm
from fastai.vision.all import (
    Callback,
    CrossEntropyLossFlat,
    Flip,
    ImageDataLoaders,
    Learner,
    Normalize,
    RandomResizedCrop,
)
from worker import Clock, Setup

from peers.prepare import png_folder


class Ticks(Callback):
    """Tells the clock of every training step."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def after_batch(self) -> None:
        if self.training:
            self.clock.tick()


def defaults(setup: Setup, clock: Clock) -> None:
    """Full fine-tuning with fastai's default settings."""
    loaders = ImageDataLoaders.from_folder(
        png_folder(setup),
        train="train",
        valid="valid",
        item_tfms=RandomResizedCrop(setup.size),
        batch_tfms=[Flip(), Normalize.from_stats([0.5] * 3, [0.5] * 3)],
        bs=setup.batch,
    )
    model = timm.create_model(setup.model, num_classes=10, **setup.img_size)
    learner = Learner(loaders, model, loss_func=CrossEntropyLossFlat(), cbs=Ticks(clock))
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(1)
