"""How long `torch.compile` took: who asked for it should see whether it pays."""

import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class CompileTime(Callback):
    """Tell how much longer the steps of a fit's first epoch took than those of its second.

    That is the compiler's time, whichever steps it came in: a batch of another size may be compiled
    for again. A resumed fit compiles anew, and tells it too.

    Args:
        tell: takes the seconds; loggers get them as `compile/seconds`.
    """

    def __init__(self, tell: Callable[[float], object]) -> None:
        self.tell = tell

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epochs: list[float] = []  # seconds in steps, of each epoch of this process

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epochs.append(0.0)

    def on_train_batch_start(self, *_: Any) -> None:  # noqa: ANN401
        self.began = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:  # noqa: ANN401
        self.epochs[-1] += time.perf_counter() - self.began

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if len(self.epochs) != 2:
            return
        first, second = self.epochs
        self.tell(first - second)
        for logger in trainer.loggers:
            logger.log_metrics({"compile/seconds": first - second}, step=trainer.global_step)
