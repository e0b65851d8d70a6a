"""The callback that records what DP-SGD proves of a model."""

import json
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from attacks.game import FULL
from lightning_modules.accountant import Mechanism, spend
from storage.files import write_text


class SavePrivacy(Callback):
    """Write `<variant>.json` beside the weights of each state of training: its steps and epsilon.

    Epsilon follows from the number of steps alone, so it is the same after a resume. Place it
    before the callbacks that write the weights, so that these never lack a record.

    Args:
        folder: the model's folder.
        mechanism: what its training does in each step.
        clip: norm to which the gradient of each example is clipped.
        snapshots: variant -> number of epochs after which it is kept.
    """

    def __init__(
        self, folder: Path, mechanism: Mechanism, clip: float, snapshots: Mapping[str, int]
    ) -> None:
        self.folder, self.mechanism, self.clip = folder, mechanism, clip
        self.snapshots = snapshots

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for variant, epoch in self.snapshots.items():
            if epoch == trainer.current_epoch + 1:
                self._write(variant, trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the end of a diverged training for the snapshots that it did not reach."""
        for variant in self.snapshots:
            if trainer.should_stop and not self._made(variant):
                self._write(variant, trainer.global_step)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._made(FULL):
            self._write(FULL, trainer.global_step)

    def _made(self, variant: str) -> bool:
        return (self.folder / f"{variant}.safetensors").exists()

    def _write(self, variant: str, steps: int) -> None:
        spent = spend(self.mechanism, steps)
        record = self.mechanism._asdict() | {"clip": self.clip, "steps": steps} | spent._asdict()
        write_text(self.folder / f"{variant}.json", json.dumps(record))
