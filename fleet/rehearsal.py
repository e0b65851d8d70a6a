"""A fit in miniature, before the run folder is created: its device, its batches, two steps."""

from collections.abc import Iterator, Sequence
from math import ceil

import torch
from jsonargparse import Namespace
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer

from datamodules.batches import Batch
from datamodules.images import ImageDataModule
from fleet.checks import Devices
from fleet.options import FleetOptions
from lightning_modules.classifier import Classifier
from lightning_modules.rehearsal import check_unused, rehearse

STAND_IN = 8  # images of a step on a CPU that stands in for GPUs


def rehearse_fit(
    config: Namespace,
    fleet: FleetOptions,
    devices: Devices,
    classifier: Classifier,
    data: ImageDataModule,
    counts: Sequence[int],
) -> list[str]:
    """Train a copy of a model for two steps, of the largest and of the smallest batch of a fit.

    Where Ray or several processes train on GPUs, the CPU stands in for them, in float32 and with a
    few images: the GPUs may be on other machines, or belong to the other processes.

    Args:
        config: options of the command line.
        fleet: where models are trained.
        devices: the devices that train one model.
        classifier: the model; it stays as it is.
        data: the data set.
        counts: numbers of examples that the models train on.

    Returns:
        Notes for the user.

    Raises:
        ValueError: batches are too small, the network cannot be trained, or SGD refuses an option.
    """
    sizes = [size for count in counts for size in data.batch_sizes(count, devices.processes)]
    stand_in = devices.kind == "GPU" and (fleet.apart or devices.processes > 1)
    most = STAND_IN if stand_in else max(sizes)
    shares = ceil(max(sizes) / devices.processes), min(sizes) // devices.processes
    shares = min(most, shares[0]), min(most, shares[1])
    images, labels, indices = (
        torch.cat(parts) for parts in zip(*_first(data, shares[0]), strict=True)
    )
    batches = [Batch(images[:size], labels[:size], indices[:size]) for size in shares]
    trainer = _single_device(config.trainer, None if stand_in else devices.kind)
    unused = rehearse(classifier, batches, trainer)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()  # else the images may seem not to fit beside it
    return check_unused(unused, devices.processes, config.trainer.strategy)


def _first(data: ImageDataModule, size: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Images, labels and indices of the pool, until there are `size` of them."""
    count = 0
    for batch in data.pool_batches("identity"):
        if count >= size:
            return
        count += len(batch.labels)
        yield batch[:3]


def _single_device(trainer: Namespace, kind: str | None) -> Trainer:
    """A trainer for one device of this process, with the precision of a fit.

    Args:
        trainer: options of the trainer.
        kind: `CPU` or `GPU`, or None for the CPU in float32 instead of a GPU.
    """
    on_gpu = kind == "GPU"
    return Trainer(
        accelerator=trainer.accelerator if on_gpu else "cpu",
        devices=trainer.devices if on_gpu else 1,
        precision=trainer.precision if kind else None,
        plugins=[LightningEnvironment()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
