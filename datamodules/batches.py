"""Batches, and how Lightning is given them."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor


class Batch(NamedTuple):
    """The input of a network.

    Attributes:
        images: normalised images.
        labels: their classes.
        indices: their positions in the pool or in the test split.
        weight: factor on the mean loss of these images that makes the mean over all processes the
            mean over the whole batch; 1 unless the processes' shares differ in size.
    """

    images: Float[Tensor, "batch channels height width"]
    labels: Int64[Tensor, " batch"]
    indices: Int64[Tensor, " batch"]
    weight: float = 1.0

    def share(self, process: int, processes: int) -> "Batch":
        """Return one process's share, in nearly equal parts."""
        if processes == 1:
            return self
        images, labels, indices = (part.tensor_split(processes)[process] for part in self[:3])
        weight = processes * len(labels) / len(self.labels)
        return Batch(images, labels, indices, weight)


class Loader:
    """What Lightning needs of a dataloader: a length, and a fresh iterator for every epoch."""

    def __init__(self, length: int, epoch: Callable[[], Iterator[Batch]]) -> None:
        self._length, self._epoch = length, epoch

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        """Start an epoch."""
        return self._epoch()


def fits(images: Tensor, device: torch.device) -> bool:
    """Whether `device` is a GPU and the images take less than half of its free memory."""
    return device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(device)[0] / 2
