"""Trials of a fleet's work: some steps of training, of signals and of quantization, measured."""

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import islice, pairwise
from math import ceil
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from attacks.signals import signals
from datamodules.images import ImageDataModule
from fleet.prepare import Job
from lightning_modules.callbacks.checkpoints import SaveCheckpoint
from lightning_modules.callbacks.quantize import calibrate
from quantization.launches import Launches, Work, count_quantization
from quantization.mixed_options import MixedOptions
from quantization.timing import cost_class, estimate_search, estimate_seconds
from quantization.variant import Variant
from storage.names import ModelName
from storage.records import read_record
from storage.run_folder import RunFolder
from storage.weights import stored_bytes

TRIAL_EPOCHS, TRIAL_STEPS = 4, 4  # the first epoch warms up; each writes a checkpoint
TRIAL_BATCHES = 4


class Training(NamedTuple):
    """Measured cost of some training steps.

    Attributes:
        step: seconds per optimisation step, including the loading of its images.
        epoch: seconds per epoch apart from its steps, without checkpoint and validation.
        checkpoint: size of the checkpoint in bytes.
        memory: peak bytes that torch allocated on a GPU, or of this process on a CPU.
        saving: seconds to write a checkpoint, here to the system's temporary folder.
    """

    step: float
    epoch: float
    checkpoint: int
    memory: int
    saving: float

    def checkpoints(self, epochs: int, epoch: float, every: float) -> int:
        """Number of checkpoints of a fit, as `SaveCheckpoint` writes them.

        Args:
            epochs: epochs of the fit.
            epoch: seconds per epoch.
            every: least number of seconds between two checkpoints.
        """
        return ceil(epochs / max(1, ceil(every / epoch))) if epoch else epochs


class SignalCost(NamedTuple):
    """Cost of recording signals: seconds per image, and bytes kept per image and query."""

    image: float
    kept: int


class Operations(NamedTuple):
    """What a GPU is asked for.

    Attributes:
        forward: floating-point operations per image; torch counts two per multiplication.
        training: the same, forward and backward.
        forward_launches: kernels per batch.
        training_launches: the same, forward, backward and the optimizer.
    """

    forward: int
    training: int
    forward_launches: int
    training_launches: int


class QuantizationCost(NamedTuple):
    """Cost of one variant.

    Attributes:
        seconds: time on this machine.
        source: what that rests on.
        stored: bytes of its file.
        work: that of its published loop, or of OBC's greedy steps.
    """

    seconds: float
    source: str
    stored: int
    work: Work


def try_training(
    classifier: LightningModule,
    data: ImageDataModule,
    options: Mapping[str, Any],
    plugins: Sequence[ClusterEnvironment],
) -> Training:
    """Train for some steps in a temporary folder.

    Args:
        classifier: the model, which is changed.
        data: the data set, with a split assigned; a learner of tasks has no epoch after its last.
        options: options of the trainer.
        plugins: plugins of the trainer.
    """
    epochs = TRIAL_EPOCHS if data.tasks is None else min(TRIAL_EPOCHS, data.tasks.ends[-1])
    timer = _Timer()
    with TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "last.ckpt"
        saver = _TimedCheckpoint(checkpoint, 0.0)
        trainer = Trainer(
            **{**options, "max_epochs": epochs},
            limit_train_batches=TRIAL_STEPS,
            limit_val_batches=0,
            callbacks=[timer, saver],
            plugins=[*plugins],
            logger=False,
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(classifier, datamodule=data)
        size = (
            checkpoint.stat().st_size if checkpoint.exists() else 0
        )  # written by the first process
        saving = median(saver.seconds)
        step, epoch = timer.seconds(saving)
        return Training(step, epoch, size, _peak(trainer.strategy.root_device), saving)


@torch.inference_mode()
def try_signals(network: nn.Module, data: ImageDataModule) -> SignalCost:
    """Record the signals of some images twice, and measure the second time."""
    network.eval()
    for _ in range(2):
        started, images, kept = time.perf_counter(), 0, 0
        for batch in islice(data.pool_batches("identity"), TRIAL_BATCHES):
            record = signals(network(batch.images).cpu(), batch.labels.cpu())
            images += len(batch.labels)
            kept = sum(signal.element_size() for signal in record)
    return SignalCost((time.perf_counter() - started) / images, kept)


def count_operations(network: nn.Module, images: Tensor, labels: Tensor) -> Operations:
    """Count the operations of a training step on a few images; leaves gradients in the network."""
    network.train()
    with FlopCounterMode(display=False) as counter, Launches() as launches:
        loss = cross_entropy(network(images), labels)
        forward, forward_launches = counter.get_total_flops(), launches.count
        torch.autograd.backward(loss)
    size = len(images)
    training = counter.get_total_flops() // size
    # a fused optimizer is one launch, or a few
    return Operations(forward // size, training, forward_launches, launches.count + 1)


def try_quantizations(job: Job, network: nn.Module) -> dict[str, QuantizationCost]:
    """Cost of each variant, from finished models or else from one trial per kind of variant.

    A variant's controls are made from its codes, for which the first of them pays; likewise the
    first of several that choose bits by one method pays for measuring what layers lose.
    """
    costs, tried = dict[str, QuantizationCost](), dict[str, float]()
    work, solved, measured = dict[str, Work](), dict[Variant, str](), set[str]()
    patterns, first = job.config.layer_bits, next(iter(job.members.values()))
    for name in job.experiment.quantized:
        variant, known = Variant.parse(name), recorded_seconds(job.run, list(job.members), name)
        size = stored_bytes(network, variant, patterns)
        if solved.setdefault(variant.base, name) != name and not known:
            source = f"solved with {solved[variant.base]}"
            costs[name] = QuantizationCost(0.0, source, size, Work(0, 0))
            continue
        seconds, source = fmean(known or [0.0]), f"{len(known)} finished models"
        kind, images = cost_class(variant), None
        if variant.calibrates and kind not in work.keys() & tried.keys():
            images = calibrate(job.data, job.calibration, first, 0, variant)
        if not known:
            source = "trial: estimate"
            if kind not in tried:
                tried[kind] = estimate_seconds(network, variant, images, patterns)
            seconds = tried[kind]
            if variant.searches and kind not in measured:
                drawn = calibrate(job.data, job.calibration, first, 0, variant)
                mixed = MixedOptions(**job.config.mixed.as_dict())
                seconds += estimate_search(network, variant, drawn, patterns, mixed, seconds)
                measured.add(kind)
        if kind not in work:
            work[kind] = count_quantization(network, variant, images, patterns)
        costs[name] = QuantizationCost(seconds, source, size, work[kind])
    return costs | _of_snapshots(job, costs)


def _of_snapshots(job: Job, costs: Mapping[str, QuantizationCost]) -> dict[str, QuantizationCost]:
    """Cost of each quantized snapshot: from finished models, or that at the end of training."""
    names, found = list(job.members), {}
    for made in job.experiment.quantized_by_snapshot.values():
        for end, name in zip(job.experiment.quantized, made, strict=True):
            cost, known = costs[end], recorded_seconds(job.run, names, name)
            if known:
                cost = cost._replace(seconds=fmean(known), source=f"{len(known)} finished models")
            found[name] = cost
    return found


def recorded_seconds(run: RunFolder, names: Sequence[ModelName], variant: str) -> list[float]:
    """Seconds that a variant took in each model that has it."""
    records = (read_record(run, name, variant) for name in names)
    return [record["seconds"] for record in records if record]


class _Timer(Callback):
    """Note when each step of each epoch ended."""

    def __init__(self) -> None:
        self.ends: list[list[float]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ends.append([])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:  # noqa: ANN401
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self.ends[-1].append(time.perf_counter())

    def seconds(self, saving: float) -> tuple[float, float]:
        """Seconds per step, and per epoch apart from its steps and the `saving` at its end."""
        gaps = median(after[0] - before[-1] for before, after in pairwise(self.ends)) - saving
        steps = [after - before for ends in self.ends[1:] for before, after in pairwise(ends)]
        if not steps:  # an epoch has a single step
            return max(gaps, 0.0), 0.0
        return median(steps), max(gaps - median(steps), 0.0)


class _TimedCheckpoint(SaveCheckpoint):
    """Note the seconds of each checkpoint."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.seconds: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        started = time.perf_counter()
        super().on_train_epoch_end(trainer, pl_module)
        self.seconds.append(time.perf_counter() - started)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
