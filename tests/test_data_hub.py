"""Hub-layout folders, and the hub itself: served from this machine, silent, and cached."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Image
from hub_server import NOWHERE, SHA, ask, served

from finetune.data.hub import HubData
from finetune.errors import DataError
from finetune.waiting import within

CARD = """---
license: cc-by-4.0
pretty_name: Tiny pets
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: data/test-*
---
"""


def rows(count: int) -> Dataset:
    cells = [{"path": None, "bytes": f"png {i}".encode()} for i in range(count)]
    features = Features(img=Image(), label=ClassLabel(names=["dog", "cat"]))
    return Dataset.from_dict({"img": cells, "label": [i % 2 for i in range(count)]}, features)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a data set in the hub's layout."""
    root = tmp_path / "pets"
    (root / "data").mkdir(parents=True)
    rows(30).to_parquet(str(root / "data" / "train-00000-of-00001.parquet"))
    rows(6).to_parquet(str(root / "data" / "test-00000-of-00001.parquet"))
    (root / "README.md").write_text(CARD)
    return root


def test_a_folder(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    splits = HubData(str(folder)).load(("image", "label"))
    assert splits.classes == ("dog", "cat")
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [27, 3, 6]
    assert splits.test[1] == {"image": {"path": None, "bytes": b"png 1"}, "label": 1}
    assert splits.source == {"name": "pets", "license": "cc-by-4.0", "title": "Tiny pets"}
    assert capfd.readouterr().err == ""


def test_slices_of_a_folder(folder: Path) -> None:
    data = HubData(str(folder), train="train[:20]", validation="train[20:]")
    splits = data.load(("image", "label"))
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [20, 10, 6]
    assert splits.notes == ()


def test_a_csv_folder_names_files_relative_to_itself(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("file_name,label\n" + "a/1.png,x\na/2.png,y\n" * 10)
    splits = HubData(str(tmp_path)).load(("image", "label"))
    assert splits.classes == ("x", "y")
    assert Path(splits.train[0]["image"]["path"]).parent == tmp_path / "a"


def test_an_unknown_configuration_names_those_there_are(folder: Path) -> None:
    with pytest.raises(DataError, match=r"config=defualt.*'default'.*Did you mean 'default'"):
        HubData(str(folder), config="defualt").load(("image", "label"))


def test_several_configurations_are_asked_about(folder: Path) -> None:
    more = CARD.replace("configs:", "configs:\n- config_name: small\n  data_files: data/test-*")
    (folder / "README.md").write_text(more.replace("default", "large"))
    with pytest.raises(DataError, match=r"the configurations of .* are 'small', 'large'. Name one"):
        HubData(str(folder)).load(("image", "label"))
    assert len(HubData(str(folder), config="large").load(("image", "label")).test) == 6


def test_a_folder_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be loaded"):
        HubData(str(tmp_path)).load(("image", "label"))
    with pytest.raises(DataError, match=r"no such path \./nowhere"):
        HubData("./nowhere").load(("image", "label"))
    (tmp_path / "rows.csv").write_text("x\n1\n")
    with pytest.raises(DataError, match=r"is a file: give data.kind=table"):
        HubData(str(tmp_path / "rows.csv")).load(("image", "label"))


SCRIPT = """
import json, sys, time
import datasets, huggingface_hub
from finetune.data import HubData
from finetune.errors import DataError
from finetune.waiting import within
began = time.monotonic()
for fields in json.loads(sys.argv[1]):
    try:
        s = HubData(**fields).load(("image", "label"))
        print(json.dumps([len(s.train), s.source, s.notes, s.fingerprint]))
    except DataError as error:
        print(json.dumps(str(error)))
print(time.monotonic() - began)
"""


def test_the_hub_and_then_the_cache(folder: Path, tmp_path: Path) -> None:
    pets, home = "org/pets", tmp_path / "home"
    with served({f"datasets/{pets}": folder, "datasets/org/gated": None}) as endpoint:
        loaded, unknown, revision, gated, config, _ = ask(
            SCRIPT,
            endpoint,
            home,
            {"path": pets},
            {"path": "org/petz"},
            {"path": pets, "revision": "v9"},
            {"path": "org/gated"},
            {"path": pets, "config": "big"},
        )
    source = {"id": pets, "revision": SHA, "license": "cc-by-4.0", "title": "Tiny pets"}
    assert loaded[:2] == [27, source], loaded
    assert "The hub has no data set org/petz, or it is private" in unknown
    assert "org/pets has no revision 'v9'" in revision
    assert "asks for consent" in gated
    assert "the configurations of org/pets are 'default'" in config
    again, other, missing, seconds = ask(
        SCRIPT,
        NOWHERE,
        home,
        {"path": pets, "revision": SHA},
        {"path": pets, "revision": "2" * 40},
        {"path": "org/never"},
    )
    assert seconds < 10
    assert again[0] == 27 and again[3] == loaded[3]
    assert again[1] == {"id": pets, "revision": SHA}
    assert again[2][0] == f"The hub cannot be reached: {pets} is read from the cache, as of {SHA}."
    assert f"the cache has {pets} at revision {SHA}" in other
    for part in ("cannot be reached", "not in the cache", "connect", "data=FOLDER", "vit-digits"):
        assert part in missing


def test_a_hub_that_never_answers() -> None:
    with pytest.raises(TimeoutError, match=r"no answer within 0\.05 seconds"):
        within(0.05, lambda: time.sleep(1))
