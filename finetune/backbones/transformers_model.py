"""A transformers model put together: configuration, tokenizer, weights, and a head that fits."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.backbones import transformers_pooling as pooling
from finetune.backbones import transformers_structure as structure
from finetune.backbones import vocabulary
from finetune.backbones.quiet import quiet
from finetune.backbones.timm_source import CONFIG, WEIGHTS
from finetune.backbones.transformers_network import VOCABULARY, TransformersNetwork
from finetune.backbones.transformers_source import Source
from finetune.errors import BackboneError, nearest
from finetune.protocols import Form

if TYPE_CHECKING:
    from torch import nn

    from finetune.backbones.transformers import Transformers

AUTO = {
    "row": "ForSequenceClassification",
    "token": "ForTokenClassification",
    "span": "ForQuestionAnswering",
    "generate": "ForSeq2SeqLM",
    "continue": "ForCausalLM",
}
"""The ending of the auto class for each form of head."""

BY_TASK = ("num_labels", "id2label", "label2id", "problem_type", "architectures")
"""Fields of a configuration that are not for `backbone.args`."""

DROPOUTS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "pooler_dropout", "classifier_dropout",
    "dropout", "attention_dropout", "activation_dropout", "seq_classif_dropout", "qa_dropout",
    "resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout", "dropout_rate",
    "hidden_dropout", "embedding_dropout", "mlp_dropout",
)  # fmt: skip
"""What the families call their rates of dropout."""

LONGEST = 1024
"""Tokens of a sample by default, where the model would take more."""

VOCABULARIES = ("token*", "vocab*", "merges*", "spiece*", "*.model", "*.spm", "bpe*")
"""What the files of a tokenizer are called; the first alone is enough for most."""

REFUSALS = (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError, ImportError)
"""What transformers raises for models that it cannot make."""


def assembled(
    value: Transformers,
    source: Source,
    num_outputs: int,
    classes: tuple[str, ...] | None,
    form: Form,
) -> TransformersNetwork:
    """Return the model that `value` describes; BackboneError where it cannot be made."""
    from finetune.texts.inputs import TextInputs

    with quiet():
        restored: dict[str, Any] = {}
        config = _config(value, source, num_outputs, classes, form, restored)
        tokenizer = _tokenizer(value, source)
        module, fresh = _module(value, source, config, form)
        if form.head not in VOCABULARY:
            kept = _settle_head(value, source, module, fresh, num_outputs, classes, form)
            # Heads of decoders look for padding; embeddings that exist already stay as they are.
            made: Any = module
            made.config.pad_token_id = tokenizer.pad_token_id
            tokenizer.padding_side = "right"
        else:
            vocabulary.stop_before_head(module)
            generation: Any = module.generation_config
            if generation.pad_token_id is None:
                generation.pad_token_id = tokenizer.pad_token_id
            kept = True
    tokenizer.model_max_length = _max_length(value, module, tokenizer)
    start = _decoder_start(value, module) if form.head == "generate" else None
    if getattr(form.reading, "packed", False):
        vocabulary.check_packing(module, value.public_name)
    network = TransformersNetwork(
        module,
        TextInputs(tokenizer, form.reading, tokenizer.model_max_length, start),
        tokenizer,
        form,
        num_outputs,
        source.origin,
        frozenset(fresh),
        frozenset(_constants(module)),
        head_is_pretrained=kept and source.weights is not None,
        restored=restored,
    )
    _settle_pooling(network, value.pooling, source, kept=kept)
    return network


def _config(
    value: Transformers,
    source: Source,
    num_outputs: int,
    classes: tuple[str, ...] | None,
    form: Form,
    restored: dict[str, Any],
) -> Any:
    """Return the configuration; into `restored` goes what training alone wants otherwise."""
    from transformers import AutoConfig

    fields: dict[str, Any] = {}
    if form.head not in VOCABULARY:
        names = classes or tuple(f"LABEL_{i}" for i in range(num_outputs))
        fields["id2label"] = dict(enumerate(names))
        fields["label2id"] = {name: i for i, name in enumerate(names)}
    if reserved := [name for name in value.args if name in BY_TASK]:
        raise BackboneError(f"backbone.args.{reserved[0]} is for the task to say: leave it out.")
    try:
        config, unused = AutoConfig.from_pretrained(
            source.folder,
            return_unused_kwargs=True,
            trust_remote_code=value.trust_remote_code,
            **fields,
            **value.args,
        )
    except REFUSALS as error:
        raise _refused(value, error) from error
    if unused:
        name, known = next(iter(unused)), config.to_dict()
        raise BackboneError(
            f"backbone.args.{name} is not a field of {type(config).__name__}."
            f"{nearest(name, known)} Its fields: {', '.join(known)}."
        )
    changes: dict[str, Any] = {"use_cache": False} if getattr(config, "use_cache", False) else {}
    if value.dropout is not None:
        rates = {name: getattr(config, name, None) for name in DROPOUTS}
        changes |= {name: value.dropout for name, rate in rates.items() if rate is not None}
    for name, wanted in changes.items():
        restored[name] = getattr(config, name)
        setattr(config, name, wanted)
    return config


def _tokenizer(value: Transformers, source: Source) -> Any:
    """Return the tokenizer, which can pad."""
    from transformers import AutoTokenizer

    try:
        if not any(any(source.folder.glob(name)) for name in VOCABULARIES):
            # transformers would make one up that knows no words.
            raise ValueError(f"{source.folder} has none")
        tokenizer = AutoTokenizer.from_pretrained(
            source.folder, trust_remote_code=value.trust_remote_code
        )
    except REFUSALS as error:
        raise BackboneError(
            f"The tokenizer of {value.public_name!r} cannot be had: {_reason(error)}. A model's "
            "folder holds its tokenizer too; `AutoTokenizer.from_pretrained(...)"
            ".save_pretrained(FOLDER)` writes it."
        ) from error
    if tokenizer.pad_token is None:
        # Decoders were trained without padding; any token will do where nothing looks at it.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise BackboneError(
            f"The tokenizer of {value.public_name!r} has no token to pad with, and no end of text "
            "or unknown token to stand in for it."
        )
    return tokenizer


def _module(
    value: Transformers, source: Source, config: Any, form: Form
) -> tuple[nn.Module, set[str]]:
    """Return the model, and the names of parameters that there were no weights for."""
    import torch
    import transformers

    auto = getattr(transformers, f"AutoModel{AUTO[form.head]}")
    if type(config) not in auto._model_mapping and not value.trust_remote_code:
        forms = {
            AUTO[head]
            for head in AUTO
            if type(config) in getattr(transformers, f"AutoModel{AUTO[head]}")._model_mapping
        }
        raise BackboneError(
            f"{value.public_name!r} is of the family {config.model_type}, which has no model "
            f"{AUTO[form.head]} in transformers, as this task needs. It has: "
            f"{', '.join(sorted(forms)) or 'none of those used here'}. Take another backbone."
        )
    common: dict[str, Any] = {"trust_remote_code": value.trust_remote_code, "dtype": torch.float32}
    try:
        if source.weights is None:
            return auto.from_config(config, **common), set()
        if value.quantization == "4bit":
            common |= _four_bit(form)
        with _folder(source) as folder:
            module, info = auto.from_pretrained(
                folder,
                config=config,
                output_loading_info=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                local_files_only=True,
                **common,
            )
    except REFUSALS as error:
        raise _refused(value, error) from error
    unfit = {name if isinstance(name, str) else name[0] for name in info["mismatched_keys"]}
    fresh = {*info["missing_keys"], *unfit}
    _check_body(value, module, fresh, form)
    return module, fresh


@contextmanager
def _folder(source: Source) -> Iterator[Path]:
    """Yield a folder with the configuration and the weights; the latter may lie elsewhere."""
    if source.weights is None or source.weights.is_dir():
        yield source.weights or source.folder
        return
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / CONFIG).symlink_to((source.folder / CONFIG).resolve())
        (Path(scratch) / WEIGHTS).symlink_to(source.weights.resolve())
        yield Path(scratch)


def _four_bit(form: Form) -> dict[str, Any]:
    """Return what loads frozen weights in 4 bits; BackboneError where this machine cannot."""
    import importlib.util

    import torch

    if importlib.util.find_spec("bitsandbytes") is None:
        raise BackboneError(
            "backbone.quantization=4bit needs the package bitsandbytes. Install it with: "
            "pip install 'finetune[bitsandbytes]'"
        )
    if not torch.cuda.is_available():
        raise BackboneError(
            "backbone.quantization=4bit needs a GPU, and there is none here. Leave it out: "
            "method=lora alone trains few weights."
        )
    from transformers import BitsAndBytesConfig

    plan = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=[
            "classifier", "pre_classifier", "classification_head", "score", "pooler",
            "qa_outputs", "lm_head", "embed_out",
        ],
    )  # fmt: skip
    return {"quantization_config": plan, "device_map": {"": torch.cuda.current_device()}}


def _check_body(value: Transformers, module: nn.Module, fresh: set[str], form: Form) -> None:
    """Raise BackboneError if the weights lack a tensor of the pretrained part."""
    names = [name for name, _ in module.named_parameters()]
    allowed = set() if form.head in VOCABULARY else {*structure.head_parameters(module, fresh)}
    missing = [name for name in names if name in fresh and name not in allowed]
    missing = [name for name in missing if form.head in VOCABULARY or "pooler" not in name]
    if missing:
        raise BackboneError(
            f"The weights of {value.public_name!r} have no {missing[0]!r} that fits, and lack "
            f"{len(missing)} of the {len(names)} tensors of {type(module).__name__} in all: they "
            "are of another model. Check backbone.name, backbone.weights and backbone.args."
        )


def _settle_head(
    value: Transformers,
    source: Source,
    module: nn.Module,
    fresh: set[str],
    num_outputs: int,
    classes: tuple[str, ...] | None,
    form: Form,
) -> bool:
    """Keep the head that was loaded, or make it as fresh as one that was not; return whether kept.

    Raises BackboneError if it should be kept and does not fit.
    """
    head = structure.head_parameters(module, fresh)
    loaded = source.weights is not None and not fresh & set(head)
    if value.head == "keep":
        if not loaded:
            raise BackboneError(
                f"backbone.head=keep: {value.public_name!r} has no head {AUTO[form.head]} with "
                f"{num_outputs} outputs. Leave it out to get a fresh head."
            )
        return True
    names = {int(index): name for index, name in source.config.get("id2label", {}).items()}
    same = form.head == "span" or (
        classes is not None and tuple(names[index] for index in sorted(names)) == classes
    )
    if value.head == "auto" and loaded and same:
        return True
    if source.weights is not None:
        _make_fresh(module, [name for name in head if name not in fresh])
        fresh |= set(head)
    return False


def _make_fresh(module: Any, names: list[str]) -> None:
    """Draw these parameters again, as the library does where there are no weights."""
    import torch

    parts = dict.fromkeys(name.rpartition(".")[0] for name in names)
    with torch.no_grad():
        for name in parts:
            part = module.get_submodule(name)
            for parameter in part.parameters(recurse=False):
                parameter._is_hf_initialized = False
            module._init_weights(part)


def _decoder_start(value: Transformers, module: Any) -> int:
    """Return the token that a decoder begins with; BackboneError where the model names none."""
    config, generation = module.config, module.generation_config
    known = config.decoder_start_token_id, generation.decoder_start_token_id
    for token in (*known, getattr(config, "bos_token_id", None)):
        if token is not None:
            return int(token)
    raise BackboneError(
        f"{value.public_name!r} does not say which token its decoder begins with. Give its number: "
        "backbone.args.decoder_start_token_id=NUMBER."
    )


def _constants(module: nn.Module) -> list[str]:
    """Return the names of the parameters that never learn: sines of positions."""
    return [
        f"{name}.{inner}"
        for name, part in module.named_modules()
        if "Sinusoidal" in type(part).__name__
        for inner, _ in part.named_parameters(recurse=False)
    ]


def _max_length(value: Transformers, module: Any, tokenizer: Any) -> int:
    """Return how many tokens a sample has at most; BackboneError for more than the model takes."""
    from torch import nn

    limit = getattr(module.config.get_text_config(), "max_position_embeddings", None)
    for name, part in module.named_modules():
        # RoBERTa counts positions from behind the padding's.
        if isinstance(part, nn.Embedding) and name.endswith("position_embeddings"):
            limit = part.num_embeddings - (0 if part.padding_idx is None else part.padding_idx + 1)
    limit = None if limit is not None and limit < 1 else limit  # XLNet's -1 is no limit
    if value.max_length is not None:
        if limit and value.max_length > limit:
            raise BackboneError(
                f"backbone.max_length={value.max_length}, but {value.public_name!r} takes {limit} "
                f"tokens at most. Allowed: 1 to {limit}."
            )
        return value.max_length
    return int(min(limit or LONGEST, tokenizer.model_max_length, LONGEST))


def _settle_pooling(
    network: TransformersNetwork, asked: str, source: Source, *, kept: bool
) -> None:
    """Say what a linear head and an embedding read, and build asked-for mean pooling in."""
    from transformers import AutoModelForMaskedLM

    config: Any = network.module.config
    decoder = not config.is_encoder_decoder
    decoder &= type(config) not in AutoModelForMaskedLM._model_mapping
    native = "last" if decoder or config.is_encoder_decoder else "cls"
    network.embedding = asked
    if asked == "auto":
        network.embedding = source.pooling or ("last" if decoder else "mean")
    if network.form.head != "row" or kept:
        return
    possible = pooling.possible(network.module)
    if asked == "auto" and source.pooling == "mean" and possible:
        network.pooling = "mean"
    elif asked == "mean" and possible:
        pooling.grow(network.module)
    elif asked not in ("auto", native):
        network.refusal = (
            f"The head of {source.origin['name']!r} cannot read backbone.pooling={asked}: it is "
            f"made for {native}. Leave backbone.pooling out."
        )


def _refused(value: Transformers, error: Exception) -> BackboneError:
    reason = _reason(error)
    if "trust_remote_code" in reason:
        return BackboneError(
            f"{value.public_name!r} comes with Python code of its own, which is not run unasked. "
            "If you trust its authors: backbone.trust_remote_code=true"
        )
    return BackboneError(f"transformers cannot build {value.public_name!r}: {reason}")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()[:60]).rstrip(".")
