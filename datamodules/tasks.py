"""Tasks of a learner that sees its classes one group after another, and what each epoch serves."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from datamodules.batches import Batch
from datamodules.seeds import derive_seed
from datamodules.views import Epoch

LEAST = 2  # classes of a task: one alone is told from nothing


class Lesson(NamedTuple):
    """All that a learner of tasks is served in one epoch.

    Attributes:
        examples: number of examples.
        batches: their batches, made as they are asked for.
    """

    examples: int
    batches: Iterator[Batch]


class TaskStream(NamedTuple):
    """Which members of one model are served in which epoch.

    Stages count from 0: in stage n, the learner is served task n. Membership is drawn over all
    tasks at once, so that a member of task n is first served in stage n.

    Attributes:
        task: the task of each example of the pool, from 0.
        labels: classes of the same examples.
        ends: epochs done at the end of each stage.
        seed: the model's seed.
        joint: whether every stage serves all tasks so far.
        replay: members per class of earlier tasks that are served again in later stages.
        plain_from: first epoch from which members come in order and are not augmented; None if
            training always shuffles.
    """

    task: Int64[Tensor, " examples"]
    labels: Int64[Tensor, " examples"]
    ends: Sequence[int]
    seed: int
    joint: bool = False
    replay: int = 0
    plain_from: int | None = None

    def stage(self, epoch: int) -> int:
        """The stage of an epoch; both count from 0."""
        return sum(end <= epoch for end in self.ends)

    def is_plain(self, epoch: int) -> bool:
        """Whether an epoch serves its members in order, as they are."""
        return self.plain_from is not None and epoch >= self.plain_from

    def served(self, members: Bool[Tensor, " examples"], epoch: int) -> Int64[Tensor, " served"]:
        """Positions in the pool of the examples of an epoch, in ascending order."""
        stage = self.stage(epoch)
        wanted = members & (self.task <= stage if self.joint else self.task == stage)
        if self.replay and stage:
            wanted |= self.exemplars(members, stage - 1)
        return wanted.nonzero().flatten()

    def exemplars(
        self, members: Bool[Tensor, " examples"], stage: int
    ) -> Bool[Tensor, " examples"]:
        """The examples that a learner with replay keeps at the end of a stage.

        Those of a class are drawn from the model's seed and the class alone, so that they stay the
        same in all later stages. A class with fewer members keeps all of them.
        """
        kept = torch.zeros_like(members)
        for label in sorted(set(self.labels[members & (self.task <= stage)].tolist())):
            own = (members & (self.labels == label)).nonzero().flatten()
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "exemplars", label))
            kept[own[torch.randperm(len(own), generator=generator)[: self.replay]]] = True
        return kept

    def at_hand(
        self, members: Bool[Tensor, " examples"], stage: int, source: str
    ) -> Bool[Tensor, " examples"]:
        """The row of membership from which a stage's calibration images are drawn.

        Those of `members` are what the stage served, exemplars too. Those of `nonmembers`, which
        are drawn from the rest, are non-members of the stage's own task.
        """
        if source == "nonmembers":
            return members | (self.task != stage)
        row = torch.zeros_like(members)
        row[self.served(members, self.ends[stage] - 1)] = True
        return row


def split_classes(
    num_classes: int, tasks: int, base_classes: int | None = None, order_seed: int | None = None
) -> list[list[int]]:
    """Split the classes into tasks; every class is in exactly one.

    Where classes do not divide over tasks, the first of these tasks get one more.

    Args:
        num_classes: number of classes.
        tasks: number of tasks.
        base_classes: classes of the first task; None for an equal share.
        order_seed: seed of the order of the classes; None for ascending order.

    Returns:
        The classes of each task, in the order in which the learner sees the tasks.

    Raises:
        ValueError: a task would have fewer than two classes.
    """
    order = list(range(num_classes))
    if order_seed is not None:
        generator = torch.Generator().manual_seed(derive_seed(order_seed, "classes"))
        order = torch.randperm(num_classes, generator=generator).tolist()
    first = [] if base_classes is None else [base_classes]
    others = tasks - len(first)
    share, more = divmod(num_classes - sum(first), max(others, 1))
    sizes = [*first, *(share + (number < more) for number in range(others))]
    if min(sizes) < LEAST or sum(sizes) != num_classes:
        raise ValueError(_say_too_few(num_classes, tasks, base_classes, sizes))
    parts = iter(order)
    return [[next(parts) for _ in range(size)] for size in sizes]


def _say_too_few(num_classes: int, tasks: int, base_classes: int | None, sizes: list[int]) -> str:
    """What is wrong with tasks of such sizes, and how many tasks or classes would do."""
    most, widest = num_classes // LEAST, num_classes - LEAST * (tasks - 1)
    given = f"`--continual.tasks` {tasks}"
    if base_classes is not None:
        given += f" and `--continual.base_classes` {base_classes}"
    got = ", ".join(map(str, sizes)) if min(sizes) >= 0 else f"{base_classes} in the first"
    if tasks <= most:
        way_out = f"Pass `--continual.base_classes` {widest} or less."
    elif most > 1:
        way_out = f"Take {most} tasks or fewer."
    else:
        way_out = "Leave `--continual.tasks` out."
    return (
        f"Each task needs {LEAST} classes or more, because one alone is told from nothing, got "
        f"{got} of {num_classes} classes with {given}. {way_out}"
    )


def tasks_of(
    labels: Int64[Tensor, " examples"], classes: Sequence[Sequence[int]]
) -> Int64[Tensor, " examples"]:
    """The task of each example, by its class.

    Raises:
        ValueError: an example's class is in no task.
    """
    task = torch.full_like(labels, -1)
    for number, group in enumerate(classes):
        task[torch.isin(labels, torch.tensor(group, device=labels.device))] = number
    if (task < 0).any():
        unseen = sorted(set(labels[task < 0].tolist()))
        raise ValueError(
            f"Every example's class must be in a task, got {', '.join(map(str, unseen))}, which "
            f"none of the {len(classes)} tasks has. Split all classes by `split_classes`."
        )
    return task


def plan_plain(order: Int64[Tensor, " served"], steps: int) -> Epoch:
    """The plan of an epoch that serves examples in order, as they are."""
    return Epoch(order, [len(part) for part in order.tensor_split(steps)], None)
