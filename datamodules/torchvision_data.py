"""Fashion-MNIST, CIFAR-10 and CIFAR-100, read and checked by torchvision."""

import struct
from math import prod
from pathlib import Path
from typing import Any

import torch
from torchvision import datasets
from torchvision.datasets.utils import check_integrity, download_and_extract_archive

from datamodules.archives import Archive, obtain
from datamodules.images import ImageDataModule, Images


class FashionMNIST(ImageDataModule):
    """70,000 gray 28x28 images of clothes in 10 classes, 60,000 of them for training.

    Args:
        root: folder that holds the data sets; this one is in FashionMNIST/raw.
        pool_size: number of audited examples, drawn from the training split; null for all of it.
        pool_seed: seed of that draw.
        batch_size: examples per training step, over all devices together.
        flip: mirror images left and right at random in training.
        crop: largest random shift in pixels; 0 disables it.
        download: download the data set (31 MB) if it is missing.
    """

    num_classes = 10
    mean, std = (0.2860,), (0.3530,)

    def __init__(
        self,
        root: Path = Path("data"),
        pool_size: int | None = None,
        pool_seed: int = 0,
        batch_size: int = 128,
        flip: bool = True,
        crop: int = 2,
        download: bool = False,
    ) -> None:
        super().__init__(root, pool_size, pool_seed, batch_size, flip, crop, download)

    def fetch(self) -> None:
        source, raw = datasets.FashionMNIST, self.root / "FashionMNIST" / "raw"
        obtain(
            "Fashion-MNIST",
            [Archive(source.mirrors[0] + name, raw / name, md5) for name, md5 in source.resources],
            lambda: all(
                _is_whole_idx(raw / name.removesuffix(".gz")) for name, _ in source.resources
            ),
            download_and_extract_archive,
            self.download,
        )

    def read(self) -> tuple[Images, Images]:
        return self._images(train=True), self._images(train=False)

    def _images(self, train: bool) -> Images:
        split = datasets.FashionMNIST(self.root, train=train)
        return Images(split.data.unsqueeze(1), split.targets)


class CIFAR10(ImageDataModule):
    """60,000 colour 32x32 photographs in 10 classes, 50,000 of them for training.

    Args:
        root: folder that holds the data sets; this one is in cifar-10-batches-py, or for CIFAR-100
            in cifar-100-python.
        pool_size: number of audited examples, drawn from the training split; null for all of it.
        pool_seed: seed of that draw.
        batch_size: examples per training step, over all devices together.
        flip: mirror images left and right at random in training.
        crop: largest random shift in pixels; 0 disables it.
        download: download the data set (170 MB) if it is missing.
    """

    num_classes = 10
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    source: Any = datasets.CIFAR10

    def __init__(
        self,
        root: Path = Path("data"),
        pool_size: int | None = None,
        pool_seed: int = 0,
        batch_size: int = 128,
        flip: bool = True,
        crop: int = 4,
        download: bool = False,
    ) -> None:
        super().__init__(root, pool_size, pool_seed, batch_size, flip, crop, download)

    def fetch(self) -> None:
        source = self.source
        archive = Archive(source.url, self.root / source.filename, source.tgz_md5)
        folder = self.root / source.base_folder
        meta = [source.meta["filename"], source.meta["md5"]]
        files = [*source.train_list, *source.test_list, meta]
        obtain(
            source.__name__,
            [archive],
            lambda: all(check_integrity(folder / name, md5) for name, md5 in files),
            download_and_extract_archive,
            self.download,
        )

    def read(self) -> tuple[Images, Images]:
        return self._images(train=True), self._images(train=False)

    def _images(self, train: bool) -> Images:
        split = self.source(self.root, train=train)
        images = torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous()
        return Images(images, torch.tensor(split.targets))


class CIFAR100(CIFAR10):
    """60,000 colour 32x32 photographs in 100 classes, 50,000 of them for training."""

    num_classes = 100
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    source = datasets.CIFAR100


def _is_whole_idx(path: Path) -> bool:
    """Whether a file is as long as its header says; an interrupted unpacking leaves less."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        header = file.read(16).ljust(16, b"\0")  # 4 bytes, the last one the number of sizes
    if header[3] > 3:
        return False  # not an idx file of images or labels, but for example a web page
    sizes: tuple[int, ...] = struct.unpack(f">{header[3]}I", header[4 : 4 + 4 * header[3]])
    return path.stat().st_size == 4 + 4 * len(sizes) + prod(sizes)
