"""Features and labels in NumPy files: tables, embeddings, spectrograms."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from datamodules.array_files import Split, read_split
from datamodules.images import ImageDataModule, Images
from datamodules.seeds import derive_seed

NAMES = 10  # most classes that a message lists


class Arrays(ImageDataModule):
    """Features `x` and labels `y` in an .npz file, or in two .npy files; used as they are.

    Features are `[examples, features]`, `[examples, height, width]` or
    `[examples, channels, height, width]`. An .npz with `x_test` and `y_test` brings its test split.

    Args:
        file: .npz with x (or features) and y (or labels), or .npy of the features.
        labels: .npy of the labels, for a .npy of features.
        mean: what is subtracted, per feature or channel, or one for all; null for the mean over the
            training split.
        std: what is divided by, in the same way; null for the standard deviation.
        test_fraction: share of the examples set apart as the test split, if the file has none.
        pool_size: number of audited examples, drawn from the training split; null for all of it.
        pool_seed: seed of that draw and of the test split.
        batch_size: examples per training step, over all devices together.
    """

    def __init__(
        self,
        file: Path,
        labels: Path | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        test_fraction: float = 0.2,
        pool_size: int | None = None,
        pool_seed: int = 0,
        batch_size: int = 128,
    ) -> None:
        super().__init__(file.parent, pool_size, pool_seed, batch_size)
        if not 0 < test_fraction < 1:
            raise ValueError(f"`test_fraction` must be between 0 and 1, got {test_fraction}.")
        self.file, self.labels = file.expanduser(), labels and labels.expanduser()
        self.given, self.test_fraction = {"mean": mean, "std": std}, test_fraction

    def read(self) -> tuple[Images, Images]:
        """Read the files, number the classes, and take the scaling from the training split.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: the arrays are no features and labels, or the scaling does not fit.
        """
        train, test = read_split(self.file, self.labels)
        classes = np.unique(train.labels)
        self._check_classes(train, classes)
        if not np.array_equal(classes, np.arange(len(classes))):
            named = ", ".join(map(str, classes[:NAMES])) + (", ..." * (len(classes) > NAMES))
            self.notes.append(f"Labels {named} are classes 0 to {len(classes) - 1}.")
        self.num_classes = len(classes)
        images = Images(torch.from_numpy(train.features), _number(train, classes))
        if test is None:
            size = max(1, round(len(images.labels) * self.test_fraction))
            others, images = images.split(size, derive_seed(self.pool_seed, "test"))
        else:
            others = Images(torch.from_numpy(test.features), _number(test, classes))
        self.mean, self.std = self._scaling(images.images)
        return images, others

    def _check_classes(self, split: Split, classes: Shaped[np.ndarray, " classes"]) -> None:
        if len(classes) < 2:
            raise ValueError(f"{split.labelled} must name two classes or more, got {classes}.")
        if len(classes) > max(2, len(split.labels) / 2):
            raise ValueError(
                f"{split.labelled} must name classes, got {len(classes):,} different values for "
                f"{len(split.labels):,} examples. Are they measurements? Divide them into classes."
            )

    def _scaling(
        self, features: Float[Tensor, "examples channels ..."]
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std of each feature or channel, as given or over the training split."""
        others = [axis for axis in range(features.ndim) if axis != 1]
        std, mean = torch.std_mean(features.double(), others, correction=0)
        constant = std <= 1e-12 * mean.abs()  # also where the sum was rounded
        measured = {"mean": mean, "std": torch.where(constant, 1.0, std)}
        scaling = []
        for name, values in self.given.items():
            chosen = measured[name].tolist() if values is None else values
            if len(chosen) not in (1, len(mean)):
                raise ValueError(
                    f"`{name}` must be one number, or one for each of {len(mean)} features or "
                    f"channels, got {len(chosen)}."
                )
            if not np.isfinite(chosen).all() or (name == "std" and min(chosen) <= 0):
                raise ValueError(f"`{name}` must be finite, and a std above 0, got {chosen}.")
            scaling.append(tuple(chosen if len(chosen) == len(mean) else chosen * len(mean)))
        return scaling[0], scaling[1]


def _number(split: Split, classes: Shaped[np.ndarray, " classes"]) -> Int64[Tensor, " examples"]:
    """Number labels by their place among the classes of the training split."""
    if unknown := sorted({*split.labels.tolist()} - {*classes.tolist()}):
        raise ValueError(
            f"{split.labelled} must name classes of the training split, got {unknown[:NAMES]} "
            "besides. Leave these examples out."
        )
    return torch.from_numpy(np.searchsorted(classes, split.labels))
