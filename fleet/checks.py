"""Checks of options against devices and data, and values for options that were left open."""

import os
import re
from pathlib import Path

import torch
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CUDAAccelerator

from datamodules.images import ImageDataModule
from datamodules.views import check_queries, default_queries, is_random, view
from fleet.options import FleetOptions

CPUINFO = Path("/proc/cpuinfo")


def check_options(config: Namespace, fleet: FleetOptions) -> int:
    """Refuse options that Lightning would accept and a fleet cannot use.

    Returns:
        Number of processes that train a model together.

    Raises:
        ValueError: a count below 1, no length of training, weights spread over devices, workers
            whose models span several devices, or a dry run that repairs.
    """
    if config.trainer.max_epochs is None:
        raise ValueError(
            "`--trainer.max_epochs` is missing; pass for example 30. To go on with a run folder, "
            "repeat the command that began it."
        )
    if fleet.dry_run and config.repair:
        raise ValueError(
            "`--repair` deletes damaged files, but `--fleet.dry_run true` changes nothing. Leave "
            "out one of them."
        )
    counts = {"threads": config.threads, **config.trainer.as_dict()}
    for name in ("threads", "max_epochs", "check_val_every_n_epoch", "accumulate_grad_batches"):
        if counts[name] is not None and counts[name] < 1:
            raise ValueError(f"`{name}` must be 1 or more, got {counts[name]}.")
    if config.trainer.strategy.startswith(("fsdp", "deepspeed")):
        raise ValueError(
            f"`trainer.strategy` must keep a whole model on each device, as ddp does, got "
            f"{config.trainer.strategy}: one process saves a model's weights."
        )
    devices, nodes = config.trainer.devices, config.trainer.num_nodes
    if fleet.by_ray and (devices not in ("auto", 1, "1") or nodes != 1):
        raise ValueError(
            "`trainer.devices` and `trainer.num_nodes` must be 1 with `--fleet.workers`, got "
            f"{devices} and {nodes}: train several models at once, or one on several devices."
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


def choose_threads(config: Namespace, fleet: FleetOptions) -> int:
    """CPU threads per model: as asked for, or a fair share of this machine's cores."""
    if config.threads is not None:
        return int(config.threads)
    if fleet.by_ray:
        return 1 if fleet.address else max(1, _cores() // fleet.workers)
    return torch.get_num_threads()


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
            view(data.pool.images[:1], query)
    return queries, notes


def note_precision(config: Namespace) -> list[str]:
    """A note if bf16 is asked for and this CPU emulates it."""
    on_cpu = config.trainer.accelerator == "cpu" or not torch.cuda.is_available()
    if on_cpu and str(config.trainer.precision).startswith("bf16") and emulates_bfloat16():
        return ["Note: this CPU emulates bf16; `--trainer.precision 32-true` is faster."]
    return []


def emulates_bfloat16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether this CPU lacks an instruction for bfloat16, which is then slower than float32.

    Training `convnet` in `bf16-mixed` ran at 1.7 times the speed of float32 on a Zen 4, 0.6 times
    with its AVX512-BF16 switched off (ONEDNN_MAX_CPU_ISA=AVX512_CORE), and 0.13 times with AVX2.
    False if the kernel does not list instructions, as on macOS.
    """
    if not cpuinfo.exists():
        return False
    return not re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", cpuinfo.read_text())


def _cores() -> int:
    """Number of cores that this process may use, or of all cores if the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
