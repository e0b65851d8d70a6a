"""Cost of a fleet on this machine, from some real steps of one model and arithmetic.

For `recipes/digits.yaml` with 4 shadows and 2 targets on one thread, the estimate was 17.9 CPU
seconds, and training took 18. Estimates of single 2-bit variants were 0.7 to 1.6 times the measured
0.07 to 0.18 s. In wall time, beside changing other work, 47.6 s were estimated and 36 s taken.
"""

import copy
from collections.abc import Mapping
from math import ceil
from statistics import fmean
from typing import NamedTuple

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from attacks.embeddings import COMPONENTS
from attacks.game import FULL
from datamodules.images import ImageDataModule
from datamodules.seeds import derive_seed
from datamodules.tasks import TaskStream
from fleet.cluster import environment
from fleet.continual import make_stream
from fleet.counts import HEADER, Counts, count_work
from fleet.engine import is_first
from fleet.equations import EquationsCost, try_equations
from fleet.federation import make_federation
from fleet.gpu_hours import FLOAT32, GPU_BATCH, Workload, gpu_line, rate
from fleet.prepare import Job
from fleet.pruning import cut_untrained
from fleet.trials import (
    TRIAL_EPOCHS,
    TRIAL_STEPS,
    Operations,
    QuantizationCost,
    SignalCost,
    Training,
    count_operations,
    try_quantizations,
    try_signals,
    try_training,
)
from lightning_modules.float32 import tf32
from lightning_modules.learners import make_classifier
from storage.files import serialise


class Costs(NamedTuple):
    """Costs per model; `quantizations` holds all variants except `full`."""

    training: Training
    signals: SignalCost
    operations: Operations
    full_bytes: int  # size of a full-precision weights file
    quantizations: Mapping[str, QuantizationCost]
    rate: float  # FLOP/s of training, assumed of a GPU
    before_cut: int = 0  # further bytes of snapshots that are larger than a pruned network
    equations: EquationsCost = EquationsCost()  # of an audited model


def print_cost(job: Job, console: Console) -> None:
    """Try some steps of a model, and print the work and its cost."""
    data = job.data
    name, members = next(iter(job.members.items()))
    last = job.prune.epochs(job.config.trainer.max_epochs)[1] if job.prune.method else 0
    seed = derive_seed(job.config.seed, name.role, name.number, job.run.attempt(name))
    federation = make_federation(job.federated, members, data.pool.labels, seed)
    stream = make_stream(job.continual, job.experiment.stage_ends, data, seed)
    data.assign(members, seed, job.model.dp.on, federation, stream)
    lesson = 1 if stream is None else _shorten(data, stream, members, seed)
    with console.status("Trying some steps of training"):
        network, operations, training = _try(job, cut=False)
        dense = network
        if job.prune.method:
            network, narrow, quicker = _try(job, cut=True)
            share = last / job.config.trainer.max_epochs
            operations, training = _blend(share, (operations, training), (narrow, quicker))
    data.assign(members, seed, job.model.dp.on, federation, stream)
    training = training._replace(step=training.step / lesson)
    if not is_first():
        return
    with console.status("Trying quantizations"), tf32(False):
        signals = try_signals(network.to(data.device), data)
        quantizations = try_quantizations(job, network)
    full_bytes, dense_bytes = (len(serialise(n.state_dict())) for n in (network, dense))
    counts, speed = count_work(job), rate(job.config.trainer.precision, job.model.tf32)
    wide = sum(epoch <= last for epoch in job.experiment.snapshots.values())
    further = wide * (dense_bytes - full_bytes)
    with console.status("Trying normal equations"):
        equations = try_equations(job.continual, data)
    costs = Costs(
        training, signals, operations, full_bytes, quantizations, speed, further, equations
    )
    for line in show_cost(counts, costs):
        console.print(line, soft_wrap=True)


def _shorten(data: ImageDataModule, stream: TaskStream, members: Tensor, seed: int) -> float:
    """Serve a trial few members, because all that a learner is served in an epoch is one item.

    Returns:
        Mean number of steps of an epoch of the trial.
    """
    few = torch.zeros_like(members)
    for task in range(len(stream.ends)):
        own = (members & (stream.task == task)).nonzero().flatten()
        few[own[: TRIAL_STEPS * data.batch_size]] = True
    data.assign(few, seed, tasks=stream)
    epochs = range(min(TRIAL_EPOCHS, stream.ends[-1]))
    return fmean(ceil(len(data.served(epoch)) / data.batch_size) for epoch in epochs)


def _try(job: Job, cut: bool) -> tuple[nn.Module, Operations, Training]:
    """Try some steps of an untrained model, cut or dense; also return its network."""
    data, classifier = (
        job.data,
        make_classifier(job.data, 0, job.model, job.federated, job.continual),
    )
    if cut:
        cut_untrained(job.prune, classifier.network, data)
    network = copy.deepcopy(classifier.get_submodule("network"))
    batch = next(data.test_batches())
    operations = count_operations(copy.deepcopy(network), batch.images[:2], batch.labels[:2])
    options = job.config.trainer.as_dict() | ({"devices": 1} if job.fleet.apart else {})
    with tf32(job.model.tf32):
        return network, operations, try_training(classifier, data, options, environment(job.fleet))


def _blend(
    share: float, dense: tuple[Operations, Training], cut: tuple[Operations, Training]
) -> tuple[Operations, Training]:
    """Work of a fit that trains a dense network for a share of its epochs, then a cut one."""

    def mean(before: int | float, after: int | float) -> float:
        return share * before + (1 - share) * after

    (wide, before), (narrow, after) = dense, cut
    return (
        narrow._replace(training=round(mean(wide.training, narrow.training))),
        Training(
            mean(before.step, after.step),
            mean(before.epoch, after.epoch),
            after.checkpoint,
            max(before.memory, after.memory),
            mean(before.saving, after.saving),
        ),
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
    kept = [name for name in todo if name not in counts.again]
    again = len(todo) - len(kept)
    untrained = [n for n in todo if n in counts.again or not run.weights(n, FULL).exists()]
    unrecorded = again * len(counts.variants)
    unrecorded += sum(len(run.missing(name, counts.variants)) for name in kept)
    training = _training_seconds(counts, costs)
    epochs = "rounds" if counts.clients else "epochs"
    rows = [
        (f"training, {counts.epochs} {epochs}", training, len(untrained), "trial"),
        ("signals of a variant", counts.passes * costs.signals.image, unrecorded, "trial"),
    ]
    if costs.equations.memory:
        solved = sum(name in counts.audited for name in untrained)
        rows.append(("normal equations", costs.equations.seconds, solved, "trial"))
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
    """Seconds to train one model, with its checkpoints."""
    validation = counts.validations * counts.test * costs.signals.image
    recorded = counts.recorded_passes * costs.signals.image
    return counts.epochs * _epoch(counts, costs) + validation + recorded + _saved(counts, costs)[1]


def _epoch(counts: Counts, costs: Costs) -> float:
    """Seconds per epoch, without checkpoint and validation; a step of a federation is a client."""
    return (counts.clients or counts.steps) * costs.training.step + costs.training.epoch


def _saved(counts: Counts, costs: Costs) -> tuple[int, float]:
    """Number of a model's checkpoints, and their seconds."""
    training = costs.training
    number = training.checkpoints(counts.epochs, _epoch(counts, costs), counts.checkpoint_every)
    return number, number * training.saving


def _lines(counts: Counts, costs: Costs, total: float) -> list[str]:
    training, signals, _, full, quantizations, _, before_cut, equations = costs
    models, variants = len(counts.todo), len(counts.variants)
    stored = (
        full * (1 + counts.snapshots)
        + before_cut
        + sum(cost.stored for cost in quantizations.values())
    )
    kept = variants * counts.kept(signals.kept)
    whole = "full and each snapshot" if counts.snapshots else "full"
    disk = models * (stored + kept + counts.recorded_bytes + training.checkpoint)
    # 4 bytes per number; a network whose last layer has fewer inputs keeps fewer
    embedded = HEADER + 4 * COMPONENTS * (counts.pool + counts.test)
    what = "rounds" if counts.rounds else "tasks"
    recorded = f"{counts.recorded_bytes:,} of recorded {what}; " if counts.recorded_bytes else ""
    work, step, epoch = f"epochs of {counts.steps} steps", "A step", "an epoch"
    if counts.clients:
        visits = counts.epochs * counts.clients
        work = f"rounds x {counts.clients} clients = {visits:,} trainings of a client, each round"
        step, epoch = "A client's training", "a round"
    disk += counts.unembedded() * embedded
    more = f", and normal equations take {equations.memory / 1e9:.2g} GB more"
    more = more if equations.memory else ""
    return [
        f"Models: {models} to be made, {counts.finished} finished. Per model: {counts.epochs} "
        f"{work} over {counts.members:,} images; {variants} variants; "
        f"{', '.join(counts.queries)} of {counts.pool:,} images, and of {counts.test:,} to test.",
        f"Time: {duration(total / counts.workers)} with {counts.workers} at once, if they do not "
        f"slow each other down. {step} takes {training.step:.4f} s; {epoch} takes "
        f"{training.epoch:.3f} s apart from its steps; a checkpoint takes {training.saving:.3f} s "
        f"and is written {_saved(counts, costs)[0]} times. Training peaked at "
        f"{training.memory / 1e9:.2f} GB of memory{more}.",
        f"Disk: {disk / 1e9:.3g} GB. Bytes per model: {stored:,} of weights, {full:,} of "
        f"them {whole}; {kept:,} of signals; {recorded}{training.checkpoint:,} of its checkpoint."
        + (f" {variants * embedded:,} of embeddings per audited model." if counts.embedded else ""),
        gpu_line(models, *_parts(counts, costs)),
    ]


def _parts(counts: Counts, costs: Costs) -> tuple[Workload, Workload, Workload]:
    """Work per model; only training may be in less than float32."""
    operations, variants = costs.operations, len(counts.variants)
    work = [cost.work for cost in costs.quantizations.values()]
    passes = [counts.passes] * variants + [counts.recorded_passes]
    return (
        Workload(
            "training",
            operations.training * counts.members * counts.epochs,
            operations.training_launches * counts.steps * counts.epochs,
            costs.rate,
        ),
        Workload(
            "signals",
            operations.forward * sum(passes),
            operations.forward_launches * sum(ceil(images / GPU_BATCH) for images in passes),
            FLOAT32,
        ),
        Workload(
            "published loops and OBC's greedy steps",
            sum(part.flop for part in work),
            sum(part.launches for part in work),
            FLOAT32,
        ),
    )


def duration(seconds: float) -> str:
    """A duration in readable units: 0.25 s, 3.1 min or 1,200.5 h."""
    if seconds < 60:
        return f"{seconds:.2f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"
