"""The model card: what the hub reads, what people read, and what must not get in."""

from __future__ import annotations

import getpass
import re
from pathlib import Path
from typing import Any

import pytest
import staging
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image

from finetune import (
    Digits,
    ImageClassification,
    ImageFolder,
    LoRA,
    Recipe,
    RecipeError,
    Timm,
    card,
    front_matter,
    loading,
)

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a|b|c",
    "line\nbreak\x1b[31m\u202e",
    "[click](https://evil.example)",
    "![x](https://evil.example/x.png)",
    "https://evil.example www.evil.example @somebody",
    "``` ` **bold** ~~gone~~ $x$",
    "---\nlicense: mit",
    "<!-- &lt; & -->",
]


def made(job, predictions, recipe=None, **changes: Any) -> str:
    result = staging.result(job, predictions, **changes)
    return card.text(recipe or job.recipe, job, result, staging.ENVIRONMENT)


def rendered(text: str) -> str:
    """Return the body as HTML, raw HTML and tables allowed, as the hub has it."""
    body = text.split("\n---\n", 1)[1]
    return str(
        MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(body)
    )


def test_the_hub_reads_metrics_with_interval_and_n():
    source = {"id": "me/photos", "revision": "abc123", "license": "mit", "title": "Photos"}
    origin = {"name": "vit", "id": "timm/vit", "license": "mit"}
    job, predictions = staging.classes(source=source, origin=origin)
    data = ModelCard(made(job, predictions)).data
    assert data.base_model == "timm/vit" and data.library_name == "timm"
    assert data.datasets == ["me/photos"] and data.license == "mit"
    assert data.pipeline_tag == "image-classification" and data.metrics == ["accuracy"]
    scores = job.target.scores(predictions, job.samples["test"].truth)
    found = {entry.metric_type: entry for entry in data.eval_results}
    assert set(found) == set(scores) - {"per_class"}
    entry = found["accuracy"]
    assert entry.metric_value == scores["accuracy"]["value"]
    assert entry.metric_args == {key: scores["accuracy"][key] for key in ("n", "low", "high")}
    assert (entry.dataset_type, entry.dataset_name) == ("me/photos", "Photos")
    assert (entry.dataset_split, entry.dataset_revision) == ("test", "abc123")
    assert entry.dataset_args == {"fingerprint": job.splits.fingerprint}


@pytest.mark.parametrize(
    ("data", "backbone", "expected"),
    [
        ("mit", None, "mit"),
        (None, "apache-2.0", "apache-2.0"),
        (["mit"], "mit", "mit"),
        ("cc-by-4.0", "apache-2.0", "other"),
        (None, None, None),
        ("unknown", None, None),
        ("MIT\nbase_model: x", None, None),
    ],
)
def test_a_licence_is_named_where_data_and_backbone_agree(data, backbone, expected):
    assert front_matter._license({"license": data}, {"license": backbone}) == expected


def test_the_front_matter_is_read_before_training():
    job, predictions = staging.classes(source={"id": "me/photos", "license": "my-own-1"})
    before, after = ModelCard(front_matter.check(job)).data, ModelCard(made(job, predictions)).data
    for key in set(after.to_dict()) - {"model-index"}:
        assert before[key] == after[key]
    assert (after.license, after.license_name) == ("other", "my-own-1")
    for source, origin in (({"id": ["a"]}, {}), ({"id": "me/a/b"}, {}), ({}, {"id": "not a name"})):
        job, _ = staging.classes(source=source, origin=origin)
        with pytest.raises(RecipeError, match="card of this run would not be valid"):
            front_matter.check(job)


def test_a_card_for_a_repository():
    backbone = {"name": "vit_tiny", "id": "timm/vit_tiny"}
    recipe = staging.RECIPE.override(method=LoRA())
    text = made(*staging.classes(recipe=recipe, origin=backbone))
    whole = card.published(text, "me/x", None, adapter_only=False)
    assert '"hf-hub:me/x"' in whole and 'model="me/x"' in whole
    assert 'from_pretrained(base, "me/x", subfolder="adapter")' in whole
    assert "FOLDER" not in whole and "USER/NAME" not in whole
    assert rendered(whole).count("<h2>") == rendered(text).count("<h2>")
    alone = card.published(text, "me/x", "v2", adapter_only=True)
    assert 'from_pretrained(base, "me/x", revision="v2")' in alone and "pipeline(" not in alone
    data = ModelCard(alone).data
    assert (data.library_name, data["base_model_relation"]) == ("peft", "adapter")
    assert data.eval_results == ModelCard(text).data.eval_results
    # What its owner wrote stays, and a card of other headings is left as it is.
    assert card.published("# Mine\n", "me/x", None, adapter_only=False) == "# Mine\n"


def test_the_body_says_how_good_on_what_and_how():
    job, predictions = staging.classes()
    text = made(job, predictions)
    result = staging.result(job, predictions)
    figure = result["test"]["accuracy"]
    assert f"**{100 * figure['value']:.1f} %** (95 % interval {100 * figure['low']:.1f}" in text
    assert "Says which one of 3 classes an image shows: cat, dog, owl." in text
    assert "the test split was looked at once (fp32, batches of 64)" in text
    assert "Paired difference from the baseline majority in Accuracy: +" in text
    assert "| 50 of 5,000 |" in text and "180 train, 60 validation, 60 test" in text
    assert "torch 2.10.0" in text and "Python 3.11.7" in text
    html = rendered(text)
    assert html.count("<table>") == 5
    for name in ("By class", "Most often confused", "How to load it", "How to make it again"):
        assert f">{name}</h" in html


def test_a_doubtful_result_is_called_so():
    text = made(*staging.classes(skill=0.0))
    assert "Not clearly better than the baseline majority" in text


def test_the_recipe_in_the_card_runs_again():
    job, predictions = staging.classes()
    text = made(job, predictions)
    yaml = re.search(r"```yaml\n(.*?)```", text, re.DOTALL).group(1)
    assert Recipe.from_yaml(yaml) == job.recipe


def test_hostile_names_are_inert():
    source = {"name": HOSTILE[0], "title": HOSTILE[4], "license": HOSTILE[2]}
    origin = {"name": HOSTILE[1]}
    job, predictions = staging.classes(HOSTILE, n=200, skill=1.0, source=source, origin=origin)
    text = made(job, predictions, name=HOSTILE[8])
    html, benign = (
        rendered(text),
        rendered(made(*staging.classes(list("abcdefghij"), n=200, skill=1))),
    )
    tags = set(re.findall(r"<(\w+|!--)", html))
    assert tags <= set(re.findall(r"<(\w+|!--)", benign)), tags
    assert re.findall("<img src=[^ ]*", html) == ['<img src="curves.png"']
    for word in ("<a ", "<script", "<s>", "<!--"):
        assert word not in html
    # Every row of the table of classes has its five cells.
    rows = re.findall(r"<tr>.*?</tr>", html.split("By class")[1].split("Most often")[0], re.DOTALL)
    assert [row.count("<td") for row in rows[1:]] == [5] * len(HOSTILE)
    for name in ("&lt;script&gt;alert(1)&lt;/script&gt;", "a|b|c", "line\\nbreak\\x1b[31m\\u202e"):
        assert f">{name}</td>" in html
    # What hosts of Markdown link by themselves is broken up.
    body = text.split("\n---\n", 1)[1]
    assert not re.search(r"https?://evil|(?<!\\)@somebody|(?<!\\)\$x", body)
    data = ModelCard(text).data
    assert data.model_name == "---\\nlicense: mit" and data.license is None
    assert data.eval_results[0].dataset_name == HOSTILE[4]


def test_code_cannot_be_left():
    block = card.fenced("a\n````\n<script>", "yaml")
    assert block.startswith("`````yaml\n") and block.endswith("\n`````")


def test_no_path_user_or_secret_gets_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    token = "hf_" + "a1B2" * 8
    backbone = Timm(name="resnet18", weights=str(tmp_path / "w.safetensors"), args={"note": token})
    recipe = Recipe(
        name="mine", backbone=backbone, data=ImageFolder(path="photos"), task=ImageClassification()
    )
    job, predictions = staging.classes(
        recipe=recipe,
        source={"name": "photos"},
        origin={"name": "resnet18"},
        path=str(tmp_path / "x.png"),
    )
    environment = staging.ENVIRONMENT | {"argv": [f"data={tmp_path}", token]}
    notes = [f"A hidden folder was left out: {tmp_path}/.cache"]
    result = staging.result(job, predictions, notes=notes)
    text = card.text(recipe, job, result, environment)
    for word in (str(tmp_path), str(Path.home()) + "/", token):
        assert word not in text
    assert not re.search(rf"\b{re.escape(getpass.getuser())}\b", text)
    assert "path: PATH" in text and "weights: PATH" in text and "note: SECRET" in text
    assert "name: mine" in text and "weights of a local file" in text
    assert ModelCard(text).data.base_model is None


@pytest.mark.parametrize("kind", ["numbers", "label_sets"])
def test_other_kinds_of_target(kind):
    job, predictions = getattr(staging, kind)()
    task = {"numbers": "image-regression", "label_sets": "multi-label-image-classification"}[kind]
    text = made(job, predictions, task=task)
    data = ModelCard(text).data
    if kind == "numbers":
        assert data.pipeline_tag is None and data.eval_results[0].task_type == "image-regression"
        assert "Estimates a number from an image" in text and "By class" not in text
        assert "pearson" in {entry.metric_type for entry in data.eval_results}
        assert 'function_to_apply="none"' in text
    else:
        assert data.pipeline_tag == "image-classification"
        assert "Says which of 3 labels an image has" in text and "sigmoid" in text


def test_many_classes_are_cut_to_the_worst():
    names = [f"species {place}" for place in range(80)]
    text = made(*staging.classes(names, n=320, skill=3.0))
    assert "The 50 of lowest F1" in text and " and 60 more" in text


def test_a_recipe_with_objects_of_a_script_says_so():
    class Mine:
        def build(self, num_outputs, classes=None):
            raise NotImplementedError

        def saved(self, folder):
            raise NotImplementedError

        def without_weights(self):
            raise NotImplementedError

    recipe = Recipe(name="mine", backbone=Mine(), data=Digits(), task=ImageClassification())
    text = made(*staging.classes(recipe=recipe, origin={"name": "Mine"}))
    assert "The recipe holds objects of a script" in text and "```" not in text
    assert ModelCard(text).data.library_name is None


def test_a_fitted_head_has_its_penalty_in_the_card():
    training = {"probe": {"c": 0.1, "tried": []}}
    text = made(*staging.classes(), training=training)
    assert "| C of the linear head | 0.1 |" in text and "epochs" not in text.split("```")[0]


def blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_examples_load_a_saved_model_without_this_toolkit(tmp_path, capsys, monkeypatch):
    network = Timm(name="test_vit", weights="none", img_size=32).build(3, ("cat", "dog", "owl"))
    network.save(tmp_path / "model", ("cat", "dog", "owl"))
    Image.new("RGB", (40, 30), (200, 30, 90)).save(tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    for example in blocks(made(*staging.classes())):
        assert "finetune" not in example
        exec(example.replace(loading.FOLDER, str(tmp_path / "model")), {})
    timm_said, transformers_said = capsys.readouterr().out.strip().splitlines()[-2:]
    label, chance = timm_said.split()
    assert f"'label': '{label}'" in transformers_said
    assert float(chance) == pytest.approx(
        float(re.search(r"0\.\d+", transformers_said)[0]), abs=1e-5
    )


def test_the_adapter_example_puts_it_on_its_base(tmp_path):
    backbone = Timm(name="test_vit", weights="none", img_size=32)
    backbone.build(3).save(tmp_path / "base", None)
    network = Timm(name=str(tmp_path / "base"), img_size=32).build(3)
    method = LoRA(rank=2)
    module = method.prepare(network)
    import torch

    inputs = {"x": torch.rand(2, 3, 32, 32)}
    merged = method.finish(module, inputs, tmp_path / "model" / "adapter", "timm/test_vit")
    recipe = staging.RECIPE.override(method=method, backbone=backbone)
    origin = {"name": "test_vit", "id": "timm/test_vit"}
    text = made(*staging.classes(recipe=recipe, origin=origin))
    example = blocks(text)[2]
    assert "hf-hub:timm/test_vit" in example and "img_size=32" in example
    # The hub is not to be reached here: the same weights lie in a folder.
    example = example.replace("hf-hub:timm/test_vit", f"local-dir:{tmp_path / 'base'}")
    held: dict[str, Any] = {}
    exec(example.replace(loading.FOLDER, str(tmp_path / "model")), held)
    with torch.inference_mode():
        difference = (held["model"](inputs["x"]) - merged(inputs["x"])).abs().max()
    assert difference < 1e-4


def test_an_adapter_of_a_local_backbone_is_described_without_an_example():
    recipe = staging.RECIPE.override(method=LoRA())
    text = made(*staging.classes(recipe=recipe, origin={"name": "mine"}))
    assert "`adapter/` holds it alone" in text and len(blocks(text)) == 2
