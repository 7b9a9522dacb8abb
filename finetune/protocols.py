"""The nouns that meet in the loop, as protocols: nothing here knows a library or a task by name.

Data      -> Splits     tables with canonical columns ("image", "text", "label", ...)
Task      -> Target     what is predicted: encoding, loss, predictions, metrics
Backbone  -> Network    a module with ordered layers, a head apart, and its Inputs
Method                  which parameters learn, and how fast
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from finetune.telling import Telling

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from torch import Tensor, nn

Split: TypeAlias = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Array: TypeAlias = "npt.NDArray[Any]"


class Table(Protocol):
    """Rows in a fixed order with named columns; a `datasets.Dataset` is one.

    An image cell is `{"path": str | None, "bytes": bytes | None}`, undecoded.
    """

    @property
    def column_names(self) -> list[str]:
        """The names of the columns, in order."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any) -> Any:
        """Return one row as a dict (int), or one column as a sequence (str)."""
        ...

    def select(self, indices: Sequence[int]) -> Table:
        """Return these rows in this order."""
        ...


@dataclass(frozen=True)
class Splits:
    """Three tables with canonical column names, and what was done to get them."""

    train: Table
    validation: Table
    test: Table
    classes: tuple[str, ...] | None
    """Class names in label order, where the data itself declares them; labels are then indices."""
    fingerprint: str
    """Hash over the content of all splits: rows, their order, and their split."""
    notes: tuple[str, ...] = ()
    """Plain sentences to be said aloud and kept in the result."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """For the model card: what the data is called, its revision and licence."""
    left_out: Mapping[Split, tuple[int, ...]] = field(default_factory=dict)
    """Rows that cannot be used and are not in the tables, numbered as if they were."""

    def __getitem__(self, split: Split) -> Table:
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]


@dataclass
class Batch:
    """Model inputs by the name of the forward argument, targets by name, first axis the batch."""

    inputs: dict[str, Tensor]
    targets: dict[str, Tensor]
    share: float = 1.0
    """0 where the samples are only here to keep a process in step with the others."""

    def __len__(self) -> int:
        return len(next(iter(self.targets.values())))

    def part(self, start: int, stop: int) -> Batch:
        """Return some of the samples."""
        return Batch(
            {k: v[start:stop] for k, v in self.inputs.items()},
            {k: v[start:stop] for k, v in self.targets.items()},
            self.share,
        )

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`."""
        return Batch(
            {k: v.to(device, non_blocking=True) for k, v in self.inputs.items()},
            {k: v.to(device, non_blocking=True) for k, v in self.targets.items()},
            self.share,
        )


@dataclass(frozen=True)
class Form:
    """What a task asks of a model beside the width of its head."""

    head: Literal["row", "token", "span", "generate", "continue"] = "row"
    """One output for each row, for each token, for the two ends of a span; text from text; the
    next token."""
    reading: Any = None
    """How rows become samples, where the task and not the backbone says so, as with texts."""


ROW = Form()


class Source(Protocol):
    """The samples of one table as model inputs; holds all randomness of augmentation."""

    def __len__(self) -> int: ...

    @property
    def lengths(self) -> Array | None:
        """How long each sample is, (samples,), where a batch should hold some of like length."""
        ...

    def read(self, indices: Array, epoch: int) -> dict[str, Tensor]:
        """Return raw inputs of these samples on the CPU; a pure function of its arguments.

        A key "partner" (batch,) names the samples whose targets are mixed in, and "share"
        (batch,) how much of its own target each sample keeps.
        """
        ...

    def finish(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what the module's forward takes, on the device where `raw` is."""
        ...


class Inputs(Protocol):
    """How a backbone wants its rows: the preprocessing that its weights were trained with."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The canonical columns that it reads."""
        ...

    def source(
        self, table: Table, cache: Path, *, augmentation: Any = None, seed: int = 0
    ) -> Source:
        """Return training inputs if `augmentation` is given, else the native evaluation ones."""
        ...

    def read(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Source, dict[int, str]]:
        """Return native inputs of the rows that can be used, and why the others cannot be.

        Nothing is kept on disk; the reasons are by position.
        """
        ...

    def blank(self, batch_size: int) -> dict[str, Tensor]:
        """Return inputs of the right names and shapes that mean nothing, for what counts sizes."""
        ...


class Network(Protocol):
    """A model built for a task: `outputs(module(**inputs))` has the shape (batch, outputs)."""

    module: nn.Module

    def outputs(self, given: Any) -> Any:
        """Return what a target reads from what the module's forward gave."""
        ...

    @property
    def inputs(self) -> Inputs:
        """How it wants its rows."""
        ...

    def layers(self) -> list[list[str]]:
        """Return the parameter names in order from the input to the head, the head last."""
        ...

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return what the head sees, (batch, width)."""
        ...

    def set_head(self, weight: Tensor, bias: Tensor) -> None:
        """Put a linear map (outputs, width), (outputs,) into the native head."""
        ...

    def get_head(self) -> tuple[Tensor, Tensor]:
        """Return the native head as a linear map (outputs, width), (outputs,)."""
        ...

    def checkpoint_activations(self) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        ...

    def head(self) -> list[str]:
        """Return the names of the modules that `set_head` writes; none where there is no such map.

        A head over a vocabulary is none: it is pretrained with the rest.
        """
        ...

    def head_block(self) -> list[str]:
        """Return the names of the modules that are as new as the head, itself among them."""
        ...

    @property
    def head_is_pretrained(self) -> bool:
        """Whether the head comes with the weights, so that the model answers before training."""
        ...

    def lora_targets(self) -> str:
        """Return a regular expression over module names: where LoRA belongs in this family."""
        ...

    def tune_for(self, device: torch.device, precision: str) -> list[str]:
        """Choose what is quickest on this device; return the choices in words."""
        ...

    @property
    def reloader(self) -> Path | None:
        """The script that loads a saved model without this toolkit, for the round-trip gate."""
        ...

    @property
    def origin(self) -> Mapping[str, Any]:
        """For the model card: "name" of the backbone, and "id" and "revision" on the hub."""
        ...

    def save(
        self, folder: Path, classes: tuple[str, ...] | None, problem_type: str | None = None
    ) -> None:
        """Write weights, configuration, preprocessing and labels in the library's own form."""
        ...


class Target(Telling, Protocol):
    """What one run predicts, bound to its data."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in the order of the outputs, None where there are no classes."""
        ...

    @property
    def num_outputs(self) -> int:
        """Return how wide the head is."""
        ...

    @property
    def problem_type(self) -> str | None:
        """What outputs mean, in the words of transformers' configurations, where it has one."""
        ...

    @property
    def metric(self) -> str:
        """The metric that chooses on validation; starts with '-' where less is better."""
        ...

    @property
    def native(self) -> Target:
        """The target for the saved module, whose head `rescale_head` has brought to scale."""
        ...

    def rescale_head(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the head to save, whose outputs are in the targets' own unit."""
        ...

    def encode(self, table: Table) -> Any:
        """Return the truth of all rows, row by row: what `scores` compares with."""
        ...

    def labels(self, truth: Any, source: Source) -> Any:
        """Return what the loss needs of each sample, first axis the samples.

        It is the truth itself where each row is one sample. Where that is None, as in rows to
        predict on, it is None too, unless the source itself holds what is predicted.
        """
        ...

    def losses(self, outputs: Any, targets: dict[str, Tensor]) -> Tensor:
        """Return the weighted loss of each sample, (batch,), float32."""
        ...

    def weights(self, targets: dict[str, Tensor]) -> Tensor:
        """Return what each sample counts, (batch,): an update divides by their global sum."""
        ...

    def infer(
        self,
        network: Network,
        module: nn.Module,
        inputs: dict[str, Tensor],
        targets: dict[str, Tensor],
    ) -> Tensor:
        """Return what is kept of each sample, (batch, ...); of any width in the second axis.

        `targets` is empty where the truth is not known.
        """
        ...

    def decode(self, kept: Array, source: Source) -> Any:
        """Return the predictions row by row from what `infer` kept of all samples, in order.

        Where samples differ in width, shorter ones are filled up with -1.
        """
        ...

    def scores(
        self,
        predictions: Any,
        targets: Any,
        *,
        intervals: bool = True,
        metrics: Sequence[Any] = (),
    ) -> dict[str, Any]:
        """Return every metric with its interval and n: `{"accuracy": {"value", "low", ...}}`.

        `metrics` are further ones, as `finetune.metrics.resolve` gives them.
        """
        ...

    def difference(self, predictions: Any, other: Any, targets: Any) -> dict[str, Any]:
        """Return by how much `predictions` exceed `other` in `metric`: `{"value", "low", ...}`."""
        ...


@runtime_checkable
class Data(Protocol):
    """Where the rows come from."""

    def load(self, columns: Sequence[str]) -> Splits:
        """Return the splits with these canonical columns; raise DataError otherwise."""
        ...


@runtime_checkable
class Backbone(Protocol):
    """A pretrained model, named."""

    def build(
        self, num_outputs: int, classes: tuple[str, ...] | None = None, form: Form = ROW
    ) -> Network:
        """Return the model with a fresh head, or with its own if that already predicts `classes`.

        Raises BackboneError if the model or its weights cannot be had, or have no head of `form`.
        """
        ...

    def saved(self, folder: Path) -> Backbone:
        """Return the backbone that `Network.save` wrote into `folder`."""
        ...


@runtime_checkable
class Method(Protocol):
    """Which parameters learn."""

    @property
    def probe(self) -> tuple[float, ...]:
        """Strengths of the linear head that is fitted before all else; empty for none."""
        ...

    @property
    def descends(self) -> bool:
        """Whether anything is learned by gradient descent."""
        ...

    def prepare(self, network: Network) -> nn.Module:
        """Mark what learns by `requires_grad`, wrap if needed, and return the module to train."""
        ...

    def lr_scales(self, network: Network) -> dict[str, float]:
        """Return factors on the learning rate by parameter name; 1 where none is given."""
        ...

    def start_epochs(self, network: Network) -> dict[str, float]:
        """Return the epoch at which a parameter starts to learn; 0 where none is given."""
        ...

    def finish(
        self, module: nn.Module, inputs: dict[str, Tensor], folder: Path, base: str
    ) -> nn.Module:
        """Return the plain module to save; keep what belongs beside it in `folder`."""
        ...


@runtime_checkable
class Task(Protocol):
    """What is learned from which columns."""

    columns: tuple[str, ...]
    augmentation: Any

    @property
    def form(self) -> Form:
        """What it asks of a model beside the width of the head."""
        ...

    def bind(self, splits: Splits, train: Any) -> Target:
        """Read the labels; raise DataError if they cannot be learned from."""
        ...

    def recall(self, saved: Mapping[str, Any]) -> Target:
        """Return the target of a finished run from what its result says of it."""
        ...
