"""One Weights & Biases run per model; if it fails, training goes on without it."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from wandb.sdk.lib import RunDisabled

from storage.experiment import Experiment
from storage.names import ModelName, WandbMode
from storage.wandb_project import PROJECT, choose_folders, group_name, make_settings


class FleetLogger(WandbLogger):
    """One W&B run per model, grouped by experiment and resumed where it stopped.

    Args:
        run_dir: the experiment's folder; W&B writes into it, so that experiments never collide.
        name: the model; also the name of the run.
        attempt: number of earlier trainings of this model that failed; each has its own run.
        experiment: the model's experiment, which becomes the run's config.
        mode: `offline` or `online`.
    """

    def __init__(
        self,
        run_dir: Path,
        name: ModelName,
        attempt: int,
        experiment: Experiment,
        mode: WandbMode,
    ) -> None:
        choose_folders(run_dir)
        super().__init__(
            name=str(name),
            id=f"{experiment.id}-{name}" + (f"-{attempt}" if attempt else ""),
            project=PROJECT,
            save_dir=run_dir,
            group=group_name(run_dir),
            job_type=name.role,
            config=experiment.as_dict(),
            mode=mode,
            settings=make_settings(),
        )
        self.failed = False

    @property
    def experiment(self) -> wandb.Run | RunDisabled:
        """The W&B run, or one that does nothing if none can be started."""
        if self._experiment is None:
            self._carefully(lambda: super(FleetLogger, self).experiment)
        if self._experiment is None:
            self._experiment = wandb.init(mode="disabled", settings=make_settings())
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if not self.failed:
            self._carefully(lambda: super(FleetLogger, self).log_metrics(metrics, step))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        run: Any = self._experiment
        if run is not None:
            self._carefully(lambda: run.finish(exit_code=0 if status == "success" else 1))

    def _carefully(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:
            if not self.failed:
                warnings.warn(f"W&B failed, training goes on without it: {error!r}", stacklevel=2)
            self.failed = True
