"""Folders of class folders, and what else lies in them."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from finetune.data.hub import HubData
from finetune.data.image_folder import ImageFolder
from finetune.data.paths import claimant
from finetune.data.table import TableData
from finetune.errors import DataError
from finetune.protocols import Splits


def photo(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    Image.new("L", (2, 2), shade).save(stream, "PNG")
    path.write_bytes(stream.getvalue())


def photos(root: Path, classes: tuple[str, ...] = ("2", "10"), count: int = 10) -> Path:
    for name in classes:
        for number in range(count):
            photo(root / name / f"{number}.png", number)
    return root


def load(root: Path, **fields: object) -> Splits:
    return ImageFolder(str(root), **fields).load(("image", "label"))


def test_classes_are_folders_in_natural_order(tmp_path: Path) -> None:
    splits = load(photos(tmp_path / "pets"))
    assert splits.classes == ("2", "10")
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [14, 2, 4]
    for row in splits.train:
        path = Path(row["image"]["path"])
        assert row["image"]["bytes"] is None and path.is_file()
        assert path.parent.name == splits.classes[row["label"]]
    assert splits.source == {"name": "pets"}


def test_split_folders(tmp_path: Path) -> None:
    for name, count in (("Training", 6), ("val", 3), ("test", 2)):
        photos(tmp_path / name, ("cat", "dog"), count)
    splits = load(tmp_path)
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [12, 6, 4]
    assert not splits.notes
    assert len(load(tmp_path, validation="val[:4]").validation) == 4


def test_train_and_val_folders_alone(tmp_path: Path) -> None:
    photos(tmp_path / "train", count=10)
    photos(tmp_path / "val", count=3)
    splits = load(tmp_path)
    assert len(splits.test) == 6 and len(splits.train) == 18
    assert "validation split but no test split" in splits.notes[0]


def test_clutter_is_ignored_with_a_note(tmp_path: Path) -> None:
    photos(tmp_path)
    photo(tmp_path / ".ipynb_checkpoints" / "1.png")
    photo(tmp_path / "__MACOSX" / "1.png")
    photo(tmp_path / "2" / ".ipynb_checkpoints" / "1.png")
    (tmp_path / "2" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "2" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "2" / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    photo(tmp_path / "loose.png")
    splits = load(tmp_path)
    assert splits.classes == ("2", "10")
    said = " ".join(splits.notes)
    for name in (".ipynb_checkpoints", "__MACOSX", "2/Thumbs.db", "2/.DS_Store"):
        assert f"'{name}'" in said
    assert "no images by their suffix were ignored: '2/notes.txt'." in said
    assert "Folders without images were ignored: 'empty'." in said
    assert "outside the class folders were ignored: 'loose.png'." in said


def test_stray_folders_beside_split_folders(tmp_path: Path) -> None:
    photos(tmp_path / "train")
    photos(tmp_path / "extra")
    splits = load(tmp_path)
    assert splits.classes == ("2", "10")
    assert (
        "Stray files and folders outside the class folders were ignored: 'extra'." in splits.notes
    )


def test_images_at_any_depth_of_a_class(tmp_path: Path) -> None:
    photos(tmp_path / "cat", ("a", "b"))
    photos(tmp_path / "dog", ("a", "b"))
    assert load(tmp_path).classes == ("cat", "dog")


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    root = photos(tmp_path / "pets")
    photo(tmp_path / "secret" / "1.png")
    (root / "2" / "link.png").symlink_to(tmp_path / "secret" / "1.png")
    (root / "whole").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match=r"lead out of the image folder.*'2/link.png'"):
        load(root)
    (root / "2" / "link.png").unlink()
    with pytest.raises(DataError, match="'whole'"):
        load(root)


def test_links_inside_are_followed_and_loops_end(tmp_path: Path) -> None:
    root = photos(tmp_path / "pets")
    (root / "2" / "again.png").symlink_to(root / "2" / "1.png")
    (root / "2" / "loop").symlink_to(root / "2")
    (root / "2" / "up").symlink_to(root)
    splits = load(root)
    assert sum(len(splits[name]) for name in ("train", "validation", "test")) == 21


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no images in class folders.*FOLDER/cat/1.jpg"):
        load(tmp_path)
    photo(tmp_path / "1.png")
    with pytest.raises(DataError, match=r"outside the class folders were ignored: '1.png'"):
        load(tmp_path)
    (tmp_path / "rows.csv").write_text("image,label\n")
    with pytest.raises(DataError, match=r"It holds tables: give one, such as data=.*rows.csv"):
        load(tmp_path)


def test_a_missing_path_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(tmp_path / "photos" / "train")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"no such path \./photoz; did you mean \./photos\?"):
        ImageFolder("./photoz").load(("image", "label"))
    with pytest.raises(DataError, match=r"\./photoz/train; did you mean \./photos\?"):
        ImageFolder("./photoz/train").load(("image", "label"))
    with pytest.raises(DataError, match=r"no such path \./rows\.csv\. Give a folder"):
        TableData("./rows.csv").load(("image", "label"))
    with pytest.raises(DataError, match="no path that can be opened"):
        ImageFolder("a" * 300).load(("image", "label"))
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(DataError, match="is a file"):
        ImageFolder("./file.txt").load(("image", "label"))


def test_hostile_names_are_only_data(tmp_path: Path) -> None:
    classes = ("a\nb", "[red]x[", "<script>alert(1)<")
    for name in classes:
        for number in range(5):
            photo(tmp_path / name / f"{name}..\n{number}.png", number)
    splits = load(tmp_path)
    assert splits.classes is not None and set(splits.classes) == set(classes)
    assert all(Path(row["image"]["path"]).is_file() for row in splits.train)


def test_file_names_that_are_not_text_are_refused(tmp_path: Path) -> None:
    photos(tmp_path)
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/2/\xff.png")).write_bytes(b"x")
    except OSError:
        return  # this file system knows only text
    with pytest.raises(DataError, match="not UTF-8"):
        load(tmp_path)


def test_the_fingerprint_follows_content_not_place_or_time(tmp_path: Path) -> None:
    first = load(photos(tmp_path / "one")).fingerprint
    copy = photos(tmp_path / "two")
    os.utime(copy / "2" / "1.png", (1, 1))
    assert load(copy).fingerprint == first
    photo(copy / "2" / "1.png", 200)
    assert load(copy).fingerprint != first


def test_the_card_gives_name_and_licence(tmp_path: Path) -> None:
    root = photos(tmp_path / "pets")
    (root / "README.md").write_text("---\nlicense: mit\npretty_name: Pets\n---\n# Pets\n")
    assert load(root).source == {"name": "pets", "license": "mit", "title": "Pets"}
    (root / "README.md").write_text("---\n: [\n---\n")
    assert load(root).source == {"name": "pets"}


def test_exactly_one_source_claims_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")
    photos(tmp_path / "org" / "photos")
    (tmp_path / "hub" / "data").mkdir(parents=True)
    (tmp_path / "hub" / "data" / "train.parquet").write_bytes(b"")
    (tmp_path / "rows.csv").write_text("")
    (tmp_path / "empty").mkdir()
    expected = {
        "uoft-cs/cifar10": "hub",
        "hub": "hub",
        "./hub": "hub",
        "photos": "image-folder",
        "./photos": "image-folder",
        "./photos/": "image-folder",
        "org/photos": "image-folder",
        "./photoz": "image-folder",
        "../photoz": "image-folder",
        "/nowhere/photos": "image-folder",
        "~/nowhere": "image-folder",
        "a/b/c": "image-folder",
        "photoz/": "image-folder",
        "empty": "image-folder",
        "rows.csv": "table",
        "there/is/none.jsonl": "table",
        "org/none.parquet": "table",
        "photoz": "image-folder",
        "resnet50": None,
        "org/na me": "image-folder",
        "a" * 300: None,
    }
    for text, kind in expected.items():
        assert claimant(text) == kind, text
        claims = [
            source.model_fields["kind"].default
            for source in (HubData, ImageFolder, TableData)
            if source.from_text(text) is not None
        ]
        assert claims == ([kind] if kind else []), text
