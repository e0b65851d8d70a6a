"""Checks of options against devices and data, and values for options that were left open."""

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator

from datamodules.images import ImageDataModule
from datamodules.views import check_queries, default_queries, is_random, view
from fleet.cluster import check_tasks, environment
from fleet.forks import can_fork
from fleet.options import FleetOptions
from fleet.snapshots import check_snapshots

CPUINFO = Path("/proc/cpuinfo")


class Devices(NamedTuple):
    """The devices that train one model.

    Attributes:
        kind: `CPU` or `GPU`.
        local: processes that train a model together on this machine.
        processes: on all machines.
    """

    kind: Literal["CPU", "GPU"]
    local: int = 1
    processes: int = 1

    def describe(self, fleet: FleetOptions) -> str:
        """Say how many devices a model takes and, where GPUs idle, which command uses them."""
        if fleet.apart:
            return _describe_several(fleet)
        several = self.processes > 1
        count = f"{self.processes} {self.kind}s together" if several else f"one {self.kind}"
        line = f"Each model trains on {count}, one model after another."
        present = torch.cuda.device_count() if self.kind == "GPU" else 0
        if present > self.local:
            line += (
                f" This machine has {present} GPUs: `--fleet.workers {present} "
                "--fleet.gpus_per_model 1` trains a model on each."
            )
        return line


def _describe_several(fleet: FleetOptions) -> str:
    several = f"{fleet.workers} models train at once"
    if fleet.workers == 1:
        several = "1 model trains at a time"
    if fleet.gpus_per_model:
        return f"{several}, on {fleet.gpus_per_model:g} GPU each."
    line = f"{several} on the CPU"
    if fleet.address or fleet.workers <= (cores := _cores()):
        return f"{line}."
    them = "one core" if cores == 1 else f"{cores} cores"
    return f"{line}; they share {them}, so `--fleet.workers {cores}` would be as fast."


def check_options(config: Namespace, fleet: FleetOptions) -> Devices:
    """Refuse options that Lightning would accept and a fleet cannot use.

    `trainer.devices` becomes 1 where it was `auto`, which to Lightning means all GPUs: on one
    device, BatchNorm sees the whole batch.

    Raises:
        ValueError: a count below 1, no length of training, an impossible snapshot, weights spread
            over devices, workers whose models span several devices, a dry run that repairs, a
            device without float64, or SLURM's variables contradict the options.
    """
    if config.trainer.devices == "auto":
        config.trainer.devices = 1
    _avoid_mps(config.trainer)
    _check_counts(config)
    check_snapshots(config.snapshots, config.trainer.max_epochs)
    if fleet.dry_run and config.repair:
        raise ValueError(
            "`--repair` deletes damaged files, but `--fleet.dry_run true` changes nothing. Leave "
            "out one of them."
        )
    if config.trainer.strategy.startswith(("fsdp", "deepspeed")):
        raise ValueError(
            f"`trainer.strategy` must keep a whole model on each device, as ddp does, got "
            f"{config.trainer.strategy}: one process saves a model's weights."
        )
    devices, nodes = config.trainer.devices, config.trainer.num_nodes
    if fleet.apart and (devices not in (1, "1") or nodes != 1):
        raise ValueError(
            "`trainer.devices` and `trainer.num_nodes` must be 1 with `--fleet.workers`, got "
            f"{devices} and {nodes}: train several models at once, or one on several devices."
        )
    if fleet.address and config.trainer.accelerator in ("gpu", "cuda"):
        kind: Literal["CPU", "GPU"] = "GPU"  # of the cluster; this machine need not have one
    else:
        options = config.trainer.as_dict()  # checked by the trainer of a fit
        trainer = Trainer(**options, plugins=[*environment(fleet)], logger=False)
        kind = "GPU" if isinstance(trainer.accelerator, CUDAAccelerator) else "CPU"
    if fleet.apart and kind == "GPU" and not fleet.gpus_per_model:
        raise ValueError(
            "`--fleet.gpus_per_model` must say how much of a GPU each of several workers takes, "
            "got 0. Pass 1, or 0.25 to pack four models on one; or `--trainer.accelerator cpu`."
        )
    if fleet.apart:
        return Devices(kind)
    processes = trainer.num_devices * trainer.num_nodes
    check_tasks(fleet, processes)
    return Devices(kind, trainer.num_devices, processes)


def takes_ray(fleet: FleetOptions, kind: Literal["CPU", "GPU"]) -> bool:
    """Whether Ray starts the processes of several models at once, and not a fork of this one."""
    return fleet.apart and not can_fork(fleet, kind)


def check_processes(fleet: FleetOptions, kind: Literal["CPU", "GPU"]) -> list[str]:
    """Decide whether several models at once are possible; notes for the user.

    Where they are not for want of Ray on the CPUs of one machine, `fleet.workers` becomes 1, which
    gives the same models.

    Raises:
        ValueError: GPUs or a cluster are asked for, and Ray is not installed.
    """
    if not takes_ray(fleet, kind) or find_spec("ray") is not None:
        return []
    if kind == "GPU" or fleet.gpus_per_model or fleet.address:
        raise ValueError(
            "`--fleet.workers` on GPUs and `--fleet.address` need Ray, which is not installed: "
            "`pip install -e '.[ray]'`, or train one model after another with `--fleet.workers 1`."
        )
    note = (
        f"Note: on this system, `--fleet.workers {fleet.workers}` needs Ray, which is not "
        "installed (`pip install -e '.[ray]'`); without it, models are trained one by one."
    )
    fleet.workers = 1
    return [note]


def _check_counts(config: Namespace) -> None:
    if config.trainer.max_epochs is None:
        raise ValueError(
            "`--trainer.max_epochs` is missing; pass for example 30. To go on with a run folder, "
            "repeat the command that began it."
        )
    counts = {"threads": config.threads, **config.trainer.as_dict()}
    for name in ("threads", "max_epochs", "check_val_every_n_epoch", "accumulate_grad_batches"):
        if counts[name] is not None and counts[name] < 1:
            raise ValueError(f"`{name}` must be 1 or more, got {counts[name]}.")
    if config.checkpoint_every < 0:
        raise ValueError(
            f"`--checkpoint_every` must be 0 (after every epoch) or more seconds, got "
            f"{config.checkpoint_every:g}."
        )


def _avoid_mps(trainer: Namespace) -> None:
    """Take a Mac's CPU by default, and refuse its GPU."""
    if not MPSAccelerator.is_available() and trainer.accelerator != "mps":
        return
    if trainer.accelerator in ("mps", "gpu"):
        raise ValueError(
            f"`--trainer.accelerator` must be cpu on a Mac, got {trainer.accelerator}: "
            "quantization computes in float64, which its GPU lacks."
        )
    trainer.accelerator = "cpu"


def choose_threads(config: Namespace, fleet: FleetOptions, local: int = 1) -> int:
    """CPU threads per process: as asked for, or a fair share of this machine's cores.

    Args:
        config: options of the command line.
        fleet: number of workers.
        local: processes that train a model together on this machine.
    """
    if config.threads is not None:
        return int(config.threads)
    if fleet.apart:
        return 1 if fleet.address else max(1, _cores() // fleet.workers)
    return torch.get_num_threads() if local == 1 else max(1, _cores() // local)


def choose_queries(config: Namespace, data: ImageDataModule) -> tuple[list[str], list[str]]:
    """The attacker's views of an example: as asked for, or the views that training uses.

    Returns:
        The queries, and notes for the user.

    Raises:
        ValueError: there is no such view, or it leaves nothing of these images.
    """
    queries: list[str] = config.queries
    notes = []
    if queries is None:
        queries = default_queries(data.flip, data.crop)
    elif unused := check_queries(queries, data.flip, data.crop):
        notes = [f"Note: training never uses {', '.join(unused)}; such a query is weak."]
    for query in queries:
        if not is_random(query):  # random views move images no further than training does
            view(data.pool.take(torch.arange(1)).images, query)
    return queries, notes


def note_arithmetic(config: Namespace, devices: Devices) -> list[str]:
    """Notes on arithmetic that is slower, or repeats itself less well, than it may seem."""
    notes = []
    if str(config.trainer.precision).startswith("bf16"):
        if devices.kind == "CPU" and emulates_bfloat16():
            notes += ["Note: this CPU emulates bf16; `--trainer.precision 32-true` is faster."]
        # before Ampere
        if devices.kind == "GPU" and torch.cuda.is_available() and not _computes_bfloat16():
            notes += ["Note: this GPU emulates bf16; `--trainer.precision 16-mixed` is faster."]
    if devices.kind == "GPU" and config.trainer.benchmark:
        notes += [
            "Note: `--trainer.benchmark true` chooses kernels by their timing, so that a model "
            "trained again may differ in its last bits."
        ]
    return notes


def _computes_bfloat16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def emulates_bfloat16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether this CPU lacks an instruction for bfloat16, which is then slower than float32.

    Training `convnet` in `bf16-mixed` ran at 1.7 times the speed of float32 on a Zen 4, 0.6 times
    with its AVX512-BF16 switched off (ONEDNN_MAX_CPU_ISA=AVX512_CORE), and 0.13 times with AVX2.
    False if the kernel does not list instructions, as on macOS.
    """
    if not cpuinfo.exists():
        return False
    return not re.search(
        r"\b(avx512_bf16|amx_bf16|bf16)\b", cpuinfo.read_text(encoding="utf-8", errors="replace")
    )


def _cores() -> int:
    """Number of cores that this process may use, or of all cores if the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
