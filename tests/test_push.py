"""Pushing a run to a hub on this machine: what gets there, each way it can fail, and loading it."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import tiny_texts
from hub_server import ask
from hub_upload import READER, WRITER, Store, serving
from huggingface_hub import ModelCard
from PIL import Image

from finetune import (
    BackboneError,
    Hub,
    HubError,
    RecipeError,
    Run,
    RunError,
    Timm,
    errors,
    hub,
    published,
)
from finetune import finetune as start
from finetune.command import main
from finetune.compare import compare
from finetune.environment import arguments
from finetune.recipe import load

NAME = "me/digits"
BESIDE = {"README.md", "curves.png", "recipe.yaml", "result.json"}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    (tmp_path / "hub").mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    with serving(Store(tmp_path / "hub")) as made:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", made.endpoint)
        yield made


@pytest.fixture
def run(digits_run: Run, tmp_path: Path) -> Iterator[Run]:
    """Return the finished run, and see afterwards that no byte of its folder has changed."""
    before = contents(digits_run.path)
    yield digits_run
    assert contents(digits_run.path) == before


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def held(store: Store, name: str = NAME) -> set[str]:
    folder = store.repositories[name]
    assert folder is not None
    return set(contents(folder)) - {".gitattributes"}


def test_what_a_repository_holds(store: Store, run: Run, capsys: Any) -> None:
    address = run.push(NAME)
    assert address == f"{store.endpoint}/{NAME}"
    said = " ".join(capsys.readouterr().err.split())
    assert "its checksums are those of the run" in said and WRITER not in said
    model = {"config.json", "model.safetensors"}
    assert held(store) == {*model, *BESIDE}
    assert store.commits[NAME] == ["initial commit", "vit-digits, by finetune 0.1.0"]
    folder = store.repositories[NAME]
    assert folder is not None
    for name in model:
        assert (folder / name).read_bytes() == (run.model / name).read_bytes()
    card = (folder / "README.md").read_text("utf-8")
    assert f'timm.create_model("hf-hub:{NAME}", pretrained=True)' in card
    assert f'pipeline("image-classification", model="{NAME}")' in card and "FOLDER" not in card
    assert ModelCard(card).data.eval_results[0].metric_args["n"] > 0
    # Nothing of this machine, no secret and no pickle.
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for word in (str(run.path), str(Path.home()) + "/", "/tmp/", WRITER):
            assert word.encode() not in content, path
        assert content[:1] != b"\x80" and not content.startswith(b"PK"), path
    # What is there already is not sent again.
    capsys.readouterr()
    run.push(NAME)
    assert len(store.commits[NAME]) == 2
    assert "held all of it already" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "faults",
    [
        [("POST", "/commit/", 500)],
        [("POST", "/commit/", {"status": 429, "Retry-After": "1"})],
        [("POST", "/commit/", {"status": 429, "ratelimit": '"api";r=0;t=1'})],
        [("POST", "/commit/", "drop")],
        [("POST", "/commit/", "lost")],
        [("POST", "/commit/", 503), ("POST", "/commit/", "lost")],
        [("POST", "/preupload/", "drop")],
        [("POST", "/objects/batch", 500)],
        [("PUT", "/objects/", "drop")],
        [("PUT", "/objects/", 500)],
        [("POST", "/api/validate-yaml", 500)],
        [("POST", "/api/repos/create", "lost")],
        [("GET", "/api/models/me/digits", 502), ("GET", "/tree/", 500)],
    ],
    ids=lambda faults: " ".join(f"{verb} {path} {what}" for verb, path, what in faults),
)
def test_a_fault_that_passes_leaves_one_commit(
    faults: list[Any], store: Store, run: Run, capsys: Any
) -> None:
    store.faults = list(faults)
    began = time.monotonic()
    run.push(NAME)
    assert store.faults == []
    assert len(store.commits[NAME]) == 2
    if any(isinstance(what, dict) for *_, what in faults):
        assert time.monotonic() - began >= 1
    assert WRITER not in "".join(capsys.readouterr())


def test_a_hub_that_keeps_failing_is_left_and_the_same_call_finishes(
    store: Store, run: Run
) -> None:
    store.faults = [("POST", "/commit/", 500)] * hub.TRIES
    with pytest.raises(HubError, match=r"failed 5 times \(500\).*is whole.*finetune push run="):
        run.push(NAME)
    assert store.faults == [] and len(store.commits[NAME]) == 1
    run.push(NAME)
    assert len(store.commits[NAME]) == 2
    store.faults = [("GET", "/api/models/", {"status": 429, "Retry-After": "4000"})]
    with pytest.raises(HubError, match="it asks to wait 4000 s"):
        run.push(NAME)


def test_interrupted_and_the_same_call_finishes(store: Store, run: Run) -> None:
    # What a shell starts in the background ignores the signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)

    for place in ("PUT /objects/", "POST /commit/"):
        verb, path = place.split()
        store.faults = [(verb, path, stop)]
        with pytest.raises(KeyboardInterrupt):
            run.push(NAME)
    time.sleep(0.5)  # the server may be at what it was asked for last
    run.push(NAME)
    assert len(store.commits[NAME]) == 2


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (("GET", "/api/models/", 401), "does not know the token (401): it is mistyped"),
        (("POST", "/api/repos/create", 403), "may not write to me/digits (403). Check that me is"),
        (("POST", "/api/repos/create", 404), "has no me/digits, or not for this token (404)"),
        (("POST", "/commit/", 403), "may not write to me/digits (403)"),
        (("POST", "/commit/", 409), "being changed by somebody else (409)"),
        (("POST", "/api/validate-yaml", 400), "does not take it: Invalid metadata in README.md"),
        (("GET", "/api/models/me/digits/tree/", 400), "does not take it: injected The run in"),
    ],
)
def test_what_the_hub_refuses_in_plain_words(
    fault: Any, said: str, store: Store, run: Run, capsys: Any
) -> None:
    store.faults = [fault]
    with pytest.raises(HubError) as caught:
        run.push(NAME)
    assert said in str(caught.value)
    assert f"finetune push run={run.path} repo={NAME}" in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value))
    assert WRITER not in shown + "".join(capsys.readouterr())
    assert caught.value.exit_code == 2


def test_tokens_that_do_not_do(
    store: Store, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("HF_TOKEN", READER)
    with pytest.raises(HubError, match=r"may not write to me/digits \(403\)"):
        run.push(NAME)
    unknown = "hf_" + "x" * 34
    monkeypatch.setenv("HF_TOKEN", unknown)
    assert main(["push", f"run={run.path}", f"repo={NAME}"]) == 2
    monkeypatch.setenv("HF_TOKEN", "hf_\x01" + "x" * 34)
    assert main(["push", f"run={run.path}", f"repo={NAME}"]) == 2
    said = capsys.readouterr()
    assert "does not know the token (401)" in said.err and "characters that none has" in said.err
    assert "x" * 34 not in said.out + said.err
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="There is no token.*HF_TOKEN.*hf auth login"):
        run.push(NAME)
    assert store.commits == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ["push", "run=x", f"repo={NAME}", f"token={WRITER}"],
        ["push", "run=x", f"repo={WRITER}"],
        ["push", "run=x", WRITER],
        ["finetune", "recipe=vit-digits", f"hub.push={WRITER}"],
        ["finetune", "recipe=vit-digits", f"hub.token={WRITER}"],
        ["show", "recipe=vit-digits", f"token={WRITER}"],
        [WRITER],
    ],
)
def test_a_token_on_the_command_line_is_refused_and_not_shown(
    arguments: list[str], capsys: Any
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert "looks like an access token" in said.err.replace("\n", " ")
    assert WRITER not in said.out + said.err


def test_a_token_in_a_script_is_not_shown() -> None:
    with pytest.raises(ValueError) as caught:
        Hub(push=WRITER)
    assert WRITER not in str(caught.value)


def test_what_others_say_opens_no_doors() -> None:
    for text, told in {
        f"no {WRITER} here\nmore": "no SECRET here",
        f"illegal value b'Bearer hf_\\x0b{'x' * 20}'": "illegal value b'Bearer SECRET",
        "error '400' for url 'https://bucket/a?X-Amz-Signature=abc'": (
            "error '400' for url 'https://bucket/a?SECRET'"
        ),
        "": "ValueError",
    }.items():
        assert errors.said(ValueError(text)) == told


def test_a_token_that_a_script_was_started_with_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", f"--token={WRITER}", "train.epochs=1"])
    assert arguments() == ["SECRET", "train.epochs=1"]


def test_a_public_repository_is_no_private_one(store: Store, run: Run) -> None:
    store.make(NAME)
    with pytest.raises(HubError, match="everyone can read it.*leave out private=true"):
        run.push(NAME, private=True)
    assert store.commits[NAME] == ["initial commit"] and held(store) == set()
    run.push("me/mine", private=True)
    assert "me/mine" not in store.public
    run.push("me/mine", private=True)
    assert len(store.commits["me/mine"]) == 2


def test_a_branch_of_its_own(store: Store, run: Run) -> None:
    assert run.push(NAME, revision="v2").endswith(f"{NAME}/tree/v2")
    assert len(store.commits[NAME]) == 1 and len(store.commits[f"{NAME}@v2"]) == 2
    folder = store.repositories[NAME]
    assert folder is not None
    card = (folder / "README.md").read_text("utf-8")
    assert f"hf-hub:{NAME}@v2" in card and f'model="{NAME}", revision="v2"' in card


def test_what_others_push_meanwhile_is_kept(store: Store, run: Run) -> None:
    def theirs() -> None:
        store.commits[NAME].append("theirs")

    store.faults = [("POST", "/commit/", theirs)]
    with pytest.raises(HubError, match=r"changed by somebody else during the upload \(412\)"):
        run.push(NAME)
    assert store.commits[NAME][-1] == "theirs"
    run.push(NAME)
    assert len(store.commits[NAME]) == 3


def test_a_flipped_bit_is_seen(store: Store, run: Run) -> None:
    def flip() -> None:
        path = store.repositories[NAME]
        assert path is not None
        content = bytearray((path / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (path / "model.safetensors").write_bytes(content)

    store.faults = [("GET", "/tree/", lambda: None), ("GET", "/tree/", flip)]
    with pytest.raises(HubError, match="does not hold model.safetensors as pushed"):
        run.push(NAME)
    run.push(NAME)
    assert len(store.commits[NAME]) == 3


def test_only_what_is_allowed_goes_and_stale_weights_leave(
    store: Store, digits_run: Run, tmp_path: Path, capsys: Any
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(digits_run.path, folder)
    run = Run.load(folder)
    for name in (".env", "pytorch_model.bin", "optimizer.pt", ".cache/a.json", "code.py"):
        (run.model / name).parent.mkdir(exist_ok=True)
        (run.model / name).write_bytes(b"\x80\x04.")
    there = store.make(NAME)
    (there / "adapter").mkdir()
    stale = [
        "model-00001-of-00002.safetensors",
        "adapter_config.json",
        "adapter/adapter_config.json",
    ]
    for name in [*stale, "notes.txt"]:
        (there / name).write_text("of an earlier push")
    run.push(NAME)
    assert held(store) == {"config.json", "model.safetensors", *BESIDE, "notes.txt"}
    assert "Not pushed, being no part of a model" in capsys.readouterr().err
    card = folder / "README.md"
    card.write_text(card.read_text("utf-8") + f"\nMy token is {WRITER}\n", "utf-8")
    with pytest.raises(HubError, match="README.md of the run holds what looks like") as caught:
        run.push(NAME)
    assert WRITER not in str(caught.value)
    (run.model / "model.safetensors").unlink()
    with pytest.raises(HubError, match="holds no safetensors"):
        run.push(NAME)


@pytest.mark.parametrize("name", ["digits", "me/a/b", "me/-a", "me/a--b", "me/a.git", "é/a", ""])
def test_a_name_that_the_hub_does_not_take(name: str, run: Run) -> None:
    with pytest.raises(RecipeError, match="is no name of a repository on the hub. Write user/name"):
        run.push(name)
    assert not hub.is_name(name)


def test_other_values_that_are_not_allowed(run: Run) -> None:
    with pytest.raises(RecipeError, match="is no name of a branch"):
        run.push(NAME, revision="../x")
    with pytest.raises(HubError, match="adapter_only=true needs a run of method=lora"):
        run.push(NAME, adapter_only=True)
    from finetune import api

    with pytest.raises(RecipeError, match="private: 'maybe' is not allowed; give true or false"):
        api.push(run, NAME, private="maybe")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["method=lora", "backbone=tiny-vit", "backbone.weights=none"], "only this machine has"),
        (["method=lora", "task=image-regression"], "in standard deviations"),
    ],
)
def test_an_adapter_that_is_of_no_use_to_others(overrides: list[str], said: str) -> None:
    with pytest.raises(HubError, match=said):
        published.check(Hub(push=NAME, adapter_only=True), load("vit-digits").override(*overrides))


def test_a_recipe_that_pushes_is_the_same_recipe() -> None:
    plain = load("vit-digits")
    pushing = plain.override(f"hub.push={NAME}", "hub.private=true")
    assert pushing.digest == plain.digest and "hub" not in plain.to_yaml()
    assert type(plain).from_yaml(pushing.to_yaml()) == pushing
    with pytest.raises(RecipeError, match="compare pushes nothing: leave out hub.push"):
        compare(pushing)


def test_what_cannot_be_pushed_is_known_before_training(
    store: Store, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushing = run.recipe.override(f"hub.push={NAME}")
    monkeypatch.setenv("HF_TOKEN", READER)
    with pytest.raises(HubError, match=r"\(403\).*Nothing was trained"):
        start(pushing, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    monkeypatch.setenv("HF_TOKEN", WRITER)
    store.faults = [("POST", "/api/validate-yaml", 400)]
    with pytest.raises(HubError, match="does not take it.*Nothing was trained"):
        start(pushing, tmp_path / "new")
    assert not (tmp_path / "new" / "metrics.jsonl").exists()
    # A finished run is only pushed; its folder does not say where to.
    again = start(pushing, run.path)
    assert again.recipe == run.recipe and len(store.commits[NAME]) == 2


def test_a_pushed_run_that_is_not_there(
    store: Store, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BackboneError, match="The hub has no model me/nothing, or it is private"):
        Run.load("me/nothing")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    with pytest.raises(BackboneError, match=r"not know the token \(401\).*unset HF_TOKEN"):
        Run.load("me/nothing")
    monkeypatch.setenv("HF_TOKEN", "hf_\x0b" + "x" * 34)
    with pytest.raises(BackboneError, match="Bearer SECRET") as caught:
        Run.load("me/nothing")
    assert "xxx" not in "".join(traceback.format_exception(caught.value))
    monkeypatch.setenv("HF_TOKEN", WRITER)
    store.make("me/other")
    with pytest.raises(RunError, match="me/other is no run that was pushed: it has no recipe.yaml"):
        Run.load("me/other")
    # Where the first part is a folder here, the hub is not asked.
    (tmp_path / "me").mkdir()
    with pytest.raises(RunError, match="me/nothing is no run folder"):
        Run.load("me/nothing")


def test_recipes_of_others_do_not_get_their_code_run() -> None:
    plain = load("bert-sst2")
    trusting = plain.override("trust_remote_code=true", "backbone.trust_remote_code=true")
    assert published.without_trust(trusting) == plain


SCRIPT = """
import contextlib, io, json, os, sys
import timm, torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from PIL import Image
from transformers import AutoTokenizer, pipeline
from finetune import Run
from finetune.command import main
commands, token, folder, photo, text = json.loads(sys.argv[1])
told = {}

os.environ["HF_TOKEN"] = token
said = io.StringIO()
with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
    codes = [main(arguments) for arguments in commands]
assert codes == [0] * len(commands), said.getvalue()
assert token not in said.getvalue()
del os.environ["HF_TOKEN"]

def sure(kind, chances):
    "Return the largest of probabilities at the temperature that the run found on validation."
    temperature = Run.load(f"{folder}/{kind}").target().temperature
    bent = torch.as_tensor(chances, dtype=torch.float64) ** (1 / temperature)
    return (bent.max() / bent.sum()).item()

def piped(task, kind, given):
    [answers] = pipeline(task, model=f"me/{kind}", top_k=100)([given])
    return sure(kind, [answer["score"] for answer in answers])

image = Image.open(photo).convert("RGB")
model = timm.create_model("hf-hub:me/image", pretrained=True).eval()
config = timm.data.resolve_model_data_config(model)
inputs = timm.data.create_transform(**config, is_training=False)(image)[None]
base = timm.create_model("hf-hub:me/base", pretrained=True, num_classes=10, img_size=32)
adapted = PeftModel.from_pretrained(base, "me/image-adapter").eval()
inside = timm.create_model("hf-hub:me/base", pretrained=True, num_classes=10, img_size=32)
inside = PeftModel.from_pretrained(inside, "me/image", subfolder="adapter").eval()
for name, one in {"timm": model, "peft": adapted, "peft inside": inside}.items():
    with torch.inference_mode():
        told[f"image {name}"] = sure("image", one(inputs)[0].softmax(0))
told["image pipeline"] = piped("image-classification", "image", image)
told["text pipeline"] = piped("text-classification", "text", text)
auto = AutoPeftModelForSequenceClassification.from_pretrained("me/text-adapter", num_labels=2)
tokens = AutoTokenizer.from_pretrained("me/text")(text, return_tensors="pt")
with torch.inference_mode():
    told["text peft"] = sure("text", auto.eval()(**tokens).logits[0].softmax(0))

for kind, given in {"image": photo, "text": text}.items():
    places = {"folder": f"{folder}/{kind}", "hub": f"me/{kind}", "adapter": f"me/{kind}-adapter"}
    for name, place in places.items():
        told[f"{kind} {name}"] = Run.load(place).predict([given])[0]["probability"]
print(json.dumps(told))
"""


def recipes(folder: Path) -> list[Path]:
    """Write the recipes of two small runs, of images and of texts, whose bases are on the hub."""
    images = load("vit-digits").override(
        "backbone=hf-hub:me/base", "backbone.img_size=32", "data.shots=10", "train.epochs=1"
    )
    rows = [f'{label},"{text}"' for text in tiny_texts.SENTENCES for label in ("good", "bad")]
    (folder / "rows.csv").write_text("\n".join(["label,text", *rows]))
    texts = load("roberta-lora").override(
        "backbone=me/bert", "backbone.max_length=64", f"data={folder / 'rows.csv'}",
        "train.epochs=1", "train.batch_size=8",
    )  # fmt: skip
    paths = []
    for name, recipe in {"image": images, "text": texts}.items():
        small = recipe.override(
            "method=lora", "method.rank=2", f"hub.push=me/{name}", f"name={name}"
        )
        paths.append(folder / f"{name}.yaml")
        paths[-1].write_text(small.to_yaml())
    return paths


def test_what_was_pushed_answers_as_the_run_folder_does(store: Store, tmp_path: Path) -> None:
    base = Timm(name="test_vit", weights="none", img_size=32).build(3)
    base.save(tmp_path / "base", None)
    store.repositories["me/base"] = tmp_path / "base"
    store.repositories["me/bert"] = tiny_texts.folder(tmp_path, "bert")
    Image.new("RGB", (40, 30), (200, 30, 90)).save(tmp_path / "photo.png")
    commands = []
    for path in recipes(tmp_path):
        output, name = f"{tmp_path}/runs/{path.stem}", f"me/{path.stem}-adapter"
        commands.append(["finetune", f"recipe={path}", f"output={output}"])
        commands.append(["push", f"run={output}", f"repo={name}", "adapter_only=true"])
    given = str(tmp_path / "runs"), str(tmp_path / "photo.png"), "a warm and funny film"
    store.faults = [("POST", "/commit/", "lost")]
    [told] = ask(SCRIPT, store.endpoint, tmp_path / "home", commands, WRITER, *given)
    assert {name: len(made) for name, made in store.commits.items()} == dict.fromkeys(
        ["me/image", "me/image-adapter", "me/text", "me/text-adapter"], 2
    )
    files = {"adapter_config.json", "adapter_model.safetensors"}
    assert held(store, "me/image-adapter") == {*files, *BESIDE}
    for path in [p for p in tmp_path.rglob("*") if p.is_file()]:
        assert WRITER.encode() not in path.read_bytes(), path
    folder = store.repositories["me/text-adapter"]
    assert folder is not None
    card = ModelCard.load(folder / "README.md")
    assert (card.data.library_name, card.data.base_model) == ("peft", "me/bert")
    assert 'from_pretrained("me/text-adapter"' in card.text
    for path in [p for p in store.path.rglob("*") if p.is_file()]:
        assert str(tmp_path).encode() not in path.read_bytes(), path

    for kind, ways in {"image": 7, "text": 5}.items():
        answers = {way: answer for way, answer in told.items() if way.startswith(kind)}
        assert len(answers) == ways
        assert answers == pytest.approx(dict.fromkeys(answers, told[f"{kind} folder"]), abs=1e-5)
