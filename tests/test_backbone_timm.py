"""timm models as backbones: one contract over the families, and what is refused in which words."""

from __future__ import annotations

import json
import re
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hub_server import NOWHERE, SHA, ask, served
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import pipeline

from finetune.backbones import Timm, reload_timm
from finetune.errors import BackboneError
from finetune.methods.lora import adaptable

CLASSES = ("cat", "dog", "emu")
SWIN = {"window_size": 2, "embed_dim": 24, "depths": (1, 1), "num_heads": (1, 2)}

# name -> fields, and what LoRA adapts by default
FAMILIES: dict[str, tuple[dict[str, Any], str]] = {
    "test_vit": ({"img_size": 32}, r"blocks\.\d\.attn\.(qkv|proj)"),
    "deit_tiny_distilled_patch16_224": (
        {"img_size": 32, "args": {"depth": 1}}, r"blocks\.0\.attn\.(qkv|proj)",
    ),
    "eva02_tiny_patch14_224": (
        {"img_size": 28, "args": {"depth": 1}}, r"blocks\.0\.attn\.(qkv|proj|[qkv]_proj)",
    ),
    "swin_tiny_patch4_window7_224": (
        {"img_size": 32, "args": SWIN}, r"layers\.\d\.blocks\.0\.attn\.(qkv|proj)",
    ),
    "test_convnext": ({"img_size": 32}, r"stages\.\d\.blocks\.\d\.mlp\.fc[12]"),
    "test_resnet": ({"img_size": 32}, r"layer\d\.\d\.conv\d"),
    "test_efficientnet": ({"img_size": 32}, r"blocks\.\d\.\d\.conv\w*"),
    "mobilenetv4_conv_small_035": ({"img_size": 32}, r"blocks\.\d\.\d(\.\w+)?\.conv\w*"),
    "regnetx_002": ({"img_size": 32}, r"s\d\.b\d\.conv\d\.conv"),
    "test_maxvit": ({"img_size": 64}, r"stages\..*\.attn\.(qkv|proj)"),
    "poolformer_s12": ({"img_size": 32}, r"stages\.\d\.blocks\.\d\.mlp\.fc[12]"),
}  # fmt: skip
TWO_HEADS = ("deit_tiny_distilled_patch16_224",)


def backbone(name: str, **fields: Any) -> Timm:
    return Timm(**({"name": name, "weights": "none"} | FAMILIES[name][0] | fields))


def vit(**fields: Any) -> Timm:
    return backbone("test_vit", **fields)


def images(network: Any, count: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"x": torch.randn(count, 3, *network.inputs.size, generator=generator)}


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> str:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_contract(name: str, tmp_path: Path, photo: str) -> None:
    torch.manual_seed(0)
    network = backbone(name).build(3, CLASSES)
    module = network.module.eval()
    parameters = [n for n, _ in module.named_parameters()]

    layers = network.layers()
    assert sorted(n for layer in layers for n in layer) == sorted(parameters)
    assert layers[-1] == [n for n in parameters if n.startswith(tuple(network.head()))]
    assert len(layers) >= 3
    assert all(layers)

    modules = dict(module.named_modules())
    targets = [n for n in modules if re.fullmatch(network.lora_targets(), n)]
    targets = [n for n in targets if adaptable(modules[n])]
    assert targets
    assert [n for n in targets if not re.fullmatch(FAMILIES[name][1], n)] == []

    inputs = images(network)
    with torch.inference_mode():
        features, outputs = network.features(inputs), module(**inputs)
    assert outputs.shape == (2, 3)
    if name in TWO_HEADS:
        with pytest.raises(BackboneError, match=r"\(head, head_dist\) is not one linear layer"):
            network.get_head()
    else:
        weight, bias = network.get_head()
        assert weight.shape == (3, features.shape[1])
        torch.testing.assert_close(features @ weight.T + bias, outputs)
        fitted = torch.randn_like(weight), torch.randn_like(bias)
        network.set_head(*fitted)
        assert all(torch.equal(a, b) for a, b in zip(network.get_head(), fitted, strict=True))

    network.save(tmp_path, CLASSES, "single_label_classification")
    with torch.inference_mode():
        ours = module(**_native(network, photo)).numpy()
    for load in (reload_timm.by_timm, reload_timm.by_transformers):
        logits, labels = load(str(tmp_path), [photo])
        assert np.abs(np.array(logits) - ours).max() <= 1e-5 * max(1, np.abs(ours).max())
        assert labels == list(CLASSES)


def _native(network: Any, photo: str) -> dict[str, torch.Tensor]:
    source, failures = network.inputs.read([{"image": {"path": photo, "bytes": None}}])
    assert not failures
    return dict(source.finish(source.read(np.arange(1), 0)))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Return the folder of a saved ViT that predicts CLASSES."""
    torch.manual_seed(1)
    vit(drop_path=0.2, dropout=0.1).build(3, CLASSES).save(tmp_path / "model", CLASSES)
    return tmp_path / "model"


def body(network: Any) -> dict[str, torch.Tensor]:
    return {n: p for n, p in network.module.named_parameters() if not n.startswith("head.")}


def same(first: Any, second: Any) -> bool:
    one, other = body(first), body(second)
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_the_head_is_kept_only_for_the_same_labels(saved: Path) -> None:
    own = Timm(name=str(saved)).saved(saved).build(3, CLASSES)
    weight = own.get_head()[0]
    for fields, classes, kept in (
        ({}, CLASSES, True),
        ({}, ("cat", "emu", "dog"), False),
        ({}, None, False),
        ({"head": "fresh"}, CLASSES, False),
        ({"head": "keep"}, ("a", "b", "c"), True),
        ({"weights": str(saved)}, CLASSES, False),
    ):
        network = Timm(name=str(saved), **fields).build(3, classes)
        assert same(network, own)
        assert torch.equal(network.get_head()[0], weight) is kept, fields
    assert Timm(name=str(saved)).build(7).get_head()[0].shape == (7, 64)
    with pytest.raises(BackboneError, match="has 3 outputs, and the data needs 5"):
        Timm(name=str(saved), head="keep").build(5)


def test_dropout_is_not_handed_on(saved: Path) -> None:
    args = json.loads((saved / "config.json").read_text())["model_args"]
    assert args["img_size"] == [32, 32]
    assert not {"drop_rate", "drop_path_rate", "num_classes"} & args.keys()
    rates = [
        m.drop_prob for m in vit(drop_path=0.2).build(3).module.modules() if hasattr(m, "drop_prob")
    ]
    assert max(rates) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("problem", "classes", "score"),
    [
        ("multi_label_classification", CLASSES, torch.sigmoid),
        ("single_label_classification", CLASSES, lambda logits: logits.softmax(0)),
        ("regression", None, lambda logits: logits),
    ],
)
def test_the_pipeline_knows_what_outputs_mean(problem, classes, score, tmp_path, photo) -> None:
    outputs = len(classes or "1")
    network = vit().build(outputs, classes)
    network.save(tmp_path, classes, problem)
    logits, _ = reload_timm.by_timm(str(tmp_path), [photo])
    classify = pipeline("image-classification", model=str(tmp_path), device="cpu")
    told = {answer["label"]: answer["score"] for answer in classify(photo, top_k=outputs)}
    wanted = score(torch.tensor(logits[0])).tolist()
    names = classes or ("LABEL_0",)
    assert told == pytest.approx(dict(zip(names, wanted, strict=True)), abs=1e-6)
    again = vit().saved(tmp_path).build(outputs, classes)
    assert torch.equal(again.get_head()[0], network.get_head()[0])


def test_what_tuning_changed_is_undone_in_the_saved_model(tmp_path: Path, photo: str) -> None:
    network = backbone("test_vit").build(3, CLASSES)
    network.module.eval()
    inputs = _native(network, photo)
    with torch.inference_mode():
        before = network.module(**inputs)
    device = torch.device("cpu")
    assert network.tune_for(device, "bf16") == ["plain attention"]
    attention = network.module.get_submodule("blocks.0.attn")
    assert attention.fused_attn is False
    network.module = torch.compile(network.module, backend="eager")
    network.save(tmp_path, CLASSES)
    assert attention.fused_attn is True
    logits, _ = reload_timm.by_timm(str(tmp_path), [photo])
    assert np.abs(np.array(logits) - before.numpy()).max() <= 1e-6
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "config.json").stat().st_mode
    )

    network = backbone("test_resnet").build(3, CLASSES)
    assert network.tune_for(device, "no") == []
    assert network.tune_for(device, "bf16") == ["channels_last"]
    network.save(tmp_path, CLASSES)
    assert all(p.is_contiguous() for p in network.module.parameters())
    held = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(held[n], t) for n, t in network.module.state_dict().items())


def test_another_size_of_images(saved: Path) -> None:
    assert vit(img_size=64).build(3).inputs.size == (64, 64)
    assert Timm(name=str(saved), img_size=48).build(3).inputs.size == (48, 48)
    assert backbone("test_resnet", img_size=40).build(3).inputs.size == (40, 40)
    for fields, message in (
        ({"img_size": 40}, r"img_size=40 is no multiple of the patch size 16.*: 32 or 48\."),
        ({"img_size": 8}, r"img_size=8 is no multiple of the patch size 16.*: 16\."),
    ):
        with pytest.raises(BackboneError, match=message):
            vit(**fields).build(3)
    with pytest.raises(BackboneError, match=r"img_size=40|cannot build 'test_maxvit'"):
        backbone("test_maxvit", img_size=40).build(3)


def test_weights_from_elsewhere(saved: Path, tmp_path: Path) -> None:
    own = Timm(name=str(saved)).build(3)
    file = tmp_path / "mine.safetensors"
    shutil.copy(saved / "model.safetensors", file)
    for weights in (saved, file):
        network = vit(weights=str(weights)).build(5)
        assert same(network, own)
        assert network.get_head()[0].shape == (5, 64)
    assert not same(vit().build(3), own)
    assert not same(Timm(name=str(saved), weights="none").build(3), own)
    torch.save({}, tmp_path / "mine.pth")
    shutil.copytree(saved, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    resnet = backbone("test_resnet").build(3)
    resnet.save(tmp_path / "resnet", None)
    config = tmp_path / "damaged" / "config.json"
    config.parent.mkdir()
    config.write_text("{")
    part = load_file(file)
    del part["blocks.2.mlp.fc1.weight"]
    save_file(part, tmp_path / "part.safetensors")
    for fields, message in (
        ({"weights": tmp_path / "mine.pth"}, r"mine.pth is no .safetensors file; pickled"),
        ({"weights": tmp_path / "pickled"}, r"there is no file .*pickled/model\.safetensors"),
        ({"weights": tmp_path / "mime.safetensors"}, r"no file .* Did you mean '.*mine.safetens"),
        ({"weights": tmp_path / "resnet"}, r"resnet holds 'test_resnet', but .* 'test_vit'\."),
        (
            {"weights": tmp_path / "resnet" / "model.safetensors"},
            r"has no 'cls_token|has no 'pos_embed', and lacks \d+ of the \d+ tensors of 'test_vit'",
        ),
        (
            {"weights": tmp_path / "part.safetensors"},
            r"no 'blocks.2.mlp.fc1.weight', and lacks 1 of the \d+ tensors of 'test_vit'",
        ),
        ({"name": tmp_path / "pickled"}, r"has no model\.safetensors\..*pickles"),
        ({"name": tmp_path}, r"is not in timm's form.* Did you mean .*/model\?"),
        ({"name": tmp_path / "damaged"}, r"config.json cannot be read"),
        ({"name": tmp_path / "resnte"}, r"does not exist\. Did you mean '.*/resnet'\?"),
        ({"name": file}, r"is a file\."),
    ):
        given = {"name": "test_vit", "img_size": 32} | {k: str(v) for k, v in fields.items()}
        if "name" in fields:
            del given["img_size"]
        with pytest.raises(BackboneError, match=message):
            Timm(**given).build(3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "vit_smal_patch16_224"}, r"neither a timm model.* Did you mean 'vit_small_pat"),
        (
            {"name": "resnet50.a1_in2k"},
            r"no pretrained weights 'resnet50.a1_in2k'\. Did you mean 'resnet50.a1_in1k'.* Known: ",
        ),
        ({"name": "test_vit", "weights": "none", "args": {"depht": 1}}, r"backbone.args.depht"),
        ({"name": "vgg11", "weights": "none", "drop_path": 0.1}, r"backbone.drop_path cannot be"),
        ({"name": "test_vit", "weights": "none", "args": {"in_chans": 1}}, r"does not take RGB"),
        ({"name": "hf-hub:no/such/name"}, r"is no model of the hub"),
    ],
)
def test_what_cannot_be_built(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        Timm(**fields).build(3)


def test_weights_that_timm_has_only_as_a_pickle_or_not_at_all() -> None:
    names = timm.list_pretrained()
    pickled = next(n for n in names if not timm.get_pretrained_cfg(n).hf_hub_id)
    with pytest.raises(BackboneError, match="only as a pickle, which is not read"):
        Timm(name=pickled).build(3)
    never = next(n for n in timm.list_models("vit*") if not timm.list_pretrained(f"{n}.*"))
    with pytest.raises(BackboneError, match="not at all.*weights=none"):
        Timm(name=never).build(3)


def test_the_plain_texts_that_mean_a_timm_model(saved: Path, tmp_path: Path) -> None:
    for text in ("resnet50.a1_in1k", "tiny-vit", "hf-hub:me/mine", "timm/resnet50", str(saved)):
        assert Timm.from_text(text) == {"name": text}
    assert Timm.from_text(str(tmp_path / "nothing")) == {"name": str(tmp_path / "nothing")}
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for text in (str(tmp_path), "google-bert/bert-base-uncased"):
        assert Timm.from_text(text) is None
    assert Timm(name=str(saved)).public_name == tmp_path.name
    assert Timm(name="hf-hub:me/mine").public_name == "me/mine"


HUB = """
import json, sys, time
import huggingface_hub, timm
from finetune.backbones import Timm
from finetune.errors import BackboneError
for fields in json.loads(sys.argv[1]):
    began = time.monotonic()
    try:
        network = Timm(**fields).build(3, ("cat", "dog", "emu"))
        told = network.origin | {"sum": float(network.module.blocks[0].mlp.fc1.weight.sum())}
    except BackboneError as error:
        told = {"error": str(error)}
    print(json.dumps(told | {"seconds": time.monotonic() - began}))
"""


def test_the_hub_and_then_the_cache(saved: Path, tmp_path: Path) -> None:
    registered = timm.get_pretrained_cfg("test_vit.r160_in1k").hf_hub_id
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    shutil.copy(saved / "config.json", pickled)
    repositories = {"me/mine": saved, registered: saved, "me/pickled": pickled, "me/closed": None}
    mine = {"name": "hf-hub:me/mine"}
    vit32 = {"name": "test_vit.r160_in1k", "img_size": 32}
    home = tmp_path / "home"
    with served(repositories) as endpoint:
        loaded, registry, revision, unknown, no_file, closed = ask(
            HUB, endpoint, home,
            mine,
            vit32,
            {"name": "hf-hub:me/mine@v9"},
            {"name": "hf-hub:me/mien"},
            {"name": "hf-hub:me/pickled"},
            {"name": "hf-hub:me/closed"},
        )  # fmt: skip
    total = float(load_file(saved / "model.safetensors")["blocks.0.mlp.fc1.weight"].sum())
    assert loaded["sum"] == registry["sum"] == pytest.approx(total)
    assert loaded["name"] == loaded["id"] == "me/mine"
    assert registry["name"] == "test_vit.r160_in1k"
    assert registry["id"] == registered
    assert loaded["revision"] == registry["revision"] == SHA
    assert "me/mine has no revision 'v9'" in revision["error"]
    assert "The hub has no model me/mien, or it is private" in unknown["error"]
    assert "me/pickled has no model.safetensors on the hub" in no_file["error"]
    assert "accept its terms" in closed["error"]

    again, registry_again, missing = ask(
        HUB, NOWHERE, home, mine, vit32, {"name": "resnet50.a1_in1k"}
    )
    assert again["sum"] == registry_again["sum"] == loaded["sum"]
    assert again["revision"] == SHA
    assert missing["seconds"] < 10
    for part in ("cannot be reached", "connect", "backbone.weights=PATH", "recipe=vit-digits"):
        assert part in missing["error"]
