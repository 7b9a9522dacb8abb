"""What several peers read, made once before they start; and what the machine is."""

from __future__ import annotations

from pathlib import Path

from worker import Clock, Facts, Setup

HELD = 64
"""Images of CIFAR-10's test split, from its start, that a library wants for validation."""


def machine(setup: Setup, clock: Clock) -> None:
    """Tell device and versions."""
    import torch

    from finetune import environment

    def describe() -> Facts:
        facts = environment.describe()
        if torch.cuda.is_available():
            device = facts["gpus"][0]
        else:
            fast = "with" if environment.has_fast_bf16() else "without"
            cores = f"{facts['threads']} threads, {fast} fast bfloat16"
            device = f"{_processor() or facts['processor']}, {cores}"
        extra = {
            name: version
            for name in ("fastai", "sentence-transformers")
            if (version := _version(name))
        }
        return {
            "device": device,
            "versions": facts["versions"] | extra,
            "python": facts["python"],
            "commit": facts["git_commit"],
        }

    clock.each(describe)


def cifar(setup: Setup, clock: Clock) -> None:
    """Leave CIFAR-10's first training images as one array and as PNG files in class folders.

    Loading them also fills the cache of `datasets`, so that no peer pays for it.
    """
    import numpy as np
    from datasets import Image, load_dataset

    def write() -> Facts:
        splits = load_dataset(str(Path(setup.data) / "cifar10"))
        train = splits["train"].select(range(setup.images))
        pixels = np.stack([np.asarray(image.convert("RGB")) for image in train["img"]])
        np.save(Path(setup.scratch) / "pixels.npy", pixels)
        np.save(Path(setup.scratch) / "labels.npy", np.array(train["label"], dtype=np.int64))
        held = splits["test"].select(range(HELD))
        for name, rows in (("train", train), ("valid", held)):
            rows = rows.cast_column("img", Image(decode=False))
            for number, row in enumerate(rows):
                folder = png_folder(setup) / name / str(row["label"])
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{number}.png").write_bytes(row["img"]["bytes"])
        return {"images": len(train)}

    clock.each(write)


def png_folder(setup: Setup) -> Path:
    """Return the folder that `cifar` fills."""
    return Path(setup.scratch) / f"png-{setup.images}"


def large_photos(setup: Setup, clock: Clock) -> None:
    """Leave photos with a longer side of 2,000 pixels, enlarged from hymenoptera."""
    from PIL import Image

    def write() -> Facts:
        folder = large_folder(setup)
        folder.mkdir(parents=True, exist_ok=True)
        small = sorted((Path(setup.data) / "hymenoptera" / "train").glob("*/*.jpg"))
        for path in small[:: max(1, len(small) // setup.images)][: setup.images]:
            image = Image.open(path).convert("RGB")
            factor = 2000 / max(image.size)
            size = (round(image.width * factor), round(image.height * factor))
            large = image.resize(size, Image.Resampling.LANCZOS)
            large.save(folder / path.name, quality=90)
        return {"images": len(list(folder.glob("*.jpg")))}

    clock.each(write)


def large_folder(setup: Setup) -> Path:
    """Return the folder that `large_photos` fills."""
    return Path(setup.scratch) / "large"


def language_model(setup: Setup, clock: Clock) -> None:
    """Leave a small GPT-2 with random weights, its subwords learned from the speeches."""
    import torch
    from datasets import load_dataset
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    def write() -> Facts:
        end = "<|endoftext|>"
        words = Tokenizer(models.BPE())
        words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        words.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=2000,
            special_tokens=[end],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        speeches = load_dataset(str(Path(setup.data) / "tinyshakespeare"))["train"]["text"]
        words.train_from_iterator(speeches, trainer)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=words, eos_token=end, bos_token=end, model_max_length=256
        )
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=len(tokenizer), n_positions=256, n_embd=192, n_layer=4, n_head=4,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        model = GPT2LMHeadModel(config)
        for part in (model, tokenizer):
            part.save_pretrained(language_model_folder(setup))
        return {"parameters": model.num_parameters()}

    clock.each(write)


def language_model_folder(setup: Setup) -> Path:
    """Return the folder that `language_model` fills."""
    return Path(setup.scratch) / "gpt"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return ""
    names = [line for line in path.read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else ""


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None
