"""Progress of a model, noted in its folder for the display and for `--status`."""

import json
import time
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from storage.files import write_text

TRAINING = "training"


class Progress(NamedTuple):
    """The content of `progress.json`."""

    stage: str  # `training`, the variant that is being made, or `finished`
    epoch: int  # finished epochs
    seconds: float  # spent so far, without work that a kill lost

    def describe(self, max_epochs: int) -> str:
        """Describe how far an unfinished model is."""
        if self.stage == TRAINING:
            return f"epoch {self.epoch} of {max_epochs}"
        return self.stage


class SaveProgress(Callback):
    """Write `progress.json` at every stage of a model; place it before the other callbacks.

    Args:
        path: path of `progress.json`.
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
        """Note the stage that begins now."""
        seconds = self.before.seconds + time.monotonic() - self.began
        progress = Progress(stage, self.epoch, round(seconds, 3))
        text = json.dumps(progress._asdict())
        write_text(self.path, text)


def read_progress(path: Path) -> Progress | None:
    """Read how far a model is; None if the file is missing or damaged."""
    try:
        return Progress(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # it only informs: no result depends on it
