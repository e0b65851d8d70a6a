"""Any folder of images with one sub-folder per class."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from datamodules.class_folders import ClassFolders, find_images, list_counts, list_folders
from datamodules.decode import Decoding, Form, check_background
from datamodules.images import ImageDataModule, Images
from datamodules.pixel_cache import default_folder, make_key, obtain_pixels, stamp
from datamodules.seeds import derive_seed

# Names of the two splits, in small letters.
TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation")


class ImageFolder(ImageDataModule):
    """Images in `root/CLASS/`, or in `root/train/CLASS/` and `root/test/CLASS/` (or `val`).

    Args:
        root: the folder.
        image_size: width and height in pixels to which images are scaled and cropped.
        channels: 3 for colour, 1 for gray.
        background: colour on which transparent images are laid: a name, or rgb(red,green,blue).
        test_fraction: share of the images set apart as the test split; unused if the folder has two
            splits.
        pool_size: number of audited examples, drawn from the training split; null for all of it.
        pool_seed: seed of that draw and of the test split.
        batch_size: examples per training step, over all devices together.
        flip: mirror images left and right at random in training.
        crop: largest random shift in pixels; 0 disables it.
        cache: folder for a file of the decoded images, which later calls and all processes map;
            null for ~/.cache/bitleak.
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
        background: str = "white",
        cache: Path | None = None,
    ) -> None:
        super().__init__(root, pool_size, pool_seed, batch_size, flip, crop)
        if image_size < 8:
            raise ValueError(f"`image_size` must be 8 or more for the networks, got {image_size}.")
        if not 0 < test_fraction < 1:
            raise ValueError(f"`test_fraction` must be between 0 and 1, got {test_fraction}.")
        check_background(background)
        self.form, self.test_fraction = Form(image_size, channels, background), test_fraction
        self.cache = (cache or default_folder()).expanduser().absolute()

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
        self.mean, self.std = _scaling(train)
        return train, test

    def _two_splits(self) -> tuple[Images, Images] | None:
        train, test = self._find_split(TRAIN), self._find_split(TEST)
        # `train` may be a class
        if train is None or not any(list_folders(train, Counter())):
            return None
        if test is None:
            raise FileNotFoundError(
                f"{self.root.resolve()} has a {train.name} folder, but neither test nor val. Add "
                f"one, or point `--data.root` at {train.name} itself to split off a part of it."
            )
        passed_over = Counter[str]()
        folders = list_folders(self.root, passed_over)
        passed_over.update(
            f"folder {name}" for name in folders if name not in (train.name, test.name)
        )
        self._note_passed(self.root, passed_over)
        splits = find_images(train), find_images(test)
        if splits[0].classes != splits[1].classes:
            odd = sorted({*splits[0].classes} ^ {*splits[1].classes})
            raise ValueError(
                f"{train.name} and {test.name} must have the same classes, but only one of "
                f"them has {', '.join(odd)}. Add the missing folders."
            )
        return self._decode(splits[0]), self._decode(splits[1])

    def _find_split(self, names: Sequence[str]) -> Path | None:
        """The folder with the first of some names, in small letters or large ones."""
        folders = sorted(folder for folder in self.root.iterdir() if folder.is_dir())
        found = {folder.name.lower(): folder for folder in folders}  # small letters come last
        return next((found[name] for name in names if name in found), None)

    def _one_split(self) -> tuple[Images, Images]:
        images = self._decode(find_images(self.root))
        test_size = max(1, round(len(images.labels) * self.test_fraction))
        test, train = images.split(test_size, derive_seed(self.pool_seed, "test"))
        return train, test

    def _decode(self, found: ClassFolders) -> Images:
        self.num_classes = len(found.classes)
        decoding = Decoding(found.files, lambda file: Path(file).read_bytes(), self.form)
        inside = len(str(found.root)) + len(os.sep)
        contents = ((os.fsencode(file[inside:]), stamp(file)) for file in found.files)
        decoded = obtain_pixels(self.cache, make_key(contents, self.form), decoding)
        self.notes += decoded.describe(self.form)
        self._note_passed(found.root, found.passed_over)
        return Images(decoded.pixels, torch.tensor(found.labels))

    def _note_passed(self, folder: Path, passed_over: Counter[str]) -> None:
        if passed_over:
            self.notes.append(f"Passed over in {folder}: {list_counts(passed_over)}.")


def _scaling(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of every channel, from counts of the 256 values: exact and without a copy."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for block in images.blocks():
        for channel, count in zip(block.unbind(1), counts, strict=True):
            count += channel.flatten().bincount(minlength=256)
    shares = counts.double() / counts[0].sum()
    means, stds = [], []
    for share in shares:
        means.append((mean := (share * levels).sum()).item())
        stds.append((share * (levels - mean).square()).sum().sqrt().item() or 1.0)  # all one tone
    return tuple(means), tuple(stds)
