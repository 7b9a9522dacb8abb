"""The benchmarks run, part by part, and write their tables; how fast is not asked here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Pillow

VISION, TEXT = (Path(__file__).with_name(f"{name}.py") for name in ("vision", "text"))
PARTS = {
    VISION: ["training", "features", "photos", "frozen"],
    TEXT: ["full", "lora", "embeddings", "top-layer", "packing", "accuracy"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder laid out like the real one, with noise for images and texts alike."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)

    def picture(side: int) -> Pillow.Image:
        return Pillow.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8))

    names = [f"class {i}" for i in range(10)]
    form = Features(img=Image(), label=ClassLabel(names=names))
    for split, count in (("train", 840), ("test", 128)):
        rows = {"img": [picture(32) for _ in range(count)], "label": [i % 10 for i in range(count)]}
        path = folder / "cifar10" / "plain_text" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_dict(rows, features=form).to_parquet(path)
    for split, count in (("train", 128), ("validation", 32), ("test", 32)):
        said = [f"speech {n} of a play, {'so good' if n % 2 else 'so bad'}" for n in range(count)]
        for name, rows in (
            ("sst2", {"sentence": said, "label": [n % 2 for n in range(count)]}),
            ("tinyshakespeare", {"text": [" ".join([text] * 20) for text in said]}),
        ):
            path = folder / name / "data" / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            Dataset.from_dict(rows).to_parquet(path)
    for split, label in ((s, c) for s in ("train", "val") for c in ("ants", "bees")):
        place = folder / "hymenoptera" / split / label
        place.mkdir(parents=True)
        for number in range(20):
            picture(240).save(place / f"{number}.jpg")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("script", "part"), [(s, part) for s in PARTS for part in PARTS[s]])
def test_each_part_runs_and_writes_its_section(
    script: Path, part: str, data: Path, tmp_path: Path
) -> None:
    results = tmp_path / "RESULTS.md"
    results.write_text("# Results\n\n## photos\n\nkept\n\n## frozen\n\nkept too\n")
    done = subprocess.run(
        [sys.executable, str(script), part, "--quick", f"data={data}", f"results={results}"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    text = results.read_text()
    section = part if script == VISION else f"text-{part}"
    assert text.count(f"## {section}\n") == 1 and "| ratio" in text
    assert ("kept\n" in text) == (section != "photos")
    assert ("kept too\n" in text) == (section != "frozen")


@pytest.mark.parametrize(
    ("word", "told"),
    [("trainig", "trainig"), ("data=/no/such/folder", "/no/such/folder"), ("result=x", "result")],
)
def test_a_wrong_word_is_refused_before_anything_is_measured(word: str, told: str) -> None:
    done = subprocess.run([sys.executable, str(VISION), word], capture_output=True, text=True)
    assert done.returncode == 2
    assert told in done.stderr.splitlines()[-1]
