"""This toolkit, through its recipes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from worker import Clock, Facts, Setup, timed

from finetune import (
    Augmentation,
    FeatureExtraction,
    Full,
    HubData,
    ImageClassification,
    ImageFolder,
    Recipe,
    Timm,
    Train,
    finetune,
)
from peers.prepare import HELD


def cifar(setup: Setup, **fields: Any) -> Recipe:
    """Return a recipe on CIFAR-10's first training images; all that is not said is the default."""
    return Recipe(
        name="benchmark",
        backbone=Timm(name=setup.model, weights="none", img_size=setup.size),
        data=HubData(
            str(Path(setup.data) / "cifar10"),
            train=f"train[:{setup.images}]",
            validation=f"test[:{HELD}]",
            test=f"test[{HELD}:{2 * HELD}]",
        ),
        task=fields.pop("task", ImageClassification()),
        train=Train(epochs=setup.epochs, batch_size=setup.batch),
        **fields,
    )


def training(setup: Setup, clock: Clock) -> None:
    """Full fine-tuning."""
    tick_with(clock)
    finetune(cifar(setup), output=run_folder(setup, "full"))


def top_layers(setup: Setup, clock: Clock) -> None:
    """Fine-tuning of the top layers without augmentation."""
    _top_layers(setup, clock, "top_layers", Augmentation(crop="none", flip=0))


def top_layers_anew(setup: Setup, clock: Clock) -> None:
    """The same, except that a flip might come, though none ever does: so nothing may be kept."""
    _top_layers(setup, clock, "top_layers_anew", Augmentation(crop="none", flip=1e-12))


def _top_layers(setup: Setup, clock: Clock, name: str, augmentation: Augmentation) -> None:
    tick_with(clock)
    task = ImageClassification(augmentation=augmentation)
    value = cifar(setup, task=task, method=Full(train_layers=setup.top_layers))
    finetune(value, output=run_folder(setup, name))


def tick_with(clock: Clock) -> None:
    """Let the clock tick before every update: the loop then asks its folder whether to stop."""
    from finetune.folder import Folder

    def asked(_: Folder) -> bool:
        clock.tick()
        return False

    Folder.stop_asked = property(asked, lambda folder, value: None)


def run_folder(setup: Setup, name: str) -> Path:
    """Return where a run of this benchmark goes."""
    return Path(setup.scratch) / "runs" / f"{setup.model}-{setup.top_layers}-{name}"


def features(setup: Setup, clock: Clock) -> None:
    """Feature extraction from the rows to the fitted head, and the same again."""
    from finetune import build, environment, extraction

    environment.keep_freed_memory()
    value = cifar(setup, method=FeatureExtraction())
    precision = environment.precision(value.train.precision)

    def run() -> None:
        extraction.fit_probe(build.job(value), environment.device(), precision)

    def measure() -> Facts:
        fresh_cache(setup)
        return {"seconds": timed(run), "again": timed(run)}

    clock.each(measure)


def whole_run(setup: Setup, clock: Clock) -> None:
    """The same as a user runs it: with the saved model, its reload check, test and report."""
    value = cifar(setup, method=FeatureExtraction())

    def measure() -> Facts:
        fresh_cache(setup)
        output = run_folder(setup, "features")
        shutil.rmtree(output, ignore_errors=True)
        return {"seconds": timed(lambda: finetune(value, output=output))}

    clock.each(measure)


def extraction(setup: Setup, clock: Clock) -> None:
    """The backbone's one pass over images that are decoded already, and the same again."""
    from finetune import build, environment
    from finetune.extraction import extract

    environment.keep_freed_memory()
    value = cifar(setup, method=FeatureExtraction())
    precision = environment.precision(value.train.precision)
    fresh_cache(setup)
    job = build.job(value)
    source = build.open_split(value, job.network, job.splits, "train", augmented=False)
    folder = build.cache_folder() / "features"

    def run() -> None:
        extract(
            job.network, source, folder, {"data": job.splits.fingerprint},
            batch_size=value.train.eval_batch_size,
            device=environment.device(), precision=precision,
        )  # fmt: skip

    def measure() -> Facts:
        shutil.rmtree(folder, ignore_errors=True)
        seconds = timed(run)
        return {
            "samples_per_second": len(source) / seconds,
            "seconds": seconds,
            "again": timed(run),
        }

    clock.each(measure)


def fresh_cache(setup: Setup) -> None:
    """Let this process cache into an empty folder."""
    folder = Path(setup.scratch) / f"cache-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    os.environ["FINETUNE_CACHE"] = str(folder)


def photos(setup: Setup, clock: Clock) -> None:
    """Augmented batches of photos as the loop reads them, after the pass that decoded them."""
    from finetune import build, environment
    from finetune.samples import order

    environment.keep_freed_memory()
    value = Recipe(
        name="photos",
        backbone=Timm(name=setup.model, weights="none"),
        data=ImageFolder(str(Path(setup.data) / "hymenoptera")),
        task=ImageClassification(),
        train=Train(batch_size=setup.batch),
    )
    samples = build.job(value).samples["train"]
    device, epoch = environment.device(), 0

    def read() -> None:
        rows = order(samples.labels, "shuffled", 0, epoch)
        for start in range(0, len(rows), setup.batch):
            samples.finish(samples.read(rows[start : start + setup.batch], epoch), device)

    def measure() -> Facts:
        nonlocal epoch
        epoch += 1
        return {"samples_per_second": len(samples) / timed(read)}

    clock.each(measure)


def decode_with_draft(setup: Setup, clock: Clock) -> None:
    """Decoding of large photos at no more than the size that training needs."""
    _decode(setup, clock, draft=True)


def decode_in_full(setup: Setup, clock: Clock) -> None:
    """Decoding of large photos in full, then the same resize."""
    _decode(setup, clock, draft=False)


def _decode(setup: Setup, clock: Clock, draft: bool) -> None:
    from finetune.images.render import Rendering
    from peers.prepare import large_folder

    geometry = Timm(name=setup.model, weights="none").build(2).inputs.geometry
    render = Rendering("large", geometry.training, geometry.kept if draft else None)
    contents = [path.read_bytes() for path in sorted(large_folder(setup).glob("*.jpg"))]

    def read() -> None:
        for content in contents:
            render({"bytes": content})

    clock.each(lambda: {"samples_per_second": len(contents) / timed(read)})
