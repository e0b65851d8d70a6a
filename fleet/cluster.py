"""The processes that train a model together: who started them, and how they end."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import Popen

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Trainer

from fleet.options import FleetOptions

WAY_OUT = (
    "Start one task for each process of a model by `srun`, with `--ntasks-per-node` equal to "
    "`--trainer.devices`; to train several models at once, use a job array and `--fleet.models`."
)

_started: list[list[Popen[bytes]]] = []  # by this process; a call's first fit starts them for all


def environment(fleet: FleetOptions) -> list[ClusterEnvironment]:
    """Plugins that tell Lightning about a model's other processes; empty if its guess is right.

    Raises:
        ValueError: SLURM was told of tasks in a way that Lightning cannot read.
    """
    if fleet.apart:  # one process per model, whatever job Ray runs in
        return [LightningEnvironment()]
    if not _by_slurm():
        return []
    try:
        # Lightning's requeueing resumes in the middle of an epoch. Ours resumes after a finished
        # epoch, and so ends bit for bit like an uninterrupted run.
        return [SLURMEnvironment(auto_requeue=False)]
    except RuntimeError as error:
        raise ValueError(f"{_tasks()} SLURM tasks by `--ntasks`. {WAY_OUT}") from error


def check_tasks(fleet: FleetOptions, processes: int) -> None:
    """Raise unless SLURM starts as many tasks as processes train a model together.

    Too few would wait for the others forever, and too many would all train the same models.

    Raises:
        ValueError: the numbers differ.
    """
    if not fleet.apart and _by_slurm() and _tasks() != processes:
        raise ValueError(
            f"{_tasks()} SLURM tasks, but {processes} processes that train a model together "
            f"(`--trainer.devices` x `--trainer.num_nodes`). {WAY_OUT}"
        )


def _tasks() -> int:
    job = os.environ.get("SLURM_NTASKS", "1")
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", job))  # of this `srun` within the job


def _by_slurm() -> bool:
    # torchrun may run inside srun, and Lightning asks in this order too
    return not TorchElasticEnvironment.detect() and SLURMEnvironment.detect()


def limit_threads(threads: int, processes: int) -> None:
    """Compute with this many CPU threads in each of the processes of a model."""
    torch.set_num_threads(threads)
    if processes > 1:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # without it, Lightning sets its own number


@contextmanager
def ending_together(trainer: Trainer) -> Iterator[None]:
    """Kill the processes that Lightning started, for this fit or an earlier one, if a fit fails.

    Where they wait for this process inside NCCL, they would hold their GPUs for half an hour. They
    write whole files only, so that nothing is lost.
    """
    try:
        yield
    except BaseException:
        _note_started(trainer)
        for processes in _started:
            for process in processes:
                process.kill()
            processes.clear()  # Lightning watches this list, and would kill this process as well
        raise
    _note_started(trainer)


def _note_started(trainer: Trainer) -> None:
    if processes := getattr(trainer.strategy.launcher, "procs", None):
        _started.append(processes)
