"""A data set small enough to follow by hand, and a stand-in for a trainer."""

from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import Trainer

from datamodules.images import ImageDataModule, Images


class Noise(ImageDataModule):
    """Random images, whose label is their position modulo 3."""

    num_classes = 3
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)

    def read(self):
        rng = torch.Generator().manual_seed(0)
        images = torch.randint(256, (1130, 3, 8, 8), dtype=torch.uint8, generator=rng)
        split = Images(images, torch.arange(1130) % 3)
        return split.take(torch.arange(100)), split.take(torch.arange(100, 1130))


@pytest.fixture
def noise():
    """The class `Noise`, for tests that make their own data."""
    return Noise


@pytest.fixture
def data():
    data = Noise(batch_size=16, flip=True, crop=2)
    data.setup("fit")
    return data


@pytest.fixture
def in_process():
    """Make a stand-in for the trainer of one process among several."""

    def trainer(rank, world_size, epoch=0):
        return Mock(
            Trainer,
            strategy=Mock(root_device=torch.device("cpu")),
            global_rank=rank,
            world_size=world_size,
            current_epoch=epoch,
        )

    return trainer
