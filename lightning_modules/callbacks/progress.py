"""How far each model is, noted in its folder for whoever asks: a display, or `--status`."""

import json
import time
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from storage.files import write_whole

TRAINING = "training"


class Progress(NamedTuple):
    """What `progress.json` holds."""

    stage: str  # `training`, the variant that is being made, or `finished`
    epoch: int  # finished epochs
    seconds: float  # that all of this took, without what a kill lost

    def describe(self, max_epochs: int) -> str:
        """Say how far a model is that is worked on."""
        if self.stage == TRAINING:
            return f"epoch {self.epoch} of {max_epochs}"
        return self.stage


class SaveProgress(Callback):
    """Write `progress.json` at every stage of a model; it comes before the other callbacks.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.began = path, time.monotonic()
        self.before = read_progress(path) or Progress(TRAINING, 0, 0.0)
        self.epoch = self.before.epoch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch = trainer.current_epoch
        self.note(TRAINING)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch = trainer.current_epoch + 1
        self.note(TRAINING)

    @rank_zero_only
    def note(self, stage: str) -> None:
        """Say what is being made of the model now."""
        seconds = self.before.seconds + time.monotonic() - self.began
        progress = Progress(stage, self.epoch, round(seconds, 3))
        text = json.dumps(progress._asdict())
        write_whole(self.path, lambda partial: partial.write_text(text))


def read_progress(path: Path) -> Progress | None:
    """Read how far a model is; None where no file is there, or none that can be read."""
    try:
        return Progress(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None  # it only informs: nothing that is trained depends on it
