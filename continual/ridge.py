"""Ridge regression that learns rows once and forgets them, as the head of ACIL does.

After any rows Phi with targets Y, in any order and any batches, R is (Phi^T Phi + gamma I)^-1 and
W is R Phi^T Y: what a solution over all rows at once gives. So nothing that was learnt is lost, and
R, which is said to hold no data, holds the second moments of all rows.

Source: Zhuang et al. 2022, arXiv:2205.14922 (ACIL), whose update is `update_ridge`.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

ROWS_AT_ONCE = 256  # their products with each other fit beside R, whatever the batch size
LARGEST_ERROR = 1e-6  # of the weights, relative; a head is stored in float32


class Ridge(NamedTuple):
    """A ridge regression after some rows.

    Attributes:
        inverse: R, the inverse of gram matrix plus gamma.
        weight: W, one column per class.
    """

    inverse: Float64[Tensor, "columns columns"]
    weight: Float64[Tensor, "columns classes"]


class Gram(NamedTuple):
    """Sums over rows from which a ridge regression is solved.

    Attributes:
        gram: Phi^T Phi.
        moment: Phi^T Y.
    """

    gram: Float64[Tensor, "columns columns"]
    moment: Float64[Tensor, "columns classes"]


def start_ridge(columns: int, gamma: float, device: torch.device | str = "cpu") -> Ridge:
    """A ridge regression before any row, which has no classes yet.

    Raises:
        ValueError: gamma is not positive.
    """
    if not gamma > 0:
        raise ValueError(f"`gamma` must be above 0, got {gamma:g}. ACIL's own choice is 0.1.")
    inverse = torch.eye(columns, dtype=torch.float64, device=device) / gamma
    return Ridge(inverse, inverse.new_zeros(columns, 0))


def update_ridge(
    ridge: Ridge,
    features: Float64[Tensor, "examples columns"],
    targets: Float64[Tensor, "examples classes"],
) -> Ridge:
    """Learn some rows, whose targets may have more classes than were seen before.

    Args:
        ridge: the regression so far.
        features: the rows.
        targets: one column for each class that was seen until now; new classes come last.

    Raises:
        ValueError: targets lack a class that was seen before.
    """
    inverse, weight = ridge.inverse, grow(ridge.weight, targets.shape[1])
    for start in range(0, len(features), ROWS_AT_ONCE):
        rows, wanted = (t[start : start + ROWS_AT_ONCE] for t in (features, targets))
        projected = rows @ inverse
        inner = projected @ rows.T
        inner.diagonal().add_(1)
        half = torch.linalg.solve_triangular(
            torch.linalg.cholesky(inner), projected, upper=False
        )  # half^T half is R X^T (I + X R X^T)^-1 X R, without an inverse
        inverse = inverse - half.T @ half
        weight = weight + inverse @ (rows.T @ (wanted - rows @ weight))
    return Ridge(inverse, weight)


def grow(
    weight: Float64[Tensor, "columns seen"], classes: int
) -> Float64[Tensor, "columns classes"]:
    """Append columns of zeros for new classes.

    Raises:
        ValueError: there are more columns than classes.
    """
    new = classes - weight.shape[1]
    if new < 0:
        raise ValueError(
            f"Targets must have a column for each of the {weight.shape[1]} classes seen so far, "
            f"got {classes}. Fill those without an example with zeros."
        )
    return torch.cat([weight, weight.new_zeros(len(weight), new)], 1)


def gram_of(
    features: Float64[Tensor, "examples columns"], targets: Float64[Tensor, "examples classes"]
) -> Gram:
    """The sums over some rows; those of several sets of rows may be added."""
    return Gram(features.T @ features, features.T @ targets)


def solve_ridge(sums: Gram, gamma: float) -> Ridge:
    """Solve over all rows at once; the result is what learning them in turn gives.

    Raises:
        ValueError: gamma is not positive, or too small for float64.
    """
    columns = len(sums.gram)
    start_ridge(0, gamma)  # refuses a gamma that is not positive
    check_gamma(sums.gram.trace().item(), gamma)
    matrix = sums.gram.clone()
    matrix.diagonal().add_(gamma)
    factor = torch.linalg.cholesky(matrix)
    identity = torch.eye(columns, dtype=matrix.dtype, device=matrix.device)
    both = torch.cholesky_solve(torch.cat([identity, sums.moment], 1), factor)
    inverse = both[:, :columns]
    return Ridge((inverse + inverse.T) / 2, both[:, columns:])


def check_gamma(energy: float, gamma: float, dtype: torch.dtype = torch.float64) -> None:
    """Refuse a gamma that is so small beside the rows that rounding would spoil the weights.

    The gram matrix plus gamma is at most 1 + energy / gamma times as large in one direction as in
    another, and the weights lose as many digits. In float32, ACIL's 0.1 is too small: on 512 random
    features of 900 digits, weights were wrong by 0.02% (batches of 32) to 1.7% (one batch).

    Args:
        energy: sum of the squares of all rows.
        gamma: the regularisation.
        dtype: type in which the regression is computed.

    Raises:
        ValueError: gamma is too small; the message says which would do.
    """
    precision = torch.finfo(dtype).eps
    error = precision * (1 + energy / gamma)
    if error > LARGEST_ERROR:
        name = str(dtype).removeprefix("torch.")
        smallest = precision * energy / LARGEST_ERROR
        raise ValueError(
            f"`gamma` {gamma:g} is too small for {name}: beside rows whose squares sum to "
            f"{energy:.3g}, rounding may change weights by {error:.1g} of their size, and "
            f"{LARGEST_ERROR:g} is allowed. Raise it to {2 * smallest:.1g} or more "
            "(`--continual.analytic.gamma`)"
            + ("." if dtype == torch.float64 else ", or compute in float64.")
        )


def as_targets(
    labels: Int64[Tensor, " examples"], classes: int
) -> Float64[Tensor, "examples classes"]:
    """One-hot targets, 0 and 1."""
    return torch.nn.functional.one_hot(labels, classes).double()
