"""How a transformers model is made up: its blocks in order, its head, where LoRA belongs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.errors import BackboneError

if TYPE_CHECKING:
    from torch import nn

# Queries and values, as in the paper, under the names that the families give them; the first
# pattern that any module meets is taken, then every linear layer.
LORA_TARGETS = (
    r".*\.(query|value)",
    r".*\.(query|value)_proj",
    r".*\.[qv]_proj",
    r".*\.[qv]_lin",
    r".*\.[qv]",
    r".*\.(query_key_value|qkv_proj|Wqkv|in_proj_qkv|c_attn)",
)


def head_parts(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the children that lie outside the pretrained part, each with a dot."""
    from torch import nn

    base = str(getattr(module, "base_model_prefix", ""))
    children = dict(module.named_children())
    if base in children:
        return tuple(f"{name}." for name in children if name != base)
    return tuple(f"{name}." for name, part in children.items() if isinstance(part, nn.Linear))


def last_linear(module: nn.Module, outputs: int) -> str:
    """Return the name of the linear layer that gives the outputs; raise BackboneError if none."""
    from torch import nn

    parts = head_parts(module)
    found = [
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear)
        and part.out_features == outputs
        and f"{name}.".startswith(parts)
    ]
    if not found:
        raise BackboneError(
            f"{type(module).__name__} has no linear layer with {outputs} outputs for a head. "
            "Take another backbone."
        )
    return str(found[-1])


def head_parameters(module: nn.Module, fresh: Iterable[str]) -> list[str]:
    """Return the names of the parameters of the head.

    That is what lies outside the pretrained part, and a pooler that was not pretrained either. A
    head that shares the weights of the embeddings has no parameters of its own.
    """
    parts, new = head_parts(module), set(fresh)
    names = [name for name, _ in module.named_parameters()]
    return [n for n in names if n.startswith(parts) or (n in new and ".pooler." in n)]


def modules_of(module: nn.Module, names: Iterable[str]) -> list[str]:
    """Return the modules that hold these parameters of the head, whole children where they can be.

    PEFT adds some of them under the name of the child by itself when it reads an adapter.
    """
    parts = head_parts(module)
    holders = (
        name.partition(".")[0] if name.startswith(parts) else name.rpartition(".")[0]
        for name in names
    )
    return list(dict.fromkeys(holders))


def layers(module: nn.Module, head: Sequence[str]) -> list[list[str]]:
    """Return parameter names from the embeddings to the head, the head last if there is one.

    An encoder's blocks come before those of a decoder. Norms at the end of a stack of blocks go
    with its last block; what else lies between the blocks and the head is a layer of its own.
    """
    from torch import nn

    stacks = _stacks(module)
    inside = {name for name, part in module.named_modules() if isinstance(part, nn.Embedding)}
    blocks: dict[tuple[int, int], list[str]] = {}
    above: list[str] = []
    last = set(head)
    for name, _ in module.named_parameters():
        if name in last:
            continue
        place = _place(name, stacks)
        if place is None and (name.rpartition(".")[0] in inside or "embed" in name):
            place = (-1, 0)
        if place is None:
            held = [i for i, s in enumerate(stacks) if s.holder and name.startswith(f"{s.holder}.")]
            beside = held and "pooler" not in name
            place = (held[-1], stacks[held[-1]].length - 1) if beside else None
        if place is None:
            above.append(name)
        else:
            blocks.setdefault(place, []).append(name)
    ordered = [blocks[place] for place in sorted(blocks)]
    return [layer for layer in (*ordered, above, list(head)) if layer]


def lora_targets(module: nn.Module, head: Sequence[str]) -> str:
    """Return the pattern for the attention of this family, else for every linear layer."""
    from torch import nn

    names = [name for name, part in module.named_modules() if next(part.children(), None) is None]
    for pattern in LORA_TARGETS:
        if any(re.fullmatch(pattern, name) for name in names):
            return pattern
    barred = {*head, *_vocabulary_heads(module)}
    linear = [n for n, m in module.named_modules() if isinstance(m, nn.Linear) and n not in barred]
    return "|".join(map(re.escape, linear))


def _vocabulary_heads(module: Any) -> list[str]:
    output = module.get_output_embeddings()
    return [name for name, part in module.named_modules() if output is not None and part is output]


@dataclass
class _Stack:
    """Blocks that run one after the other."""

    holder: str
    """The part that holds them, and what goes with them, such as a last norm."""
    length: int
    lists: list[str]
    """Usually one; a few models keep attentions and feed-forward parts in lists side by side."""


def _stacks(module: nn.Module) -> list[_Stack]:
    """Return the stacks of a model in order; lists inside a block are not among them."""
    from torch import nn

    found: list[_Stack] = []
    for name, part in module.named_modules():
        if not isinstance(part, nn.ModuleList) or not len(part):
            continue
        if any(name.startswith(f"{other}.") for stack in found for other in stack.lists):
            continue
        holder = name.rpartition(".")[0]
        like = [stack for stack in found if (stack.holder, stack.length) == (holder, len(part))]
        if like:
            like[0].lists.append(name)
        else:
            found.append(_Stack(holder, len(part), [name]))
    return found


def _place(name: str, stacks: Sequence[_Stack]) -> tuple[int, int] | None:
    """Return the stack and the block that a parameter is of."""
    for index, stack in enumerate(stacks):
        for blocks in stack.lists:
            if name.startswith(f"{blocks}."):
                return index, int(name.removeprefix(f"{blocks}.").partition(".")[0])
    return None
