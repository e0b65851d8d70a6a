"""Cost of a fleet on this machine, from some real steps of one model and arithmetic.

For `recipes/digits.yaml` with 4 shadows and 2 targets on one thread, the estimate was 17.9 CPU
seconds, and training took 18. Estimates of single 2-bit variants were 0.7 to 1.6 times the measured
0.07 to 0.18 s. In wall time, beside changing other work, 47.6 s were estimated and 36 s taken.
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from math import ceil
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from attacks.embeddings import COMPONENTS
from attacks.game import FULL
from fleet.cluster import environment
from fleet.engine import is_first
from fleet.prepare import Job
from fleet.trials import (
    Operations,
    QuantizationCost,
    SignalCost,
    Training,
    count_operations,
    try_quantizations,
    try_signals,
    try_training,
)
from lightning_modules.classifier import Classifier
from lightning_modules.float32 import tf32
from storage.files import serialise
from storage.names import ModelName
from storage.run_folder import RunFolder

HEADER = 512  # bytes before the signals in their file; measured 504 in a smaller one
# Assumed, not measured, in FLOP/s: 10% of an A100's peak in bf16, because small images seldom keep
# it busier; and half of its peak in float32, in which signals and loops are computed.
GPU, TRAINING, FLOAT32 = "A100", 31.2e12, 9.75e12
LAUNCH = 5e-6, 10e-6  # seconds until a kernel is launched from Python, assumed too
GPU_BATCH = 512  # images per batch of signals on a GPU


class Costs(NamedTuple):
    """Measured costs; `quantizations` holds all variants except `full`."""

    training: Training
    signals: SignalCost
    operations: Operations
    full_bytes: int  # size of a full-precision weights file
    quantizations: Mapping[str, QuantizationCost]


class Counts(NamedTuple):
    """The work of a call, in numbers.

    Attributes:
        run: the folder of the fleet.
        todo: models that are not finished.
        finished: number of chosen models that are finished.
        epochs: epochs of training.
        members: images that a model trains on.
        steps: steps per epoch.
        validations: passes over the test split during training.
        pool: images in the pool.
        test: images in the test split.
        queries: views that the attacker asks for.
        variants: all variants, `full` among them.
        workers: models that are trained at once.
        retry: unfinished models that are trained again from another start.
        embedded: models whose embeddings are recorded.
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
    retry: Collection[ModelName] = ()
    embedded: Collection[ModelName] = ()

    @property
    def passes(self) -> int:
        """Images that go through a variant for its signals, counting every view."""
        return self.pool * len(self.queries) + self.test * len({*self.queries, "identity"})

    def kept(self, image_bytes: int) -> int:
        """Bytes of a variant's signals, at `image_bytes` per image and query of the pool."""
        population = 8 * len(self.queries) + 1  # phi and hinge, and correct or not
        return HEADER + self.pool * len(self.queries) * image_bytes + self.test * population

    def unembedded(self) -> int:
        """Number of embeddings files to be made."""
        names = [name for name in self.todo if name in self.embedded]
        again = sum(name in self.retry for name in names)
        lacking = (
            not self.run.embeddings(name, variant).exists()
            for name in names
            for variant in self.variants
            if name not in self.retry
        )
        return again * len(self.variants) + sum(lacking)


def print_cost(job: Job, console: Console) -> None:
    """Try some steps of a model, and print the work and its cost."""
    data = job.data
    classifier = Classifier(data.num_classes, len(data.mean), 0, job.model)
    network = copy.deepcopy(classifier.get_submodule("network"))
    batch = next(data.test_batches())
    operations = count_operations(copy.deepcopy(network), batch.images[:2], batch.labels[:2])
    data.assign(next(iter(job.members.values())), job.config.seed)
    options = job.config.trainer.as_dict() | ({"devices": 1} if job.fleet.by_ray else {})
    with console.status("Trying some steps of training"), tf32(job.model.tf32):
        training = try_training(classifier, data, options, environment(job.fleet))
    if not is_first():
        return
    with console.status("Trying quantizations"), tf32(False):
        signals = try_signals(network.to(data.device), data)
        quantizations = try_quantizations(job, network)
    full_bytes = len(serialise(network.state_dict()))
    costs = Costs(training, signals, operations, full_bytes, quantizations)
    for line in show_cost(count_work(job), costs):
        console.print(line, soft_wrap=True)


def count_work(job: Job) -> Counts:
    """Count the work of a call."""
    trainer, data, todo = job.config.trainer, job.data, job.todo
    members = int(next(iter(job.members.values())).sum())
    return Counts(
        run=job.run,
        todo=todo,
        finished=len(job.chosen) - len(todo),
        epochs=trainer.max_epochs,
        members=members,
        steps=ceil(members / data.batch_size),
        validations=trainer.max_epochs // (trainer.check_val_every_n_epoch or 1),
        pool=len(data.pool.labels),
        test=len(data.test.labels),
        queries=job.experiment.queries,
        variants=job.experiment.variants,
        workers=job.fleet.workers,
        retry=job.retry,
        embedded=job.experiment.embedded,
    )


def show_cost(counts: Counts, costs: Costs) -> list[Table | str]:
    """The output of a dry run: a table of times, and lines."""
    run, todo = counts.run, counts.todo
    title = escape(f"Plan of {run.path}; nothing is written")
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in ("each", "count", "total"):
        table.add_column(heading, justify="right")
    table.add_column("based on")
    # a model that is trained again lacks everything, whatever its folder holds now
    kept = [name for name in todo if name not in counts.retry]
    again = len(todo) - len(kept)
    untrained = again + sum(not run.weights(name, FULL).exists() for name in kept)
    unrecorded = again * len(counts.variants)
    unrecorded += sum(len(run.missing(name, counts.variants)) for name in kept)
    rows = [
        (f"training, {counts.epochs} epochs", _training_seconds(counts, costs), untrained, "trial"),
        ("signals of a variant", counts.passes * costs.signals.image, unrecorded, "trial"),
    ]
    if counts.embedded:
        passed = (counts.pool + counts.test) * costs.signals.image
        rows.append(("embeddings of a variant", passed, counts.unembedded(), "trial"))
    for variant, (seconds, source, *_) in costs.quantizations.items():
        missing = again + sum(not run.weights(name, variant).exists() for name in kept)
        rows.append((variant, seconds, missing, source))
    for label, seconds, count, source in rows:
        table.add_row(label, duration(seconds), f"{count:,}", duration(seconds * count), source)
    total = sum(seconds * count for _, seconds, count, _ in rows)
    table.add_section()
    table.add_row("total", "", "", duration(total), "")
    return [table, *_lines(counts, costs, total)]


def _training_seconds(counts: Counts, costs: Costs) -> float:
    """Seconds to train one model."""
    step, epoch, *_ = costs.training
    validation = counts.validations * counts.test * costs.signals.image
    return counts.epochs * (counts.steps * step + epoch) + validation


def _lines(counts: Counts, costs: Costs, total: float) -> list[str]:
    training, signals, _, full, quantizations = costs
    models, variants = len(counts.todo), len(counts.variants)
    stored = full + sum(cost.stored for cost in quantizations.values())
    kept = variants * counts.kept(signals.kept)
    disk = models * (stored + kept + training.checkpoint)
    # 4 bytes per number; a network whose last layer has fewer inputs keeps fewer
    embedded = HEADER + 4 * COMPONENTS * (counts.pool + counts.test)
    disk += counts.unembedded() * embedded
    return [
        f"Models: {models} to be made, {counts.finished} finished. Per model: {counts.epochs} "
        f"epochs of {counts.steps} steps over {counts.members:,} images; {variants} variants; "
        f"{', '.join(counts.queries)} of {counts.pool:,} images, and of {counts.test:,} to test.",
        f"Time: {duration(total / counts.workers)} with {counts.workers} at once, if they do not "
        f"slow each other down. A step takes {training.step:.4f} s; an epoch takes "
        f"{training.epoch:.3f} s apart from its steps. Training peaked at "
        f"{training.memory / 1e9:.2f} GB of memory.",
        f"Disk: {disk / 1e9:.3g} GB. Bytes per model: {stored:,} of weights, {full:,} of "
        f"them full; {kept:,} of signals; {training.checkpoint:,} of its checkpoint."
        + (f" {variants * embedded:,} of embeddings per audited model." if counts.embedded else ""),
        _gpu_line(counts, costs),
    ]


def _gpu_line(counts: Counts, costs: Costs) -> str:
    """The work per model, and an estimate of the time that it takes on a GPU."""
    operations, variants = costs.operations, len(counts.variants)
    quantized = costs.quantizations.values()
    looped = sum(cost.loop_images for cost in quantized)
    flop = (
        operations.training * counts.members * counts.epochs,
        operations.forward * counts.passes * variants,
        operations.training * looped,
    )
    launches = (
        operations.training_launches * counts.steps * counts.epochs,
        operations.forward_launches * ceil(counts.passes / GPU_BATCH) * variants,
        sum(cost.launches for cost in quantized),
    )
    rates = TRAINING, FLOAT32, FLOAT32
    hours = [
        len(counts.todo)
        * sum(max(f / r, n * seconds) for f, n, r in zip(flop, launches, rates, strict=True))
        / 3600
        for seconds in LAUNCH
    ]
    parts = "training", "signals", "published loops and OBC's steps"
    work = "; ".join(
        f"{f / 1e15:.3g} PFLOP and {n / 1e6:.3g} million kernels of {part}"
        for f, n, part in zip(flop, launches, parts, strict=True)
    )
    return (
        f"On a GPU, an estimate that nobody measured: {work} per model; other solvers are not "
        f"counted. A part takes the longer of its launches, at {LAUNCH[0] * 1e6:g} to "
        f"{LAUNCH[1] * 1e6:g} microseconds each, and its operations, at {TRAINING / 1e12:g} "
        f"TFLOP/s of an {GPU} in training and {FLOAT32 / 1e12:g} in float32: at most "
        f"{hours[0]:.3g} to {hours[1]:.3g} GPU hours for {len(counts.todo)} models."
    )


def duration(seconds: float) -> str:
    """A duration in readable units: 0.25 s, 3.1 min or 1,200.5 h."""
    if seconds < 60:
        return f"{seconds:.2f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"
