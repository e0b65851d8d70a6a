"""Attacks by who holds more than a model: R, EWC's Fisher, SSD's neurons, exemplars, candidates.

R = (Phi^T Phi + gamma I)^-1 is made of the training data, without their labels. A head needs it to
learn the next task, and nobody needs it to use the head. The same is true of the Fisher diagonal of
elastic weight consolidation (continual/fisher_equations.py).
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.cases import by_shadows
from attacks.continual.cell import Cell
from attacks.lira import lira
from attacks.tasks import Form

_ROUNDING = (
    1e-6  # of a share outside; with as many rows as features, nothing is, and all scores tie
)
_EXCESS = 1e-4  # log of a ratio up to which rounding makes it exceed 1


def range_test(cell: Cell) -> Float[Tensor, "targets examples"]:
    """Score by how much of an example lies in the range of what R gained in its task's stage.

    The inverse of R gained Phi^T Phi of the task's members. If these are fewer than phi has
    entries, phi lies in the range for members alone.
    """
    if cell.outside is None:
        raise ValueError(
            "The range test looks at what R gained in the task's own stage, got another stage. "
            "Take the cell at the end of the task's own."
        )
    outside = cell.outside[cell.targets].double()
    return -outside.where(outside > _ROUNDING, 0)


def leverage_threshold(cell: Cell, form: Form) -> Float[Tensor, "targets examples"]:
    """Score by the leverage phi^T R phi, which is smaller for members."""
    return -cell.leverage[form][cell.targets].double()


def leverage_lira(cell: Cell, form: Form) -> Float[Tensor, "targets examples"]:
    """Score by LiRA on the leverage, from shadows whose R is stored in the same form."""
    return _lira(cell, cell.leverage[form].double())


def normal_equations(cell: Cell) -> Float[Tensor, "targets examples"]:
    """Score by whether an example was learnt, solved for from the head's weight alone.

    The attacker needs no state and no shadow, but a set of candidates that holds every example that
    was learnt: here, the pool.
    """
    if cell.solved is None:
        raise ValueError(
            "Normal equations are those of a ridge head, and were not recorded of this learner. "
            "Attack one that was trained with `--continual.learner acil`."
        )
    return cell.solved[cell.targets].double()


def fisher_bound(cell: Cell) -> Float[Tensor, "targets examples"]:
    """Score by how far a squared gradient exceeds the sum of the members' in some weight.

    No member's does, so that non-members are ruled out for certain where theirs do; all others tie.
    """
    return -_fisher(cell, "fisher_excess")[cell.targets].clamp_min(_EXCESS)


def fisher_lira(cell: Cell) -> Float[Tensor, "targets examples"]:
    """Score by LiRA on that excess, from shadows and the Fisher of each."""
    return _lira(cell, _fisher(cell, "fisher_excess"))


def fisher_equations(cell: Cell) -> Float[Tensor, "targets examples"]:
    """Score by whether the Fisher was measured on an example, solved for from it.

    The attacker needs no shadow, but a set of candidates that holds every member of the task: here,
    the pool's examples of the task.
    """
    return _fisher(cell, "fisher_solved")[cell.targets]


def subnetwork_share(cell: Cell) -> Float[Tensor, "targets examples"]:
    """Score by how much of an example's activations is on the neurons that SSD chose by members."""
    return _shares(cell)[cell.targets]


def subnetwork_lira(cell: Cell) -> Float[Tensor, "targets examples"]:
    """Score by LiRA on that share, from shadows and the neurons of each."""
    return _lira(cell, _shares(cell))


def exemplars(cell: Cell) -> Float[Tensor, "targets examples"]:
    """Score 1 for examples in the memory of a learner that replays them, all of them members."""
    if cell.exemplars is None:
        raise ValueError(
            "This learner keeps no exemplars. Attack one that was trained with "
            "`--continual.replay`."
        )
    return cell.exemplars[cell.targets].to(torch.float64)


def _shares(cell: Cell) -> Float[Tensor, "models examples"]:
    if cell.subnetwork_share is None:
        raise ValueError(
            "A subnetwork tells of the examples of the task after which it was chosen, and was not "
            "recorded here. Take the cell at the end of the task's own stage, of a learner that "
            "was trained with `--continual.learner ssd`."
        )
    return cell.subnetwork_share.double()


def _lira(
    cell: Cell, signal: Float[Tensor, "models examples"]
) -> Float[Tensor, "targets examples"]:
    """LiRA on one number of each example."""
    scores, views = cell.empty(), signal[:, None]
    for group, positions in by_shadows(cell.cases).items():
        rows, targets = list(group), [cell.targets[position] for position in positions]
        members = cell.members[rows]
        scores[positions] = lira(views[targets], views[rows], members, "fixed", "mean")
    return scores


def _fisher(cell: Cell, field: Literal["fisher_excess", "fisher_solved"]) -> Tensor:
    known: Tensor | None = getattr(cell, field)
    if known is None:
        raise ValueError(
            "A stage's Fisher tells of the examples of its own task, and was not recorded here. "
            "Take the cell at the end of the task's own stage, of a learner that was trained with "
            "`--continual.ewc`."
        )
    return known.double()
