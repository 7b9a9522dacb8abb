"""Mean pooling in models whose native head reads the first token only.

transformers has no BERT whose classifier reads the mean of the tokens, which is what sentence
encoders are trained for. One more layer of the model's own kind can compute it: with queries and
keys of 0 every token attends to all alike, values and output pass them on, enlarged against the
token's own state, and LayerNorm brings them back to scale; the second half of the layer adds
nothing. The dense layer before the classifier becomes a multiple of the identity. The model stays
one that transformers loads by itself.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

GAIN = 32.0
"""How much the mean outweighs the first token's own state in what the head sees."""


@dataclass(frozen=True)
class _Names:
    """What the parts of a layer are called, and the dense layer before the last one."""

    attention: str
    """Of query, key and value, to be filled in."""
    output: str
    norm: str
    mlp: str
    last_norm: str
    dense: str
    scale: float = 0.5
    """Of the identity in `dense`: small enough for tanh to bend little."""
    shift: float = 0.0
    """Bias in `dense`: keeps a rectifier from cutting anything off."""


_BERT = _Names(
    "attention.self.{}",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "output.dense",
    "output.LayerNorm",
    "{base}.pooler.dense",
)
_ROBERTA = _Names(*(*list(vars(_BERT).values())[:5], "classifier.dense"))
_DISTILBERT = _Names(
    "attention.{:.1}_lin",
    "attention.out_lin",
    "sa_layer_norm",
    "ffn.lin2",
    "output_layer_norm",
    "pre_classifier",
    scale=1.0,
    shift=10.0,
)
_KINDS = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": _DISTILBERT,
}


def possible(module: nn.Module) -> bool:
    """Return whether the native head of this model for rows of texts can read the mean."""
    own: Any = module
    return own.config.model_type in _KINDS and dense_name(module) in dict(own.named_modules())


def pooled(module: nn.Module, states: Tensor, mask: Tensor) -> Tensor:
    """Return what the last layer sees after `grow`, (batch, width), float32.

    `states` are the last hidden states before it, (batch, tokens, width), and `mask` is 1 for real
    tokens, (batch, tokens).
    """
    import torch
    from torch.nn import functional

    names = _KINDS[_config(module).model_type]
    eps = _last_layer(module).get_submodule(names.last_norm).eps
    width = (states.shape[-1],)
    states = states.float()
    with torch.autocast(states.device.type, enabled=False):
        whole = GAIN * mean(states, mask) + states[:, 0]
        for _ in range(2):
            whole = functional.layer_norm(whole, width, eps=eps)
        whole = names.scale * whole + names.shift
        return whole.relu() if names.shift else whole.tanh()


def mean(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over real tokens, (batch, width), of states (batch, tokens, width)."""
    weight = mask.to(states.dtype)[..., None]
    return (states * weight).sum(1) / weight.sum(1).clamp_min(1)


def grow(module: nn.Module) -> None:
    """Add the layer that computes the mean, and set the dense layer to pass it on."""
    import torch
    from torch import nn

    own: Any = module
    names = _KINDS[own.config.model_type]
    last = _last_layer(own)
    # Configurations are shared by all layers, and stay so.
    shared = {id(m.config): m.config for m in last.modules() if hasattr(m, "config")}
    layer = copy.deepcopy(last, shared)

    def fill(linear: Any, factor: float) -> None:
        nn.init.eye_(linear.weight).mul_(factor)
        nn.init.zeros_(linear.bias)

    with torch.no_grad():
        for part in ("query", "key"):
            fill(layer.get_submodule(names.attention.format(part)), 0.0)
        fill(layer.get_submodule(names.attention.format("value")), 1.0)
        fill(layer.get_submodule(names.output), GAIN)
        fill(layer.get_submodule(names.mlp), 0.0)
        for norm in (names.norm, names.last_norm):
            nn.init.ones_(layer.get_submodule(norm).weight)
            nn.init.zeros_(layer.get_submodule(norm).bias)
        dense: Any = own.get_submodule(dense_name(own))
        fill(dense, names.scale)
        dense.bias.fill_(names.shift)
    layer.requires_grad_(dense.weight.requires_grad)
    layer.train(last.training)
    _stack(own).append(layer)
    own.config.num_hidden_layers += 1


def _config(module: nn.Module) -> Any:
    return module.config


def dense_name(module: nn.Module) -> str:
    """Return the name of the dense layer between the first token and the last linear layer."""
    own: Any = module
    return _KINDS[own.config.model_type].dense.format(base=own.base_model_prefix)


def _stack(module: nn.Module) -> Any:
    base: Any = getattr(module, "base_model", module)
    return base.transformer.layer if hasattr(base, "transformer") else base.encoder.layer


def _last_layer(module: nn.Module) -> Any:
    return _stack(module)[-1]
