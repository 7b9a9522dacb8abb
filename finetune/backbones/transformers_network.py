"""A transformers model as the loop sees it: ordered layers, a head apart, its native form on disk.

What a linear head sees, and so what `features` returns and `set_head` writes into, depends on the
family:

- BERT, DeBERTa, ELECTRA and their like: the first token, after the pooler or the dense layer of
  the native head. A dense layer that was not pretrained (RoBERTa, DistilBERT, BART, T5) is a random
  map, the same for the same seed: features come after it, and a linear head does well on them, but
  a `full` or `lora` run that trains it does better.
- GPT-2, Llama and other decoders: the last token that is not padding. Their head has no bias, so a
  linear head is fitted without one.
- Sentence encoders, trained for the mean of their tokens: the mean. Where the family's own head
  does not read it, one more layer of the family's kind computes it, which `set_head` adds: see
  `transformers_pooling`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.backbones import transformers_pooling as pooling
from finetune.backbones import transformers_structure as structure
from finetune.backbones.quiet import quiet
from finetune.backbones.timm_source import CONFIG
from finetune.errors import BackboneError
from finetune.protocols import Form

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from finetune.protocols import Inputs

VOCABULARY = ("generate", "continue")
"""Forms whose head is the one over the vocabulary."""


@dataclass
class TransformersNetwork:
    """A transformers model with its layers in order, its head apart, and its own tokenizer."""

    module: nn.Module
    inputs: Inputs
    tokenizer: Any
    form: Form
    num_outputs: int
    origin: dict[str, Any]
    """For the model card: "name", and "id" and "revision" on the hub."""
    fresh: frozenset[str] = frozenset()
    """Names of parameters that no weights were loaded for."""
    fixed: frozenset[str] = frozenset()
    """Names of parameters that are constants."""
    head_is_pretrained: bool = False
    pooling: str = "native"
    """What a linear head reads: what the native head does, or the "mean", by one more layer."""
    embedding: str = "mean"
    """How an embedding of a text is pooled: "cls", "mean" or "last"."""
    restored: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the configuration that were set for training only, as they are saved."""
    refusal: str | None = None
    """Why no head can be trained on the pooling that was asked for, where that is so."""
    _attention: str | None = None
    """The way of attention before `tune_for`."""

    @property
    def _model(self) -> Any:
        """The module, with the methods and attributes that transformers' models have."""
        return self.module

    def outputs(self, given: Any) -> Any:
        """Return logits, or `vocabulary.Hidden` for a head over the vocabulary.

        Logits are (batch, outputs) for rows, (batch, tokens, outputs) for tokens, and for spans
        (batch, tokens, 2), of start and end.
        """
        import torch

        if self.form.head in VOCABULARY:
            return given
        if self.form.head == "span":
            return torch.stack([given["start_logits"], given["end_logits"]], -1)
        return given["logits"]

    def head(self) -> list[str]:
        """Return the name of the last linear layer; none for the head over the vocabulary."""
        if self.form.head in VOCABULARY:
            return []
        return [structure.last_linear(self.module, self.num_outputs)]

    def layers(self) -> list[list[str]]:
        """Return the parameter names from the embeddings to the head, the head last.

        Those that the family never learns, such as sines of positions, are not among them. Raises
        BackboneError where the head cannot read what `backbone.pooling` asks for.
        """
        if self.refusal is not None:
            raise BackboneError(self.refusal)
        layers = structure.layers(self.module, self._head_parameters())
        learned = ([name for name in layer if name not in self.fixed] for layer in layers)
        return [layer for layer in learned if layer]

    def _head_parameters(self) -> list[str]:
        head = structure.head_parameters(self.module, self.fresh)
        if self.pooling == "mean":  # which replaces it
            dense = f"{pooling.dense_name(self.module)}."
            head += [n for n, _ in self.module.named_parameters() if n.startswith(dense)]
        return list(dict.fromkeys(head))

    def head_block(self) -> list[str]:
        """Return the names of the modules of the head, and of a pooler as new as it."""
        if self.form.head in VOCABULARY:
            return []
        return structure.modules_of(self.module, self._head_parameters())

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return what the last linear layer sees of each row, (batch, width).

        Raises BackboneError for a task with an output for each token.
        """
        if self.form.head != "row":
            raise BackboneError(
                "This task has an output for each token, and no features of a row that a linear "
                "head could be fitted on. Take method=full from a random head, or method=lora."
            )
        if self.pooling == "mean":
            states = self._states(inputs)
            return pooling.pooled(self.module, states, _mask(inputs))
        seen: list[Tensor] = []
        head = self.module.get_submodule(self.head()[0])
        hook = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            self.module(**inputs)
        finally:
            hook.remove()
        if seen[0].ndim == 2:
            return seen[0]
        # A decoder's head runs on every token; this is how it then tells which one counts.
        return _last(seen[0], inputs["input_ids"] != self._model.config.pad_token_id)

    def embeddings(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the pooled last hidden states of each row, (batch, width): sentence embeddings."""
        states = self._states(inputs)
        if self.embedding == "cls":
            return states[:, 0]
        if self.embedding == "last":
            return _last(states, _mask(inputs))
        return pooling.mean(states, _mask(inputs))

    def _states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the last hidden states, of the encoder where there is one apart."""
        base = self._model.base_model
        if self._model.config.is_encoder_decoder:
            base = base.get_encoder()
        states: Tensor = base(**inputs)[0]
        return states

    def set_head(self, weight: Tensor, bias: Tensor) -> None:
        """Copy a linear map (outputs, width), (outputs,) into the last linear layer.

        Raises BackboneError where that has no bias, and `bias` is not 0.
        """
        import torch

        head = self._linear_head()
        if head.bias is None and bool(bias.abs().max() > 0):
            raise BackboneError(
                f"The head of {self.origin['name']!r} has no bias, as is usual for decoders, so "
                "its outputs cannot be brought to the scale of the values. Take an encoder, such "
                "as backbone=minilm, for this task."
            )
        if self.pooling == "mean":
            pooling.grow(self.module)
            self.pooling = "native"
        with torch.no_grad():
            head.weight.copy_(weight)
            if head.bias is not None:
                head.bias.copy_(bias)

    def get_head(self) -> tuple[Tensor, Tensor]:
        """Return the last linear layer as a linear map (outputs, width), (outputs,)."""
        head = self._linear_head()
        weight = head.weight.detach()
        bias = weight.new_zeros(len(weight)) if head.bias is None else head.bias.detach()
        return weight, bias

    def _linear_head(self) -> Any:
        names = self.head()
        if self.form.head != "row" or not names:
            raise BackboneError(
                "This task's head is not a linear map of the features of a row, so no linear head "
                "can be written into it. Take method=full or method=lora."
            )
        return self.module.get_submodule(names[0])

    def generate(
        self,
        inputs: Mapping[str, Tensor],
        max_new_tokens: int,
        num_beams: int = 1,
        module: nn.Module | None = None,
    ) -> Tensor:
        """Return the token ids that follow, (batch, new), the prompt left out.

        Deterministic: greedy, or beam search with more than one beam. `module` stands for the
        network's own where an average of its weights is validated.
        """
        from finetune.backbones.vocabulary import whole

        model: Any = self.module if module is None else module
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        start = 1  # the token that a decoder begins with
        if not model.config.is_encoder_decoder:
            given = _padded_left(given)  # what follows the prompt must follow its last token
            start = given["input_ids"].shape[1]
        with whole(model):
            ids: Tensor = model.generate(
                **given,
                max_new_tokens=max_new_tokens,
                num_beams=num_beams,
                do_sample=False,
                use_cache=True,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        return ids[:, start:]

    def checkpoint_activations(self) -> None:
        """Recompute activations in the backward pass; BackboneError where the model cannot."""
        try:
            self._model.activation_checkpointing_enable({"use_reentrant": False})
        except ValueError as error:
            raise BackboneError(
                "This transformers model cannot recompute its activations: leave out "
                "train.gradient_checkpointing, and lower train.micro_batch_size instead."
            ) from error

    @property
    def reloader(self) -> Path:
        """The script that loads a saved model with transformers alone."""
        return Path(__file__).with_name("reload_transformers.py")

    def lora_targets(self) -> str:
        """Return the pattern for this family's queries and values, else for every linear layer."""
        return structure.lora_targets(self.module, self.head())

    def tune_for(self, device: torch.device, precision: str) -> list[str]:
        """Choose the way of attention that is quickest here; return what was chosen."""
        self._attention = self._model.config._attn_implementation
        if device.type != "cpu" or self._attention == "eager":
            return ["fused attention"] if self._attention == "sdpa" else []
        # Fused attention is slower than plain attention in training on CPUs.
        self._model.set_attn_implementation("eager")
        return ["plain attention"]

    def save(
        self, folder: Path, classes: tuple[str, ...] | None, problem_type: str | None = None
    ) -> None:
        """Write configuration, weights, tokenizer and labels as transformers reads them.

        Leaves the module as a fresh process will have it.
        """
        from finetune.backbones.vocabulary import whole

        self.module = getattr(self.module, "_orig_mod", self.module)  # out of torch.compile
        model = self._model
        if self._attention is not None:
            model.set_attn_implementation(self._attention)
        for name, value in self.restored.items():
            setattr(model.config, name, value)
        if classes is not None and self.form.head not in VOCABULARY:
            model.config.id2label = dict(enumerate(classes))
            model.config.label2id = {name: i for i, name in enumerate(classes)}
        if problem_type is not None:
            # Tells pipelines whether to apply softmax, sigmoid or nothing.
            model.config.problem_type = problem_type
        with whole(model), quiet():
            model.save_pretrained(str(folder))
        self.tokenizer.save_pretrained(str(folder))
        _tidy(folder)


def _mask(inputs: Mapping[str, Tensor]) -> Tensor:
    mask = inputs.get("attention_mask")
    return inputs["input_ids"].new_ones(inputs["input_ids"].shape) if mask is None else mask


def _last(states: Tensor, real: Tensor) -> Tensor:
    """Return the states of the last real token, (batch, width)."""
    import torch

    last = (torch.arange(states.shape[1], device=states.device) * real).argmax(1)
    return states[torch.arange(len(states), device=states.device), last]


def _padded_left(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ids and mask (batch, tokens) with the padding moved from the end to the beginning."""
    order = given["attention_mask"].long().argsort(dim=1, stable=True)
    return {name: tensor.gather(1, order) for name, tensor in given.items()}


def _tidy(folder: Path) -> None:
    """Leave out what says how and where the model was loaded here, and let others read the rest."""
    path = folder / "tokenizer_config.json"
    saved = json.loads(path.read_text("utf-8"))
    for name in ("is_local", "local_files_only", "name_or_path"):
        saved.pop(name, None)
    path.write_text(json.dumps(saved, indent=2, ensure_ascii=False) + "\n", "utf-8")
    mode = (folder / CONFIG).stat().st_mode & 0o777
    for file in folder.glob("*.safetensors"):  # which only their owner reads, left to themselves
        file.chmod(mode)
