"""Callbacks that stop a fit which would go wrong in silence."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class StopDiverged(Callback):
    """End a fit whose weights are not finite, because more epochs would not bring them back.

    The model's files are written all the same, so that its signals show that it diverged. Weights
    are checked once per epoch, because checking every loss would make a GPU wait at every step.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer, pl_module)

    def _check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not all(weights.isfinite().all() for weights in pl_module.parameters()):
            trainer.should_stop = True


class SameModel(Callback):
    """Raise if the processes of one fit were given different models.

    Args:
        name: the model of this process.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        first = trainer.strategy.broadcast(self.name)
        if first != self.name:
            raise RuntimeError(
                f"All processes must train the same model, got {first} in the first and "
                f"{self.name} in process {trainer.global_rank}. Did another call finish models "
                "meanwhile? Start the same command again."
            )
