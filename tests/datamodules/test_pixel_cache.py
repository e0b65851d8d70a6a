"""Decoded images in a file: made once, whole, shared, and the same as in memory."""

import json
import mmap
import multiprocessing
import os
import pickle
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from attacks.quantile import make_features
from datamodules import ImageFolder, pixel_cache
from datamodules.decode import Decoding, Form
from datamodules.images import Images
from datamodules.pixel_cache import MappedPixels, obtain_pixels


@pytest.fixture
def root(tmp_path):
    """40 images of two classes, of which no two are alike."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path / "images"


@pytest.fixture
def decodings(monkeypatch):
    """Names of the files that were decoded, in any order."""
    names, real = [], Decoding._try

    def counted(self, name, square):
        names.append(name)
        return real(self, name, square)

    monkeypatch.setattr(Decoding, "_try", counted)
    return names


def read(root, **options):
    data = ImageFolder(root, image_size=8, **options)
    data.setup("fit")
    return data


def in_memory(root, monkeypatch):
    """The same data with nothing mapped."""
    with monkeypatch.context() as patch:
        patch.setattr(pixel_cache, "_open_whole", lambda *_: None)
        return read(root, cache=root / "cat" / "0.png" / "no folder")


def test_a_second_call_decodes_nothing(root, tmp_path, decodings):
    first = read(root, cache=tmp_path / "cache")
    assert len(decodings) == 40
    second = read(root, cache=tmp_path / "cache", pool_size=10, pool_seed=3)
    assert len(decodings) == 40
    assert f"Decoded into {tmp_path}/cache" in first.describe()
    assert "Decoded" not in second.describe()
    assert first.fingerprint() == read(root, cache=tmp_path / "cache").fingerprint()
    assert not [*(tmp_path / "cache").glob("*.partial")]


def test_mapped_images_are_those_in_memory(root, tmp_path, monkeypatch, in_process):
    mapped, held = read(root, cache=tmp_path / "cache"), in_memory(root, monkeypatch)
    assert mapped.pool.mapped
    assert held.pool.mapped is None
    assert mapped.fingerprint() == held.fingerprint()
    assert (mapped.mean, mapped.std) == (held.mean, held.std)
    batches = []
    for data in (mapped, held):
        data.trainer = in_process(0, 1)
        data.assign(torch.arange(32) % 3 > 0, seed=5)
        batches.append([*data.train_dataloader(), *data.pool_batches("mirror")])
    for ours, theirs in zip(*batches, strict=True):
        assert all(torch.equal(*pair) for pair in zip(ours[:3], theirs[:3], strict=True))


@pytest.mark.parametrize(
    "options", [{"image_size": 9}, {"channels": 1}, {"background": "black"}], ids=str
)
def test_another_form_is_another_file(root, tmp_path, options):
    read(root, cache=tmp_path / "cache")
    ImageFolder(root, cache=tmp_path / "cache", **{"image_size": 8} | options).setup("fit")
    assert len([*(tmp_path / "cache").glob("*.npy")]) == 2


def test_a_changed_image_is_noticed(root, tmp_path):
    before = read(root, cache=tmp_path / "cache")
    path = root / "cat" / "3.png"
    stat = path.stat()
    content = path.read_bytes()
    other = (root / "cat" / "4.png").read_bytes()
    path.write_bytes(other)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as unpacking an archive would
    after = read(root, cache=tmp_path / "cache")
    assert after.fingerprint() != before.fingerprint()
    assert content != other


@pytest.mark.parametrize("fault", ["truncated", "changed", "record", "no record", "other shape"])
def test_a_damaged_file_is_made_again(root, tmp_path, decodings, fault):
    whole = read(root, cache=tmp_path / "cache").fingerprint()
    (path,) = (tmp_path / "cache").glob("*.npy")
    record = path.with_suffix(".json")
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    elif fault == "changed":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif fault == "record":
        record.write_text(record.read_text()[:20])
    elif fault == "no record":
        record.unlink()
    else:
        np.save(path, np.zeros((3, 3, 8, 8), np.uint8))
    again = read(root, cache=tmp_path / "cache")
    assert len(decodings) == 80
    assert again.fingerprint() == whole
    assert json.loads(record.read_text())["digest"] == again.pool.mapped.digest


def test_a_folder_that_cannot_be_written_leaves_the_images_in_memory(root, tmp_path):
    (tmp_path / "file").write_text("")
    data = read(root, cache=tmp_path / "file" / "cache")
    assert data.pool.mapped is None
    assert "in this process's memory: " in data.describe()
    assert "Point `--data.cache` at a folder that can" in data.describe()
    assert data.fingerprint() == read(root, cache=tmp_path / "cache").fingerprint()


def test_images_that_neither_disk_nor_memory_holds_are_refused(root, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(pixel_cache, "_memory", lambda: 10_000)
    with pytest.raises(
        OSError, match=r"Cannot keep 0\.0 GB .*Point `--data\.cache` at a folder wit"
    ):
        read(root, cache=tmp_path / "file" / "cache")


def test_a_full_disk_leaves_no_half_of_a_file(root, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    data = read(root, cache=tmp_path / "cache")
    assert "No space left" in data.describe()
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} <= {".lock"}


def test_damaged_images_leave_no_file(root, tmp_path):
    (root / "dog" / "7.png").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"1 of 40 images cannot be read: .*/dog/7.png \(not an im"
    ):
        read(root, cache=tmp_path / "cache")
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} <= {".lock"}


def _decode_in_process(root, folder, names):
    real = Decoding._try

    def counted(self, name, square):
        names.append(name)
        return real(self, name, square)

    Decoding._try = counted
    read(root, cache=folder)


def test_two_processes_decode_once(root, tmp_path):
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager:
        names = manager.list()
        arguments = root, tmp_path / "cache", names
        processes = [context.Process(target=_decode_in_process, args=arguments) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0]
        assert len(names) == 40


def test_another_process_is_sent_the_path(root, tmp_path, decodings):
    data = read(root, cache=tmp_path / "cache")
    sent = pickle.dumps(data)
    pixels = data.pool.stored.pixels.numpy().tobytes()
    assert pixels[: 8 * 8] not in sent
    there = pickle.loads(sent)
    assert there.pool.mapped.path == data.pool.mapped.path
    assert there.fingerprint() == data.fingerprint()
    assert len(decodings) == 40


def test_a_machine_without_the_file_decodes_its_own_images(root, tmp_path, monkeypatch):
    """In another working directory."""
    monkeypatch.chdir(tmp_path)
    data = read(root.relative_to(tmp_path), cache=Path("cache"), pool_size=10)
    sent, expected = pickle.dumps(data), data.fingerprint()
    monkeypatch.chdir("/")
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    there = pickle.loads(sent)
    assert there.fingerprint() == expected
    for path in [*(tmp_path / "cache").iterdir(), root / "cat" / "0.png"]:
        path.unlink()
    Image.new("RGB", (8, 8)).save(root / "cat" / "0.png")
    with pytest.raises(
        ValueError, match=r"holds other images on .* than where the fleet was start"
    ):
        pickle.loads(sent)


def test_an_audit_reads_a_mapped_pool_as_one_in_memory(root, tmp_path, monkeypatch):
    """Pictures of the gallery, and the features of an attack, in blocks of a few images."""
    mapped, held = read(root, cache=tmp_path / "cache"), in_memory(root, monkeypatch)
    chosen = torch.tensor([7, 0, 31])
    assert torch.equal(mapped.pool.pictures(chosen), held.pool.images[chosen])
    expected = make_features(*held.pool, *held.test)
    monkeypatch.setattr("datamodules.splits.BLOCK", 1000)
    assert len([*mapped.levels(mapped.pool)]) == 7
    splits = mapped.pool, mapped.test
    parts = [part for split in splits for part in (mapped.levels(split), split.labels)]
    for ours, theirs in zip(make_features(*parts), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_images_of_a_file_larger_than_memory_are_announced(root, tmp_path, monkeypatch):
    data = read(root, cache=tmp_path / "cache")
    stored, rows = data.pool.mapped, torch.tensor([39, 0, 17])
    expected = stored.take(rows)
    assert torch.equal(expected, stored.pixels[rows])
    monkeypatch.setattr(pixel_cache, "_memory", lambda: 10_000)
    assert torch.equal(stored.take(rows), expected)
    announced = []
    monkeypatch.setattr(stored, "_map", Mock(madvise=lambda *given: announced.append(given)))
    stored.take(rows)
    content = stored.path.read_bytes()
    for (advice, start, length), image in zip(announced, expected, strict=True):
        assert (advice, start % mmap.PAGESIZE) == (mmap.MADV_WILLNEED, 0)
        told = content[start : start + length]
        assert told.endswith(image.numpy().tobytes())
        assert len(told) - image.numel() < mmap.PAGESIZE


def test_blocks_of_files_change_nothing(root, tmp_path, monkeypatch):
    whole = read(root, cache=tmp_path / "one").fingerprint()
    monkeypatch.setattr("datamodules.decode.BLOCK", 1000)
    assert read(root, cache=tmp_path / "many").fingerprint() == whole


def test_nothing_is_copied_into_memory(tmp_path):
    """A split that is a choice of rows holds positions, not pixels."""
    path = tmp_path / "pixels.npy"
    np.save(path, np.arange(3000, dtype=np.uint8).repeat(3 * 64).reshape(3000, 3, 8, 8))
    stored = MappedPixels(path, "")
    split = Images(stored, torch.arange(3000))
    chosen = split.split(1000, seed=0)[0].take(torch.tensor([5, 3, 5]))
    assert chosen.stored is stored
    assert chosen.images.shape == (3, 3, 8, 8)
    assert (chosen.images.flatten(1)[:, 0] == (chosen.labels % 256)).all()
    assert sum(len(block) for block in split.blocks()) == 3000


def test_the_file_is_a_npy_file_of_the_images(root, tmp_path):
    files = sorted(str(path) for path in root.rglob("*.png"))
    decoding = Decoding(files, lambda name: Path(name).read_bytes(), Form(8, 3))
    decoded = obtain_pixels(tmp_path / "cache", "key", decoding)
    expected = np.stack([np.asarray(Image.open(name)) for name in files]).transpose(0, 3, 1, 2)
    assert np.array_equal(np.load(tmp_path / "cache" / "key.npy"), expected)
    assert decoded.facts.smallest == decoded.facts.largest == (8, 8)
