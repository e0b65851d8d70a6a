"""One task's examples as an attacker sees them at the end of one stage."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from attacks.cases import Case
from attacks.continual.pairs import Heads, Pair, pair
from attacks.tasks import Form, Stage, Tasks


class Cell(NamedTuple):
    """What is seen of one task's examples at the end of one stage that has learned the task.

    Attributes:
        labels: class of each example.
        truth: y, 1 in the column of the example's class and 0 elsewhere.
        residuals: y - f(x) of every model, over the columns of the classes seen so far.
        members: which model trained on which example.
        cases: who is attacked by whom.
        own: the columns of the task's own classes.
        leverage: as of `Stage`; empty where outputs are no ridge regression.
        outside: as of `Stage`, and known only at the end of the task's own stage.
        worlds: what heads over the features of audited models say, by the models' row.
        solved: as of `Stage`.
        exemplars: as of `Stage`.
        fisher_excess: as of `Stage`, and known only at the end of the task's own stage.
        fisher_solved: likewise.
        subnetwork_share: likewise.
    """

    labels: Int64[Tensor, " examples"]
    truth: Float[Tensor, "examples columns"]
    residuals: Float[Tensor, "models examples columns"]
    members: Bool[Tensor, "models examples"]
    cases: Sequence[Case]
    own: Sequence[int]
    leverage: Mapping[Form, Float[Tensor, "models examples"]] = {}
    outside: Float[Tensor, "models examples"] | None = None
    worlds: Mapping[int, Pair] = {}
    solved: Float[Tensor, "models examples"] | None = None
    exemplars: Bool[Tensor, "models examples"] | None = None
    fisher_excess: Float[Tensor, "models examples"] | None = None
    fisher_solved: Float[Tensor, "models examples"] | None = None
    subnetwork_share: Float[Tensor, "models examples"] | None = None

    @property
    def targets(self) -> list[int]:
        """Rows of the audited models."""
        return [case.target for case in self.cases]

    def empty(self) -> Float[Tensor, "targets examples"]:
        """Room for the scores of an attack."""
        return torch.empty(len(self.cases), len(self.labels), dtype=torch.float64)


def make_cell(
    tasks: Tasks,
    place: int,
    stage: Stage,
    task: int,
    members: Bool[Tensor, "models pool"],
    cases: Sequence[Case],
) -> Cell:
    """Select one task's examples at the end of one stage.

    Args:
        tasks: what was recorded.
        place: the stage's place, from 0.
        stage: what was recorded at its end.
        task: a task that was learned by then.
        members: which model trained on which example of all tasks.
        cases: who is attacked by whom.

    Raises:
        ValueError: the stage comes before the task's own. On examples that no model has been served
            yet, the closed forms of leverages would have the wrong sign.
    """
    if place < task:
        raise ValueError(
            f"A task can be attacked once it has been learned, got task {task + 1} after stage "
            f"{place + 1}. Take stages from {task + 1} on."
        )
    examples = (tasks.task == task).nonzero().flatten()
    seen = [label for group in tasks.classes[: place + 1] for label in group]
    part, labels = stage.on(examples), tasks.labels[examples].long()
    truth = one_hot(labels, stage.outputs.shape[-1])[:, seen].to(stage.outputs.dtype)
    worlds = {
        row: pair(Heads(truth - known.outputs[..., seen], known.leverage, known.members))
        for row, known in part.worlds.items()
    }
    worlds |= {
        row: Pair(*((truth - side[..., seen]).double() for side in known))
        for row, known in part.rounded.items()
    }
    return Cell(
        labels=labels,
        truth=truth,
        residuals=truth - part.outputs[..., seen],
        members=members[:, examples],
        cases=cases,
        own=[seen.index(label) for label in tasks.classes[task]],
        leverage=part.leverage,
        outside=part.outside if place == task else None,
        worlds=worlds,
        solved=part.solved,
        exemplars=part.exemplars,
        fisher_excess=part.fisher_excess if place == task else None,
        fisher_solved=part.fisher_solved if place == task else None,
        subnetwork_share=part.subnetwork_share if place == task else None,
    )
