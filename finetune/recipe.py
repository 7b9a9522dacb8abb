"""A recipe: one frozen value that says everything about a run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from finetune import protocols
from finetune.backbones import AnyBackbone
from finetune.data import AnyData
from finetune.methods import AnyMethod, Full
from finetune.schema import Value, accepts
from finetune.tasks import AnyTask

Fraction = Annotated[float, Field(ge=0, le=1)]


class Train(Value):
    """How the weights are learned; the defaults suit fine-tuning a pretrained model."""

    epochs: NonNegativeInt = 5
    """Passes over the training split."""
    batch_size: PositiveInt = 32
    """Samples per update, over all processes and micro-batches."""
    micro_batch_size: PositiveInt | None = None
    """Samples per forward pass of one process; the whole share of the batch if not given."""
    eval_batch_size: PositiveInt = 64
    """Samples per forward pass in evaluation."""
    optimizer: str = "adamw"
    """`adamw`, `sgd`, or any other name of timm's or torch's optimizers."""
    optimizer_args: dict[str, Any] = {}
    """Further arguments of the optimizer by their own names."""
    lr: PositiveFloat = 5e-4
    """Peak learning rate of the head; lower layers follow the method's `layer_decay`."""
    schedule: Literal["cosine", "linear", "step", "constant"] = "cosine"
    """How the learning rate falls after the warm-up; `step` divides it by 10 at 1/2 and 3/4."""
    warmup: Fraction = 0.1
    """Share of all updates over which the learning rate rises from 0."""
    weight_decay: NonNegativeFloat = 0.05
    """Not applied to norms and biases."""
    clip_norm: NonNegativeFloat = 1.0
    """Largest gradient norm; 0 does not clip."""
    label_smoothing: Fraction = 0.0
    """Share of each target spread evenly over the classes."""
    focal: NonNegativeFloat = 0.0
    """Exponent of the focal loss (Lin et al. 2017, arXiv:1708.02002); 0 is cross-entropy."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weighs each class's loss by the inverse of its frequency."""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """`balanced` draws every class equally often, with replacement."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per update of an exponential moving average of the weights; 0 keeps none."""
    patience: NonNegativeInt = 0
    """Stop after so many epochs without a better validation metric; 0 never stops early."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """`auto` takes bf16 where the hardware has it, else fp32."""
    compile: bool = False
    """Compile the model with torch.compile."""
    seed: NonNegativeInt = 0
    """Seed of the head, the order, the augmentation and dropout."""
    save_seconds: NonNegativeFloat = 60.0
    """Least time between two checkpoints, in seconds; 0 saves after every update."""


class Recipe(Value):
    """What to learn, from what, and how: a value that prints, compares, saves and reads back."""

    name: str
    """Names the default run folder."""
    backbone: Annotated[AnyBackbone, accepts(protocols.Backbone)]
    data: Annotated[AnyData, accepts(protocols.Data)]
    task: Annotated[AnyTask, accepts(protocols.Task)]
    method: Annotated[AnyMethod, accepts(protocols.Method)] = Full()
    train: Train = Train()
    metrics: tuple[Any, ...] = ()
    """Further metrics: names, `evaluate.Metric` objects (in a script), or `user/name@revision`."""
    trust_remote_code: bool = False
    """Allow metrics by hub name to run their authors' code; their revision must be pinned."""
