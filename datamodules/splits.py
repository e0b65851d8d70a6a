"""A data set's splits: bytes in memory, or a choice of the rows of a mapped file."""

import hashlib
from collections.abc import Callable, Iterator
from math import prod

import numpy as np
import torch
from jaxtyping import Int64, Shaped, UInt8
from torch import Tensor

from datamodules.pixel_cache import MappedPixels
from datamodules.views import normalise

BLOCK = 2**25  # bytes that are read at once where all are


class Images:
    """The examples and labels of one split.

    Where the examples are in a mapped file, a split is a choice of its rows, and only those that
    are asked for are read.

    Args:
        stored: all examples in memory or in the file: images as bytes, or arrays as float32.
        labels: classes of the split's examples.
        rows: their positions in the file; None for all.
    """

    def __init__(
        self,
        stored: Shaped[Tensor, "stored ..."] | MappedPixels,
        labels: Int64[Tensor, " examples"],
        rows: Int64[Tensor, " examples"] | None = None,
    ) -> None:
        self.stored, self.labels, self.rows = stored, labels, rows

    @property
    def mapped(self) -> MappedPixels | None:
        """The file, if the examples are in one."""
        return self.stored if isinstance(self.stored, MappedPixels) else None

    @property
    def images(self) -> Shaped[Tensor, "examples ..."]:
        """All examples; copied into memory if they are a choice of a file's rows."""
        if self.mapped is None or self.rows is None:
            return self._all
        return self.mapped.take(self.rows)

    @property
    def shape(self) -> torch.Size:
        """Number of examples, and the shape of one."""
        count = len(self._all if self.rows is None else self.rows)
        return torch.Size([count, *self._all.shape[1:]])

    @property
    def nbytes(self) -> int:
        """Bytes of all examples."""
        return self.shape.numel() * self._all.element_size()

    @property
    def device(self) -> torch.device:
        """Where the examples are."""
        return self._all.device

    def __iter__(self) -> Iterator[Tensor]:
        """All examples, then their labels."""
        return iter((self.images, self.labels))

    def take(self, indices: Int64[Tensor, " chosen"]) -> "Images":
        """Select examples by position, on whichever device they are."""
        indices = indices.to(self.labels.device)
        # an index in brackets takes 20 times as long on a CPU
        labels = self.labels.index_select(0, indices)
        if self.mapped:
            rows = indices if self.rows is None else self.rows.index_select(0, indices)
            return Images(self.stored, labels, rows)
        return Images(self._all.index_select(0, indices), labels)

    @property
    def pictures(self) -> Callable[[Tensor], Tensor] | None:
        """A function that shows the images at some positions; None if the examples are arrays."""
        if self._all.dtype != torch.uint8:
            return None
        return lambda indices: self.take(indices).images

    def split(self, size: int, seed: int) -> tuple["Images", "Images"]:
        """Draw `size` examples at random; both they and the rest keep their order."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.labels), generator=generator)
        return self.take(order[:size].sort().values), self.take(order[size:].sort().values)

    def blocks(self) -> Iterator[Shaped[Tensor, "block ..."]]:
        """All examples in order, block by block."""
        count, *shape = self.shape
        step = max(1, BLOCK // (self._all.element_size() * prod(shape)))
        for rows in torch.split(torch.arange(count), step):
            yield self._all[rows[0] : rows[-1] + 1] if self.rows is None else self.take(rows).images

    def to(self, device: torch.device) -> "Images":
        """Copy everything to a device."""
        copy, start = torch.empty(self.shape, dtype=self._all.dtype, device=device), 0
        for block in self.blocks():
            copy[start : start + len(block)] = block
            start += len(block)
        return Images(copy, self.labels.to(device))

    @property
    def _all(self) -> Tensor:
        return self.stored.pixels if isinstance(self.stored, MappedPixels) else self.stored


class Levels:
    """The examples of a split as bytes, block by block: images as they are, arrays standardized.

    Of an array, a byte is a step of 1/32 standard deviation, from -4 to 4.
    """

    def __init__(self, split: Images, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.split, self.mean, self.std = split, mean, std

    def __iter__(self) -> Iterator[UInt8[Tensor, "block channels ..."]]:
        """Start from the first example."""
        for block in self.split.blocks():
            if block.dtype != torch.uint8:
                block = (32 * normalise(block, self.mean, self.std) + 128).round_()
                block = block.clamp_(0, 255).byte()
            yield block


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
        ValueError: too few examples, or a count, a channel or a label that does not fit.
    """
    if len(train.labels) < 2 or not len(test.labels):
        raise ValueError(
            f"{name} needs 2 examples to train on and 1 to test, got {len(train.labels)} and "
            f"{len(test.labels)}. Leave some out of the pool, or add more."
        )
    channels = [split.shape[1] for split in (train, test)]
    if not channels[0] == len(mean) == len(std) == channels[1]:
        raise ValueError(
            f"{name} has examples of {channels[0]} and {channels[1]} channels, {len(mean)} means "
            f"and {len(std)} stds. Give one mean and std per channel."
        )
    for split in (train, test):
        count, labels = split.shape[0], split.labels
        if count != len(labels):
            raise ValueError(
                f"Every example needs a label, got {count} examples and {len(labels)} labels. "
                f"{name}'s files do not belong together: download them again."
            )
        if labels.min() < 0 or labels.max() >= num_classes:
            raise ValueError(
                f"Labels must be 0 to {num_classes - 1}, got {int(labels.min())} to "
                f"{int(labels.max())}. {name}'s `num_classes` or its files are wrong."
            )


def describe_splits(pool: Images, held_out: Images, test: Images, num_classes: int) -> str:
    """Say how many examples of which shape there are, and in which split."""
    counts = [len(split.labels) for split in (pool, held_out, test)]
    channels, *sides = pool.shape[1:]
    noun = "images" if pool.pictures else "examples"
    shape = f"{'x'.join(map(str, sides))}, {channels} channel{'s' if channels > 1 else ''}"
    return (
        f"Read {sum(counts):,} {noun} of {num_classes} classes "
        f"({shape if sides else f'{channels} features'}): {counts[0]:,} in the pool, "
        f"{counts[1]:,} held out, {counts[2]:,} for testing."
    )


def hash_splits(splits: tuple[Images, ...], mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    """Hash all that networks see, images, labels and their scaling, to 16 hex digits."""
    digest = hashlib.sha256(repr((mean, std)).encode())
    for split in splits:
        digest.update(repr(split.shape).encode())
        for block in split.blocks():
            digest.update(_content(block))
        digest.update(repr(split.labels.shape).encode())
        digest.update(_content(split.labels))
    return digest.hexdigest()[:16]


def _content(tensor: Tensor) -> memoryview:
    array: np.ndarray = tensor.cpu().contiguous().numpy()
    return array.data
