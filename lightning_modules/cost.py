"""What a fleet will cost on this machine: some real steps of one model, and arithmetic.

`recipes/digits.yaml` with 4 shadows and 2 targets, one thread: 17.9 CPU seconds said, 18 taken. Of
single 2-bit variants it said 0.7 to 1.6 times what they took (0.07 to 0.18 s). By the clock, beside
other work that changed meanwhile, 47.6 s said and 36 taken.
"""

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import islice, pairwise
from math import ceil
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from datamodules.images import ImageDataModule
from lightning_modules.checkpoints import SaveCheckpoint
from lightning_modules.fleet import ModelName
from lightning_modules.run_folder import RunFolder
from lightning_modules.signals import Measure
from lightning_modules.whole import serialise

TRIAL_EPOCHS, TRIAL_STEPS = 4, 4  # the first epoch warms up; a gap between two has a checkpoint
TRIAL_BATCHES = 4
HEADER = 512  # bytes of a file of signals that are not signals; 504 of a smaller one
# Assumed, not measured: small images seldom keep a large GPU busier than this share of its peak.
GPU, PEAK, SHARE = "A100", 312e12, 0.1  # FLOP/s, bf16


class Training(NamedTuple):
    """What some steps of a model took.

    Attributes:
        step: seconds of an optimisation step, its images included.
        epoch: seconds of an epoch beside its steps, checkpoint included, validation not.
        checkpoint: bytes of it.
        memory: peak bytes; on a GPU those that torch allocated there, else of this process.
    """

    step: float
    epoch: float
    checkpoint: int
    memory: int


class Seen(NamedTuple):
    """What some forward passes took: seconds an image, and bytes that are kept of it a query."""

    image: float
    kept: int


class Flops(NamedTuple):
    """Floating-point operations of one image, as torch counts them: two a multiplication."""

    forward: int
    training: int  # forward and backward


class Quantization(NamedTuple):
    """Of one variant: seconds, how they are known, bytes of its file, images of its loop."""

    seconds: float
    source: str
    stored: int
    loop_images: int


class Costs(NamedTuple):
    """What was measured; `quantizations` are those of all variants but `full`."""

    training: Training
    seen: Seen
    flops: Flops
    network: nn.Module
    quantizations: Mapping[str, Quantization]


class Counts(NamedTuple):
    """What is to be done.

    Attributes:
        run: the folder of the fleet.
        todo: models that are not finished.
        finished: how many of those asked for are.
        epochs: of training.
        members: images that a model trains on.
        steps: of an epoch.
        validations: passes over the test split while training.
        pool: images of it.
        test: images of the test split.
        queries: views that the attacker asks for.
        variants: `full` and the others.
        workers: models at once.
    """

    run: RunFolder
    todo: Sequence[ModelName]
    finished: int
    epochs: int
    members: int
    steps: int
    validations: int
    pool: int
    test: int
    queries: Sequence[str]
    variants: Sequence[str]
    workers: int

    @property
    def passes(self) -> int:
        """Images that go through a variant for its signals, each in every view."""
        return self.pool * len(self.queries) + self.test * len({*self.queries, "identity"})

    def kept(self, each: int) -> int:
        """Bytes of a variant's signals, `each` of one image and query of the pool."""
        population = 8 * len(self.queries) + 1  # phi and hinge, and correct or not
        return HEADER + self.pool * len(self.queries) * each + self.test * population


def count_work(
    run: RunFolder,
    chosen: Sequence[ModelName],
    todo: Sequence[ModelName],
    members: Bool[Tensor, " examples"],
    data: ImageDataModule,
    options: Mapping[str, Any],
    queries: Sequence[str],
    variants: Sequence[str],
    workers: int,
) -> Counts:
    """Count what is to be done of `chosen` models, of which `todo` are not finished."""
    size, epochs = int(members.sum()), options["max_epochs"]
    return Counts(
        run,
        todo,
        len(chosen) - len(todo),
        epochs,
        size,
        ceil(size / data.batch_size),
        epochs // (options["check_val_every_n_epoch"] or 1),
        len(data.pool.labels),
        len(data.test.labels),
        queries,
        variants,
        workers,
    )


def try_training(
    classifier: LightningModule,
    data: ImageDataModule,
    options: Mapping[str, Any],
    plugins: Sequence[ClusterEnvironment],
) -> Training:
    """Train for some steps, in a temporary folder.

    Args:
        classifier: changed by it.
        data: with a split assigned.
        options: of the trainer.
        plugins: of the trainer.
    """
    timer = _Timer()
    with TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "last.ckpt"
        trainer = Trainer(
            **{**options, "max_epochs": TRIAL_EPOCHS},
            limit_train_batches=TRIAL_STEPS,
            limit_val_batches=0,
            callbacks=[timer, SaveCheckpoint(checkpoint)],
            plugins=[*plugins],
            logger=False,
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(classifier, datamodule=data)
        size = checkpoint.stat().st_size if checkpoint.exists() else 0  # written by the first
        step, epoch = timer.seconds()
        return Training(step, epoch, size, _peak(trainer.strategy.root_device))


@torch.inference_mode()
def try_signals(network: nn.Module, data: ImageDataModule, measure: Measure) -> Seen:
    """Look at some images as an attacker does; the second time counts."""
    network.eval()
    for _ in range(2):
        started, images, kept = time.perf_counter(), 0, 0
        for batch in islice(data.pool_batches("identity"), TRIAL_BATCHES):
            found = measure(network(batch.images).cpu(), batch.labels.cpu())._asdict()
            images, kept = images + len(batch.labels), sum(t.element_size() for t in found.values())
    return Seen((time.perf_counter() - started) / images, kept)


def count_flops(network: nn.Module, images: Tensor, labels: Tensor) -> Flops:
    """Count the operations of an image, from a batch on the CPU; gradients are left there."""
    network.train()
    with FlopCounterMode(display=False) as counter:
        loss = cross_entropy(network(images), labels)
        forward = counter.get_total_flops()
        torch.autograd.backward(loss)
    return Flops(forward // len(images), counter.get_total_flops() // len(images))


def recorded_seconds(run: RunFolder, names: Sequence[ModelName], variant: str) -> list[float]:
    """How long a variant took in the models that have it."""
    records = (run.read_record(name, variant) for name in names)
    return [record["seconds"] for record in records if record]


def show_cost(counts: Counts, costs: Costs) -> list[Table | str]:
    """What a dry run prints: a table of times, and lines."""
    run, todo = counts.run, counts.todo
    title = escape(f"Plan of {run.path}; nothing is written")
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in ("each", "times", "all"):
        table.add_column(heading, justify="right")
    table.add_column("known from")
    untrained = sum(not run.weights(name, "full").exists() for name in todo)
    unseen = sum(len(run.missing(name, counts.variants)) for name in todo)
    rows = [
        (f"training, {counts.epochs} epochs", _training_seconds(counts, costs), untrained, "trial"),
        ("signals of a variant", counts.passes * costs.seen.image, unseen, "trial"),
    ]
    for variant, (seconds, source, *_) in costs.quantizations.items():
        missing = sum(not run.weights(name, variant).exists() for name in todo)
        rows.append((variant, seconds, missing, source))
    for label, seconds, count, source in rows:
        table.add_row(label, say(seconds), f"{count:,}", say(seconds * count), source)
    total = sum(seconds * count for _, seconds, count, _ in rows)
    table.add_section()
    table.add_row("all", "", "", say(total), "")
    return [table, *_lines(counts, costs, total)]


def _training_seconds(counts: Counts, costs: Costs) -> float:
    """Of one model."""
    step, epoch, *_ = costs.training
    validation = counts.validations * counts.test * costs.seen.image
    return counts.epochs * (counts.steps * step + epoch) + validation


def _lines(counts: Counts, costs: Costs, total: float) -> list[str]:
    training, seen, flops, network, quantizations = costs
    models, variants = len(counts.todo), len(counts.variants)
    full = len(serialise(network.state_dict()))
    stored = full + sum(each.stored for each in quantizations.values())
    kept = variants * counts.kept(seen.kept)
    disk = stored + kept + training.checkpoint
    trained = flops.training * counts.members * counts.epochs
    passed = flops.forward * counts.passes * variants
    looped = flops.training * sum(each.loop_images for each in quantizations.values())
    hours = models * (trained + passed + looped) / (PEAK * SHARE) / 3600
    return [
        f"Models: {models} to be made, {counts.finished} finished. A model: {counts.epochs} epochs "
        f"of {counts.steps} steps over {counts.members:,} images; {variants} precisions; "
        f"{', '.join(counts.queries)} of {counts.pool:,} images, and of {counts.test:,} to test.",
        f"Time: {say(total / counts.workers)} with {counts.workers} at once, if they do not slow "
        f"each other. A step takes {training.step:.4f} s, an epoch {training.epoch:.3f} s beside "
        f"its steps. Training peaked at {training.memory / 1e9:.2f} GB of memory.",
        f"Disk: {models * disk / 1e9:.3g} GB. Bytes of a model: {stored:,} of weights, {full:,} of "
        f"them full; {kept:,} of signals; {training.checkpoint:,} of its checkpoint.",
        f"PFLOP of a model: {trained / 1e15:.3g} training, {passed / 1e15:.3g} signals, at most "
        f"{looped / 1e15:.3g} published loops; other solvers are not counted. At {SHARE:.0%} of an "
        f"{GPU}'s {PEAK / 1e12:g} TFLOP/s, assumed and not measured, {models} models take "
        f"{hours:.3g} GPU hours.",
    ]


def say(seconds: float) -> str:
    """A duration, for people."""
    if seconds < 60:
        return f"{seconds:.2f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"


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

    def seconds(self) -> tuple[float, float]:
        """Of a step, and of an epoch beside its steps."""
        gaps = median(after[0] - before[-1] for before, after in pairwise(self.ends))
        steps = [after - before for ends in self.ends[1:] for before, after in pairwise(ends)]
        if not steps:  # an epoch is one step
            return gaps, 0.0
        return median(steps), max(gaps - median(steps), 0.0)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
