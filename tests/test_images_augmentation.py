"""Augmentation is a pure function of seed, epoch and sample, and does what its names say."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from scipy import stats

from finetune.images import batch, draws, randaugment
from finetune.images.augmentation import Augmentation
from finetune.images.inputs import ImageInputs

EVERYTHING = Augmentation(rand_augment=2, mixup=0.4, cutmix=1.0, erasing=0.5)
STILL = Augmentation(crop="none", flip=0)
ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def picture(seed: int, height: int, width: int) -> Any:
    """Smooth noise, uint8 (height, width, 3): has no detail that a filter's rounding blows up."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


class Rows:
    """A table of image cells with these pixels."""

    column_names = ["image"]

    def __init__(self, *pixels: Any) -> None:
        self.cells = []
        for array in pixels:
            file = io.BytesIO()
            Image.fromarray(array).save(file, "PNG")
            self.cells.append({"path": None, "bytes": file.getvalue()})

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, key: Any) -> Any:
        return self.cells if key == "image" else {"image": self.cells[key]}


SMALL = Rows(*(picture(i, 12, 12) for i in range(16)))
MIXED = Rows(*(picture(i, 12 + 3 * i, 40 - 2 * i) for i in range(16)))


def inputs(size: int = 16, mode: str = "center", pct: float = 1.0) -> ImageInputs:
    return ImageInputs((size, size), ZERO, ONE, "bicubic", pct, mode)


def seen(source: Any, indices: list[int], epoch: int = 0) -> Any:
    return source.finish(source.read(np.array(indices), epoch))["x"]


# Random numbers


def test_uniforms_are_uniform_and_independent() -> None:
    u = draws.uniforms(7, 3, np.arange(20_000), 6)
    assert u.shape == (20_000, 6) and u.min() >= 0 and u.max() < 1
    for column in range(6):
        assert stats.kstest(u[:, column], "uniform").pvalue > 1e-3
    others = [
        draws.uniforms(7, 4, np.arange(20_000), 6)[:, 0],
        draws.uniforms(8, 3, np.arange(20_000), 6)[:, 0],
        u[:, 1],
        np.roll(u[:, 0], 1),
    ]
    for other in others:
        assert abs(np.corrcoef(u[:, 0], other)[0, 1]) < 0.03


def test_uniforms_follow_the_sample_and_not_its_place() -> None:
    whole = draws.uniforms(1, 2, np.arange(10), 4)
    assert (draws.uniforms(1, 2, np.array([7, 3, 3]), 4) == whole[[7, 3, 3]]).all()
    assert (draws.uniforms(1, 2, np.array([7]), 9)[:, :4] == whole[7]).all()
    assert len({draws.uniforms(s, e, np.array([i]), 1)[0, 0] for s in range(9) for e in range(9)
                for i in range(9)}) == 9**3  # fmt: skip


# Sources


@pytest.mark.parametrize("table", [SMALL, MIXED], ids=["batched", "one by one"])
def test_batches_do_not_depend_on_their_company(tmp_path: Path, table: Rows) -> None:
    source = inputs().source(table, tmp_path, augmentation=EVERYTHING, seed=5)
    whole = seen(source, [4, 9, 1, 9], epoch=2)
    assert whole.shape == (4, 3, 16, 16) and whole.dtype == torch.float32 and whole.is_contiguous()
    for place, index in enumerate([4, 9, 1, 9]):
        assert torch.allclose(seen(source, [index], epoch=2)[0], whole[place], atol=1e-6)
    again = inputs().source(table, tmp_path, augmentation=EVERYTHING, seed=5)
    assert torch.equal(seen(again, [4, 9, 1, 9], epoch=2), whole)
    assert not torch.allclose(seen(source, [4, 9, 1, 9], epoch=3), whole, atol=0.1)
    other = inputs().source(table, tmp_path, augmentation=EVERYTHING, seed=6)
    assert not torch.allclose(seen(other, [4, 9, 1, 9], epoch=2), whole, atol=0.1)


def test_a_raw_batch_can_be_cut_into_parts(tmp_path: Path) -> None:
    source = inputs().source(SMALL, tmp_path, augmentation=EVERYTHING)
    raw = source.read(np.arange(8), 0)
    assert all(len(value) == 8 for value in raw.values())
    parts = [source.finish({k: v[i : i + 3] for k, v in raw.items()})["x"] for i in (0, 3, 6)]
    assert torch.allclose(torch.cat(parts), source.finish(raw)["x"], atol=1e-6)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("pct", [0.8, 1.0])
@pytest.mark.parametrize("side", [(48, 48), (40, 56)])
def test_without_changes_training_sees_what_evaluation_sees(
    tmp_path: Path, mode: str, pct: float, side: tuple[int, int]
) -> None:
    table = Rows(*(picture(i, *side) for i in range(4)))
    given = inputs(64, mode=mode, pct=pct)
    train = seen(given.source(table, tmp_path, augmentation=STILL), [0, 1, 2, 3])
    native = seen(given.source(table, tmp_path), [0, 1, 2, 3])
    # Boxes are whole pixels of the small image, so an edge may lie half of one elsewhere.
    assert (train - native).abs().mean() < (0.002 if side == (48, 48) and pct == 1 else 0.02)


def test_large_photos_are_kept_small_and_seen_alike(tmp_path: Path) -> None:
    table = Rows(picture(0, 300, 200), picture(1, 200, 410))
    source = inputs(64).source(table, tmp_path, augmentation=STILL)
    assert source.images.sizes.tolist() == [[111, 74], [74, 152]]  # type: ignore[attr-defined]
    native = inputs(64).source(table, tmp_path)
    assert (seen(source, [0, 1]) - seen(native, [0, 1])).abs().mean() < 0.02


def test_both_paths_agree(tmp_path: Path) -> None:
    given, augmentation = inputs(), Augmentation(erasing=0.5)
    pixels = [picture(i, 12, 12) for i in range(8)]
    batched = given.source(Rows(*pixels), tmp_path, augmentation=augmentation)
    single = given.source(Rows(*pixels, picture(9, 13, 12)), tmp_path, augmentation=augmentation)
    difference = seen(batched, list(range(8))) - seen(single, list(range(8)))
    assert difference.abs().max() < 3 / 255


# Crops


@pytest.mark.parametrize(("name", "kernel"), [("bicubic", 3), ("bilinear", 2)])
@pytest.mark.parametrize("size", [(20, 24), (7, 5), (11, 9)])
def test_resampling_is_that_of_pillow(name: str, kernel: int, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (18, 15, 3), dtype=np.uint8)
    boxes = torch.tensor([[0, 0, 18, 15], [3, 2, 11, 9], [17, 14, 1, 1], [0, 5, 6, 10]])
    images = torch.from_numpy(image).permute(2, 0, 1).expand(4, 3, 18, 15)
    flip = torch.tensor([False, True, False, True])
    given = batch.resample(images, boxes, flip, size, interpolation=name, margin=2)
    for place, (top, left, height, width) in enumerate(boxes.tolist()):
        for channel in range(3):
            cut = image[top : top + height, left : left + width, channel].astype(np.float32)
            resized = Image.fromarray(cut).resize(size[::-1], Image.Resampling(kernel))
            expected = np.asarray(resized).clip(0, 255)
            expected = expected[:, ::-1] if flip[place] else expected
            assert np.abs(given[place, channel].numpy() - expected).max() < 1e-2


def test_what_lies_outside_has_the_fill_colour() -> None:
    images = torch.full((2, 3, 4, 4), 200, dtype=torch.uint8)
    boxes = torch.tensor([[-1, 0, 4, 4], [0, 2, 4, 4]])
    flip = torch.zeros(2, dtype=torch.bool)
    black = batch.resample(images, boxes, flip, (4, 4), margin=2)
    assert black[0, 0].tolist() == [[0.0] * 4] + [[200.0] * 4] * 3
    assert black[1, 0].tolist() == [[200.0, 200.0, 0.0, 0.0]] * 4
    grey = batch.resample(images, boxes, flip, (4, 4), margin=2, fill=(1, 2, 3))
    assert grey[0, :, 0, 0].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("table", [SMALL, Rows(*(picture(i, 12, 12 + i) for i in range(16)))])
def test_a_pad_crop_shifts_and_shows_black(tmp_path: Path, table: Rows) -> None:
    pad = Augmentation(crop="pad", pad=0.25, flip=0)
    white = Rows(*(np.full_like(np.asarray(Image.open(io.BytesIO(c["bytes"]))), 255)
                   for c in table.cells))  # fmt: skip
    images = seen(inputs(12).source(white, tmp_path, augmentation=pad), list(range(16)))
    covered = images[:, 0]
    shown = [(int(c.amax(1).sum()), int(c.amax(0).sum())) for c in covered]
    assert all(9 <= height <= 12 and 9 <= width <= 12 for height, width in shown)
    assert len(set(shown)) > 4
    assert ((covered == 0) | (covered == 1)).all()


def test_resized_crops_keep_the_asked_area_and_ratio() -> None:
    augmentation = Augmentation(scale=(0.2, 0.6), ratio=(0.5, 2.0))
    sizes = np.tile(np.array([[200, 300]]), (4000, 1))
    drawn = draws.appearance(
        augmentation, (64, 64), np.zeros((4000, 4)), sizes, 0, 0, np.arange(4000)
    )
    top, left, height, width = drawn["box"].T
    area, ratio = height * width / 60_000, width / height
    assert 0.19 < area.min() < 0.22 and 0.58 < area.max() < 0.61
    assert stats.kstest(area, stats.uniform(0.2, 0.4).cdf).pvalue > 1e-3
    assert 0.49 < ratio.min() < 0.55 and 1.85 < ratio.max() < 2.02
    assert top.min() == 0 and (top + height).max() == 200
    assert left.min() == 0 and (left + width).max() == 300
    assert abs(drawn["flip"].mean() - 0.5) < 0.03


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 90)])
def test_resized_crops_stay_inside_extreme_images(size: tuple[int, int]) -> None:
    sizes = np.tile(np.array([size]), (500, 1))
    box = draws.appearance(
        Augmentation(), (32, 32), np.zeros((500, 4)), sizes, 0, 0, np.arange(500)
    )["box"]
    assert (box[:, :2] >= 0).all() and (box[:, 2:] >= 1).all()
    assert (box[:, :2] + box[:, 2:] <= sizes).all()


# Operations, mixing, erasing


@pytest.mark.parametrize("name", randaugment.OPERATIONS)
@pytest.mark.parametrize("magnitude", [9, 20])
def test_operations_are_those_of_torchvision(name: str, magnitude: int) -> None:
    from torchvision.transforms import v2

    image = torch.from_numpy(picture(3, 31, 33)).permute(2, 0, 1)
    theirs = v2.RandAugment(num_ops=1, magnitude=magnitude)
    title = {"autocontrast": "AutoContrast"}.get(name, name.title().replace("_", ""))
    theirs._AUGMENTATION_SPACE = {title: theirs._AUGMENTATION_SPACE[title]}
    code = torch.tensor([[randaugment.OPERATIONS.index(name)]] * 2)
    ours = randaugment.apply(
        torch.stack([image, image]), code, torch.tensor([[False], [True]]), magnitude
    )
    met = set()
    for seed in range(12):
        torch.manual_seed(seed)
        expected = theirs(image)
        # A strength that is rounded otherwise in its last digit may tip a pixel here and there.
        apart = (ours.float() - expected.float()).abs().gt(1).float().mean((1, 2, 3))
        assert apart.min() < 0.02
        met |= {i for i in (0, 1) if apart[i] < 0.02}
    assert met == {0, 1}


def test_operations_follow_one_another() -> None:
    images = torch.from_numpy(np.stack([picture(i, 16, 16) for i in range(6)])).permute(0, 3, 1, 2)
    index = randaugment.OPERATIONS.index
    steps = torch.tensor([[index("solarize"), index("rotate")], [index("rotate"), 0]] * 3)
    negative = torch.tensor([[True, False]] * 6)
    both = randaugment.apply(images, steps, negative, 9)
    first = randaugment.apply(images, steps[:, :1], negative[:, :1], 9)
    assert torch.equal(both, randaugment.apply(first, steps[:, 1:], negative[:, 1:], 9))
    assert torch.equal(both[1], first[1]) and not torch.equal(both[0], first[0])


def test_mixup_fades_and_says_by_how_much(tmp_path: Path) -> None:
    plain = seen(inputs().source(SMALL, tmp_path, augmentation=STILL), list(range(16)))
    mixed = inputs().source(SMALL, tmp_path, augmentation=STILL.model_copy(update={"mixup": 0.4}))
    raw = mixed.read(np.arange(16), 1)
    share = raw["share"][:, None, None, None]
    expected = plain * share + plain[raw["partner"]] * (1 - share)
    assert torch.allclose(mixed.finish(raw)["x"], expected, atol=1e-5)


def test_cutmix_keeps_exactly_its_share(tmp_path: Path) -> None:
    flat = Rows(*(np.full((16, 16, 3), 10 * i, np.uint8) for i in range(16)))
    source = inputs().source(flat, tmp_path, augmentation=STILL.model_copy(update={"cutmix": 1.0}))
    raw = source.read(np.arange(16), 0)
    images, partner = source.finish(raw)["x"] * 255, raw["partner"]
    for i in range(16):
        if partner[i] != i:
            kept = (images[i, 0] - 10 * i).abs() < 0.01
            assert kept.float().mean() == pytest.approx(float(raw["share"][i]), abs=1e-6)
            assert ((images[i, 0] - 10 * partner[i]).abs() < 0.01)[~kept].all()


def test_partners_come_from_all_the_data_and_shares_follow_beta() -> None:
    half = draws.mixing(Augmentation(mixup=0.4, cutmix=1.0), (32, 32), 500, 0, 0, np.arange(8000))
    assert half["partner"].min() == 0 and half["partner"].max() == 499
    cut = half["mix"] == 1
    assert abs(cut.mean() - 0.5) < 0.05
    assert stats.kstest(half["share"][~cut], stats.beta(0.4, 0.4).cdf).pvalue > 1e-3
    assert abs(half["share"][cut].mean() - 0.5) < 0.03
    box = half["cut"][cut]
    assert (box[:, :2] >= 0).all() and (box[:, :2] + box[:, 2:] <= 32).all()


def test_erasing_leaves_the_mean_colour(tmp_path: Path) -> None:
    white = Rows(*(np.full((16, 16, 3), 255, np.uint8) for _ in range(400)))
    source = inputs().source(
        white, tmp_path, augmentation=STILL.model_copy(update={"erasing": 0.25})
    )
    images = seen(source, list(range(400)))
    erased = (images == 0).float().mean((1, 2, 3))
    assert 0.18 < (erased > 0).float().mean() < 0.32
    assert erased[erased > 0].min() > 0.005 and erased.max() < 0.4
    assert ((images == 0) | (images == 1)).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"flip": 1.5},
        {"scale": (0.5, 0.1)},
        {"scale": (0.0, 1.0)},
        {"ratio": (2.0, 0.5)},
        {"magnitude": 31},
        {"crop": "centre"},
        {"mixup": -1},
        {"blur": 1},
    ],
)
def test_values_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Augmentation(**wrong)
