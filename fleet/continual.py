"""Checks of learning in tasks before any training, and what each model is served."""

from collections.abc import Mapping

from jsonargparse import Namespace
from torch import Tensor

from datamodules.images import ImageDataModule
from datamodules.tasks import TaskStream, split_classes, tasks_of
from fleet.checks import Devices
from lightning_modules.continual_options import ContinualOptions
from lightning_modules.federated_options import FederatedOptions
from lightning_modules.options import ModelOptions, PruneOptions
from storage.names import ModelName

LEAST = 2  # examples of a task, because BatchNorm needs as many in a batch


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
    if options.tasks is None:
        return None
    labels = data.pool.labels.cpu()
    classes = split_classes(
        data.num_classes, options.tasks, options.base_classes, options.order_seed
    )
    plain_from = sum(options.pretraining) if options.solves else None
    task = tasks_of(labels, classes)
    return TaskStream(task, labels, ends, seed, options.joint, options.replay, plain_from)


def check_tasks(
    stream: TaskStream, data: ImageDataModule, members: Mapping[ModelName, Tensor]
) -> list[int]:
    """Numbers of examples that models are served in an epoch, each number once, in order.

    Args:
        stream: what a model is served; exemplars are as many for each.
        data: the pool.
        members: which examples each model trains on.

    Raises:
        ValueError: a model has too few members in a task, or too few for a batch.
    """
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


def describe_tasks(options: ContinualOptions, stream: TaskStream, num_classes: int) -> list[str]:
    """Say what the stages will be."""
    if options.tasks is None:
        return []
    classes = split_classes(num_classes, options.tasks, options.base_classes, options.order_seed)
    before = sum(options.pretraining)
    each = stream.ends[-1] - stream.ends[-2]
    backbone = f" after {before} of the backbone" if before else ""
    epochs = "epoch" if each == 1 else "epochs"
    groups = "; ".join(", ".join(map(str, group)) for group in classes)
    return [
        f"Tasks: {options.tasks} by `{options.learner}`, of {each} {epochs} each{backbone}. "
        f"Classes of each: {groups}."
    ]
