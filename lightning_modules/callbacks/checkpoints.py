"""Callbacks that write a checkpoint after every epoch, and the final weights."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.utilities import rank_zero_only

from storage.files import save_whole, write_whole


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, written to a temporary name beside their own and then renamed.

    Lightning writes through the system's temporary folder. If that is on another file system, the
    last step is a copy, and a kill in the middle leaves half a `last.ckpt`.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None
    ) -> None:
        content = BytesIO()
        torch.save(checkpoint, content)  # written to a file, a full disk would raise a RuntimeError
        write_whole(Path(path), lambda partial: partial.write_bytes(content.getbuffer()))

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        try:
            return super().load_checkpoint(path, map_location, weights_only)
        except (RuntimeError, EOFError, UnpicklingError) as error:
            raise ValueError(
                f"{path} is not a whole checkpoint ({error}). Delete it to train this model from "
                "its start."
            ) from error


class SaveCheckpoint(Checkpoint):
    """Write `last.ckpt` after every epoch; Lightning runs it after all other callbacks."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.path)  # on every rank, because Lightning waits for all


class SaveWeights(Callback):
    """Write the weights of the trained network after a fit, with the network's own keys."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.path.exists():
            save_whole(self.path, pl_module.get_submodule("network").state_dict())
