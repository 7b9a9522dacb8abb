"""Every kind of image file has one conversion; what cannot be used is named with a reason."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.errors import Failure, UnreadableInputs
from finetune.images.decode import MAX_PIXELS, Unreadable, open_image, read_bytes, to_rgb
from finetune.images.inputs import ImageInputs


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def rgb(content: bytes) -> Any:
    return np.asarray(to_rgb(open_image(content)))


def gradient(height: int = 8, width: int = 12) -> Any:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 20, columns * 20, rows + columns], 2).astype(np.uint8)


def test_plain_rgb_is_left_alone() -> None:
    assert (rgb(encoded(Image.fromarray(gradient()))) == gradient()).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_rotation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = {
        1: gradient(),
        2: gradient()[:, ::-1],
        3: gradient()[::-1, ::-1],
        4: gradient()[::-1],
        5: gradient().transpose(1, 0, 2),
        6: np.rot90(gradient(), -1),
        7: gradient()[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(gradient()),
    }[orientation]
    assert (rgb(encoded(Image.fromarray(gradient()), exif=exif)) == upright).all()


def test_greyscale_is_repeated() -> None:
    grey = gradient()[:, :, 0]
    assert (rgb(encoded(Image.fromarray(grey))) == grey[:, :, None]).all()


def test_black_and_white_becomes_0_and_255() -> None:
    mask = np.indices((4, 4)).sum(0) % 2 == 0
    assert (rgb(encoded(Image.fromarray(mask))) == np.where(mask, 255, 0)[:, :, None]).all()


def test_alpha_is_dropped_and_the_colours_are_kept() -> None:
    alpha = np.full((8, 12, 1), 7, np.uint8)
    image = Image.fromarray(np.concatenate([gradient(), alpha], 2), "RGBA")
    assert (rgb(encoded(image)) == gradient()).all()
    grey = Image.fromarray(np.concatenate([gradient()[:, :, :1], alpha], 2), "LA")
    assert (rgb(encoded(grey)) == gradient()[:, :, :1]).all()


def test_of_a_palette_with_alpha_the_colours_are_taken() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    content = encoded(image, transparency=b"\x00\x80")
    assert rgb(content).tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_cmyk_is_converted_without_a_profile() -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red = rgb(encoded(image, "TIFF"))
    assert (red == [255, 0, 0]).all()
    assert np.abs(rgb(encoded(image, "JPEG", quality=100)).astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind: str) -> None:
    deep = np.array([[0, 257, 257 * 128, 65535]], np.uint16)
    assert rgb(encoded(Image.fromarray(deep), kind))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_thirty_two_bits_are_scaled_by_what_they_reach() -> None:
    small = Image.fromarray(np.array([[0, 7, 255]], np.int32))
    assert rgb(encoded(small, "TIFF"))[0, :, 0].tolist() == [0, 7, 255]
    large = Image.fromarray(np.array([[0, 257 * 7, 65535]], np.int32))
    assert rgb(encoded(large, "TIFF"))[0, :, 0].tolist() == [0, 7, 255]
    share = Image.fromarray(np.array([[0.0, 0.2, 1.0]], np.float32))
    assert rgb(encoded(share, "TIFF"))[0, :, 0].tolist() == [0, 51, 255]


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP"):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert (rgb(content) == [255, 0, 0]).all()


def test_a_large_jpeg_is_decoded_smaller_but_never_too_small() -> None:
    content = encoded(Image.fromarray(gradient(400, 600) // 2), "JPEG")
    image = to_rgb(open_image(content), lambda height, width: (height // 3, width // 3))
    assert image.size == (300, 200)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.fromarray(gradient(400, 600) // 2), "JPEG", exif=exif)
    asked: list[tuple[int, int]] = []

    def wanted(height: int, width: int) -> tuple[int, int]:
        asked.append((height, width))
        return 190, 120

    assert to_rgb(open_image(turned), wanted).size == (200, 300)
    assert asked == [(600, 400)]


def bomb() -> bytes:
    """A PNG of a few bytes whose header promises 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_bombs_are_refused_from_the_header() -> None:
    with pytest.raises(Unreadable, match="pixels"):
        open_image(bomb())
    large = encoded(Image.new("1", (MAX_PIXELS // 4096 + 1, 4096)))
    with pytest.raises(Unreadable, match="16385 x 4096 is more than 67,108,864 pixels"):
        open_image(large)


def test_formats_that_would_start_a_program_are_not_opened() -> None:
    with pytest.raises(Unreadable, match="not an image"):
        open_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")


def test_all_unusable_cells_are_named_with_their_reason(tmp_path: Any) -> None:
    whole = encoded(Image.fromarray(gradient(64, 64)), "JPEG")
    files = {
        "good.jpg": whole,
        "empty.jpg": b"",
        "text.png": b"this is no image",
        "cut\nshort\x1b[31m.jpg": whole[: len(whole) // 2],
        "bomb.png": bomb(),
    }
    cells: list[Any] = []
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        cells.append({"path": str(tmp_path / name), "bytes": None})
    cells += [
        {"path": str(tmp_path / "missing.png"), "bytes": None},
        {"path": str(tmp_path), "bytes": None},
        {"path": None, "bytes": None},
        None,
        {"path": "kept.jpg", "bytes": whole},
        {"path": "bytes-win.jpg", "bytes": b"no image"},
    ]
    inputs = ImageInputs((8, 8), (0.5,) * 3, (0.5,) * 3, "bicubic", 1.0, "center")
    source, reasons = inputs.read([{"image": cell} for cell in cells])
    assert source.read(np.arange(2), 0)["image"].shape == (2, 3, 8, 8)
    assert list(reasons) == [1, 2, 3, 4, 5, 6, 7, 8, 10]
    assert reasons[1] == "empty, 0 bytes"
    assert reasons[2].startswith("not an image")
    assert reasons[3].startswith("broken")
    assert "pixels" in reasons[4]
    assert reasons[5] == "No such file or directory"
    assert reasons[7] == reasons[8] == "the cell has neither a path nor bytes"
    names = {row: cells[row]["path"] if cells[row] else None for row in reasons}
    failures = [Failure(i, str(names[i]), why) for i, why in reasons.items()]
    message = str(UnreadableInputs(failures, "image"))
    assert message.startswith("9 images cannot be read:")
    assert r"cut\nshort\x1b[31m.jpg" in message
    assert "data.on_error=skip" in message
    assert len(message.splitlines()) == 11
    assert all(line.isprintable() for line in message.splitlines())


def test_relative_paths_are_opened_from_here(tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert read_bytes({"path": "a.png", "bytes": None}) == b"x"


@pytest.mark.filterwarnings("ignore:Palette images")
def test_the_pixels_are_those_that_the_pipeline_sees(tmp_path: Any) -> None:
    from transformers.image_utils import load_image

    exif = Image.Exif()
    exif[0x0112] = 5
    colour = Image.fromarray(gradient())
    contents = [
        encoded(colour, "JPEG", exif=exif),
        encoded(colour.convert("CMYK"), "JPEG"),
        encoded(colour.convert("CMYK"), "TIFF"),
        encoded(colour.convert("RGBA")),
        encoded(colour.convert("LA")),
        encoded(colour.convert("1")),
        encoded(colour.quantize(8), transparency=bytes(range(8))),
        encoded(colour.quantize(8), transparency=3),
        encoded(colour, "GIF"),
        encoded(colour, "WEBP"),
        encoded(colour, "BMP"),
    ]
    for content in contents:
        path = tmp_path / "image"
        path.write_bytes(content)
        assert (rgb(content) == np.asarray(load_image(str(path)))).all()
