"""Language models as backbones: one contract over the families, and what is refused."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_texts
import torch
import transformers
from tiny_texts import DECODERS, FAMILIES, SENTENCES

from finetune import loading
from finetune.backbones import Transformers, transformers_pooling
from finetune.errors import BackboneError
from finetune.protocols import Form
from finetune.texts.reading import Texts

CLASSES = ("bad", "fair", "good")
ROWS = [*SENTENCES[:3], "short"]
ROW, TOKEN, SPAN, GENERATE, CONTINUE = (
    Form(head, Texts()) for head in ("row", "token", "span", "generate", "continue")
)
CLASSIFIERS = tuple(family for family in FAMILIES if family != "marian")
LORA = {
    "bert": r".*\.(query|value)",
    "distilbert": r".*\.[qv]_lin",
    "roberta": r".*\.(query|value)",
    "deberta": r".*\.(query|value)_proj",
    "gpt2": r".*\.(query_key_value|qkv_proj|Wqkv|in_proj_qkv|c_attn)",
    "llama": r".*\.[qv]_proj",
    "t5": r".*\.[qv]",
    "bart": r".*\.[qv]_proj",
    "marian": r".*\.[qv]_proj",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {family: tiny_texts.folder(place, family) for family in FAMILIES}


def network(folder: Path, form: Form = ROW, outputs: int = 3, **fields: Any) -> Any:
    torch.manual_seed(0)
    classes = CLASSES if form is ROW and outputs == 3 else None
    built: Any = Transformers(name=str(folder), **fields).build(outputs, classes, form)
    built.module.eval()
    return built


def encoded(built: Any, texts: list[str] = ROWS) -> dict[str, torch.Tensor]:
    return dict(built.tokenizer(texts, padding=True, return_tensors="pt"))


def logits(built: Any, texts: list[str] = ROWS) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = built.outputs(built.module(**encoded(built, texts)))
    return found


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_the_contract_for_rows(models: dict[str, Path], family: str) -> None:
    built = network(models[family])
    assert logits(built).shape == (4, 3)
    names = [name for name, _ in built.module.named_parameters()]
    layers = built.layers()
    assert sorted(name for layer in layers for name in layer) == sorted(names)
    assert "embed" in layers[0][0] or "shared" in layers[0][0] or "wte" in layers[0][0]
    assert len(layers) == {"bert": 5, "t5": 6, "bart": 6}.get(family, 4)
    assert {f"{name}.weight" for name in built.head()} <= set(layers[-1])
    assert built.lora_targets() == LORA[family]

    weight, bias = torch.randn(3, tiny_texts.WIDTH), torch.randn(3)
    bias *= family not in DECODERS
    built.set_head(weight, bias)
    assert all(torch.equal(a, b) for a, b in zip(built.get_head(), (weight, bias), strict=True))
    with torch.inference_mode():
        features = built.features(encoded(built))
    torch.testing.assert_close(features @ weight.T + bias, logits(built), atol=1e-5, rtol=1e-5)
    if family in DECODERS:
        with pytest.raises(BackboneError, match=r"has no bias.*backbone=minilm"):
            built.set_head(weight, bias + 1)


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_a_row_does_not_depend_on_its_neighbours(models: dict[str, Path], family: str) -> None:
    built = network(models[family])
    together = logits(built)
    alone = torch.cat([logits(built, [text]) for text in ROWS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("form", "outputs", "families"),
    [
        (TOKEN, 5, ("bert", "distilbert", "roberta", "deberta", "gpt2", "llama", "t5")),
        (SPAN, 2, ("bert", "distilbert", "roberta", "deberta", "gpt2", "t5", "bart")),
    ],
)
def test_heads_with_outputs_for_each_token(
    models: dict[str, Path], form: Form, outputs: int, families: tuple[str, ...]
) -> None:
    for family in families:
        built = network(models[family], form, outputs)
        length = encoded(built)["input_ids"].shape[1]
        assert logits(built).shape == (4, length, outputs)
        assert len(built.head()) == 1
        with pytest.raises(BackboneError, match="an output for each token"):
            built.features(encoded(built))


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_what_is_saved_is_read_by_a_pipeline_in_a_fresh_process(
    models: dict[str, Path], family: str, tmp_path: Path
) -> None:
    built = network(models[family])
    chosen = built.tune_for(torch.device("cpu"), "no")
    assert chosen == ([] if family == "deberta" else ["plain attention"])
    built.save(tmp_path / "model", CLASSES, "single_label_classification")
    for file in ("model.safetensors", "config.json", "tokenizer_config.json"):
        assert stat.S_IMODE((tmp_path / "model" / file).stat().st_mode) & 0o044
    text = "".join(p.read_text() for p in (tmp_path / "model").glob("*.json"))
    assert str(models[family]) not in text
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["problem_type"] == "single_label_classification"
    assert [config["id2label"][str(i)] for i in range(3)] == list(CLASSES)

    again: Any = Transformers(name="x").saved(tmp_path / "model").build(3, CLASSES, ROW)
    again.module.eval()
    torch.testing.assert_close(logits(again), logits(built), atol=1e-6, rtol=1e-6)
    if family in ("bert", "gpt2", "t5"):
        rows = [{"text": text} for text in ROWS]
        told = reloaded(built, tmp_path, rows)
        assert told.keys() == {"AutoModelForSequenceClassification", "pipeline"}
        for answer in told.values():
            assert answer["labels"] == list(CLASSES)
            found = torch.tensor(answer["logits"])
            torch.testing.assert_close(found, logits(built), atol=1e-5, rtol=1e-5)


def reloaded(built: Any, tmp_path: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    command = [sys.executable, "-P", built.reloader, tmp_path / "model", tmp_path / "rows.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize(
    ("family", "form", "outputs"),
    [("bert", TOKEN, 5), ("bert", SPAN, 2), ("t5", GENERATE, 1), ("gpt2", CONTINUE, 1)],
)
def test_other_heads_are_read_in_a_fresh_process(
    models: dict[str, Path], family: str, form: Form, outputs: int, tmp_path: Path
) -> None:
    built = network(models[family], form, outputs)
    tags = tuple("ABCDE") if form is TOKEN else None
    built.save(tmp_path / "model", tags)
    inputs = encoded(built, ROWS[:1])
    if form is GENERATE:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    with torch.inference_mode():
        found = built.outputs(built.module(**inputs))
        wanted = found[0] if isinstance(found, torch.Tensor) else found.last()[0]
    rows = [{"text": ROWS[0], "inputs": {name: t.tolist() for name, t in inputs.items()}}]
    told = reloaded(built, tmp_path, rows)
    assert ("pipeline" in told) is (form in (TOKEN, CONTINUE))
    for answer in told.values():
        assert tags is None or answer["labels"] == list(tags)
        close = torch.tensor(answer["logits"][0])
        torch.testing.assert_close(close, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_mean_pooling_is_native(models: dict[str, Path], family: str, tmp_path: Path) -> None:
    sentence_encoder(models[family], tmp_path / family)
    built = network(tmp_path / family)
    assert built.pooling == "mean" and built.embedding == "mean"
    inputs = encoded(built)
    with torch.inference_mode():
        features = built.features(inputs)
    weight, bias = torch.randn(3, tiny_texts.WIDTH), torch.randn(3)
    wanted = features @ weight.T + bias
    before = len(built.layers())
    built.set_head(weight, bias)
    assert len(built.layers()) == before + 1 + (family == "bert")
    torch.testing.assert_close(logits(built), wanted, atol=1e-4, rtol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(built.features(inputs), features, atol=1e-5, rtol=1e-5)
    built.save(tmp_path / "model", CLASSES)
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    with torch.inference_mode():
        torch.testing.assert_close(plain(**inputs).logits, wanted, atol=1e-4, rtol=1e-4)
    # The mean it is: of the hidden states, but for scale and a rest of the first token.
    with torch.inference_mode():
        mean = network(tmp_path / family).embeddings(inputs)
        pairs = zip(mean, features, strict=True)
        sames = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]
    assert min(sames) > 0.95


def sentence_encoder(folder: Path, place: Path) -> None:
    import shutil

    shutil.copytree(folder, place)
    (place / "1_Pooling").mkdir()
    (place / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')


def test_pooling_that_is_asked_for(models: dict[str, Path]) -> None:
    built = network(models["bert"], pooling="mean")
    assert built.module.config.num_hidden_layers == 3
    for family, pooling in (("gpt2", "mean"), ("bert", "last"), ("t5", "mean")):
        refused = network(models[family], pooling=pooling)
        with torch.inference_mode():
            assert refused.embeddings(encoded(refused)).shape == (4, tiny_texts.WIDTH)
        with pytest.raises(BackboneError, match=f"cannot read backbone.pooling={pooling}"):
            refused.layers()
    assert not transformers_pooling.possible(network(models["deberta"]).module)


def test_embeddings(models: dict[str, Path]) -> None:
    built = network(models["bert"])
    inputs = encoded(built)
    with torch.inference_mode():
        states = built.module.base_model(**inputs).last_hidden_state
        mean = torch.stack(
            [s[m.bool()].mean(0) for s, m in zip(states, inputs["attention_mask"], strict=True)]
        )
        torch.testing.assert_close(built.embeddings(inputs), mean)
        first = network(models["bert"], pooling="cls").embeddings(inputs)
        torch.testing.assert_close(first, states[:, 0])
        last = network(models["gpt2"]).embeddings(encoded(network(models["gpt2"])))
    assert last.shape == (4, tiny_texts.WIDTH)


@pytest.mark.parametrize("family", ["bert", "roberta", "t5", "gpt2"])
def test_a_head_is_kept_or_drawn_anew(models: dict[str, Path], family: str, tmp_path: Path) -> None:
    first = network(models[family])
    first.save(tmp_path / "model", CLASSES)

    def head(**fields: Any) -> torch.Tensor:
        outputs = fields.pop("outputs", 3)
        classes = fields.pop("classes", CLASSES)
        torch.manual_seed(1)
        built: Any = Transformers(name=str(tmp_path / "model"), **fields).build(
            outputs, classes, ROW
        )
        weight: torch.Tensor = built.get_head()[0]
        return weight

    own = first.get_head()[0]
    assert torch.equal(head(), own)
    assert torch.equal(head(head="keep", classes=("x", "y", "z")), own)
    assert not torch.equal(head(head="fresh"), own)
    assert not torch.equal(head(classes=("bad", "good", "fair")), own)
    assert head(outputs=2, classes=("bad", "good")).shape == (2, tiny_texts.WIDTH)
    assert torch.equal(head(head="fresh"), head(head="fresh"))
    with pytest.raises(BackboneError, match="has no head ForSequenceClassification with 2 outputs"):
        head(head="keep", outputs=2, classes=("bad", "good"))
    with pytest.raises(BackboneError, match="backbone.head=keep"):
        Transformers(name=str(models[family]), head="keep").build(3, CLASSES, ROW)


def test_weights_from_elsewhere(models: dict[str, Path], tmp_path: Path) -> None:
    other = tiny_texts.folder(tmp_path, "bert", seed=7)

    def embedding(**fields: Any) -> torch.Tensor:
        built = network(models["bert"], **fields)
        weight: torch.Tensor = built.module.bert.embeddings.word_embeddings.weight
        return weight.detach()

    theirs = embedding(weights=str(other))
    assert torch.equal(theirs, embedding(weights=str(other / "model.safetensors")))
    assert not torch.equal(theirs, embedding())
    assert not torch.equal(theirs, embedding(weights="none"))
    plain = Transformers(name=str(models["bert"])).without_weights()
    assert (plain.weights, plain.name) == ("none", str(models["bert"]))
    with torch.device("meta"):
        on_nothing: Any = plain.build(3, CLASSES, ROW)
    assert on_nothing.module.bert.embeddings.word_embeddings.weight.is_meta


def test_dropout_is_for_training_only(models: dict[str, Path], tmp_path: Path) -> None:
    built = network(models["bert"], dropout=0.0)
    rates = {m.p for m in built.module.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.0}
    built.save(tmp_path / "model", CLASSES)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["hidden_dropout_prob"] == config["attention_probs_dropout_prob"] == 0.1


def test_max_length(models: dict[str, Path], tmp_path: Path) -> None:
    roberta = network(models["roberta"])
    positions = roberta.module.config.max_position_embeddings
    assert roberta.tokenizer.model_max_length == tiny_texts.LENGTH
    assert network(models["bert"], max_length=9).tokenizer.model_max_length == 9
    limit = positions - roberta.tokenizer.pad_token_id - 1
    assert network(models["roberta"], max_length=limit).tokenizer.model_max_length == limit
    with pytest.raises(BackboneError, match=f"takes {limit} tokens at most. Allowed: 1 to {limit}"):
        network(models["roberta"], max_length=limit + 1)


def test_activations_are_recomputed(models: dict[str, Path]) -> None:
    for family in ("bert", "gpt2", "t5"):
        built = network(models[family], dropout=0.0)
        built.module.train()
        inputs = encoded(built)
        built.outputs(built.module(**inputs)).sum().backward()
        wanted = [p.grad.clone() for p in built.module.parameters() if p.grad is not None]
        built.module.zero_grad()
        built.checkpoint_activations()
        built.outputs(built.module(**inputs)).sum().backward()
        found = [p.grad for p in built.module.parameters() if p.grad is not None]
        torch.testing.assert_close(found, wanted)


def test_the_plain_texts_that_mean_a_language_model(models: dict[str, Path]) -> None:
    folder = str(models["bert"])
    for text in ("bert-base-uncased", "google-bert/bert-base-uncased", "minilm", "gpt2", folder):
        assert Transformers.from_text(text) == {"name": text}
    for text in ("resnet50.a1_in1k", "tiny-vit", "timm/resnet50", "hf-hub:me/mine", "./folder"):
        assert Transformers.from_text(text) is None
    assert Transformers(name=folder).public_name == "bert"
    assert Transformers(name="minilm").public_name == "sentence-transformers/all-MiniLM-L6-v2"


def test_what_cannot_be_built(models: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    pickled, bare = tmp_path / "pickled", tmp_path / "bare"
    shutil.copytree(models["bert"], pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    shutil.copytree(models["bert"], bare)
    for file in bare.glob("token*"):
        file.unlink()
    (tmp_path / "mine.pth").write_bytes(b"")
    bert = str(models["bert"])
    for fields, form, message in (
        ({"name": str(pickled)}, ROW, "pickle only, which is not read.*safetensors"),
        ({"name": str(tmp_path)}, ROW, "is not in transformers' form"),
        ({"name": str(tmp_path / "bear")}, ROW, r"does not exist\. Did you mean '.*/bare'\?"),
        ({"name": str(bare)}, ROW, "The tokenizer of 'bare' cannot be had"),
        ({"name": bert, "weights": str(tmp_path / "mine.pth")}, ROW, "pickled weights are not"),
        ({"name": bert, "weights": str(models["gpt2"])}, ROW, r"lack \d+ of the \d+ tensors"),
        ({"name": bert, "args": {"hidden_sizes": 3}}, ROW, "Did you mean 'hidden_size'"),
        ({"name": bert, "args": {"num_labels": 3}}, ROW, "is for the task to say"),
        ({"name": bert, "args": {"hidden_size": 17}}, ROW, "transformers cannot build 'bert'"),
        ({"name": bert}, GENERATE, "has no model ForSeq2SeqLM.* It has: ForCausalLM"),
        ({"name": bert}, Form(), "this task does not read texts.*backbone=tiny-vit"),
    ):
        with pytest.raises(BackboneError, match=message):
            Transformers(**fields).build(3, CLASSES, form)


def test_code_that_comes_with_a_model_is_not_run(models: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    place = tmp_path / "remote"
    shutil.copytree(models["bert"], place)
    config = json.loads((place / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine"}}
    (place / "config.json").write_text(json.dumps(config))
    (place / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(BackboneError, match="backbone.trust_remote_code=true"):
        network(place)
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="the message is for machines without a GPU")
def test_four_bits_without_what_they_need(models: dict[str, Path]) -> None:
    with pytest.raises(BackboneError, match="pip install bitsandbytes|needs a GPU"):
        network(models["llama"], CONTINUE, 1, quantization="4bit")


@pytest.mark.parametrize(
    ("task", "form", "outputs", "family"),
    [
        ("text-classification", ROW, 3, "bert"),
        ("multi-label-text-classification", ROW, 3, "roberta"),
        ("text-regression", ROW, 1, "distilbert"),
        ("token-classification", TOKEN, 5, "bert"),
        ("question-answering", SPAN, 2, "bert"),
        ("text-to-text", GENERATE, 1, "t5"),
        ("language-modeling", CONTINUE, 1, "gpt2"),
        ("chat", CONTINUE, 1, "llama"),
    ],
)
def test_the_examples_of_the_card_run(
    task: str, form: Form, outputs: int, family: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    built = network(tiny_texts.folder(tmp_path, family, chat=task == "chat"), form, outputs)
    built.save(tmp_path / "model", None)
    result = {"task": task, "method": "full", "data": {"classes": None}}
    shown = loading.text(result, {"library": "transformers"})
    code = shown.partition("```python\n")[2].partition("```")[0]
    exec(code.replace(loading.FOLDER, str(tmp_path / "model")), {})
    assert capsys.readouterr().out
