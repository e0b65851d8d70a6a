"""Paired LiRA: each head gives the output of an example with it and without it.

So a few heads suffice where ordinary LiRA needs many shadows, and they need not be trained: heads
that are solved on random halves of the pool, over the features of the audited model itself, do.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from attacks.cases import by_shadows
from attacks.continual.cell import Cell
from attacks.continual.pairs import Heads, Pair, pair
from attacks.continual.vector_fit import fit_vectors


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
        residuals = cell.residuals[target]
        scores[position] = _compare(residuals, cell.worlds[target], cell.labels)
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
