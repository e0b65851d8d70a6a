"""Who was learnt, solved for from a ridge head alone.

A ridge regression's weight W solves sum_i m_i phi_i (y_i - W^T phi_i)^T = gamma W, where m_i is 1
for the rows that it learnt and 0 for others. For an attacker who can compute phi and holds W, these
are linear equations in m: one for each column of phi and each output, of which the last is a sum of
the others where targets are one-hot. With no more candidates than equations, and all learnt rows
among the candidates, they have one solution. No shadow, no loss and no matrix R is needed.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

MOST = 10_000  # candidates, whose products with one another take 0.8 GB
_RIDGE = 1e-9  # of the mean diagonal, for candidates that the equations do not tell apart


def solve_membership(
    features: Float64[Tensor, "examples columns"],
    targets: Float64[Tensor, "examples classes"],
    weight: Float64[Tensor, "columns classes"],
    gamma: float,
    prior: float = 0.5,
) -> Float64[Tensor, " examples"]:
    """Solve a head's normal equations for the rows that it learnt.

    Args:
        features: rows of every candidate.
        targets: what the head learns of each, if it learns it.
        weight: of the head.
        gamma: its ridge.
        prior: share of the candidates that is expected to have been learnt.

    Returns:
        About 1 for rows that were learnt, and 0 for others, where there is one solution; otherwise
        the solution that is closest to `prior`.

    Raises:
        ValueError: there are more candidates than `MOST`.
    """
    if len(features) > MOST:
        raise ValueError(
            f"Normal equations are solved for {MOST:,} candidates at most, got {len(features):,}. "
            "Take fewer."
        )
    outputs = features @ weight
    residuals = targets - outputs
    gram = (features @ features.T) * (residuals @ residuals.T)
    moment = gamma * (outputs * residuals).sum(1) - prior * gram.sum(1)
    diagonal = gram.diagonal()
    diagonal += _RIDGE * diagonal.mean().clamp_min(torch.finfo(gram.dtype).tiny)
    beyond: Tensor = torch.linalg.solve(gram, moment)
    return prior + beyond
