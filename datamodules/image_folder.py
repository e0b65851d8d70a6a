"""Any folder of images with one sub-folder per class."""

from pathlib import Path
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision import datasets

from datamodules.decode import decode
from datamodules.images import ImageDataModule, Images
from datamodules.seeds import derive_seed


class ImageFolder(ImageDataModule):
    """Images in `root/CLASS/`, or in `root/train/CLASS/` and `root/test/CLASS/` (or `val`).

    Args:
        root: the folder.
        image_size: width and height in pixels to which images are scaled and cropped.
        channels: 3 for colour, 1 for gray.
        test_fraction: share of the images set apart as the test split; unused if the folder has two
            splits.
        pool_size: number of audited examples, drawn from the training split; null for all of it.
        pool_seed: seed of that draw and of the test split.
        batch_size: examples per training step, over all devices together.
        flip: mirror images left and right at random in training.
        crop: largest random shift in pixels; 0 disables it.
    """

    def __init__(
        self,
        root: Path,
        image_size: int = 32,
        channels: Literal[1, 3] = 3,
        test_fraction: float = 0.2,
        pool_size: int | None = None,
        pool_seed: int = 0,
        batch_size: int = 128,
        flip: bool = True,
        crop: int = 4,
    ) -> None:
        super().__init__(root, pool_size, pool_seed, batch_size, flip, crop)
        if image_size < 8:
            raise ValueError(f"`image_size` must be 8 or more for the networks, got {image_size}.")
        if not 0 < test_fraction < 1:
            raise ValueError(f"`test_fraction` must be between 0 and 1, got {test_fraction}.")
        self.image_size, self.channels = image_size, channels
        self.test_fraction = test_fraction

    def read(self) -> tuple[Images, Images]:
        """Read both splits, and take the scaling from the training split.

        Raises:
            FileNotFoundError: the folder or its images are missing.
            ValueError: the splits differ in classes, or images are damaged.
        """
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"No folder {self.root.resolve()}. Point `--data.root` at a folder with one "
                f"sub-folder of images per class."
            )
        train, test = self._two_splits() or self._one_split()
        if self.num_classes < 2:
            raise ValueError(
                f"{self.root.resolve()} must have a folder of images for each of two classes or "
                f"more, got one. Is `--data.root` one level too deep or too high?"
            )
        self.mean, self.std = _scaling(train.images)
        return train, test

    def _two_splits(self) -> tuple[Images, Images] | None:
        train = self.root / "train"
        if not any(path.is_dir() for path in train.glob("*")):  # `train` may be a class
            return None
        test = next((self.root / n for n in ("test", "val") if (self.root / n).is_dir()), None)
        if test is None:
            raise FileNotFoundError(
                f"{self.root.resolve()} has a train folder, but neither test nor val. Add one, or "
                f"point `--data.root` at train itself to split off a part of it."
            )
        splits = [datasets.ImageFolder(train), datasets.ImageFolder(test)]
        if splits[0].classes != splits[1].classes:
            odd = sorted(set(splits[0].classes) ^ set(splits[1].classes))
            raise ValueError(
                f"train and {test.name} must have the same classes, but only one of them has "
                f"{', '.join(odd)}. Add the missing folders."
            )
        return self._decode(splits[0]), self._decode(splits[1])

    def _one_split(self) -> tuple[Images, Images]:
        images = self._decode(datasets.ImageFolder(self.root))
        test_size = max(1, round(len(images.labels) * self.test_fraction))
        test, train = images.split(test_size, derive_seed(self.pool_seed, "test"))
        return train, test

    def _decode(self, folder: datasets.ImageFolder) -> Images:
        self.num_classes = len(folder.classes)
        files, labels = zip(*folder.samples, strict=True)
        images = decode(files, lambda f: Path(f).read_bytes(), self.image_size, self.channels)
        return Images(images, torch.tensor(labels))


def _scaling(
    images: UInt8[Tensor, "examples channels height width"],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of every channel, from counts of the 256 values: exact and without a copy."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(1):
        share = channel.flatten().bincount(minlength=256).double() / channel.numel()
        means.append((mean := (share * levels).sum()).item())
        stds.append((share * (levels - mean).square()).sum().sqrt().item() or 1.0)  # all one tone
    return tuple(means), tuple(stds)
