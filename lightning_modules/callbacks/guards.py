"""What stops a fit that would go wrong in silence."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class StopDiverged(Callback):
    """End a fit whose weights are no longer finite: more epochs would not bring it back.

    Its files are written as any model's, so that one can tell what became of it. Weights
    are looked at once an epoch, for a look at each loss would make a GPU wait at every step.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look(trainer, pl_module)

    def _look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not all(weights.isfinite().all() for weights in pl_module.parameters()):
            trainer.should_stop = True


class SameModel(Callback):
    """Raise if processes that train a model together do not mean the same one.

    Args:
        name: which model this process means.
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
