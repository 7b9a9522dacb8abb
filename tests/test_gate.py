"""The gate lets a model through that others load as we do, and no other."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from finetune import gate
from finetune.backbones import Timm
from finetune.errors import TrainingError

CLASSES = ("cat", "dog", "emu")


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(0)
    network = Timm(name="test_vit", weights="none", img_size=32).build(3, CLASSES)
    # Weights as far from zero as after training: logits of tens.
    network.set_head(torch.randn(3, 64) * 3, torch.randn(3))
    network.module.eval()
    return network


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return a file, bytes, and 16-bit greyscale, which Pillow alone would clip to white."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / "a.png")
    Image.fromarray(random.integers(0, 65535, (40, 50), dtype=np.uint16)).save(folder / "b.png")
    deep = {"path": str(folder / "b.png"), "bytes": None}
    return [
        {"image": {"path": str(folder / "a.png"), "bytes": None}},
        {"image": {"path": "named.jpg", "bytes": (folder / "a.png").read_bytes()}},
        {"image": deep},
    ]


@pytest.fixture(scope="module")
def logits(network: Any, rows: list[dict[str, Any]]) -> Any:
    source, failures = network.inputs.read(rows)
    assert not failures
    with torch.inference_mode():
        inputs = source.finish(source.read(np.arange(len(source)), 0))["x"]
        return torch.cat([network.module(x[None]) for x in inputs]).numpy()


@pytest.fixture
def folder(network: Any, tmp_path: Path) -> Path:
    network.save(tmp_path / "model", CLASSES, "single_label_classification")
    return tmp_path / "model"


def test_a_saved_model_passes(network, folder, rows, logits) -> None:
    found = gate.check(network.reloader, folder, rows, logits, CLASSES)
    assert found["rows"] == 3
    assert found["largest_difference"].keys() == {"timm", "transformers"}
    assert max(found["largest_difference"].values()) <= found["tolerance"]
    assert found["tolerance"] == pytest.approx(1e-5 * np.abs(logits).max())


def test_a_wrongly_saved_model_does_not(network, folder, rows, logits) -> None:
    weights = folder / "model.safetensors"
    right = load_file(weights)
    name = "blocks.3.mlp.fc1.weight"
    save_file(right | {name: right[name] * 1.01}, weights)
    with pytest.raises(TrainingError, match=r"loaded by timm .* differ by .* is allowed"):
        gate.check(network.reloader, folder, rows[:1], logits[:1], CLASSES)


# A script that says what it is told to, instead of the seconds that the libraries take.
ECHO = "import json, os, sys; print(open(os.path.join(sys.argv[1], 'told.json')).read())"


@pytest.mark.parametrize(
    ("library", "answer", "message"),
    [
        ("timm", {"labels": ["dog", "cat", "emu"]}, r"timm, has the labels \['dog', 'cat'"),
        ("transformers", {"labels": None}, r"transformers, has the labels None"),
        ("transformers", {"logits": [[1.0, 2.0]]}, r"shape \(2,\) for one row, and not \(3,\)"),
        ("transformers", {"logits": [[1.0, 2.0, 3.1]]}, r"transformers in .* differ by 1.0e-01"),
        ("timm", {"logits": [[1.0, 2.0, float("nan")]]}, r"timm in .* differ by nan"),
    ],
)
def test_what_either_library_may_get_wrong(library, answer, message, tmp_path) -> None:
    right = {"logits": [[1.0, 2.0, 3.0]], "labels": list(CLASSES)}
    script = tmp_path / "echo.py"
    script.write_text(ECHO)
    told = tmp_path / "told.json"
    logits = np.array(right["logits"])
    told.write_text(json.dumps({"timm": right, "transformers": right}))
    rows = [{"text": "a dog"}]
    assert gate.check(script, tmp_path, rows, logits, CLASSES)["rows"] == 1
    told.write_text(json.dumps({"timm": right, "transformers": right, library: right | answer}))
    with pytest.raises(TrainingError, match=message):
        gate.check(script, tmp_path, rows, logits, CLASSES)


def test_a_model_that_does_not_load(tmp_path: Path) -> None:
    script = tmp_path / "fails.py"
    script.write_text("raise OSError('no model.safetensors')")
    with pytest.raises(TrainingError, match="in a fresh process: OSError: no model.safetensors"):
        gate.check(script, tmp_path, [{"text": "a"}], np.zeros((1, 3)), None)


def test_the_script_sees_rows_as_they_are(tmp_path: Path) -> None:
    script = tmp_path / "echo.py"
    script.write_text(
        "import json, sys; rows = json.load(open(sys.argv[2]));"
        "told = {'logits': [[len(row['text'])] for row in rows], 'labels': None};"
        "print(json.dumps({'x': told}))"
    )
    rows = [{"text": "a"}, {"text": "äbc"}]
    found = gate.check(script, tmp_path, rows, np.array([[1.0], [3.0]]), None)
    assert found["largest_difference"] == {"x": 0.0}


def test_the_reloader_needs_nothing_of_ours(network) -> None:
    tree = ast.parse(network.reloader.read_text("utf-8"))
    modules = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in [getattr(node, "module", None) or node.names[0].name]
    }
    assert modules == {"json", "sys", "pathlib", "timm", "torch", "PIL", "transformers"}
