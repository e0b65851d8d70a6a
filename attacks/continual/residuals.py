"""Attacks on the vector y - f(x) over all classes seen so far, not only those of the own task.

Every later task adds columns to a head, each of which measures the same example once more. An
attack on the columns of the example's own task misses this, and so does one on its margin.
"""

from jaxtyping import Float
from torch import Tensor

from attacks.cases import by_shadows
from attacks.continual.cell import Cell
from attacks.continual.vector_fit import fit_vectors


def loss(cell: Cell) -> Float[Tensor, "targets examples"]:
    """Score by the loss that the model was trained by, without shadows.

    It is the squared error of a ridge head, and the cross-entropy over the classes seen so far
    elsewhere.

    Source: Yeom et al. 2018, arXiv:1709.01604.
    """
    residuals = cell.residuals[cell.targets].double()
    if cell.leverage:
        return -residuals.square().sum(-1)
    truth = cell.truth.double()
    outputs = truth - residuals
    return (truth * outputs).sum(-1) - outputs.logsumexp(-1)


def residual_lira(cell: Cell, own_columns: bool = False) -> Float[Tensor, "targets examples"]:
    """Score by how much likelier the vector is among shadows with the example than without it.

    LiRA on vectors: the means over shadows that trained on the example, and over those that did
    not, are the example's own, and so is the scale of the covariance, which is that of its class.

    Args:
        cell: one task's examples at the end of one stage.
        own_columns: whether an attacker looks at the columns of the task's own classes alone: a
            control, which shows leakage to fall where it does not.

    Raises:
        ValueError: an example has fewer than two shadows on one side.

    Source: Carlini et al. 2022, arXiv:2112.03570, Algorithm 1, with one number per column.
    """
    vectors = cell.residuals[..., list(cell.own)] if own_columns else cell.residuals
    scores = cell.empty()
    for group, positions in by_shadows(cell.cases).items():
        shadows, inside = vectors[list(group)], cell.members[list(group)]
        sides = [fit_vectors(shadows, side, cell.labels) for side in (inside, ~inside)]
        target = vectors[[cell.targets[position] for position in positions]]
        density_in, density_out = (side.log_density(target) for side in sides)
        scores[positions] = density_in - density_out
    return scores
