"""Callbacks that write checkpoints, and the final weights."""

import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint

from storage.files import write_whole
from storage.weights import save_network


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


def finished_epochs(path: Path) -> int:
    """Number of epochs after which a checkpoint was written.

    Raises:
        ValueError: the file is damaged.
    """
    checkpoint = WholeCheckpointIO().load_checkpoint(path, weights_only=True)
    return int(checkpoint["epoch"]) + 1


class SaveCheckpoint(Checkpoint):
    """Write `last.ckpt` at the end of an epoch; Lightning runs it after all other callbacks.

    Not of every epoch, because a large network's (89 MB for a ResNet-18) may take a good part of a
    short epoch to write, above all to a network file system.

    Args:
        path: path of `last.ckpt`.
        every: least number of seconds between two checkpoints; the last epoch always has one.
    """

    def __init__(self, path: Path, every: float) -> None:
        self.path, self.every = path, every

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.written = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        due = last or time.monotonic() - self.written >= self.every
        # on every rank or on none, because Lightning waits for all
        if trainer.strategy.broadcast(due):
            trainer.save_checkpoint(self.path)
            self.written = time.monotonic()


class SaveWeights(Callback):
    """Write the weights of the trained network after a fit, with the network's own keys.

    Other processes of the fit are given the same weights: their BatchNorm's running statistics are
    those of their own share of the images.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        network = pl_module.get_submodule("network")
        if trainer.is_global_zero and not self.path.exists():
            save_network(self.path, network.state_dict(), getattr(pl_module, "kept", {}))
        if trainer.world_size > 1:
            network.load_state_dict(trainer.strategy.broadcast(network.state_dict()))
