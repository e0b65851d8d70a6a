"""Checks of learning in tasks before any training, and what each model is served."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from jsonargparse import Namespace
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from continual.ridge import check_gamma
from datamodules.batches import Batch
from datamodules.images import ImageDataModule
from datamodules.tasks import TaskStream, tasks_of
from fleet.checks import Devices
from lightning_modules.analytic import AnalyticClassifier, rows_of
from lightning_modules.callbacks.record_signals import Further
from lightning_modules.classifier import Classifier
from lightning_modules.continual import list_classes
from lightning_modules.continual_options import ContinualOptions
from lightning_modules.federated_options import FederatedOptions
from lightning_modules.options import CalibrationOptions, ModelOptions, PruneOptions
from quantization.round_rows import ROUNDED, can_round
from quantization.variant import Variant
from storage.names import ModelName

LEAST = 2  # examples of a task, because BatchNorm needs as many in a batch
TRIED = 512  # examples from whose rows the squares of all are estimated


def check_continual(
    config: Namespace,
    model: ModelOptions,
    prune: PruneOptions,
    federated: FederatedOptions,
    devices: Devices,
) -> None:
    """Refuse options that learning in tasks cannot be combined with.

    Raises:
        ValueError: the message names the option and the way out.
    """
    others = {
        "--prune": prune.method is not None,
        "--model.dp": model.dp.on,
        "--federated.clients": federated.on,
    }
    for option, given in others.items():
        if given:
            raise ValueError(
                f"`--continual.tasks` is not supported with `{option}`: nothing defines what it "
                "does to a later task. Leave out one of them."
            )
    if config.snapshots:
        listed = ", ".join(map(str, config.snapshots))
        raise ValueError(
            f"`--snapshots` must be empty with `--continual.tasks`, got {listed}: the end of each "
            "task is kept anyway, as `task-1` and so on. Leave it out."
        )
    if devices.processes > 1:
        raise ValueError(
            "`--continual.tasks` is not supported with several devices per model "
            f"(`--trainer.devices`), got {devices.processes}. `--fleet.workers` trains several "
            "models at once."
        )
    trainer = config.trainer
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(
            "`trainer.accumulate_grad_batches` must be 1 with `--continual.tasks`, got "
            f"{trainer.accumulate_grad_batches}: a learner steps after each batch. Raise "
            "`--data.batch_size` instead."
        )
    if trainer.gradient_clip_val is not None:
        raise ValueError(
            "`trainer.gradient_clip_val` is not supported with `--continual.tasks`, got "
            f"{trainer.gradient_clip_val:g}. Leave it out, and lower `--model.lr`."
        )


def check_quantized_worlds(continual: ContinualOptions, quantize: Sequence[str]) -> None:
    """Refuse worlds of variants that do not exist, or that no world can be rounded like.

    Raises:
        ValueError: the message names the variant, and what would do.
    """
    option, asked = "`--continual.analytic.quantized_worlds`", continual.analytic.quantized_worlds
    if asked and not continual.analytic.worlds:
        raise ValueError(
            f"{option} needs worlds, got `--continual.analytic.worlds 0`. Pass 2 or more of them, "
            "or leave it out."
        )
    for name in asked:
        if name not in quantize:
            raise ValueError(
                f"{option} must be names of `--quantize` ({', '.join(quantize) or 'none'}), got "
                f"{name}. Add it there, or leave it out here."
            )
        if not can_round(Variant.parse(name)):
            raise ValueError(
                f"{option} takes {', '.join(ROUNDED)} with one number of bits and without suffixes "
                f"(`nearest-w4`), got {name}: heads of a world cannot be rounded like that one. "
                "Leave it out here; it is attacked by shadows all the same."
            )


def further_of(
    continual: ContinualOptions, calibration: CalibrationOptions, audited: bool
) -> Further | None:
    """What is recorded of a model's quantized variants beside signals: worlds, rounded alike."""
    if not audited or not continual.analytic.quantized_worlds:
        return None

    def record(module: LightningModule, variant: str, network: nn.Module) -> dict[str, Tensor]:
        if variant not in continual.analytic.quantized_worlds:
            return {}
        return cast(AnalyticClassifier, module).round_worlds(variant, network, calibration)

    return record


def make_stream(
    options: ContinualOptions, ends: list[int], data: ImageDataModule, seed: int
) -> TaskStream | None:
    """What each epoch serves a model; None if it does not learn in tasks.

    Args:
        options: the tasks, and what learns them.
        ends: epochs done at the end of each stage.
        data: the pool.
        seed: the model's seed.

    Raises:
        ValueError: the classes cannot be split so.
    """
    if not options.on:
        return None
    labels = data.pool.labels.cpu()
    task = tasks_of(labels, list_classes(options, data.num_classes))
    plain_from = sum(options.pretraining) if options.solves else None
    return TaskStream(task, labels, ends, seed, options.joint, options.replay, plain_from)


def check_tasks(
    stream: TaskStream,
    classes: list[list[int]],
    data: ImageDataModule,
    members: Mapping[ModelName, Tensor],
) -> list[int]:
    """Numbers of examples that models are served in an epoch, each number once, in order.

    Args:
        stream: what a model is served; exemplars are as many for each.
        classes: classes of each task.
        data: the pool.
        members: which examples each model trains on.

    Raises:
        ValueError: a model has too few members in a task, or too few for a batch; or the test split
            lacks a task.
    """
    tested = tasks_of(data.test.labels.cpu(), classes)
    for stage in range(len(classes)):
        if not (tested == stage).any():
            listed = ", ".join(map(str, classes[stage]))
            raise ValueError(
                f"The test split must have examples of each task, got none of task {stage + 1} "
                f"(classes {listed}). Take fewer `--continual.tasks`, or another test split."
            )
    sizes = set[int]()
    for name, row in members.items():
        for stage, end in enumerate(stream.ends):
            if (own := int((row & (stream.task == stage)).sum())) < LEAST:
                raise ValueError(
                    f"Each task needs {LEAST} members or more of each model, got {own} in task "
                    f"{stage + 1} of {name}. Enlarge the pool, or take fewer `--continual.tasks`."
                )
            sizes.add(len(stream.served(row, end - 1)))
    for size in sorted(sizes):
        data.batch_sizes(size, 1)
    return sorted(sizes)


def rehearse_regression(classifier: Classifier, data: ImageDataModule, members: int) -> None:
    """Look for a gamma that is too small for a regression on the data as they are.

    What a backbone makes of them is not known before it is trained; then the fit refuses gamma.

    Args:
        classifier: the model; it stays as it is.
        data: the data set.
        members: number of examples that a model learns in all.

    Raises:
        ValueError: gamma is too small; the message says which would do.
    """
    if not isinstance(classifier, AnalyticClassifier) or classifier.continual.pretraining:
        return
    count = len(data.pool.labels)
    positions = torch.linspace(0, count - 1, min(count, TRIED)).long()
    images = data.calibration_images("members", positions).cpu()
    rows = rows_of(classifier.network, Batch(images, data.pool.labels.cpu()[positions], positions))
    energy = rows.joined().square().sum().item() * members / len(positions)
    check_gamma(energy, classifier.continual.analytic.gamma)


def describe_tasks(
    options: ContinualOptions,
    stream: TaskStream,
    classes: list[list[int]],
    members: Mapping[ModelName, Tensor],
) -> list[str]:
    """Say what the stages will be, and where R would give rows away exactly."""
    before = sum(options.pretraining)
    each = stream.ends[-1] - stream.ends[-2]
    backbone = f" after {before} of the backbone" if before else ""
    epochs = "epoch" if each == 1 else "epochs"
    groups = "; ".join(", ".join(map(str, group)) for group in classes)
    lines = [
        f"Tasks: {len(classes)} by `{options.learner}`, of {each} {epochs} each{backbone}. "
        f"Classes of each: {groups}."
    ]
    columns = options.analytic.buffer
    counts = torch.stack([stream.task[row].bincount() for row in members.values()])
    if options.solves and (fewest := int(counts.min())) < columns:
        few = int((counts < columns).any(0).sum())
        lines.append(
            f"In {few} of {len(classes)} tasks a model has fewer rows, {fewest} or more, than the "
            f"{columns} columns of `--continual.analytic.buffer`. The head is exact all the same, "
            "but who holds R before and after such a task knows each of its rows."
        )
    return lines
