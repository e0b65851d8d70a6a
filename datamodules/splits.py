"""A data set's splits, in memory as bytes."""

import hashlib
from typing import NamedTuple

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor


class Images(NamedTuple):
    """The images and labels of one split."""

    images: UInt8[Tensor, "examples channels height width"]
    labels: Int64[Tensor, " examples"]

    def take(self, indices: Int64[Tensor, " chosen"]) -> "Images":
        """Select examples by position, on whichever device they are."""
        indices = indices.to(self.labels.device)
        # an index in brackets takes 20 times as long on a CPU
        return Images(self.images.index_select(0, indices), self.labels.index_select(0, indices))

    def split(self, size: int, seed: int) -> tuple["Images", "Images"]:
        """Draw `size` examples at random; both they and the rest keep their order."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.labels), generator=generator)
        return self.take(order[:size].sort().values), self.take(order[size:].sort().values)


def check_splits(
    train: Images,
    test: Images,
    name: str,
    num_classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> None:
    """Check that the splits fit together, and fit what their data set says of them.

    Raises:
        ValueError: too few images, or a count, a channel or a label that does not fit.
    """
    if len(train.labels) < 2 or not len(test.labels):
        raise ValueError(
            f"{name} needs 2 images to train on and 1 to test, got {len(train.labels)} and "
            f"{len(test.labels)}. Leave some out of the pool, or add images."
        )
    channels = [split.images.shape[1] for split in (train, test)]
    if not channels[0] == len(mean) == len(std) == channels[1]:
        raise ValueError(
            f"{name} has images of {channels[0]} and {channels[1]} channels, {len(mean)} means "
            f"and {len(std)} stds. Give one mean and std per channel."
        )
    for images, labels in (train, test):
        if len(images) != len(labels):
            raise ValueError(
                f"Every image needs a label, got {len(images)} images and {len(labels)} labels. "
                f"{name}'s files do not belong together: download them again."
            )
        if labels.min() < 0 or labels.max() >= num_classes:
            raise ValueError(
                f"Labels must be 0 to {num_classes - 1}, got {int(labels.min())} to "
                f"{int(labels.max())}. {name}'s `num_classes` or its files are wrong."
            )


def hash_splits(splits: tuple[Images, ...], mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    """Hash all that networks see, images, labels and their scaling, to 16 hex digits."""
    digest = hashlib.sha256(repr((mean, std)).encode())
    for split in splits:
        for tensor in split:
            digest.update(repr(tensor.shape).encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]
