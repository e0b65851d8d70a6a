"""The callback that keeps a network as it is at some points of its training."""

from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from storage.weights import save_network


class SaveSnapshots(Callback):
    """Write the network's weights at the end of some epochs, as variants of their own.

    Before the checkpoint of the same epoch, which Lightning writes after all other callbacks: where
    training has passed a snapshot, its file exists. A resumed fit writes the same weights again.

    Args:
        folder: the model's folder, for `<variant>.safetensors`.
        epochs: variant -> number of epochs after which it is kept.
    """

    def __init__(self, folder: Path, epochs: Mapping[str, int]) -> None:
        self.folder, self.epochs = folder, epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for variant, epoch in self.epochs.items():
            if epoch == trainer.current_epoch + 1:
                self._save(pl_module, variant)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep weights that diverged in place of the snapshots that training did not reach."""
        for variant in self.epochs:
            if trainer.should_stop and not self._path(variant).exists():
                self._save(pl_module, variant)

    @rank_zero_only
    def _save(self, pl_module: LightningModule, variant: str) -> None:
        state = pl_module.get_submodule("network").state_dict()
        save_network(self._path(variant), state, getattr(pl_module, "kept", {}))

    def _path(self, variant: str) -> Path:
        return self.folder / f"{variant}.safetensors"
