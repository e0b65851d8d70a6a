"""Digits: 1,797 real 8x8 scans of handwriting, shipped with scikit-learn."""

import torch
from sklearn.datasets import load_digits

from datamodules.images import ImageDataModule, Images
from datamodules.seeds import derive_seed


class Digits(ImageDataModule):
    """1,797 gray 8x8 images of handwritten digits; all that are not in the pool are for testing.

    Args:
        pool_size: number of audited examples.
        pool_seed: seed of that draw.
        batch_size: examples per training step, over all devices together.
        flip: mirror images left and right at random in training.
        crop: largest random shift in pixels; 0 disables it.
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
        images = Images(gray.unsqueeze(1), torch.from_numpy(digits.target))
        return images.split(self.pool_size, derive_seed(self.pool_seed, "pool"))
