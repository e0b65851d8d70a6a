from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import ImageFolder


def write(root, classes, count, tone=0):
    """Write `count` images per class, of random size, each in a tone of its own."""
    rng = np.random.default_rng(0)
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            side = int(rng.integers(8, 40))
            pixels = np.full((side, side, 3), tone + 20 * c + i, np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:03d}.png")


def tones(split):
    return split.images.flatten(1)[:, 0].tolist()


def test_one_split_is_divided_by_seed(tmp_path):
    write(tmp_path, ["cat", "dog"], 10)
    data = ImageFolder(tmp_path, image_size=16, test_fraction=0.25)
    data.setup("fit")
    assert data.pool.images.shape == (15, 3, 16, 16)
    assert data.test.images.shape == (5, 3, 16, 16)
    assert sorted(tones(data.pool) + tones(data.test)) == [*range(10), *range(20, 30)]
    for split in (data.pool, data.test):
        assert split.labels.tolist() == [tone // 20 for tone in tones(split)]

    again, other = ImageFolder(tmp_path, 16, test_fraction=0.25), ImageFolder(tmp_path, pool_seed=1)
    again.setup("fit")
    other.setup("fit")
    assert again.fingerprint() == data.fingerprint()
    assert tones(other.test) != tones(data.test)


@pytest.mark.parametrize(
    ("train", "name"),
    [("train", "test"), ("train", "val"), ("Train", "Test"), ("training", "validation")],
)
def test_two_splits_are_kept(tmp_path, train, name):
    write(tmp_path / train, ["cat", "dog"], 6)
    write(tmp_path / name, ["cat", "dog"], 3, tone=100)
    data = ImageFolder(tmp_path, image_size=8, channels=1)
    data.setup("fit")
    assert tones(data.pool) == [*range(6), *range(20, 26)]
    assert tones(data.test) == [100, 101, 102, 120, 121, 122]
    assert data.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.num_classes == 2


@pytest.mark.parametrize("splits", [1, 2])
def test_a_smaller_pool_holds_out_the_rest_of_the_training_split(tmp_path, splits):
    write(tmp_path / "train" if splits == 2 else tmp_path, ["cat", "dog"], 10)
    if splits == 2:
        write(tmp_path / "test", ["cat", "dog"], 2, tone=100)
    whole, data = ImageFolder(tmp_path), ImageFolder(tmp_path, pool_size=6)
    whole.setup("fit")
    data.setup("fit")
    assert len(data.pool.labels) == 6
    assert sorted(tones(data.pool) + tones(data.held_out)) == tones(whole.pool)
    assert data.held_out.labels.tolist() == [tone // 20 for tone in tones(data.held_out)]
    assert tones(data.test) == tones(whole.test)
    assert tones(whole.held_out) == []


def test_a_class_may_be_called_train(tmp_path):
    write(tmp_path, ["boat", "train"], 4)
    data = ImageFolder(tmp_path, image_size=8)
    data.setup("fit")
    assert len(data.pool.labels) + len(data.test.labels) == 8


@pytest.mark.parametrize("channels", [1, 3])
def test_scaling_is_that_of_the_training_split(tmp_path, channels):
    rng = np.random.default_rng(1)
    for split, top in (("train", 256), ("test", 9)):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(3):
                pixels = rng.integers(top, size=(9, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    data = ImageFolder(tmp_path, image_size=9, channels=channels)
    data.setup("fit")
    pixels = data.pool.images.double() / 255
    assert data.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert data.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=1e-12)


def test_images_of_one_tone_scale_to_zero(tmp_path):
    write(tmp_path, "ab", 3)
    for path in tmp_path.rglob("*.png"):
        Image.new("RGB", (8, 8), (7, 7, 7)).save(path)
    data = ImageFolder(tmp_path, image_size=8)
    data.setup("fit")
    assert torch.cat([batch.images for batch in data.pool_batches("identity")]).abs().max() < 1e-6


def test_damaged_images_are_named(tmp_path):
    write(tmp_path, ["cat", "dog"], 5)
    broken = tmp_path / "dog" / "003.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(ValueError, match=rf"1 of 10 images cannot be read: {broken} \("):
        ImageFolder(tmp_path).setup("fit")


@pytest.mark.parametrize(
    ("folders", "error", "message"),
    [
        (None, FileNotFoundError, "No folder .*missing. Point `--data.root`"),
        ([], FileNotFoundError, "No folder of images in .*missing: it holds nothing. Point `--da"),
        (["cat"], ValueError, "for each of two classes or more, got one"),
        (["train/cat", "train/dog"], FileNotFoundError, "train folder, but neither test nor val"),
        (["train/a", "train/b", "val/a", "val/c"], ValueError, "only one of them has b, c. Add"),
    ],
)
def test_folders_without_a_data_set_are_refused(tmp_path, folders, error, message):
    root = tmp_path / "missing"
    if folders is not None:
        root.mkdir()
        for folder in folders:
            write(root, [folder], 4)
    with pytest.raises(error, match=message):
        ImageFolder(root).setup("fit")


def test_an_empty_class_is_named(tmp_path):
    write(tmp_path, ["cat", "dog"], 4)
    (tmp_path / "eel").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"the folder of every class, got none .* in eel \(nothing\)"
    ):
        ImageFolder(tmp_path).setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 4}, "`image_size` must be 8 or more for the networks, got 4"),
        ({"test_fraction": 1.0}, r"`test_fraction` must be between 0 and 1, got 1\.0"),
        ({"test_fraction": 0.0}, r"`test_fraction` must be between 0 and 1, got 0\.0"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        ImageFolder(tmp_path, **options)


def test_the_home_folder_is_expanded_in_root(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ImageFolder(Path("~/photos")).root == tmp_path / "photos"
