"""All that training changes: how it goes into a checkpoint, and how it comes back bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from finetune.errors import RunError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.optim import Optimizer
    from torch.optim.swa_utils import AveragedModel

    from finetune.checkpoint import Checkpoint
    from finetune.folder import Folder


@dataclass
class Position:
    """Where training stands."""

    epoch: int = 0
    """Epochs finished, their validation included."""
    update: int = 0
    """Updates done in the epoch after those."""
    best: float | None = None
    """The best validation metric, and the epoch that reached it, from 1."""
    best_epoch: int = 0
    loss: float = 0.0
    """Sum of the losses since the last logged line, over all processes, and their number."""
    losses: int = 0
    micro_batch_size: int = 0
    """What is left of it after memory ran out; 0 if it never did."""
    seconds: float = 0.0


@dataclass
class State:
    """Weights, optimizer, averaged weights, best weights, random numbers and the position."""

    module: nn.Module
    optimizer: Optimizer
    average: AveragedModel | None
    accelerator: Accelerator
    at: Position = field(default_factory=Position)
    best: dict[str, Tensor] = field(default_factory=dict)

    def save(self, folder: Folder, step: int) -> None:
        """Write the checkpoint of update `step`; every process must call this."""
        accelerator = self.accelerator
        optimizer, groups = pack(self.optimizer.state_dict())
        random = {
            name: accelerator.gather(numbers[None].to(accelerator.device)).cpu()
            for name, numbers in random_numbers(accelerator.device).items()
        }
        if accelerator.is_main_process:
            tensors = {
                "model": learned(self.module),
                "optimizer": optimizer,
                "average": learned(self.average.module) if self.average else {},
                "best": self.best,
                "random": random,
            }
            plain = {
                "position": asdict(self.at),
                "groups": groups,
                "averaged": int(self.average.n_averaged) if self.average else 0,
                "scaler": accelerator.scaler.state_dict() if accelerator.scaler else None,
                "log_bytes": folder.flushed_log(),
            }
            folder.checkpoints.save(step, tensors, plain)
        accelerator.wait_for_everyone()

    def load(self, found: Checkpoint) -> None:
        """Take everything from a checkpoint; raise RunError if it is of another model."""
        state = found.state
        _load(self.module, found, "model")
        self.optimizer.load_state_dict(unpack(found.tensors("optimizer"), state["groups"]))
        _own(self.optimizer)
        if self.average is not None:
            _load(self.average.module, found, "average")
            self.average.n_averaged.fill_(state["averaged"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        rank = self.accelerator.process_index
        random = found.tensors("random")
        if all(rank < len(numbers) for numbers in random.values()):
            set_random_numbers({name: numbers[rank] for name, numbers in random.items()})
        self.at = Position(**state["position"])
        self.best = found.tensors("best")


def learned(module: nn.Module) -> dict[str, Tensor]:
    """Return what training changes: the parameters that learn, and all buffers that are saved."""
    names = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    learning = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return {n: t for n, t in module.state_dict().items() if n in learning or n not in names}


def random_numbers(device: torch.device) -> dict[str, Tensor]:
    """Return the states of the random number generators, uint8."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_numbers(states: Mapping[str, Tensor]) -> None:
    """Go back to states that `random_numbers` gave."""
    torch.set_rng_state(states["cpu"].clone())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].clone())


def pack(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state dict into named tensors and a JSON value.

    Raises RunError where the optimizer keeps something that is neither.
    """
    tensors, plain = {}, {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                plain[f"{index}.{key}"] = value
    groups = {"state": plain, "param_groups": state["param_groups"]}
    try:
        json.dumps(groups)
    except TypeError as error:
        raise RunError(
            f"This optimizer keeps state that cannot be saved without pickle ({error}): choose "
            "another train.optimizer."
        ) from error
    return tensors, groups


def unpack(tensors: Mapping[str, Tensor], groups: Mapping[str, Any]) -> dict[str, Any]:
    """Return the optimizer's state dict from what `pack` made of it."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **groups["state"]}.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    return {"state": state, "param_groups": groups["param_groups"]}


def _own(optimizer: Optimizer) -> None:
    """Copy what was loaded into memory laid out as the optimizer makes it itself.

    Loaded tensors are views of a mapped file, and never channels_last: arithmetic on them is
    slower, and may round differently.
    """
    for parameter, entries in optimizer.state.items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                alike = value.shape == parameter.shape
                memory = torch.empty_like(parameter if alike else value, dtype=value.dtype)
                entries[key] = memory.copy_(value).detach()


def _load(module: nn.Module, found: Checkpoint, name: str) -> None:
    """Load the learned weights of a module; raise RunError if not all, or others, are there."""
    tensors = found.tensors(name)
    if differing := tensors.keys() ^ learned(module).keys():
        raise RunError(
            f"The checkpoint {found.folder} does not fit the model of this recipe: "
            f"{len(differing)} tensors differ, {min(differing)} among them. Other versions of the "
            "libraries may have written it. Train again with another output=DIR."
        )
    module.load_state_dict(tensors, strict=False)
