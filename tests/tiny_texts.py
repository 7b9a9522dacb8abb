"""Tiny random language models of the usual families, as folders in transformers' own form."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch

SENTENCES = (
    "a warm and funny film with a wonderful heart .",
    "the plot is dull and the jokes are tired .",
    "Anna Berg met Tom Lee in Berlin on Monday morning .",
    "she said that the old bridge over the river would open again in May .",
    "wonderful acting , a moving story and great music !",
    "an awful , boring mess from the first scene to the last .",
    "The quick brown fox jumps over the lazy dog ; the dog does not care .",
    "Zwei Männer stehen vor einem großen grünen Haus und sprechen über das Wetter .",
    "two men stand in front of a large green house and talk about the weather .",
    "Where does the train to Geneva leave ? It leaves from platform 7 at 10:45 .",
    "what is the capital of France ? the capital of France is Paris .",
    "please reset my password , I cannot log in to my account .",
    "my card was charged twice for one order ; I would like the money back .",
    "a great cast cannot save this bad and tired script .",
    "Ein kleines Mädchen spielt mit einem gelben Ball im Schnee .",
    "a little girl plays with a yellow ball in the snow .",
)
"""What the tokenizers are trained on; every byte or letter of other texts has a token too."""

FAMILIES = (
    "bert", "distilbert", "roberta", "deberta", "gpt2", "llama", "t5", "bart", "marian",
)  # fmt: skip
ENCODERS = FAMILIES[:4]
DECODERS = ("gpt2", "llama")
ENCODER_DECODERS = ("t5", "bart", "marian")

WIDTH, LENGTH = 16, 128
CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""A chat template in the usual form; `chat=False` leaves a tokenizer without one."""


@cache
def tokenizer_json(family: str) -> str:
    """Return a trained tokenizer of the family's kind, as the tokenizers library writes it."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers import trainers as train

    kind, special = _SPECIAL[family]
    trainer: Any
    if kind == "wordpiece":
        own = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        own.normalizer = normalizers.BertNormalizer(lowercase=True)
        own.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        own.decoder = decoders.WordPiece()
        trainer = train.WordPieceTrainer(
            vocab_size=400, special_tokens=special, show_progress=False
        )
    elif kind == "bytes":
        own = Tokenizer(models.BPE())
        own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        own.decoder = decoders.ByteLevel()
        trainer = train.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    else:
        own = Tokenizer(models.Unigram())
        own.pre_tokenizer = pre_tokenizers.Metaspace()
        own.decoder = decoders.Metaspace()
        trainer = train.UnigramTrainer(
            vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    own.train_from_iterator(SENTENCES, trainer)
    if family in _TEMPLATES:
        single, pair = _TEMPLATES[family]
        named = [(token, own.token_to_id(token)) for token in special if token in single + pair]
        own.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=named
        )
    return str(own.to_str())


def tokenizer(family: str = "bert", *, chat: bool = False) -> Any:
    """Return a fast tokenizer of transformers with the family's special tokens."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    types = ["token_type_ids"] if family in ("bert", "deberta") else []
    own = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer_json(family)),
        model_max_length=LENGTH,
        model_input_names=["input_ids", *types, "attention_mask"],
        **_NAMED[family],
    )
    if chat:
        own.chat_template = CHAT
    return own


def config(family: str = "bert", **changes: Any) -> Any:
    """Return a configuration of two layers of width 16, for the family's own tokenizer."""
    from transformers import AutoConfig

    words = tokenizer(family)
    fields: dict[str, Any] = {"vocab_size": len(words)}
    fields |= {"pad_token_id": words.pad_token_id} if words.pad_token_id is not None else {}
    plain = {
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": LENGTH + 4,
    }
    halves = {
        "d_model": WIDTH,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_position_embeddings": LENGTH + 4,
        "forced_eos_token_id": None,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "decoder_start_token_id": words.pad_token_id,
    }
    by_family = {
        "bert": plain,
        "roberta": plain | {"bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1},
        "deberta": plain
        | {
            "relative_attention": True,
            "position_buckets": 8,
            "pos_att_type": ["p2c", "c2p"],
            "type_vocab_size": 2,
        },
        "distilbert": {
            "dim": WIDTH,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": 32,
            "max_position_embeddings": LENGTH + 4,
        },
        "gpt2": {
            "n_embd": WIDTH,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": LENGTH,
            "bos_token_id": words.eos_token_id,
            "eos_token_id": words.eos_token_id,
        },
        "llama": plain
        | {
            "num_key_value_heads": 1,
            "bos_token_id": words.bos_token_id,
            "eos_token_id": words.eos_token_id,
        },
        "t5": {
            "d_model": WIDTH,
            "d_kv": 8,
            "d_ff": 32,
            "num_layers": 2,
            "num_heads": 2,
            "decoder_start_token_id": words.pad_token_id,
            "eos_token_id": words.eos_token_id,
        },
        "bart": halves,
        "marian": halves,
    }
    kind = {"deberta": "deberta-v2"}.get(family, family)
    return AutoConfig.for_model(kind, **(fields | by_family[family] | changes))


def folder(
    path: Path,
    family: str = "bert",
    *,
    head: str | None = None,
    seed: int = 0,
    chat: bool = False,
    **changes: Any,
) -> Path:
    """Return `path`/`family`: a tiny random model with its tokenizer, saved as a library would.

    `head` is the name of an auto class, such as "AutoModelForSequenceClassification"; if not given,
    the model is as it is pretrained (encoders bare, decoders with the vocabulary's head). `changes`
    go into the configuration.
    """
    import transformers

    named = (
        head
        or {
            **dict.fromkeys(ENCODERS, "AutoModel"),
            **dict.fromkeys(DECODERS, "AutoModelForCausalLM"),
            **dict.fromkeys(ENCODER_DECODERS, "AutoModelForSeq2SeqLM"),
        }[family]
    )
    place = path / family
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, named).from_config(config(family, **changes))
    model.save_pretrained(place)
    tokenizer(family, chat=chat).save_pretrained(place)
    return place


_BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_SPECIAL: dict[str, tuple[str, list[str]]] = {
    **dict.fromkeys(("bert", "distilbert", "deberta"), ("wordpiece", _BERT)),
    **dict.fromkeys(("roberta", "bart"), ("bytes", _ROBERTA)),
    "gpt2": ("bytes", ["<|endoftext|>"]),
    "llama": ("bytes", ["<unk>", "<s>", "</s>"]),
    "t5": ("unigram", ["<pad>", "</s>", "<unk>"]),
    "marian": ("unigram", ["</s>", "<unk>", "<pad>"]),
}
_TEMPLATES = {
    **dict.fromkeys(
        ("bert", "distilbert", "deberta"),
        ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    ),
    **dict.fromkeys(("roberta", "bart"), ("<s> $A </s>", "<s> $A </s> </s> $B </s>")),
    "llama": ("<s> $A", "<s> $A <s> $B"),
    "t5": ("$A </s>", "$A </s> $B </s>"),
    "marian": ("$A </s>", "$A </s> $B </s>"),
}
_BERT_NAMED = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_T5_NAMED = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
_ROBERTA_NAMED = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
    **_T5_NAMED,
}
_NAMED = {
    "bert": _BERT_NAMED,
    "distilbert": _BERT_NAMED,
    "deberta": _BERT_NAMED,
    "roberta": _ROBERTA_NAMED,
    "bart": _ROBERTA_NAMED,
    "gpt2": {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"},
    "llama": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "t5": _T5_NAMED,
    "marian": _T5_NAMED,
}
