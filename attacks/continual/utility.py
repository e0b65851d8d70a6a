"""What learners of tasks can do: accuracy by task and stage, and the figures that sum it up."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.continual.over_targets import over_targets
from attacks.metrics.intervals import Estimate


class Utility(NamedTuple):
    """Accuracy on the test split, mean over audited models.

    Attributes:
        matrix: by stage, of each task learned by then.
        average: mean over stages of the accuracy on all classes seen by then.
        last: accuracy on all classes at the end.
        backward: mean over all tasks but the last of the accuracy at the end minus that right after
            the task; below 0, tasks are forgotten. None with a single task.
    """

    matrix: list[list[Estimate]]
    average: Estimate
    last: Estimate
    backward: Estimate | None


def sum_up(
    accuracy: Float[Tensor, "targets stages tasks"], classes: Sequence[Sequence[int]]
) -> Utility:
    """Sum up the accuracy of every task after every stage.

    Args:
        accuracy: of each target; of tasks that were not learned yet it does not count.
        classes: of each task, by whose number tasks are weighted in the accuracy on all classes.
    """
    stages = accuracy.shape[1]
    weights = torch.tensor([len(group) for group in classes], dtype=torch.float64)
    seen = [
        accuracy[:, stage, : stage + 1].double() @ weights[: stage + 1] / weights[: stage + 1].sum()
        for stage in range(stages)
    ]
    backward = None
    if stages > 1:
        first = torch.arange(stages - 1)
        change = accuracy[:, -1, :-1] - accuracy[:, first, first]
        backward = over_targets(change.double().mean(1), (-1.0, 1.0))
    return Utility(
        [
            [over_targets(accuracy[:, stage, task].double()) for task in range(stage + 1)]
            for stage in range(stages)
        ],
        over_targets(torch.stack(seen).mean(0)),
        over_targets(seen[-1]),
        backward,
    )
