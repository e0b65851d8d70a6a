"""What a fleet will cost on this machine: some real steps of one model, and arithmetic.

`recipes/digits.yaml` with 4 shadows and 2 targets, one thread: 17.9 CPU seconds said, 18 taken. Of
single 2-bit variants it said 0.7 to 1.6 times what they took (0.07 to 0.18 s). By the clock, beside
other work that changed meanwhile, 47.6 s said and 36 taken.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple

from jaxtyping import Bool
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from datamodules.images import ImageDataModule
from fleet.trials import Flops, Quantization, Seen, Training
from storage.files import serialise
from storage.names import ModelName
from storage.run_folder import RunFolder

HEADER = 512  # bytes of a file of signals that are not signals; 504 of a smaller one
# Assumed, not measured: small images seldom keep a large GPU busier than this share of its peak.
GPU, PEAK, SHARE = "A100", 312e12, 0.1  # FLOP/s, bf16


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
