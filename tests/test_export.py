"""Exported runs: that they answer as the run does, without this toolkit, or say why they do not."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import tiny_texts
import torch
import toy
from conftest import TINY_VIT
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from test_package import PROJECT

from finetune import (
    ImageFolder,
    LanguageModeling,
    LoRA,
    MultiLabelTextClassification,
    QuestionAnswering,
    Recipe,
    Run,
    TableData,
    TextClassification,
    TextRegression,
    TokenClassification,
    Train,
    Transformers,
    build,
    errors,
    export,
    outcome,
)
from finetune.command import main
from recipes.vit_digits import recipe as digits

ALONE = """
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {barred} else super().find_spec(name, path, target)

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Without]
sys.path.insert(0, {root!r})
"""


def alone(code: str, folder: Path, *barred: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh process where some packages are not installed."""
    first = ALONE.format(barred=barred, root=str(Path(__file__).parent.parent))
    return subprocess.run(
        [sys.executable, "-c", first + code],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"COLUMNS": "300"},
        check=False,
    )


def snippet(folder: Path) -> str:
    """Return the Python of a card."""
    [code] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 23
    return str(code)


def answered(folder: Path, old: str = "", new: str = "") -> list[str]:
    """Return what the card's Python prints where this toolkit and torch cannot be imported."""
    code = snippet(folder)
    assert old in code
    done = alone(code.replace(old, new), folder, "finetune", "torch", "timm", "transformers")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def exported(digits_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_run.export("onnx", tmp_path_factory.mktemp("exports") / "digits")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A digit that is neither square nor of the model's size."""
    path = tmp_path_factory.mktemp("pictures") / "digit.png"
    pixels = (load_digits().images[7] * (255 / 16)).round().astype("uint8")
    Image.fromarray(pixels).resize((29, 23)).convert("RGB").save(path)
    return path


def same(printed: str, answer: dict[str, Any]) -> None:
    label, probability = printed.rsplit(" ", 1)
    assert label == answer["label"]
    assert float(probability) == pytest.approx(answer["probability"], abs=1e-4)


def test_an_image_model_answers_in_onnx_as_the_run_does(
    digits_run: Run, exported: Path, picture: Path
) -> None:
    [printed] = answered(exported, "image.jpg", str(picture))
    same(printed, digits_run.predict([picture])[0])
    about = json.loads((exported / "preprocessing.json").read_text("utf-8"))
    assert about["labels"] == list(map(str, range(10)))
    names = {path.name for path in exported.iterdir()}
    assert names == {
        "README.md", "config.json", "model.int8.onnx", "model.onnx", "preprocessing.json",
    }  # fmt: skip


def test_logits_are_those_of_pytorch_for_any_number_of_rows(
    digits_run: Run, exported: Path
) -> None:
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    module = digits_run.network().module.eval()
    random = torch.Generator().manual_seed(0)
    for rows in (1, 2, 7):
        pixels = torch.randn(rows, 3, 16, 16, generator=random)
        [logits] = session.run(None, {"x": pixels.numpy()})
        with torch.inference_mode():
            assert np.abs(logits - module(pixels).numpy()).max() < 1e-4


def test_what_was_measured_is_printed_and_in_the_card(
    digits_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a" / "b"
    assert main(["export", f"run={digits_run.path}", "format=onnx", f"output={folder}"]) == 0
    said = capsys.readouterr()
    for text in (said.out, (folder / "README.md").read_text("utf-8")):
        flat = " ".join(text.split())
        assert re.search(
            r"int8.onnx is \d+\.\d times smaller and \d+\.\d times as fast as model", flat
        )
        assert re.search(r"Accuracy changes by [+-]\d+\.\d points \([+-]\d", flat)
        assert re.search(r"float32 \|? ?\d+ kB", flat)
    assert str(folder) in said.err
    sizes = {p.name: p.stat().st_size for p in folder.iterdir()}
    assert sizes["model.int8.onnx"] < 0.7 * sizes["model.onnx"]


def test_the_card_is_the_runs_with_another_way_to_load_it(digits_run: Run, exported: Path) -> None:
    text = (exported / "README.md").read_text("utf-8")
    own = (digits_run.path / "README.md").read_text("utf-8")
    data, before = ModelCard(text).data, ModelCard(own).data
    assert (data.library_name, data.tags) == ("onnx", [*before.tags, "onnx"])
    assert data.eval_results == before.eval_results
    assert text.count("## How to load it") == 1 and "create_model" not in text
    assert "curves.png" not in text
    assert "## Results" in text and "## How to make it again" in text
    for path in exported.iterdir():
        for place in (digits_run.path, Path(torch.__file__).parent, Path(export.__file__).parent):
            assert str(place).encode() not in path.read_bytes(), path.name


def test_without_int8_there_is_one_file(digits_run: Run, tmp_path: Path) -> None:
    command = ["export", f"run={digits_run.path}", "format=onnx", "int8=false"]
    assert main([*command, f"output={tmp_path}"]) == 0  # there, but empty
    assert [path.name for path in tmp_path.glob("*.onnx")] == ["model.onnx"]
    assert "int8" not in (tmp_path / "README.md").read_text("utf-8")


def test_weights_of_more_than_2_gb_lie_beside_the_graph(
    digits_run: Run, tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.onnx, "LARGEST", 0)
    folder = digits_run.export("onnx", tmp_path / "out")
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.onnx*")}
    assert sizes["model.onnx.data"] > 200_000 > sizes["model.onnx"]
    assert sizes["model.int8.onnx.data"] < 0.7 * sizes["model.onnx.data"]
    [printed] = answered(folder, "image.jpg", str(picture))
    same(printed, digits_run.predict([picture])[0])


@pytest.mark.parametrize("mode", ["squash", "border", "center"])
def test_every_way_to_crop_is_in_the_card(mode: str, picture: Path, tmp_path: Path) -> None:
    config = {"crop_mode": mode, "crop_pct": 0.9, "mean": (0.2, 0.4, 0.6)}
    arguments = toy.VIT.args | {"pretrained_cfg_overlay": config}
    run = saved(tmp_path, toy.stripes(toy.VIT.model_copy(update={"args": arguments})))
    assert (
        json.loads((run.model / "config.json").read_text())["pretrained_cfg"]["crop_mode"] == mode
    )
    [printed] = answered(run.export("onnx", int8=False), "image.jpg", str(picture))
    same(printed, run.predict([picture])[0])


# Texts


def saved(folder: Path, recipe: Recipe) -> Run:
    """Return what a run of no training leaves, but for its pages; an adapter has some effect."""
    job = build.job(recipe)
    for name, parameter in job.module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    target, network, model = job.target, job.network, folder / "model"
    inputs = outcome.first_inputs(job)
    network.module = job.method.finish(job.module, inputs, model / "adapter", "base")
    if target.native != target:
        network.set_head(*target.rescale_head(*network.get_head()))
    network.save(model, target.classes, target.problem_type)
    result = outcome.describe(job, SimpleNamespace(sentences=[]))  # type: ignore[arg-type]
    return Run(folder, recipe, json.loads(json.dumps(result)))


def text_run(folder: Path, task: Any, rows: list[dict[str, Any]], **fields: Any) -> Run:
    """Return a tiny model for a task, and the table of its data beside it."""
    table = folder / "rows.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    model = tiny_texts.folder(folder / "models", fields.pop("family", "bert"))
    recipe = Recipe(
        name="texts",
        backbone=Transformers(name=str(model), max_length=24),
        data=TableData(str(table)),
        task=task,
        train=Train(batch_size=8),
        **fields,
    )
    return saved(folder / "run", recipe)


def labelled(count: int = 60) -> list[dict[str, Any]]:
    sentences = [" ".join(tiny_texts.SENTENCES[i % 16].split()[: 2 + i % 11]) for i in range(count)]
    return [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(sentences)]


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_text_model_answers_in_onnx_as_the_run_does(family: str, tmp_path: Path) -> None:
    run = text_run(tmp_path, TextClassification(), labelled(), family=family)
    folder = run.export("onnx", int8=family == "bert")
    text = "the old bridge is dull ; " * 9  # longer than the model takes
    for given in (text, "great"):
        [printed] = answered(folder, "A text.", given)
        same(printed, run.predict([given])[0])


def test_a_pair_of_texts_is_given_as_a_pair(tmp_path: Path) -> None:
    rows = [row | {"text_pair": row["text"][::-1]} for row in labelled()]
    run = text_run(tmp_path, TextClassification(pair=True), rows)
    [printed] = answered(run.export("onnx", int8=False))
    [answer] = run.predict([{"text": "A text.", "text_pair": "Another."}])
    same(printed, answer)


def test_tags_of_words_are_those_of_the_run(tmp_path: Path) -> None:
    rows = []
    for row in labelled():
        words = row["text"].split()
        tags = ["NAME" if word[0].isupper() else "OTHER" for word in words]
        rows.append({"words": words, "label": tags})
    run = text_run(tmp_path, TokenClassification(), rows)
    [answer] = run.predict([{"words": ["Anna", "Berg", "lives", "in", "Rome", "."]}])
    printed = answered(run.export("onnx"))
    assert len(printed) == len(answer["tags"]) == 6
    for line, tag in zip(printed, answer["tags"], strict=True):
        word, name, probability = line.split()
        assert (word, name) == (tag["word"], tag["tag"])
        assert float(probability) == pytest.approx(tag["probability"], abs=1e-4)


def test_the_answer_to_a_question_is_that_of_the_run(tmp_path: Path) -> None:
    rows = []
    for index, row in enumerate(labelled()):
        context = f"It was said that {row['text']}"
        word = context.split()[index % 5]
        label = {"text": [word], "answer_start": [context.index(word)]}
        rows.append({"question": "what is it ?", "context": context, "label": label})
    run = text_run(tmp_path, QuestionAnswering(), rows)
    given = {"question": "Where is it?", "context": "It is in Rome."}
    printed = answered(run.export("onnx"))
    assert printed == [run.predict([given])[0]["text"]]


def test_several_labels_are_those_of_the_run(tmp_path: Path) -> None:
    rows = [{"text": row["text"], "label": ["ab"[i % 2], "c"]} for i, row in enumerate(labelled())]
    run = text_run(tmp_path, MultiLabelTextClassification(), rows)
    [printed] = answered(run.export("onnx", int8=False))
    labels = run.predict(["A text."])[0]["labels"]
    expected = {each["label"]: each["probability"] for each in labels}
    assert expected and dict(ast.literal_eval(printed)) == pytest.approx(expected, abs=1e-4)


# Merged


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("lora")
    return text_run(folder, TextClassification(), labelled(), method=LoRA(rank=2))


def test_a_merged_model_is_that_of_the_adapter_on_its_base(
    adapted: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "merged"
    assert adapted.export("merged", folder) == folder
    [difference] = re.findall(r"adapter on its base to (\S+)\.", capsys.readouterr().out)
    assert float(difference) < 1e-4
    assert not (folder / "adapter").exists()
    text = (folder / "README.md").read_text("utf-8")
    assert difference in text and "PeftModel" not in text
    done = alone(snippet(folder).replace("FOLDER", str(folder)), folder, "finetune", "peft")
    assert done.returncode == 0, done.stderr
    [answer] = ast.literal_eval(done.stdout)
    same(f"{answer['label']} {answer['score']}", adapted.predict(["A text."])[0])


def test_a_merged_image_model_may_stand_on_random_weights(tmp_path: Path, picture: Path) -> None:
    run = saved(tmp_path, toy.stripes(toy.VIT, LoRA(rank=2)))
    folder = run.export("merged")
    module = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    given = {"x": torch.ones(1, 3, 8, 8)}
    with torch.inference_mode():
        assert torch.equal(module(**given), run.network().module.eval()(**given))


def test_a_merged_regression_is_compared_in_the_unit_of_its_values(tmp_path: Path) -> None:
    rows = [{"text": row["text"], "label": 500.0 + 40 * len(row["text"])} for row in labelled()]
    run = text_run(tmp_path, TextRegression(), rows, method=LoRA(rank=2))
    assert (run.export("merged") / "model.safetensors").is_file()
    [printed] = answered(run.export("onnx", int8=False))
    assert float(printed) == pytest.approx(run.predict(["A text."])[0]["value"], rel=1e-5)


def test_a_model_that_is_not_its_adapters_is_refused(adapted: Run, tmp_path: Path) -> None:
    shutil.copytree(adapted.path, tmp_path / "run")
    path = tmp_path / "run" / "model" / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("query.weight"))
    save_file(weights | {name: weights[name] * 20}, path, {"format": "pt"})
    changed = dataclasses.replace(adapted, path=tmp_path / "run")
    with pytest.raises(errors.ExportError, match="of the adapter on its base, and at most 1e-04"):
        changed.export("merged")
    assert [p.name for p in changed.path.iterdir()] == ["model"]
    shutil.rmtree(changed.model / "adapter")
    with pytest.raises(errors.RunError, match="has no adapter/ any more"):
        changed.export("merged")


# What cannot be done


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["format=onx"], "format='onx' is not known. Did you mean 'onnx'? Allowed: onnx, merged."),
        (["format=merged"], "is for runs of method=lora; this one is of method=full"),
        (["format=merged", "int8=true"], "int8= belongs to format=onnx"),
        (["format=onnx", "int8=yes"], "int8='yes' is not allowed; give int8=true or false."),
        (["format=onnx", "output={full}"], "is there already and not empty; nothing in it was"),
        (["format=onnx", "output={full}/mine.txt"], "is there already and not empty"),
        (["format=onnx", "output={full}/mine.txt/x"], "cannot be written"),
        (["format=onnx", "data={full}/none"], "There is no such path"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_touched(
    digits_run: Run,
    tmp_path: Path,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    before = sorted(digits_run.path.rglob("*"))
    given = [text.format(full=tmp_path) for text in arguments]
    assert main(["export", f"run={digits_run.path}", *given]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert sorted(digits_run.path.rglob("*")) == before


def test_a_task_that_writes_texts_is_refused(tmp_path: Path) -> None:
    run = text_run(tmp_path, LanguageModeling(), labelled(), family="gpt2", method=LoRA(rank=2))
    with pytest.raises(errors.RunError, match="language-modeling writes token by token"):
        run.export("onnx")
    assert (run.export("merged") / "model.safetensors").is_file()


def test_a_model_that_the_exporter_cannot_follow_is_refused(tmp_path: Path) -> None:
    class Branching(toy.Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x * float(np.random.default_rng(0).random()) if x.sum().item() > 0 else x
            return super().forward(x)

    run = saved(tmp_path / "run", toy.stripes(Branching))
    with pytest.raises(errors.ExportError, match="torch.onnx cannot export this model"):
        run.export("onnx", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_outputs_that_differ_are_refused(tmp_path: Path) -> None:
    class Drifting(toy.Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            drift = 0.0 if torch.compiler.is_exporting() else 1e-3
            return super().forward(x) + drift

    run = saved(tmp_path / "run", toy.stripes(Drifting))
    with pytest.raises(errors.ExportError, match="differ by 1.0e-03 from PyTorch's"):
        run.export("onnx", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_without_the_extra_a_message_says_how_to_install_it(
    digits_run: Run, tmp_path: Path
) -> None:
    command = ["export", f"run={digits_run.path}", "format=onnx", f"output={tmp_path / 'out'}"]
    code = f"from finetune.command import main; sys.exit(main({command!r}))"
    done = alone(code, tmp_path, "onnxruntime")
    assert done.returncode == 2
    assert "format=onnx needs the package onnxruntime" in done.stderr
    assert "Install it with: pip install onnx onnxruntime onnxscript" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()
    extra = PROJECT["optional-dependencies"]["onnx"]
    assert sorted(each.partition(">")[0] for each in extra) == sorted(export.onnx.MODULES)


# Data that is not where it was


def test_data_that_has_moved_or_changed(tmp_path: Path, picture: Path) -> None:
    images, target = load_digits(return_X_y=True)
    for index in range(120):
        folder = tmp_path / "photos" / f"digit {target[index]}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (images[index].reshape(8, 8) * (255 / 16)).round().astype("uint8")
        Image.fromarray(pixels).save(folder / f"{index}.png")
    data = ImageFolder(path=str(tmp_path / "photos"))
    run = saved(tmp_path / "run", digits.override(*TINY_VIT, data=data))
    (tmp_path / "photos").rename(tmp_path / "moved")
    with pytest.raises(errors.DataError, match="data=PATH"):
        run.export("onnx")
    for path in list((tmp_path / "moved" / "digit 1").iterdir())[:3]:
        path.unlink()
    folder = run.export("onnx", data=str(tmp_path / "moved"), int8=False)
    [printed] = answered(folder, "image.jpg", str(picture))
    same(printed, run.predict([picture])[0])
