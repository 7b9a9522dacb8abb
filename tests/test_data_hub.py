"""Hub-layout folders, and the hub itself: served from this machine, silent, and cached."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Image

from finetune.data.hub import HubData
from finetune.errors import DataError
from finetune.waiting import within

SHA = "1" * 40
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


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as reading one data set asks for."""

    root: Path

    def do_HEAD(self) -> None:
        self.do_GET(send=False)

    def do_GET(self, send: bool = True) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/datasets/org/gated"):
            return self.answer(403, b"", {"X-Error-Code": "GatedRepo"}, send)
        if not path.startswith(("/api/datasets/org/pets", "/datasets/org/pets")):
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"}, send)
        if "/revision/" in path and path.rsplit("/", 1)[1] not in ("main", SHA):
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"}, send)
        files = [p for p in sorted(self.root.rglob("*")) if p.is_file()]
        names = [p.relative_to(self.root).as_posix() for p in files]
        if "/tree/" in path:
            inside = path.split("/tree/")[1].partition("/")[2]
            tree = [self.entry(path) for path in sorted((self.root / inside).iterdir())]
            return self.answer(200, json.dumps(tree).encode(), {}, send)
        if "/resolve/" in path:
            name = path.split("/resolve/")[1].partition("/")[2]
            if name not in names:
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"}, send)
            content = (self.root / name).read_bytes()
            return self.answer(
                200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'}, send
            )
        info = {
            "id": "org/pets",
            "sha": SHA,
            "siblings": [{"rfilename": name} for name in names],
            "cardData": {"license": "cc-by-4.0", "pretty_name": "Tiny pets"},
        }
        return self.answer(200, json.dumps(info).encode(), {}, send)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        paths = [self.root / name for name in asked["paths"]]
        found = [self.entry(path) for path in paths if path.exists()]
        self.answer(200, json.dumps(found).encode(), {}, True)

    def entry(self, path: Path) -> dict[str, Any]:
        name = path.relative_to(self.root).as_posix()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": "0"}
        return {"type": "file", "path": name, "size": path.stat().st_size, "oid": name}

    def answer(self, code: int, content: bytes, headers: dict[str, str], send: bool) -> None:
        self.send_response(code)
        for key, value in {"X-Repo-Commit": SHA, **headers}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if send:
            self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def served(root: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Hub,), {"root": root}))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


SCRIPT = """
import json, sys
from finetune.data import HubData
from finetune.errors import DataError
from finetune.waiting import within
for fields in json.loads(sys.argv[1]):
    try:
        s = HubData(**fields).load(("image", "label"))
        print(json.dumps([len(s.train), s.source, s.notes, s.fingerprint]))
    except DataError as error:
        print(json.dumps(str(error)))
"""


def ask(endpoint: str, home: Path, *asked: dict[str, str]) -> list[Any]:
    """Load in a fresh process, as the libraries read their environment once."""
    there = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    there = {k: v for k, v in there.items() if not k.endswith(("_OFFLINE", "_TOKEN"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(asked)],
        capture_output=True,
        text=True,
        env={**there, "PYTHONPATH": str(Path(__file__).parents[1])},
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_hub_and_then_the_cache(folder: Path, tmp_path: Path) -> None:
    pets, home = "org/pets", tmp_path / "home"
    with served(folder) as endpoint:
        loaded, unknown, revision, gated, config = ask(
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
    began = time.monotonic()
    again, other, missing = ask(
        "http://127.0.0.1:9",
        home,
        {"path": pets, "revision": SHA},
        {"path": pets, "revision": "2" * 40},
        {"path": "org/never"},
    )
    assert time.monotonic() - began < 10
    assert again[0] == 27 and again[3] == loaded[3]
    assert again[1] == {"id": pets, "revision": SHA}
    assert again[2][0] == f"The hub cannot be reached: {pets} is read from the cache, as of {SHA}."
    assert f"the cache has {pets} at revision {SHA}" in other
    for part in ("cannot be reached", "not in the cache", "connect", "data=FOLDER", "vit-digits"):
        assert part in missing


def test_a_hub_that_never_answers() -> None:
    with pytest.raises(TimeoutError, match=r"no answer within 0\.05 seconds"):
        within(0.05, lambda: time.sleep(1))
