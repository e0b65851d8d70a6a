"""One progress display for the whole fleet: models, epochs and time left."""

import logging
import warnings
from threading import Event, Thread
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fleet.engine import Outcome
from lightning_modules.callbacks.progress import read_progress
from storage.names import ModelName
from storage.run_folder import RunFolder

REFRESH = 0.5  # seconds
ENDINGS = {
    "finished": "finished in {:.1f} s",
    "failed": "[bold red]failed[/] after {:.1f} s",
    "busy": "passed over, another process works on it ({})",
    "stopped": "[bold red]stopped[/] after {:.1f} s",
}


def quieten() -> None:
    """Silence Lightning, so that the progress display has the screen to itself."""
    for package in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(package).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning 2.6 on torch 2.14
    # Opacus' hooks on a first layer, whose images need no gradient
    warnings.filterwarnings("ignore", "Full backward hook is firing")


class FleetProgress:
    """The progress display: a line per finished model and, on a terminal, a bar over all epochs.

    The bar reads each model's `progress.json`, whichever process works on the model.

    Args:
        run: the folder of the fleet.
        num_models: number of models that this call works on.
        max_epochs: epochs per model.
        console: where to draw.
    """

    def __init__(self, run: RunFolder, num_models: int, max_epochs: int, console: Console) -> None:
        self.run, self.num_models, self.max_epochs = run, num_models, max_epochs
        self.console, self.in_hand, self.ended = console, list[ModelName](), 0
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
        self._over = Event()
        self._watcher = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "FleetProgress":
        self.bar.start()
        self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._watcher.join()
        self.bar.stop()

    def begin(self, name: ModelName) -> None:
        """Note that a model is worked on."""
        self.in_hand.append(name)

    def end(self, outcome: Outcome) -> None:
        """Print how a model ended."""
        self.in_hand.remove(outcome.name)
        self.ended += 1
        detail = escape(outcome.reason) if outcome.state == "busy" else outcome.seconds
        ending = ENDINGS[outcome.state].format(detail)
        self.console.print(f"{self.ended} of {self.num_models}: {outcome.name} {ending}")
        self.refresh()

    def refresh(self) -> None:
        """Draw the progress of the models in hand."""
        models = {name: read_progress(self.run.progress(name)) for name in [*self.in_hand]}
        epochs = sum(progress.epoch for progress in models.values() if progress)
        self.bar.update(
            self.task,
            completed=self.ended * self.max_epochs + epochs,
            description=f"{self.ended} of {self.num_models} models, "
            + ", ".join(
                f"{name} {progress.describe(self.max_epochs) if progress else 'begins'}"
                for name, progress in models.items()
            ),
        )

    def _watch(self) -> None:
        while self.console.is_terminal and not self._over.wait(REFRESH):
            self.refresh()
