"""Language models in training: losses over a vocabulary, generation, adapters, and the hub."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_texts
import torch
from hub_server import NOWHERE, SHA, ask, served
from safetensors.torch import load_file
from tiny_texts import SENTENCES
from torch.nn import functional

from finetune.backbones import Transformers, transformers_source, vocabulary
from finetune.environment import accelerator
from finetune.errors import BackboneError, RecipeError
from finetune.methods import FeatureExtraction, Full, LoRA, NormBias
from finetune.methods.lora import adaptable
from finetune.protocols import Form
from finetune.texts.language import Continuation
from finetune.texts.reading import Texts

CLASSES = ("bad", "fair", "good")
ROWS = [*SENTENCES[:3], "short"]
ROW, GENERATE, CONTINUE = (Form(head, Texts()) for head in ("row", "generate", "continue"))
CAUSAL, SEQ2SEQ = ("gpt2", "llama"), ("t5", "bart", "marian")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {family: tiny_texts.folder(place, family) for family in tiny_texts.FAMILIES}


def network(folder: Path, form: Form = ROW, **fields: Any) -> Any:
    torch.manual_seed(0)
    classes = CLASSES if form is ROW else None
    built: Any = Transformers(name=str(folder), dropout=0.0, **fields).build(3, classes, form)
    built.module.eval()
    return built


def encoded(built: Any) -> dict[str, torch.Tensor]:
    return dict(built.tokenizer(ROWS, padding=True, return_tensors="pt"))


def language(folder: Path, family: str) -> tuple[Any, dict[str, torch.Tensor], torch.Tensor]:
    """Return a network, inputs, and for each place the token to predict there or -100."""
    built = network(folder, CONTINUE if family in CAUSAL else GENERATE)
    inputs = encoded(built)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    if family in CAUSAL:
        return built, inputs, functional.pad(labels[:, 1:], (0, 1), value=-100)
    start = torch.full_like(labels[:, :1], built.module.config.decoder_start_token_id)
    inputs["decoder_input_ids"] = torch.cat([start, inputs["input_ids"][:, :-1]], 1)
    return built, inputs, labels


@pytest.mark.parametrize("family", [*CAUSAL, *SEQ2SEQ])
def test_losses_in_chunks_are_the_plain_ones(
    models: dict[str, Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, inputs, labels = language(models[family], family)
    if family == "marian":
        built.module.final_logits_bias.normal_()
    with vocabulary.whole(built.module):
        plain = built.module(**inputs, use_cache=False).logits
    each = functional.cross_entropy(plain.transpose(1, 2), labels, reduction="none")
    wanted, weights = each.sum(1), torch.tensor([0.3, 2.0, 1.0, 0.5])
    (wanted * weights).sum().backward()
    learned = [name for layer in built.layers() for name in layer]
    gradients = {name: built.module.get_parameter(name).grad.clone() for name in learned}
    built.module.zero_grad()

    head, seen = built.module.get_output_embeddings(), []
    monkeypatch.setattr(vocabulary, "CHUNK", 5 * head.weight.shape[0])
    hidden = built.outputs(built.module(**inputs))
    hook = head.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[0]))
    losses, counts = hidden.losses(labels)
    (losses * weights).sum().backward()
    hook.remove()
    torch.testing.assert_close(losses, wanted, atol=1e-5, rtol=1e-5)
    assert counts.tolist() == (labels != -100).sum(1).tolist()
    for name in learned:
        found = built.module.get_parameter(name).grad
        torch.testing.assert_close(found, gradients[name], atol=1e-5, rtol=1e-5)
    assert len(list(built.module.parameters())) - len(learned) == 2 * (family == "marian")
    assert max(seen) == 5
    assert sum(seen) == 2 * int(counts.sum()), "each labelled token twice: forward and backward"
    torch.testing.assert_close(hidden.logits(), plain, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(hidden.last(), plain[:, -1], atol=1e-5, rtol=1e-5)


def test_labels_stand_in_for_what_a_decoder_reads(models: dict[str, Path]) -> None:
    built, inputs, labels = language(models["t5"], "t5")
    wanted = built.module(**inputs).states
    del inputs["decoder_input_ids"]
    found = built.module(**inputs, labels=labels).states
    real = labels != -100
    torch.testing.assert_close(found[real], wanted[real])


def test_softcapped_logits(models: dict[str, Path]) -> None:
    built, inputs, _ = language(models["gpt2"], "gpt2")
    before = built.module(**inputs).logits()
    built.module.config.final_logit_softcapping = 0.2
    after = built.module(**inputs).logits()
    torch.testing.assert_close(after, 0.2 * torch.tanh(before / 0.2))


def test_no_labelled_token_at_all(models: dict[str, Path]) -> None:
    built, inputs, labels = language(models["gpt2"], "gpt2")
    losses, counts = built.module(**inputs).losses(torch.full_like(labels, -100))
    assert losses.tolist() == counts.tolist() == [0, 0, 0, 0]
    losses.sum().backward()


def test_half_precision_and_copies(models: dict[str, Path]) -> None:
    built, inputs, labels = language(models["gpt2"], "gpt2")
    exact = built.module(**inputs).losses(labels)[0]
    twin = copy.deepcopy(built.module)
    assert twin(**inputs).model is twin
    prepared = accelerator("bf16").prepare(built.module)
    hidden = built.outputs(prepared(**inputs))
    assert hidden.dtype is torch.bfloat16
    losses = hidden.losses(labels)[0]
    assert losses.dtype is torch.float32
    torch.testing.assert_close(losses, exact, rtol=2e-2, atol=0.0)
    assert not torch.equal(losses, exact)


@pytest.mark.parametrize("family", [*CAUSAL, *SEQ2SEQ])
def test_generation_does_not_depend_on_padding(models: dict[str, Path], family: str) -> None:
    built, _, _ = language(models[family], family)
    inputs = encoded(built)
    together = built.generate(inputs, 6, num_beams=2)
    assert together.shape[0] == 4 and together.shape[1] <= 6
    for index, text in enumerate(ROWS):
        alone = built.tokenizer(text, return_tensors="pt")
        with vocabulary.whole(built.module):
            ids = built.module.generate(
                **{k: alone[k] for k in ("input_ids", "attention_mask")},
                max_new_tokens=6, num_beams=2, do_sample=False, use_cache=True,
                pad_token_id=built.tokenizer.pad_token_id,
            )[0]  # fmt: skip
        new = ids[alone["input_ids"].shape[1] if family in CAUSAL else 1 :]
        assert together[index, : len(new)].tolist() == new.tolist()


def test_the_vocabulary_is_no_head(models: dict[str, Path]) -> None:
    for family, form in (("gpt2", CONTINUE), ("llama", CONTINUE), ("t5", GENERATE)):
        built = network(models[family], form)
        assert built.head() == built.head_block() == []
        names = [name for name, _ in built.module.named_parameters()]
        assert sorted(n for layer in built.layers() for n in layer) == sorted(names)
        assert (built.layers()[-1] == ["lm_head.weight"]) is (family == "llama")
        with pytest.raises(BackboneError, match="no linear head"):
            built.get_head()
        LoRA().prepare(built)
        learns = {n for n, p in built.module.named_parameters() if p.requires_grad}
        assert learns and all("lora_" in name for name in learns)


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "deberta", "gpt2", "t5"])
def test_an_adapter_loads_with_peft_head_included(
    models: dict[str, Path], family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import AutoPeftModelForSequenceClassification

    built = network(models[family])
    wrapped = LoRA(rank=2).prepare(built)
    learns = [n for n, p in wrapped.named_parameters() if p.requires_grad]
    assert any(
        n.endswith("modules_to_save.default.weight") or "modules_to_save" in n for n in learns
    )
    assert all("lora_" in n or "modules_to_save" in n for n in learns)
    with torch.no_grad():
        for parameter in (p for p in wrapped.parameters() if p.requires_grad):
            parameter.add_(0.1 * torch.randn_like(parameter))
    inputs = encoded(built)
    with torch.no_grad():
        wanted = wrapped(**inputs).logits
    # The base is called by its public name: as on the hub, so from a folder beside it.
    merged = LoRA().finish(wrapped, inputs, tmp_path / "adapter", family)
    with torch.no_grad():
        torch.testing.assert_close(merged(**inputs).logits, wanted, atol=1e-4, rtol=1e-4)
        monkeypatch.chdir(models[family].parent)
        again = AutoPeftModelForSequenceClassification.from_pretrained(
            str(tmp_path / "adapter"), num_labels=3
        ).eval()
        again.config.pad_token_id = built.tokenizer.pad_token_id
        torch.testing.assert_close(again(**inputs).logits, wanted, atol=1e-5, rtol=1e-5)


def test_an_adapter_of_a_decoder(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import AutoPeftModelForCausalLM

    built, inputs, _ = language(models["llama"], "llama")
    wrapped = LoRA(rank=2).prepare(built)
    with torch.no_grad():
        for parameter in (p for p in wrapped.parameters() if p.requires_grad):
            parameter.add_(0.1 * torch.randn_like(parameter))
        wanted = wrapped(**inputs).logits()
        built.module = LoRA().finish(wrapped, inputs, tmp_path / "adapter", "llama")
        monkeypatch.chdir(models["llama"].parent)
        again = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter")).eval()
        torch.testing.assert_close(again(**inputs).logits, wanted, atol=1e-5, rtol=1e-5)
        built.save(tmp_path / "model", None)
        assert not [n for n in load_file(tmp_path / "model" / "model.safetensors") if "lora" in n]


def test_what_each_method_trains(models: dict[str, Path]) -> None:
    def learning(method: Any, family: str = "bert") -> set[str]:
        built = network(models[family])
        module = method.prepare(built)
        loss = built.outputs(module(**encoded(built))).square().sum()
        if any(p.requires_grad for p in module.parameters()):
            loss.backward()
        return {n for n, p in built.module.named_parameters() if p.grad is not None}

    everything = {n for n, _ in network(models["bert"]).module.named_parameters()}
    assert learning(Full()) == everything
    assert learning(Full(train_layers=1)) == {"classifier.weight", "classifier.bias"}
    pooler = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert learning(Full(train_layers=2)) - learning(Full(train_layers=1)) == pooler
    assert learning(FeatureExtraction()) == {"classifier.weight", "classifier.bias"}
    norms = learning(NormBias())
    assert {n for n in norms if n.endswith("weight") and "LayerNorm" not in n} == {
        "classifier.weight"
    }
    assert learning(FeatureExtraction(), "roberta") == {
        "classifier.out_proj.weight",
        "classifier.out_proj.bias",
    }
    scales = Full(layer_decay=0.5).lr_scales(network(models["t5"]))
    assert scales["classification_head.dense.weight"] == 1.0
    assert scales["transformer.decoder.block.1.layer.0.SelfAttention.q.weight"] == 0.5
    assert scales["transformer.encoder.block.0.layer.0.SelfAttention.q.weight"] == 0.5**4
    assert scales["transformer.shared.weight"] == 0.5**5
    starts = Full(unfreeze_epochs=1.0).start_epochs(network(models["gpt2"]))
    assert starts["score.weight"] == 0.0
    assert starts["transformer.wte.weight"] == 3.0


def test_a_linear_probe_before_full_fine_tuning(models: dict[str, Path], tmp_path: Path) -> None:
    place = tmp_path / "encoder"
    shutil.copytree(models["bert"], place)
    (place / "1_Pooling").mkdir()
    (place / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    for method, learns in ((Full(start="linear-probe"), True), (FeatureExtraction(), False)):
        built = network(place)
        module = method.prepare(built)
        built.set_head(torch.randn(3, tiny_texts.WIDTH), torch.zeros(3))
        added = [p for n, p in module.named_parameters() if ".layer.2." in n]
        assert added and all(p.requires_grad is learns for p in added)
        if learns:
            assert {*method.lr_scales(built)} == {n for n, _ in module.named_parameters()}
            built.outputs(module(**encoded(built))).square().sum().backward()


def test_weights_in_four_bits_do_not_learn_themselves(models: dict[str, Path]) -> None:
    built = network(models["bert"])
    query = built.module.bert.encoder.layer[0].attention.self.query
    query.weight = torch.nn.Parameter(query.weight.to(torch.uint8), requires_grad=False)
    with pytest.raises(RecipeError, match="query.weight are quantized.*method=lora"):
        Full().prepare(built)


def test_a_model_in_a_package_of_its_own(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "packaged_words"
    shutil.copytree(models["bert"], package / "model")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    shipped = {"minilm": ("packaged_words", "org/minilm"), "other": ("no_such_package", "org/o")}
    monkeypatch.setattr(transformers_source, "SHIPPED", shipped)
    built = network(Path("minilm"))
    assert built.origin == {"name": "minilm", "id": "org/minilm"}
    with pytest.raises(BackboneError, match=r"pip install no-such-package"):
        network(Path("other"))


@pytest.mark.gpu
def test_four_bits(models: dict[str, Path], tmp_path: Path) -> None:
    folder = tiny_texts.folder(
        tmp_path, "llama", hidden_size=64, intermediate_size=128, num_attention_heads=4
    )
    built = network(folder, CONTINUE, quantization="4bit")
    assert any(type(m).__name__ == "Linear4bit" for m in built.module.modules())
    wrapped = LoRA(rank=2).prepare(built)
    assert any(adaptable(m) for m in built.module.modules())
    inputs = {name: tensor.cuda() for name, tensor in encoded(built).items()}
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(5):
        loss = built.outputs(wrapped(**inputs)).losses(labels)[0].sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    built.module = LoRA().finish(wrapped, inputs, tmp_path / "adapter", "llama")
    built.save(tmp_path / "model", None)
    saved = load_file(tmp_path / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}


HUB = """
import json, sys, time
from finetune.backbones import Transformers
from finetune.errors import BackboneError
from finetune.protocols import Form
from finetune.texts.language import Continuation
from finetune.texts.reading import Texts
for fields in json.loads(sys.argv[1]):
    began = time.monotonic()
    try:
        network = Transformers(**fields).build(3, ("a", "b", "c"), Form("row", Texts()))
        told = network.origin | {"sum": float(network.module.bert.pooler.dense.weight.sum())}
        told["words"] = len(network.tokenizer)
    except BackboneError as error:
        told = {"error": str(error)}
    print(json.dumps(told | {"seconds": time.monotonic() - began}))
"""


def test_the_hub_and_then_the_cache(models: dict[str, Path], tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(models["bert"], pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    repositories = {"me/mine": models["bert"], "me/pickled": pickled, "me/closed": None}
    mine, home = {"name": "me/mine"}, tmp_path / "home"
    with served(repositories) as endpoint:
        loaded, revision, unknown, no_file, closed = ask(
            HUB, endpoint, home,
            mine,
            {"name": "me/mine", "revision": "v9"},
            {"name": "me/mien"},
            {"name": "me/pickled"},
            {"name": "me/closed"},
        )  # fmt: skip
    weights = load_file(models["bert"] / "model.safetensors")
    assert loaded["sum"] == pytest.approx(float(weights["pooler.dense.weight"].sum()))
    assert loaded["words"] == len(tiny_texts.tokenizer("bert"))
    assert (loaded["name"], loaded["id"], loaded["revision"]) == ("me/mine", "me/mine", SHA)
    assert "me/mine has no revision 'v9'" in revision["error"]
    assert "The hub has no model me/mien" in unknown["error"]
    assert "me/pickled has its weights as a pickle only" in no_file["error"]
    assert "accept its terms" in closed["error"]

    again, missing = ask(HUB, NOWHERE, home, mine, {"name": "me/other"})
    assert again["sum"] == loaded["sum"]
    assert again["revision"] == SHA
    assert missing["seconds"] < 10
    for part in ("cannot be reached", "connect", "backbone=FOLDER", "backbone=minilm"):
        assert part in missing["error"]


def test_a_family_in_which_packed_texts_would_mix_is_refused(tmp_path: Path) -> None:
    from transformers import OPTConfig, OPTForCausalLM

    packed, alone = (Form("continue", Continuation(packed)) for packed in (True, False))
    config = OPTConfig(
        vocab_size=400, hidden_size=16, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=128, word_embed_proj_dim=16,
    )  # fmt: skip
    OPTForCausalLM(config).save_pretrained(tmp_path)
    tiny_texts.tokenizer("gpt2").save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match=r"family opt.* see one another.*task\.packed=false"):
        network(tmp_path, packed)
    assert network(tmp_path, alone).form is alone
    for family in CAUSAL:
        assert network(tiny_texts.folder(tmp_path / "models", family), packed).form is packed
