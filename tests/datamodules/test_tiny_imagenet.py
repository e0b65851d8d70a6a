"""TinyImageNet, on a small copy of its official layout, written by the tests."""

import hashlib
import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import TinyImageNet

WNIDS = ["n03", "n01", "n02"]  # not in the order of their labels


def jpeg(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def decoded(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).transpose(2, 0, 1)


@pytest.fixture
def files():
    """Files of the official zip by name: 4 training and 2 test images per class."""
    rng = np.random.default_rng(0)
    files, annotations = {}, []
    for wnid in WNIDS:
        for i in range(4):
            shape = (64, 64) if i == 1 else (64, 64, 3)  # gray
            pixels = rng.integers(256, size=shape, dtype=np.uint8)
            files[f"train/{wnid}/images/{wnid}_{i}.JPEG"] = jpeg(pixels)
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b"n03_0.JPEG\t0\t0\t9\t9\n"
    for i in range(6):
        files[f"val/images/val_{i}.JPEG"] = jpeg(
            rng.integers(256, size=(64, 64, 3), dtype=np.uint8)
        )
        annotations.append(f"val_{i}.JPEG\t{WNIDS[i % 3]}\t0\t0\t9\t9\n")
    files["val/val_annotations.txt"] = "".join(annotations).encode()
    files["test/images/test_0.JPEG"] = files["val/images/val_0.JPEG"]
    return files


def write_zip(root, files, monkeypatch):
    root.mkdir(exist_ok=True)
    with zipfile.ZipFile(root / "tiny-imagenet-200.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(f"tiny-imagenet-200/{name}", content)
    md5 = hashlib.md5((root / "tiny-imagenet-200.zip").read_bytes()).hexdigest()
    monkeypatch.setattr(TinyImageNet, "md5", md5)


def write_folder(root, files, monkeypatch):
    for name, content in files.items():
        path = root / "tiny-imagenet-200" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


WRITERS = pytest.mark.parametrize("write", [write_zip, write_folder])


@WRITERS
def test_both_splits_are_read_from_the_files(tmp_path, files, monkeypatch, write):
    write(tmp_path, files, monkeypatch)
    data = TinyImageNet(tmp_path)
    data.prepare_data()
    data.setup("fit")
    names = [f"train/{w}/images/{w}_{i}.JPEG" for w in sorted(WNIDS) for i in range(4)]
    assert np.array_equal(data.pool.images, np.stack([decoded(files[name]) for name in names]))
    assert data.pool.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    names = [f"val/images/val_{i}.JPEG" for i in range(6)]
    assert np.array_equal(data.test.images, np.stack([decoded(files[name]) for name in names]))
    assert data.test.labels.tolist() == [2, 0, 1, 2, 0, 1]
    assert data.num_classes == 3


def test_zip_and_folder_are_the_same_data(tmp_path, files, monkeypatch):
    fingerprints = set()
    for write in (write_zip, write_folder):
        write(tmp_path / write.__name__, files, monkeypatch)
        data = TinyImageNet(tmp_path / write.__name__)
        data.setup("fit")
        fingerprints.add(data.fingerprint())
    assert len(fingerprints) == 1


@WRITERS
def test_a_damaged_image_is_named(tmp_path, files, monkeypatch, write):
    files["train/n01/images/n01_2.JPEG"] = files["train/n01/images/n01_2.JPEG"][:200]
    write(tmp_path, files, monkeypatch)
    with pytest.raises(ValueError, match=r"1 of 12 images cannot.*train/n01/images/n01_2.JPEG \("):
        TinyImageNet(tmp_path).setup("fit")


@WRITERS
def test_a_missing_test_image_is_named(tmp_path, files, monkeypatch, write):
    del files["val/images/val_4.JPEG"]
    write(tmp_path, files, monkeypatch)
    with pytest.raises(ValueError, match=r"1 of 6 images cannot.*val/images/val_4.JPEG \("):
        TinyImageNet(tmp_path).setup("fit")


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (["train/n01/images/n01_3.JPEG"], "got 3 of 3 classes with 3 to 4 images"),
        ([f"train/n01/images/n01_{i}.JPEG" for i in range(4)], "got 2 of 3 classes with 4 to 4"),
    ],
)
def test_an_incompletely_unpacked_folder_is_refused(tmp_path, files, monkeypatch, lost, message):
    write_folder(tmp_path, {n: c for n, c in files.items() if n not in lost}, monkeypatch)
    with pytest.raises(ValueError, match=message):
        TinyImageNet(tmp_path).setup("fit")


def test_the_error_for_missing_data_says_what_to_do(tmp_path):
    expected = (
        rf"No TinyImageNet in {tmp_path}: tiny-imagenet-200.zip is missing\. Pass "
        rf"`--data.download true`, or offline fetch {TinyImageNet.url} elsewhere and copy it to"
    )
    with pytest.raises(FileNotFoundError, match=expected):
        TinyImageNet(tmp_path).prepare_data()


def test_a_zip_with_another_checksum_is_refused(tmp_path, files, monkeypatch):
    write_zip(tmp_path, files, monkeypatch)
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match=r"tiny-imagenet-200\.zip is damaged"):
        TinyImageNet(tmp_path).prepare_data()


def test_a_pool_is_a_subset_of_the_training_split(tmp_path, files, monkeypatch):
    write_zip(tmp_path, files, monkeypatch)
    data = TinyImageNet(tmp_path, pool_size=5)
    data.setup("fit")
    assert data.pool.images.shape == (5, 3, 64, 64)
    assert data.pool.images.dtype == torch.uint8
    names = [f"train/{w}/images/{w}_{i}.JPEG" for w in sorted(WNIDS) for i in range(4)]
    rows = torch.cat([data.pool.images, data.held_out.images]).flatten(1).tolist()
    assert sorted(rows) == sorted(decoded(files[name]).ravel().tolist() for name in names)
