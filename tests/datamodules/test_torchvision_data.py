"""Fashion-MNIST and CIFAR, on small files in their official formats, written by the tests."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from torchvision import datasets

from datamodules import CIFAR10, CIFAR100, FashionMNIST


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def published(tmp_path):
    """A folder and the address of a server of its files."""
    folder = tmp_path / "published"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def fashion(published, monkeypatch):
    """Two gzipped idx files per split, published with their checksums."""
    folder, address = published
    rng, resources, truth = np.random.default_rng(0), [], {}
    for split, size in (("train", 20), ("t10k", 5)):
        pixels = rng.integers(256, size=(size, 28, 28), dtype=np.uint8)
        labels = rng.integers(10, size=size, dtype=np.uint8)
        truth[split] = pixels, labels
        files = {
            f"{split}-images-idx3-ubyte.gz": struct.pack(">4I", 0x803, size, 28, 28)
            + pixels.tobytes(),
            f"{split}-labels-idx1-ubyte.gz": struct.pack(">2I", 0x801, size) + labels.tobytes(),
        }
        for name, content in files.items():
            packed = gzip.compress(content)
            (folder / name).write_bytes(packed)
            resources.append((name, hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [address])
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    return folder, truth


@pytest.fixture(params=[10, 100], ids=["CIFAR-10", "CIFAR-100"])
def cifar(request, published, monkeypatch):
    """Pickled batches in a tar.gz, published with their checksums."""
    folder, address = published
    source, module = {10: (datasets.CIFAR10, CIFAR10), 100: (datasets.CIFAR100, CIFAR100)}[
        request.param
    ]
    key, rng, truth, md5 = (
        {10: "labels", 100: "fine_labels"}[request.param],
        np.random.default_rng(0),
        {},
        {},
    )
    with tarfile.open(folder / source.filename, "w:gz") as archive:
        for name in [name for name, _ in source.train_list + source.test_list] + [
            source.meta["filename"]
        ]:
            pixels = rng.integers(256, size=(6, 3072), dtype=np.uint8)
            labels = rng.integers(request.param, size=6).tolist()
            truth[name] = pixels, labels
            batch = {"data": pixels, key: labels, source.meta["key"]: list("abc")}
            content = pickle.dumps(batch, protocol=2)
            md5[name] = hashlib.md5(content).hexdigest()
            entry = tarfile.TarInfo(f"{source.base_folder}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    for attribute in ("train_list", "test_list"):
        checked = [[name, md5[name]] for name, _ in getattr(source, attribute)]
        monkeypatch.setattr(source, attribute, checked)
    monkeypatch.setattr(source, "meta", source.meta | {"md5": md5[source.meta["filename"]]})
    monkeypatch.setattr(source, "url", address + source.filename)
    packed = (folder / source.filename).read_bytes()
    monkeypatch.setattr(source, "tgz_md5", hashlib.md5(packed).hexdigest())
    return folder, source, module, truth


def test_fashion_mnist_is_read_from_its_files(fashion, tmp_path):
    _, truth = fashion
    data = FashionMNIST(tmp_path / "data", download=True)
    data.prepare_data()
    data.setup("fit")
    for split, (pixels, labels) in zip((data.pool, data.test), truth.values(), strict=True):
        assert np.array_equal(split.images[:, 0], pixels)
        assert np.array_equal(split.labels, labels)


def test_fashion_mnist_archives_copied_by_hand_are_unpacked(fashion, tmp_path):
    folder, _ = fashion
    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in folder.iterdir():
        (raw / path.name).write_bytes(path.read_bytes())
    data = FashionMNIST(tmp_path / "data")
    data.prepare_data()
    data.setup("fit")
    assert len(data.pool.labels) == 20


@pytest.mark.parametrize("length", [0, 3, 6, 15, 300])
def test_incompletely_unpacked_fashion_mnist_is_unpacked_again(fashion, tmp_path, length):
    data = FashionMNIST(tmp_path / "data", download=True)
    data.prepare_data()
    path = tmp_path / "data" / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    data.download = False
    data.prepare_data()
    assert path.read_bytes() == whole


def test_fashion_mnist_without_archives_is_read(fashion, tmp_path):
    data = FashionMNIST(tmp_path / "data", download=True)
    data.prepare_data()
    for path in (tmp_path / "data").rglob("*.gz"):
        path.unlink()
    data.download = False
    data.prepare_data()
    data.setup("fit")
    assert len(data.test.labels) == 5


def test_the_error_for_missing_fashion_mnist_says_what_to_do(fashion, tmp_path):
    expected = (
        rf"No Fashion-MNIST in {tmp_path}/data/FashionMNIST/raw: train-images.*missing.*"
        r"`--data.download true`.*fetch http://.*train-images-idx3-ubyte.gz and .*copy it to"
    )
    with pytest.raises(FileNotFoundError, match=expected):
        FashionMNIST(tmp_path / "data").prepare_data()


def test_cifar_is_read_from_its_batches(cifar, tmp_path):
    _, source, module, truth = cifar
    data = module(tmp_path / "data", download=True)
    data.prepare_data()
    data.setup("fit")
    for split, files in ((data.pool, source.train_list), (data.test, source.test_list)):
        pixels, labels = zip(*(truth[name] for name, _ in files), strict=True)
        assert np.array_equal(split.images, np.concatenate(pixels).reshape(-1, 3, 32, 32))
        assert np.array_equal(split.labels, np.concatenate(labels))


def test_cifar_images_outside_the_pool_are_held_out(cifar, tmp_path):
    _, source, module, truth = cifar
    data = module(tmp_path / "data", pool_size=4, download=True)
    data.prepare_data()
    data.setup("fit")
    pixels, labels = zip(*(truth[name] for name, _ in source.train_list), strict=True)
    train = zip(np.concatenate(pixels).tolist(), np.concatenate(labels).tolist(), strict=True)
    served = [
        pair
        for split in (data.pool, data.held_out)
        for pair in zip(split.images.flatten(1).tolist(), split.labels.tolist(), strict=True)
    ]
    assert len(data.pool.labels) == 4
    assert sorted(served) == sorted(train)


def test_a_cifar_archive_copied_by_hand_is_unpacked(cifar, tmp_path):
    folder, source, module, _ = cifar
    root = tmp_path / "data"
    root.mkdir()
    (root / source.filename).write_bytes((folder / source.filename).read_bytes())
    data = module(root)
    data.prepare_data()
    data.setup("fit")
    assert data.num_classes == (10 if module is CIFAR10 else 100)


def test_the_error_for_missing_cifar_says_what_to_do(cifar, tmp_path):
    _, source, module, _ = cifar
    expected = (
        rf"No {module.__name__} in {tmp_path}/data: {source.filename} is missing\. Pass "
        rf"`--data.download true`, or offline fetch {source.url} elsewhere and copy it to"
    )
    with pytest.raises(FileNotFoundError, match=expected):
        module(tmp_path / "data").prepare_data()


def test_a_damaged_cifar_batch_is_noticed(cifar, tmp_path):
    _, source, module, _ = cifar
    data = module(tmp_path / "data", download=True)
    data.prepare_data()
    (tmp_path / "data" / source.filename).unlink()
    batch = tmp_path / "data" / source.base_folder / source.train_list[0][0]
    batch.write_bytes(batch.read_bytes()[:-1])
    data.download = False
    with pytest.raises(FileNotFoundError, match=f"{source.filename} is missing"):
        data.prepare_data()


def test_a_download_with_a_wrong_checksum_is_refused(cifar, tmp_path):
    folder, source, module, _ = cifar
    (folder / source.filename).write_bytes(b"a login page")
    with pytest.raises(FileNotFoundError, match=r"Could not fetch CIFAR.*corrupted"):
        module(tmp_path / "data", download=True).prepare_data()
