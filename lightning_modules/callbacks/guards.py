"""The callback that stops a fit which would go wrong in silence."""

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
