"""Batches, and how Lightning is given them."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor


class Batch(NamedTuple):
    """The input of a network; `indices` are positions in the pool or in the test split."""

    images: Float[Tensor, "batch channels height width"]
    labels: Int64[Tensor, " batch"]
    indices: Int64[Tensor, " batch"]

    def share(self, process: int, processes: int) -> "Batch":
        """Return one process's share, in nearly equal parts."""
        if processes == 1:
            return self
        return Batch(*(tensor.tensor_split(processes)[process] for tensor in self))


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
