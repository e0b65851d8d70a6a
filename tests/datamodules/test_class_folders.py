"""Which files of a folder are images, and what is said of the others."""

import os

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from datamodules import ImageFolder
from datamodules.class_folders import find_images, list_counts, readable_endings


def picture(path, kind=None, tone=9):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (tone, tone, tone)).save(path, kind)


def plain(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("no image")


def test_the_order_is_that_of_torchvision(tmp_path):
    for name in (
        "b/10.png",
        "b/2.png",
        "b-2/x.PNG",
        "a/z/1.jpg",
        "a/y.bmp",
        "a/z.png",
        "B/é 1.png",
    ):
        picture(tmp_path / name)
    found, theirs = find_images(tmp_path), datasets.ImageFolder(tmp_path)
    assert found.classes == theirs.classes
    assert [*zip(found.files, found.labels, strict=True)] == theirs.samples
    assert not found.passed_over


@pytest.mark.parametrize(
    "ending", ["jfif", "gif", "bmp", "tiff", "TIF", "JPG", "jp2", "tga", "ico", "webp", "avif"]
)
def test_every_kind_that_pillow_decodes_is_read(tmp_path, ending):
    if f".{ending.lower()}" not in readable_endings():
        pytest.skip(f"this Pillow lacks {ending}")
    kind = {"jfif": "JPEG", "tif": "TIFF", "jpg": "JPEG", "jp2": "JPEG2000"}
    for name in ("a", "b"):
        for number in range(3):
            path = tmp_path / name / f"{number}.{ending}"
            path.parent.mkdir(exist_ok=True)
            picture(path, kind.get(ending.lower(), ending.upper()), tone=60)
    data = ImageFolder(tmp_path, image_size=8)
    data.setup("fit")
    assert data.describe().startswith("Read 6 images of 2 classes (8x8, 3 channels): 5 in the pool")
    assert "Passed over" not in data.describe()
    assert (data.pool.images.int() - 60).abs().max() <= 3


def test_what_is_not_read_is_counted(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png", "3.png"):
        picture(tmp_path / name)
    for name in ("labels.csv", "a/notes.txt", "b/more.TXT", "b/README", "b/plot.svg", "a/doc.eps"):
        plain(tmp_path / name)
    for name in ("a/.DS_Store", "b/Thumbs.db", "a/._1.png"):
        plain(tmp_path / name)
    for folder in (".ipynb_checkpoints", "__MACOSX/a", "a/.ipynb_checkpoints"):
        picture(tmp_path / folder / "1.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    found = find_images(tmp_path)
    assert found.classes == ["a", "b"]
    assert len(found.files) == 4
    assert list_counts(found.passed_over) == (
        "1 .csv, 1 .eps, 1 .svg, 2 .txt, 1 beside the classes, folder .ipynb_checkpoints, "
        "folder __MACOSX, 3 hidden, 1 neither file nor folder, 1 without an ending"
    )


def test_links_are_followed_but_not_in_circles(tmp_path):
    picture(tmp_path / "data" / "a" / "1.png")
    picture(tmp_path / "elsewhere" / "2.png")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "a" / "again").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "a" / "3.png").symlink_to(tmp_path / "elsewhere" / "2.png")
    found = find_images(tmp_path / "data")
    names = [os.path.relpath(file, tmp_path / "data") for file in found.files]
    assert names == ["a/1.png", "a/3.png", "a/again/b/2.png", "b/2.png"]
    assert "a link to one above it" in list_counts(found.passed_over)


def test_names_that_cannot_be_printed_are_quoted(tmp_path):
    for name in ("a/new\nline.png", "a/tab\t.png", "b/ä ö.png", "b/2.png"):
        picture(tmp_path / name)
    data = ImageFolder(tmp_path, image_size=8)
    data.setup("fit")
    assert len(data.pool.labels) + len(data.test.labels) == 4
    (tmp_path / "a" / "new\nline.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 of 4 .*new\\nline.png' \(not an image\)") as error:
        ImageFolder(tmp_path, image_size=8).setup("fit")
    assert "\n" not in str(error.value)


def test_a_link_that_leads_nowhere_is_an_error_with_its_path(tmp_path):
    for name in ("a/1.png", "b/1.png", "b/2.png"):
        picture(tmp_path / name)
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(
        ValueError, match=r"1 of 4 images cannot be read: .*/a/gone.png \(.*No such"
    ):
        ImageFolder(tmp_path, image_size=8).setup("fit")


def test_a_class_of_other_files_is_named_with_them(tmp_path):
    picture(tmp_path / "a" / "1.png")
    plain(tmp_path / "b" / "1.heic")
    with pytest.raises(
        FileNotFoundError, match=r"got none that can be read in b \(1 \.heic\). Add"
    ):
        find_images(tmp_path)


def test_images_without_classes_are_named(tmp_path):
    picture(tmp_path / "1.png")
    with pytest.raises(FileNotFoundError, match=r"holds 1 beside the classes\. Point"):
        find_images(tmp_path)


def test_a_split_that_is_not_read_is_named(tmp_path):
    for split in ("train", "test", "val"):
        for name in ("a", "b"):
            picture(tmp_path / split / name / "1.png", tone=len(split))
    plain(tmp_path / "train" / "list.txt")
    data = ImageFolder(tmp_path, image_size=8)
    data.setup("fit")
    assert f"Passed over in {tmp_path}/train: 1 .txt." in data.describe()
    assert f"Passed over in {tmp_path}: folder val." in data.describe()
    assert (data.test.images == 4).all()


def test_programs_that_pillow_would_call_are_not_called():
    endings = readable_endings()
    assert {".png", ".jpg", ".gif", ".tiff"} <= endings
    assert not endings & {".eps", ".ps", ".wmf", ".mpg", ".h5", ".pdf", ".txt", ".npy"}


def test_the_key_of_the_cache_is_not_confused_by_a_root_that_is_a_dot(tmp_path, monkeypatch):
    for name in ("a/1.png", "b/1.png", "b/2.png"):
        picture(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    found = find_images(type(tmp_path)("."))
    assert [file[2:] for file in found.files] == ["a/1.png", "b/1.png", "b/2.png"]
    assert np.array_equal(found.labels, [0, 1, 1])
