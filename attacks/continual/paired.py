"""Paired LiRA: each head gives the output of an example with it and without it, in closed form.

For ridge regression, leaving one example out and adding one are exact updates of rank one
(Sherman and Morrison 1950). So a few heads suffice where ordinary LiRA needs many shadows, and they
need not be trained: heads that are solved on random halves of the pool, over the features of the
audited model itself, do.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from attacks.cases import by_shadows
from attacks.continual.cell import Cell, Heads
from attacks.continual.vector_fit import fit_vectors

_MOST = 1 - 1e-6  # of a member's leverage, which rounding may lift to 1


class Pair(NamedTuple):
    """Residuals y - f(x) of each example under heads that were solved with it, and without it."""

    inside: Float[Tensor, "heads examples columns"]
    outside: Float[Tensor, "heads examples columns"]


def pair(heads: Heads) -> Pair:
    """Each head's residual of every example with the example, and without it.

    With R = (Phi^T Phi + gamma I)^-1 of a head, the leverage of an example is phi^T R phi: h of a
    member, and q of a non-member, whose leverage as a member would be h = q / (1 + q). In both
    cases e_in = (1 - h) e_out.
    """
    known, given = heads.leverage.double().clamp_min(0), heads.residuals.double()
    h = torch.where(heads.members, known.clamp_max(_MOST), known / (1 + known))
    shrink, inside = (1 - h)[..., None], heads.members[..., None]
    return Pair(
        torch.where(inside, given, given * shrink), torch.where(inside, given / shrink, given)
    )


def shadows_paired(cell: Cell) -> Float[Tensor, "targets examples"]:
    """Score by paired LiRA on the vectors of all columns, from shadows."""
    scores, leverage = cell.empty(), cell.leverage["float64"]
    for group, positions in by_shadows(cell.cases).items():
        rows = list(group)
        pairs = pair(Heads(cell.residuals[rows], leverage[rows], cell.members[rows]))
        target = cell.residuals[[cell.targets[position] for position in positions]]
        scores[positions] = _compare(target, pairs, cell.labels)
    return scores


def worlds_paired(cell: Cell) -> Float[Tensor, "targets examples"]:
    """Score by paired LiRA from heads over each target's own features, without any shadow."""
    scores = cell.empty()
    for position, target in enumerate(cell.targets):
        pairs = pair(cell.worlds[target])
        scores[position] = _compare(cell.residuals[target], pairs, cell.labels)
    return scores


def _compare(
    target: Float[Tensor, "*targets examples columns"],
    pairs: Pair,
    labels: Int64[Tensor, " examples"],
) -> Float[Tensor, "*targets examples"]:
    """How much likelier the target's residuals are among those with each example."""
    everyone = torch.ones(pairs.inside.shape[:2], dtype=torch.bool)
    inside, outside = (fit_vectors(side, everyone, labels) for side in pairs)
    return inside.log_density(target) - outside.log_density(target)
