"""Images are decoded once, found again by content, shared, and kept within a limit."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.errors import DataError, UnreadableInputs
from finetune.images import store
from finetune.images.augmentation import Augmentation
from finetune.images.inputs import ImageInputs
from finetune.images.render import Rendering

INPUTS = ImageInputs((16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", 0.9, "center")
SAME = Rendering("as it is", lambda image: image)


def cell(seed: int, height: int = 6, width: int = 6, path: str | None = None) -> dict[str, Any]:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"path": path, "bytes": file.getvalue()}


class Rows:
    """A table of image cells."""

    column_names = ["image"]

    def __init__(self, cells: list[Any]) -> None:
        self.cells = cells

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, key: Any) -> Any:
        return self.cells if key == "image" else {"image": self.cells[key]}


def stores(cache: Path) -> set[str]:
    return {folder.name for folder in cache.glob("pixels-*/")}


@pytest.fixture(autouse=True)
def _no_stores_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_opened", {})


class Counted:
    """A rendering that counts how often it decodes."""

    def __init__(self) -> None:
        self.count = 0

    def rendering(self) -> Rendering:
        def shape(image: Image.Image) -> Image.Image:
            self.count += 1
            return image

        return Rendering("counted", shape)


def test_pixels_come_back_as_they_went_in(tmp_path: Path) -> None:
    cells = [cell(i, 3 + i, 9 - i) for i in range(5)]
    images = store.open_images(cells, SAME, tmp_path)
    assert isinstance(images, store.Mapped)
    assert images.sizes.tolist() == [[3 + i, 9 - i] for i in range(5)]
    for row, pixels in zip([4, 0, 2, 2], images.fetch(np.array([4, 0, 2, 2])), strict=True):
        expected = np.random.default_rng(row).integers(0, 256, (3 + row, 9 - row, 3), np.uint8)
        assert (pixels == expected).all()


def test_equal_images_come_as_one_array(tmp_path: Path) -> None:
    images = store.open_images([cell(i) for i in range(4)], SAME, tmp_path)
    block = images.fetch(np.array([3, 1]))
    assert isinstance(block, np.ndarray) and block.shape == (2, 6, 6, 3)


def test_no_images_is_no_error(tmp_path: Path) -> None:
    images = store.open_images([], SAME, tmp_path)
    assert len(images) == 0 and list(images.fetch(np.array([], dtype=np.int64))) == []


def test_each_image_is_decoded_once(tmp_path: Path) -> None:
    counted, cells = Counted(), [cell(i) for i in range(7)]
    for _ in range(3):
        images = store.open_images(cells, counted.rendering(), tmp_path)
        images.fetch(np.arange(7))
    assert counted.count == 7


def test_the_key_is_the_content_and_what_was_done_to_it(tmp_path: Path) -> None:
    cells = [cell(0), cell(1)]
    store.open_images(cells, SAME, tmp_path)
    (tmp_path / "elsewhere.png").write_bytes(cells[0]["bytes"])
    moved = [{"path": str(tmp_path / "elsewhere.png"), "bytes": None}, cells[1]]
    store.open_images(moved, SAME, tmp_path)
    assert len(stores(tmp_path)) == 1
    store.open_images(cells[::-1], SAME, tmp_path)
    assert len(stores(tmp_path)) == 2
    store.open_images(cells, Rendering("other", lambda image: image), tmp_path)
    assert len(stores(tmp_path)) == 3
    (tmp_path / "elsewhere.png").write_bytes(cell(2)["bytes"])
    images = store.open_images(moved, SAME, tmp_path)
    expected = np.random.default_rng(2).integers(0, 256, (6, 6, 3), np.uint8)
    assert (images.fetch(np.array([0]))[0] == expected).all()


@pytest.mark.parametrize("augmentation", [None, Augmentation(), Augmentation(mixup=0.4)])
@pytest.mark.parametrize("uniform", [True, False])
def test_past_the_limit_every_epoch_decodes_to_identical_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, augmentation: Any, uniform: bool
) -> None:
    table = Rows([cell(i, 12, 12 if uniform else 12 + i) for i in range(9)])
    kept = INPUTS.source(table, tmp_path / "kept", augmentation=augmentation, seed=3)
    monkeypatch.setenv("FINETUNE_CACHE_GB", "0")
    decoded = INPUTS.source(table, tmp_path / "none", augmentation=augmentation, seed=3)
    assert isinstance(kept.images, store.Mapped)  # type: ignore[attr-defined]
    assert isinstance(decoded.images, store.Decoding)  # type: ignore[attr-defined]
    for epoch in (0, 1):
        one, other = (s.read(np.array([8, 2, 2, 5]), epoch) for s in (kept, decoded))
        assert one.keys() == other.keys()
        assert all((one[name] == other[name]).all() for name in one)
    assert not list(tmp_path.glob("none/*/pixels.bin"))


def test_pixels_are_kept_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_CACHE_GB", "0")
    cells = [cell(0), cell(1)]
    assert isinstance(store.open_images(cells, SAME, tmp_path), store.Decoding)
    assert isinstance(store.open_images(cells, SAME, tmp_path), store.Decoding)
    monkeypatch.delenv("FINETUNE_CACHE_GB")
    assert isinstance(store.open_images(cells, SAME, tmp_path), store.Mapped)


def test_the_least_recently_used_stores_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = 40  # 4,800 bytes of pixels
    monkeypatch.setenv("FINETUNE_CACHE_GB", str(10_000 / 1e9))
    names = []
    for seed in range(2):
        before = stores(tmp_path)
        store.open_images([cell(seed, side, side)], SAME, tmp_path)
        names += stores(tmp_path) - before
        store._opened.clear()
    for age, name in enumerate(names):
        os.utime(tmp_path / name, (time.time() - 100 + age, time.time() - 100 + age))
    store.open_images([cell(0, side, side)], SAME, tmp_path)
    store._opened.clear()
    store.open_images([cell(2, side, side)], SAME, tmp_path)
    assert names[0] in stores(tmp_path) and names[1] not in stores(tmp_path)
    assert len(stores(tmp_path)) == 2


def test_stores_in_use_stay_and_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_CACHE_GB", str(6_000 / 1e9))
    first = store.open_images([cell(0, 40, 40)], SAME, tmp_path)
    second = store.open_images([cell(1, 40, 40)], SAME, tmp_path)
    assert isinstance(first, store.Mapped) and isinstance(second, store.Decoding)
    assert isinstance(store.open_images([cell(0, 40, 40)], SAME, tmp_path), store.Mapped)


def test_a_limit_that_is_no_number_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_CACHE_GB", "lots")
    with pytest.raises(DataError, match="FINETUNE_CACHE_GB='lots' is no number of gigabytes"):
        store.open_images([cell(0)], SAME, tmp_path)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"decoded images in .*FINETUNE_CACHE=PATH"):
        store.open_images([cell(0)], SAME, tmp_path / "file")


def test_broken_images_are_found_in_the_one_pass_that_decodes(tmp_path: Path) -> None:
    counted = Counted()
    cells = [cell(0), {"path": "b.png", "bytes": b"?"}, cell(2), {"path": "d.png", "bytes": b""}]
    with pytest.raises(UnreadableInputs, match="2 images cannot be read") as caught:
        store.open_images(cells, counted.rendering(), tmp_path)
    assert [(f.row, f.name) for f in caught.value.failures] == [(1, "b.png"), (3, "d.png")]
    usable = [cells[0], cells[2]]
    images = store.open_images(usable, counted.rendering(), tmp_path)
    expected = np.random.default_rng(2).integers(0, 256, (6, 6, 3), np.uint8)
    assert (images.fetch(np.array([1]))[0] == expected).all()
    with pytest.raises(UnreadableInputs, match=r"'e\.png'"):  # the names are those of today
        store.open_images([cells[0], cells[1] | {"path": "e.png"}, *cells[2:]], SAME, tmp_path)
    with pytest.raises(UnreadableInputs):
        store.open_images(cells, counted.rendering(), tmp_path)
    assert counted.count == 2


def test_a_file_that_vanishes_later_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_CACHE_GB", "0")
    path = tmp_path / "a.png"
    path.write_bytes(cell(0)["bytes"])
    images = store.open_images([{"path": str(path), "bytes": None}], SAME, tmp_path / "cache")
    path.unlink()
    with pytest.raises(UnreadableInputs, match="No such file"):
        images.fetch(np.array([0]))


BUILD = """
import sys
from pathlib import Path
from tests.test_images_store import SAME, cell
from finetune.images import store
images = store.open_images([cell(i) for i in range(40)], SAME, Path(sys.argv[1]))
print(type(images).__name__, int(images.fetch(images.sizes[:, 0] * 0).sum()))
"""


def test_several_processes_build_it_once(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(2)
    ]
    said = {process.communicate(timeout=60)[0] for process in started}
    assert len(said) == 1 and said.pop().startswith("Mapped")
    assert len(stores(tmp_path)) == 1 and not list(tmp_path.glob(".pixels-*"))


def test_what_a_killed_process_left_is_built_again(tmp_path: Path) -> None:
    cells = [cell(0)]
    store.open_images(cells, SAME, tmp_path)
    (name,) = stores(tmp_path)
    os.rename(tmp_path / name, tmp_path / f".{name}")
    (tmp_path / f".{name}" / "pixels.bin").write_bytes(b"half")
    images = store.open_images(cells, SAME, tmp_path)
    assert images.fetch(np.array([0]))[0].shape == (6, 6, 3)


def test_a_full_disk_only_means_decoding_each_epoch(tmp_path: Path) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))" + BUILD
    said = subprocess.run(
        [sys.executable, "-c", limited, str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        timeout=60,
    )
    assert said.stdout.startswith("Decoding"), said.stderr
