"""Batches, and how Lightning is given them."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from datamodules.splits import Images


class Batch(NamedTuple):
    """The input of a network.

    Attributes:
        images: normalised images, or arrays.
        labels: their classes.
        indices: their positions in the pool or in the test split.
        weight: factor on the mean loss of these images that makes the mean over all processes the
            mean over the whole batch; 1 unless the processes' shares differ in size.
    """

    images: Float[Tensor, "batch channels ..."]
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
    """What Lightning needs of a dataloader: a length, and a fresh iterator for every epoch.

    Its items are batches, or what has batches: visits of clients, or lessons of a learner of tasks.
    """

    def __init__(self, length: int, epoch: Callable[[], Iterator[Any]]) -> None:
        self._length, self._epoch = length, epoch

    def __len__(self) -> int:
        """Count the items of an epoch."""
        return self._length

    def __iter__(self) -> Iterator[Any]:
        """Start an epoch."""
        return self._epoch()


def fits(images: Images | Tensor, device: torch.device) -> bool:
    """Whether `device` is a GPU, and the images take less than half of what this process may use.

    That is the free memory, or the process's share of all memory if that is less: processes that
    share the GPU may not have taken theirs yet.
    """
    if device.type != "cuda":
        return False
    free, total = torch.cuda.mem_get_info(device)
    # torch 2.6 sets a share, and does not tell which
    find_share = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 1.0)
    return images.nbytes < min(free, find_share(device) * total) / 2
