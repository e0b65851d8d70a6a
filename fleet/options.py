"""What a fleet makes of its options: which it can do with, and what the open ones become."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CUDAAccelerator
from rich.console import Console

from datamodules.images import ImageDataModule
from datamodules.views import check_queries, default_queries, is_random, view
from storage.run_folder import RunFolder

TRAINER_OPTIONS = {  # the others are ours (callbacks, checkpoints) or would skip data
    "accelerator", "strategy", "devices", "num_nodes", "precision", "max_epochs",
    "check_val_every_n_epoch", "accumulate_grad_batches",
    "gradient_clip_val", "gradient_clip_algorithm", "deterministic", "benchmark", "sync_batchnorm",
}  # fmt: skip


class Fleet:
    """How many models an experiment has, and which of them this process takes.

    Args:
        shadows: models that the attacker learns from; an even number, for they come in
            complementary pairs.
        targets: models that are audited; with 0, every shadow is audited by the others.
        models: which models to train here, as in 0-7,12: shadows from 0, then targets; default all.
        retrain_failed: set models that diverged aside, and train them from another start.
        workers: how many models to train at once, each in a process of its own; needs Ray.
        gpus_per_model: share of a GPU that each of several workers takes; 0.25 packs four on one.
        address: of a Ray cluster, `auto` or host:port; by default Ray stays on this machine.
        dry_run: check everything, try some steps, print what is to be done and what it costs, and
            write nothing.

    Raises:
        ValueError: counts that cannot be, or several workers without Ray.
    """

    def __init__(
        self,
        shadows: int = 16,
        targets: int = 4,
        models: str | None = None,
        retrain_failed: bool = False,
        workers: int = 1,
        gpus_per_model: float = 0.0,
        address: str | None = None,
        dry_run: bool = False,
    ) -> None:
        if workers < 1:
            raise ValueError(f"`fleet.workers` must be 1 or more, got {workers}.")
        if not 0 <= gpus_per_model <= 1:
            raise ValueError(f"`fleet.gpus_per_model` must be 0 to 1, got {gpus_per_model}.")
        self.shadows, self.targets = shadows, targets
        self.models, self.retrain_failed = models, retrain_failed
        self.workers, self.gpus_per_model, self.address = workers, gpus_per_model, address
        self.dry_run = dry_run
        if self.by_ray and find_spec("ray") is None:
            raise ValueError(
                "`--fleet.workers` and `--fleet.address` need Ray, which is not installed: "
                "`pip install -e '.[ray]'`, or train one model after another with "
                "`--fleet.workers 1`."
            )
        if gpus_per_model and not self.by_ray:
            raise ValueError("`fleet.gpus_per_model` needs `--fleet.workers` of 2 or more.")

    @property
    def by_ray(self) -> bool:
        """Whether models are trained in processes of Ray's, not in this one."""
        return self.workers > 1 or self.address is not None


class RecipeFile(ActionConfigFile):
    """A recipe; a run folder's own record of its options is refused, for it is none."""

    def __call__(self, *args: Any) -> None:  # noqa: ANN401
        parser, _, recipe, *_ = args
        run = RunFolder(Path(recipe).parent)
        if Path(recipe).name == run.experiment_file.name and run.membership_file.exists():
            parser.error(
                f"{recipe} records an experiment, and is no recipe: it says nothing of this "
                "machine, or of where the images are. Give the command that began it: its recipe, "
                f"such as `--config recipes/digits.yaml`, with `--run_dir {run.path}`. What then "
                "differs from the record is named."
            )
        super().__call__(*args)  # type: ignore[no-untyped-call]


def check_options(config: Namespace, fleet: Fleet) -> int:
    """Raise for what Lightning would accept and a fleet cannot do.

    Returns:
        How many processes train a model together.

    Raises:
        ValueError: a count below 1, no length of training, weights spread over devices, models
            spread over devices and side by side at once, or a dry run that repairs.
    """
    if config.trainer.max_epochs is None:
        raise ValueError(
            "How long to train is not said: pass `--trainer.max_epochs 30`, say. A run folder goes "
            "on by the command that began it."
        )
    if fleet.dry_run and config.repair:
        raise ValueError(
            "`--repair` deletes damaged files and `--fleet.dry_run true` writes nothing. Leave one "
            "of them out."
        )
    counts = {"threads": config.threads, **config.trainer.as_dict()}
    for name in ("threads", "max_epochs", "check_val_every_n_epoch", "accumulate_grad_batches"):
        if counts[name] is not None and counts[name] < 1:
            raise ValueError(f"`{name}` must be 1 or more, got {counts[name]}.")
    if str(config.trainer.strategy).startswith(("fsdp", "deepspeed")):
        raise ValueError(
            f"`trainer.strategy` must keep a whole model on each device, as ddp does, got "
            f"{config.trainer.strategy}: one process saves a model's weights."
        )
    devices, nodes = config.trainer.devices, config.trainer.num_nodes
    if fleet.by_ray and (devices not in ("auto", 1, "1") or nodes != 1):
        raise ValueError(
            "`trainer.devices` and `trainer.num_nodes` must be 1 with `--fleet.workers`, got "
            f"{devices} and {nodes}: either several models at once, or one over several devices."
        )
    trainer = Trainer(**config.trainer.as_dict(), logger=False, enable_progress_bar=False)
    if not fleet.by_ray:
        return trainer.num_devices * trainer.num_nodes
    if isinstance(trainer.accelerator, CUDAAccelerator) and not fleet.gpus_per_model:
        raise ValueError(
            "`--fleet.gpus_per_model` must say how much of a GPU each of several workers takes, "
            "got 0. Pass 1, or 0.25 to pack four models on one; or `--trainer.accelerator cpu`."
        )
    return 1


def choose_threads(config: Namespace, fleet: Fleet) -> int:
    """CPU threads of a model: what is asked for, or a fair share of this machine's cores."""
    if config.threads is not None:
        return int(config.threads)
    if fleet.by_ray:
        return 1 if fleet.address else max(1, _cores() // fleet.workers)
    return torch.get_num_threads()


def choose_queries(config: Namespace, data: ImageDataModule, console: Console) -> list[str]:
    """The views that the attacker asks for: those asked for, or those that training uses.

    Raises:
        ValueError: no such view, or one that leaves nothing of these images.
    """
    queries: list[str] = config.queries
    if queries is None:
        queries = default_queries(data.flip, data.crop)
    elif unused := check_queries(queries, data.flip, data.crop):
        console.print(f"Note: training never uses {', '.join(unused)}; such a query is weak.")
    for query in queries:
        if not is_random(query):  # which moves images no further than training does
            view(data.pool.images[:1], query)
    return queries


def environment(fleet: Fleet) -> list[ClusterEnvironment]:
    """What tells Lightning of the other processes of a model, where its own guess is not ours."""
    if fleet.by_ray:  # alone, whatever the job that Ray runs in
        return [LightningEnvironment()]
    if SLURMEnvironment.detect():
        # Its own requeueing goes on in the middle of an epoch; ours from the last finished one,
        # which ends bit for bit like an uninterrupted run.
        return [SLURMEnvironment(auto_requeue=False)]
    return []


def _cores() -> int:
    """Those that this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
