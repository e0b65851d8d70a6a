"""The processes that train one model together."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

PATIENCE = timedelta(days=10_000)  # one variant may take a process longer than any timeout

T = TypeVar("T")


class Peers(Callback):
    """Begin and end a fit in all its processes at once; place it after all other callbacks.

    Between the last step of training and the end, each process quantizes and records its own share
    of the variants. Meanwhile the others wait without a timeout, over gloo, which tells them at
    once if a process dies. NCCL's and Lightning's own would give up after half an hour.

    Args:
        start: the model, and where its training goes on; all processes must see the same.
    """

    def __init__(self, start: str) -> None:
        self.start = start
        self._group: Any = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare where the processes start.

        Raises:
            RuntimeError: they would train different models, or from different epochs.
        """
        first = trainer.strategy.broadcast(self.start)
        if first != self.start:
            raise RuntimeError(
                f"All processes must train the same model from the same files, got {first} in the "
                f"first and {self.start} in process {trainer.global_rank}. Did another call finish "
                "models meanwhile, or does a network file system show files late? Start the same "
                "command again."
            )
        if trainer.world_size > 1:
            self._group = dist.new_group(backend="gloo", timeout=PATIENCE)

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank, once all have one."""
        if self._group is None:
            return [value]
        values = [value] * self._group.size()
        dist.all_gather_object(values, value, group=self._group)
        return values

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._group is not None:
            self.gather(None)
            dist.destroy_process_group(self._group)
            self._group = None


def share(trainer: Trainer, items: Sequence[T]) -> Sequence[T]:
    """The items that this process works on: every second one of two processes."""
    return items[trainer.global_rank :: trainer.world_size]
