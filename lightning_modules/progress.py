"""One display for the whole fleet: which model, which epoch, how long to go."""

import time

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lightning_modules.fleet import ModelName


class FleetProgress(Callback):
    """A bar over all epochs of all models; where output is not a terminal, a line a finished model.

    Args:
        num_models: how many models this process trains or completes.
        max_epochs: epochs of each.
        console: where to draw.
    """

    def __init__(self, num_models: int, max_epochs: int, console: Console) -> None:
        self.num_models, self.max_epochs, self.console = num_models, max_epochs, console
        self.position = 0
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self.task = self.bar.add_task("", total=num_models * max_epochs)

    def begin(self, name: ModelName) -> None:
        """Announce the next model."""
        self.position += 1
        self.began = time.monotonic()
        self.label = f"{name}, model {self.position} of {self.num_models}"
        self._show(0)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(trainer.current_epoch)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(self.max_epochs)

    def note(self, text: str) -> None:
        """Say what is being made of the model that was trained."""
        self.bar.update(self.task, description=f"{self.label}, {text}")

    def end(self) -> None:
        """Note that all files of the model are written."""
        if not self.console.is_terminal:
            self.console.print(f"{self.label}: done in {time.monotonic() - self.began:.1f} s")

    def _show(self, epoch: int) -> None:
        done = (self.position - 1) * self.max_epochs + epoch
        text = f"{self.label}, epoch {epoch} of {self.max_epochs}"
        self.bar.update(self.task, completed=done, description=text)
