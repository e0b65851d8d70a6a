"""Digits: 1,797 real 8x8 scans of handwriting that come with scikit-learn."""

import torch
from sklearn.datasets import load_digits

from datamodules.images import ImageDataModule, Images
from datamodules.seeds import derive_seed


class Digits(ImageDataModule):
    """1,797 gray 8x8 images of handwritten digits; what is not in the pool is the test split.

    Args:
        pool_size: audited examples.
        pool_seed: seed of their draw.
        batch_size: examples in one step of training, over all devices together.
        flip: mirror left and right at random while training.
        crop: pixels by which training shifts images at random, up to; 0 is never.
    """

    pool_size: int
    num_classes = 10
    mean, std = (0.3053,), (0.3759,)

    def __init__(
        self,
        pool_size: int = 600,
        pool_seed: int = 0,
        batch_size: int = 32,
        flip: bool = False,
        crop: int = 0,
    ) -> None:
        super().__init__(
            pool_size=pool_size, pool_seed=pool_seed, batch_size=batch_size, flip=flip, crop=crop
        )

    def read(self) -> tuple[Images, Images]:
        digits = load_digits()
        gray = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8)  # from 0..16
        every = Images(gray.unsqueeze(1), torch.from_numpy(digits.target))
        return every.split(self.pool_size, derive_seed(self.pool_seed, "pool"))
