"""The head over a vocabulary: losses and logits from hidden states, some tokens at a time.

All logits of a batch at once can take more memory than the whole model: 8 texts of 1,024 tokens
with 50,000 words are 1.6 GB, and their gradients as much again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from finetune.errors import BackboneError

CHUNK = 2**25
"""Logits held at once while losses are computed."""


class Hidden(NamedTuple):
    """What goes into the head over the vocabulary, and the model that has the head."""

    states: Tensor
    """(batch, tokens, width)"""
    model: Any
    dtype: torch.dtype | None
    """What autocast computed the states in; None without it."""

    def losses(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed loss and the number of labelled tokens of each sample, both (batch,).

        `labels` (batch, tokens) are the tokens that the states at the same place predict, -100 for
        those that do not count. Only logits of labelled tokens are computed, at most 2**25 at a
        time, and again in the backward pass.
        """
        counted = labels != -100
        sample, _ = counted.nonzero(as_tuple=True)
        states, wanted = self.states[counted], labels[counted]
        size = max(1, CHUNK // self._head.weight.shape[0])
        parts = []
        for start in range(0, len(wanted), size):
            part = states[start : start + size], wanted[start : start + size]
            parts.append(checkpoint(self._token_losses, *part, use_reentrant=False))
        total = self.states.new_zeros(len(labels), dtype=torch.float32)
        if parts:
            total = total.index_add(0, sample, torch.cat(parts))
        else:  # every process must have gradients to exchange
            total = total + 0.0 * self.states.float().sum()
        return total, counted.sum(1)

    def logits(self) -> Tensor:
        """Return all logits, (batch, tokens, vocabulary), float32."""
        return self._logits(self.states)

    def last(self) -> Tensor:
        """Return the logits after the last token, (batch, vocabulary), float32."""
        return self._logits(self.states[:, -1])

    @property
    def _head(self) -> Any:
        return self.model.get_output_embeddings()

    def _token_losses(self, states: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(self._logits(states), labels, reduction="none")

    def _logits(self, states: Tensor) -> Tensor:
        """Return logits of states (..., width) as the model's own forward computes them."""
        device = states.device.type
        context = nullcontext() if self.dtype is None else torch.autocast(device, self.dtype)
        with context:
            logits: Tensor = self._head(states.to(self._head.weight.dtype))
        return _finished(self.model, logits.float())


def _finished(model: Any, logits: Tensor) -> Tensor:
    """Return logits with what some families do after the linear map."""
    bias = getattr(model, "final_logits_bias", None)  # BART, Marian
    if bias is not None:
        logits = logits + bias
    config = model.config.get_text_config()
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits = logits * scale
    if divisor := getattr(config, "logits_scaling", None):  # Granite
        logits = logits / divisor
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
        logits = cap * torch.tanh(logits / cap)
    return logits


def stop_before_head(model: Any) -> None:
    """Make the model's forward return Hidden: the head over the vocabulary is not computed.

    An encoder-decoder may be given `labels` in place of `decoder_input_ids`.
    """
    # A bound method, not a closure: a deep copy of the model then has its own.
    model.forward = MethodType(_until_head, model)


@contextmanager
def whole(model: Any) -> Iterator[None]:
    """Give the model its own forward for a while, as generation needs it."""
    kept = vars(model).pop("forward", None)
    try:
        yield
    finally:
        if kept is not None:
            model.forward = kept


class _Reached(Exception):
    """Ends a forward pass at the head."""


def _until_head(self: Any, **inputs: Any) -> Hidden:
    found: list[Tensor] = []

    def stop(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        found.append(given[0])
        raise _Reached

    labels = inputs.pop("labels", None)
    if labels is not None and "decoder_input_ids" not in inputs:
        inputs["decoder_input_ids"] = self.prepare_decoder_input_ids_from_labels(labels)
    hook = self.get_output_embeddings().register_forward_pre_hook(stop)
    try:
        type(self).forward(self, **inputs, use_cache=False)
    except _Reached:
        pass
    finally:
        hook.remove()
    device = found[0].device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return Hidden(found[0], self, dtype)


def check_packing(model: Any, name: str) -> None:
    """Raise BackboneError where a model sees one document from the next in a packed sample.

    Positions that begin anew are what keeps documents apart; some families do not look at them.
    """
    if model.device.type == "meta":
        return
    model.eval()
    ids = torch.arange(6, device=model.device)[None] % model.config.vocab_size
    places = torch.arange(3, device=model.device)
    try:
        with torch.inference_mode():
            both = model(input_ids=ids, position_ids=torch.cat([places, places])[None]).states
            alone = model(input_ids=ids[:, 3:], position_ids=places[None]).states
        # Between rounding and what attention brings from another text.
        least = 1e-4 if both.dtype == torch.float32 else 0.05
        apart = bool((both[:, 3:] - alone).abs().max() < least * alone.abs().max())
    except (TypeError, ValueError, RuntimeError):
        apart = False
    if not apart:
        raise BackboneError(
            f"{name!r} is of the family {model.config.model_type}, in which packed "
            "texts would see one another. Set task.packed=false: each text is then a sample."
        )
