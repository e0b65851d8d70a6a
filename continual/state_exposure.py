"""What the state of an analytic learner, the matrix R, tells of the rows that it learnt.

ACIL is called private because R takes the place of stored examples. R is a function of them:
the inverse of R after a task minus that before is Phi^T Phi of the task's rows, whose range holds
each of them; with fewer rows than columns it holds hardly anything else.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

LARGEST_HALF = torch.finfo(torch.float16).max


def share_outside(
    before: Float64[Tensor, "columns columns"],
    after: Float64[Tensor, "columns columns"],
    features: Float64[Tensor, "examples columns"],
    rows: int,
) -> Float64[Tensor, " examples"]:
    """Share of each row's square that lies outside the range of what a task added to R's inverse.

    A row that the task learnt has zero, up to rounding. Any other row has more, unless the task had
    as many rows as there are columns: then everything has zero, and nothing can be told.

    Args:
        before: R when the task began.
        after: R when it ended.
        features: rows that may have been among the task's; a row of zeros has zero.
        rows: number of the task's rows. Who does not know it counts the eigenvalues that are not
            zero.
    """
    columns = len(after)
    if rows >= columns:
        return features.new_zeros(len(features))
    added = inverse_of(after) - inverse_of(before)
    draws = torch.Generator().manual_seed(0)
    directions = torch.randn(columns, rows, generator=draws, dtype=after.dtype).to(after.device)
    # any `rows` directions span the range, which costs less than all eigenvectors
    basis = torch.linalg.qr(added @ directions).Q
    outside = features - (features @ basis) @ basis.T
    total = features.square().sum(1)
    share: Tensor = outside.square().sum(1) / torch.where(total > 0, total, 1)
    return share


def inverse_of(matrix: Float64[Tensor, "columns columns"]) -> Float64[Tensor, "columns columns"]:
    """The inverse of a symmetric matrix with positive eigenvalues, symmetric too."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    return (inverse + inverse.T) / 2


def as_float16(
    inverse: Float64[Tensor, "columns columns"],
) -> Float64[Tensor, "columns columns"]:
    """R as it would be read from float16; entries too large for it become its largest number."""
    return inverse.clamp(-LARGEST_HALF, LARGEST_HALF).half().double()


def as_int8(inverse: Float64[Tensor, "columns columns"]) -> Float64[Tensor, "columns columns"]:
    """R as it would be read from 8 bits: nearest of 255 evenly spaced numbers, for each row."""
    step = inverse.abs().amax(1, keepdim=True) / 127
    return (inverse / step).round() * step
